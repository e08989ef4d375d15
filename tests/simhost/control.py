"""Steering hosts that run in a process of their own: JSON lines over a UNIX socket, one answer to each."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.simhost import views
from tests.simhost.behaviour import Behaviour, Match
from tests.simhost.faults import rule_of
from tests.simhost.fleet import SimFleet
from tests.simhost.host import SimHost
from tests.simhost.objects import Json

type Operation = Callable[[SimHost, Json], Any]

LINE_LIMIT = 256 * 2**20


def state(host: SimHost, given: Json) -> Json:
    """Everything that is there, and what was asked so far."""
    engine = host.engine
    return {
        "containers": [views.listed(engine, container) for container in engine.containers.values()],
        "networks": [views.network(network) for network in engine.networks.all.values()],
        "volumes": [views.volume(volume) for volume in engine.volumes.all.values()],
        "images": [views.image(image) for image in engine.images.all.values()],
        "calls": dict(host.calls),
        "mutations": host.mutations,
        "connections": host.open_connections,
    }


def seed(host: SimHost, given: Json) -> None:
    """Makes what a deploy would have made, with no call and no event.

    `images`: references; `networks`: bodies; `volumes`: `{name, labels}`; `files`: `{volume, path, content}`;
    `containers`: `{name, body, networks, exited}`, in which `exited` is the code of one that has run to its end.
    """
    engine = host.engine
    for reference in given.get("images", ()):
        engine.images.add(reference)
    for body in given.get("networks", ()):
        engine.networks.create(body)
    for volume in given.get("volumes", ()):
        engine.volumes.create(volume["name"], volume.get("labels") or {})
    for file in given.get("files", ()):
        engine.volumes.get(file["volume"]).files[file["path"]] = file["content"].encode()
    for item in given.get("containers", ()):
        _seed_container(host, item)
    engine.events.forget()


def _seed_container(host: SimHost, item: Json) -> None:
    engine = host.engine
    container = engine.create(item["name"], item["body"])
    for network in item.get("networks", ()):
        engine.connect(network, container)
    engine.start(container)
    if container.check is not None:
        engine.report_health(container, "healthy")
    if item.get("exited") is not None:
        engine.crash(container, int(item["exited"]))


def link(host: SimHost, given: Json) -> None:
    for key, value in given.items():
        if not hasattr(host.link, key):
            raise KeyError(key)
        setattr(host.link, key, value)


def behave(host: SimHost, given: Json) -> None:
    host.engine.behave(Match(**given.get("match", {})), Behaviour(**given.get("behaviour", {})))


def container_call(host: SimHost, given: Json) -> Any:
    """crash, kill, remove, pause, unpause, start, stop, rename, disconnect: as somebody on the host would do it."""
    engine, container = host.engine, host.engine.get(given["container"])
    what = given["do"]
    simple: Mapping[str, Callable[[], Any]] = {
        "crash": lambda: engine.crash(container, int(given.get("code", 137))),
        "kill": lambda: engine.kill(container),
        "remove": lambda: engine.remove(container, force=True),
        "pause": lambda: engine.pause(container),
        "unpause": lambda: engine.unpause(container),
        "start": lambda: engine.start(container),
        "stop": lambda: engine.stop(container, float(given.get("grace", 1))),
        "rename": lambda: engine.rename(container, given["name"]),
        "disconnect": lambda: engine.disconnect(given["network"], container),
    }
    return simple[what]()


OPERATIONS: dict[str, Operation] = {
    "state": state,
    "seed": seed,
    "link": link,
    "behave": behave,
    "container": container_call,
    "blackhole": lambda host, given: host.blackhole(bool(given.get("on", True))),
    "drop": lambda host, given: host.drop_connections(),
    "stop-engine": lambda host, given: host.stop_engine(),
    "start-engine": lambda host, given: host.start_engine(live_restore=bool(given.get("live_restore", True))),
    "restart-engine": lambda host, given: host.restart_engine(float(given.get("seconds", 0))),
    "reboot": lambda host, given: host.reboot(float(given.get("seconds", 0))),
    "fault": lambda host, given: host.rules.add(rule_of(given)),
    "clear-faults": lambda host, given: host.rules.clear(),
    "forget-calls": lambda host, given: host.calls.clear(),
}


class Control:
    """Answers `{"op": "fault", "host": "sim-0", ...}`; `host` may be `*`. `{"op": "hosts"}` tells where they are."""

    def __init__(self, fleet: SimFleet) -> None:
        self._fleet = fleet

    async def listen(self, path: Path) -> asyncio.Server:
        path.unlink(missing_ok=True)
        return await asyncio.start_unix_server(self._serve, str(path), limit=LINE_LIMIT)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            try:
                told = {"ok": await self._do(json.loads(line))}
            except Exception as error:  # Whatever it is, it is the answer.
                told = {"error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(told).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _do(self, given: Json) -> Any:
        what = given.pop("op")
        if what == "hosts":
            return {host.name: {"port": host.port, "host_key": host.host_key} for host in self._fleet.hosts.values()}
        if what == "manifests":
            namespace = given["namespace"]
            servers = [
                self._fleet.server(host, namespace, **given.get("spec", {})) for host in self._fleet.hosts.values()
            ]
            return [self._fleet.secret(namespace), *servers]
        name = given.pop("host")
        hosts: Iterable[SimHost] = self._fleet.hosts.values() if name == "*" else [self._fleet[name]]
        return {host.name: await _done(OPERATIONS[what](host, dict(given))) for host in hosts}


async def _done(made: Any) -> Any:
    return await made if isinstance(made, Awaitable) else made


class ControlClient:
    """`client("fault", host="sim-0", fault="reset", template="/containers/create")`. One thread at a time."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")

    def __call__(self, op: str, **given: Any) -> Any:
        """Raises RuntimeError with what the other side says."""
        self._socket.sendall(json.dumps({"op": op, **given}).encode() + b"\n")
        told = json.loads(self._file.readline())
        if "error" in told:
            raise RuntimeError(told["error"])
        return told["ok"]

    def close(self) -> None:
        self._file.close()
        self._socket.close()
