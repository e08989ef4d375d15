"""What was observed on a host, as frozen dataclasses. Facts are read by adapters and judged by pure code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Inspected:
    """What only `GET /containers/{id}/json` tells of a container: its limits, and how often it was restarted."""

    memory: int = 0
    """Bytes. 0 is what Docker notes where the kernel cannot enforce a limit; so for CPUs."""
    nano_cpus: int = 0
    pids: int | None = None
    """None where the kernel cannot enforce it; -1 is unlimited."""
    restart_policy: str = ""
    restarts: int = 0
    """Restarts by Docker's own policy since somebody started it."""


@dataclass(frozen=True, slots=True)
class ContainerFact:
    """One container, as `GET /containers/json?all=1` tells it."""

    id: str
    name: str
    image: str
    image_id: str
    """`sha256:...` of the image that the container was made from."""
    state: str
    """Docker's own word: created, running, paused, restarting, removing, exited, dead."""
    labels: Mapping[str, str] = EMPTY
    health: str = ""
    """starting, healthy, unhealthy; empty when the container has no health check or does not run."""
    exit_code: int | None = None
    """Of the last run, for state exited; None when unknown."""
    networks: Mapping[str, str] = EMPTY
    """Network name -> IPv4 address of the container on it (empty while not running)."""
    created: int = 0
    """Unix seconds."""
    inspected: Inspected | None = None
    """None: not looked at yet, which no repair may rely on."""
    network_ids: Mapping[str, str] = EMPTY
    """Network name -> id of the network that was meant; empty while it was never started."""

    @property
    def running(self) -> bool:
        return self.state == "running"


@dataclass(frozen=True, slots=True)
class NetworkFact:
    id: str
    name: str
    labels: Mapping[str, str] = EMPTY
    subnets: tuple[str, ...] = ()
    """CIDRs of every network on the host, ours or not: a new tenant network must avoid all of them."""
    internal: bool = False


@dataclass(frozen=True, slots=True)
class VolumeFact:
    name: str
    labels: Mapping[str, str] = EMPTY


@dataclass(frozen=True)
class ImageFact:
    id: str
    """`sha256:...`, the image's own id."""
    reference: str
    """The reference it was asked by."""
    digests: tuple[str, ...] = ()
    """Repository digests, `name@sha256:...`; empty for an image that was built on the host."""


@dataclass(frozen=True)
class EngineInfo:
    """The Docker engine and the machine under it, as `/info` and `/version` tell."""

    version: str
    api_version: str
    os: str
    kernel: str
    arch: str
    cpus: int
    memory: int
    """Bytes."""
    data_root: str
    """The directory that images and volumes fill, for the disk facts."""


@dataclass(frozen=True)
class DiskFact:
    total: int
    free: int
    """Bytes on the file system of the engine's data root."""


@dataclass(frozen=True)
class HostFacts:
    """One consistent view of a host. `revision` grows with each read, so a reader can tell old from new."""

    revision: int
    containers: tuple[ContainerFact, ...] = ()
    networks: tuple[NetworkFact, ...] = ()
    volumes: tuple[VolumeFact, ...] = ()
    images: Mapping[str, ImageFact] = field(default_factory=dict)
    """Reference -> image, for the references that were asked for."""
    proxy_config: str | None = None
    """The proxy's live configuration (JSON text), or None when there is no running proxy."""
    proxy_parsed: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """`proxy_config` parsed once for all Instances of the host; not to be changed. None: not parsed yet."""


@dataclass(frozen=True)
class DockerEvent:
    """One line of the engine's event stream."""

    type: str
    """container, network, volume, image, daemon."""
    action: str
    """create, start, die, destroy, health_status: healthy, exec_die, connect, ..."""
    actor_id: str
    attributes: Mapping[str, str] = EMPTY
    """The object's labels, its name, exitCode and so on."""
    time_nano: int = 0
    """Nanoseconds since the epoch on the host's clock; the next stream resumes from here."""
