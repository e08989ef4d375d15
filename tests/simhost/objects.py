"""What exists on a simulated host. Plain data; engine.py changes it."""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.simhost.behaviour import Behaviour

from dotmac_operator.core import names

type Json = dict[str, Any]


class Refused(Exception):
    """The engine's error answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Unchanged(Exception):
    """304: it is so already."""


@dataclass
class Image:
    id: str
    tags: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    created: float = 0.0
    size: int = 50_000_000
    config: Json = field(default_factory=dict)


class Files(dict[str, bytes]):
    """Path without a leading slash -> content; and when each was written, Unix nanoseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, int] = {}

    def __setitem__(self, path: str, content: bytes) -> None:
        super().__setitem__(path, content)
        self.written[path] = max(time.time_ns(), self.written.get(path, 0) + 1)


@dataclass
class Volume:
    name: str
    labels: dict[str, str]
    created: float
    driver: str = "local"
    options: Json = field(default_factory=dict)
    files: Files = field(default_factory=Files)
    """By their path within the volume."""
    birth: int = 0
    """Unlike the name it tells two volumes apart of which one took the other's place."""


@dataclass
class Network:
    id: str
    name: str
    subnet: str
    created: float
    labels: dict[str, str] = field(default_factory=dict)
    internal: bool = False
    driver: str = "bridge"
    options: Json = field(default_factory=dict)

    @property
    def range(self) -> ipaddress.IPv4Network | None:
        return ipaddress.IPv4Network(self.subnet) if self.subnet else None


@dataclass
class Endpoint:
    """A container's end on a network."""

    network: str
    aliases: list[str] = field(default_factory=list)
    address: str = ""
    """Only while it runs."""
    id: str = ""
    known: bool = False
    """It has been on the network at least once."""


@dataclass
class Mount:
    target: str
    source: str
    kind: str = "volume"
    anonymous: bool = False
    read_only: bool = False


@dataclass
class LogLine:
    at: float
    stream: int
    data: bytes


@dataclass
class Exec:
    id: str
    container: str
    body: Json
    running: bool = False
    exit_code: int | None = None

    @property
    def words(self) -> str:
        """As an event tells it: program, space, arguments."""
        program, *arguments = self.body.get("Cmd") or [""]
        return f"{program} {' '.join(arguments)}"


@dataclass
class Container:
    id: str
    name: str
    body: Json
    image: Image
    created: float
    behaviour: Behaviour = Behaviour()
    state: str = "created"
    exit_code: int = 0
    error: str = ""
    oom: bool = False
    started: float = 0.0
    finished: float = 0.0
    pid: int = 0
    restarts: int = 0
    backoff: float = 0.1
    stopped_by_hand: bool = False
    health: str = ""
    failing: int = 0
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    mounts: list[Mount] = field(default_factory=list)
    log: list[LogLine] = field(default_factory=list)
    files: Files = field(default_factory=Files)
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    ended: list[Callable[[], None]] = field(default_factory=list)
    """Called at the next end of its program."""
    told: list[Callable[[LogLine], None]] = field(default_factory=list)
    """Who follows its log."""

    @property
    def labels(self) -> dict[str, str]:
        return {**(self.image.config.get("Labels") or {}), **(self.body.get("Labels") or {})}

    @property
    def role(self) -> str:
        return str((self.body.get("Labels") or {}).get(names.ROLE, ""))

    @property
    def host_config(self) -> Json:
        found: Json = self.body["HostConfig"]
        return found

    @property
    def env(self) -> dict[str, str]:
        given = [*(self.image.config.get("Env") or ()), *(self.body.get("Env") or ())]
        return {name: value for name, _, value in (entry.partition("=") for entry in given)}

    @property
    def entrypoint(self) -> list[str]:
        own = self.body.get("Entrypoint")
        return words(own if own is not None else self.image.config.get("Entrypoint"))

    @property
    def command(self) -> list[str]:
        own, inherited = self.body.get("Cmd"), self.image.config.get("Cmd")
        if own is not None or self.body.get("Entrypoint") is not None:
            return words(own)  # An entrypoint of one's own drops the image's command.
        return words(inherited)

    @property
    def argv(self) -> list[str]:
        return [*self.entrypoint, *self.command]

    @property
    def alive(self) -> bool:
        """Its processes exist."""
        return self.state in ("running", "paused")

    @property
    def policy(self) -> str:
        return str((self.host_config.get("RestartPolicy") or {}).get("Name") or "no")

    @property
    def check(self) -> Json | None:
        """Its health check; None without one."""
        found = self.body.get("Healthcheck") or self.image.config.get("Healthcheck") or {}
        test = found.get("Test") or ["NONE"]
        return None if test[0] == "NONE" else found

    def named(self, word: str) -> bool:
        return word.lstrip("/") == self.name or self.id == word or (len(word) >= 4 and self.id.startswith(word))

    def listens(self) -> bool:
        return self.state == "running" and time.time() >= self.started + self.behaviour.listens_after


def words(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def mounts_of(body: Mapping[str, Any], anonymous: Callable[[], str]) -> list[Mount]:
    """Of HostConfig.Mounts, HostConfig.Binds and Volumes. `anonymous` makes a name."""
    host, made = body.get("HostConfig") or {}, []
    for item in host.get("Mounts") or ():
        kind, source = item.get("Type", "volume"), item.get("Source") or ""
        nameless = kind == "volume" and not source
        made.append(Mount(item["Target"], source or anonymous(), kind, nameless, bool(item.get("ReadOnly"))))
    for bind in host.get("Binds") or ():
        source, target, *mode = bind.split(":")
        made.append(Mount(target, source, "bind" if source.startswith("/") else "volume", False, mode == ["ro"]))
    taken = {mount.target for mount in made}
    made += [Mount(target, anonymous(), "volume", True) for target in body.get("Volumes") or () if target not in taken]
    return made
