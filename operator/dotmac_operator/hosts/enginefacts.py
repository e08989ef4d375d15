"""From the Docker Engine API's JSON to facts. Pure, and tolerant of fields that are null or missing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dotmac_operator.core.facts import (
    ContainerFact,
    DockerEvent,
    EngineInfo,
    ImageFact,
    Inspected,
    NetworkFact,
    VolumeFact,
)

Json = Mapping[str, Any]

_HEALTH = re.compile(r"\((?:health: )?(starting|healthy|unhealthy)\)$")
_EXITED = re.compile(r"^Exited \((-?\d+)\)")


def container_fact(item: Json) -> ContainerFact:
    """One entry of `GET /containers/json`."""
    state, status = str(item.get("State") or ""), str(item.get("Status") or "")
    attached = (item.get("NetworkSettings") or {}).get("Networks") or {}
    return ContainerFact(
        id=item["Id"],
        name=own_name(item.get("Names") or []),
        image=str(item.get("Image") or ""),
        image_id=str(item.get("ImageID") or ""),
        state=state,
        labels=dict(item.get("Labels") or {}),
        health=parse_health(state, status),
        exit_code=parse_exit_code(state, status),
        networks={name: str((end or {}).get("IPAddress") or "") for name, end in attached.items()},
        network_ids={name: str(end["NetworkID"]) for name, end in attached.items() if (end or {}).get("NetworkID")},
        created=int(item.get("Created") or 0),
    )


def inspected(item: Json) -> Inspected:
    """What `GET /containers/{id}/json` tells beyond the list."""
    config = item.get("HostConfig") or {}
    pids = config.get("PidsLimit")
    return Inspected(
        memory=int(config.get("Memory") or 0),
        nano_cpus=int(config.get("NanoCpus") or 0),
        pids=None if pids is None else int(pids),
        restart_policy=str((config.get("RestartPolicy") or {}).get("Name") or ""),
        restarts=int(item.get("RestartCount") or 0),
    )


def own_name(names: list[str]) -> str:
    """A linked container is listed as `/other/alias` too; its own name has one slash."""
    own = [name for name in names if name.count("/") == 1]
    return (own or names or [""])[0].lstrip("/")


def parse_health(state: str, status: str) -> str:
    """Lists carry health only in the text for people: `Up 5 minutes (healthy)`, `Up 1 second (health: starting)`."""
    found = _HEALTH.search(status) if state == "running" else None
    return found[1] if found else ""


def parse_exit_code(state: str, status: str) -> int | None:
    """`Exited (137) 2 hours ago`; a container that never ran is `Created`."""
    found = _EXITED.match(status) if state == "exited" else None
    return int(found[1]) if found else None


def network_fact(item: Json) -> NetworkFact:
    ranges = (item.get("IPAM") or {}).get("Config") or []
    return NetworkFact(
        id=item["Id"],
        name=item["Name"],
        labels=dict(item.get("Labels") or {}),
        subnets=tuple(entry["Subnet"] for entry in ranges if entry.get("Subnet")),
        internal=bool(item.get("Internal")),
    )


def volume_fact(item: Json) -> VolumeFact:
    return VolumeFact(name=item["Name"], labels=dict(item.get("Labels") or {}))


def image_fact(item: Json, reference: str) -> ImageFact:
    return ImageFact(id=item["Id"], reference=reference, digests=tuple(item.get("RepoDigests") or ()))


def engine_info(item: Json, api_version: str) -> EngineInfo:
    """`GET /info`."""
    return EngineInfo(
        version=str(item.get("ServerVersion") or ""),
        api_version=api_version,
        os=str(item.get("OperatingSystem") or ""),
        kernel=str(item.get("KernelVersion") or ""),
        arch=str(item.get("Architecture") or ""),
        cpus=int(item.get("NCPU") or 0),
        memory=int(item.get("MemTotal") or 0),
        data_root=str(item.get("DockerRootDir") or ""),
    )


def docker_event(item: Json) -> DockerEvent:
    actor = item.get("Actor") or {}
    return DockerEvent(
        type=str(item.get("Type") or ""),
        action=str(item.get("Action") or ""),
        actor_id=str(actor.get("ID") or ""),
        attributes=dict(actor.get("Attributes") or {}),
        time_nano=int(item.get("timeNano") or 0),
    )


@dataclass(frozen=True)
class Reference:
    """An image reference, split as `POST /images/create` wants it."""

    name: str
    tag: str


def split_reference(reference: str) -> Reference:
    """`registry:5000/a/b:1` -> name and tag; a digest wins over a tag; without either the tag is `latest`."""
    name, _, digest = reference.partition("@")
    stem, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # That colon belongs to the registry's port.
        stem, tag = name, ""
    return Reference(stem, digest or tag or "latest")


class PullProgress:
    """Adds up the layers of a pull into one short line."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._layers: dict[str, tuple[int, int]] = {}

    def add(self, message: Json) -> str:
        layer, status = str(message.get("id") or ""), str(message.get("status") or "")
        detail = message.get("progressDetail") or {}
        total = int(detail.get("total") or 0)
        if layer and status == "Downloading" and total:
            self._layers[layer] = (int(detail.get("current") or 0), total)
        elif layer in self._layers and status in ("Download complete", "Extracting", "Pull complete"):
            size = self._layers[layer][1]
            self._layers[layer] = (size, size)
        if not self._layers:
            return f"pulling {self._reference}: {status}"
        done, total = (sum(part) for part in zip(*self._layers.values(), strict=True))
        return f"pulling {self._reference}: {done >> 20} of {-(-total >> 20)} MiB"


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """(1 stdout or 2 stderr, payload) of a multiplexed stream, in the order in which they were written.

    A frame is: type (1 byte), 3 zeros, length (4 bytes, big endian), payload. A container with a terminal has no
    frames; its bytes come back as one of stdout.
    """
    found = []
    place = 0
    while place < len(data):
        kind, zeros, size = data[place], data[place + 1 : place + 4], int.from_bytes(data[place + 4 : place + 8], "big")
        if kind > 2 or zeros != b"\0\0\0":
            return [(1, data)]
        found.append((2 if kind == 2 else 1, data[place + 8 : place + 8 + size]))
        place += 8 + size
    return found
