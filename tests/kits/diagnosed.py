"""The operator's internal endpoint on a World of fakes, with a host whose logs and figures a test sets."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from tests.kits.fakes import World, deployed

from dotmac_operator.core import names
from dotmac_operator.core.facts import ContainerFact, VolumeFact
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.diagnostics import LogLine, LogQuery, Sample
from dotmac_operator.hosts.port import HostAddress, HostError, NotFound
from dotmac_operator.serving import diagnostics as module
from dotmac_operator.serving.diagnostics import Diagnostics
from dotmac_operator.serving.endpoint import Endpoint

TOKEN = "t" * 40
BASE = "/internal/v1/instances/tenants/acme"


class Stream:
    """The lines that are there, and with `follow` those that a test adds until somebody closes it."""

    def __init__(self, lines: list[LogLine], query: LogQuery, failure: HostError | None) -> None:
        self.closed = threading.Event()
        self._more = threading.Condition()
        self._lines = lines[-query.tail :] if query.tail else []
        self._query = query
        self._failure = failure

    def add(self, line: LogLine) -> None:
        with self._more:
            self._lines.append(line)
            self._more.notify()

    def close(self) -> None:
        self.closed.set()
        with self._more:
            self._more.notify()

    def __iter__(self) -> Iterator[LogLine]:
        if self._failure is not None:
            raise self._failure
        place = 0
        while not self.closed.is_set():
            while place < len(self._lines):
                yield self._lines[place]
                place += 1
            if not self._query.follow:
                return
            with self._more:
                self._more.wait(0.05)


@dataclass
class DiagnosedFake:
    """Engine and diagnostics of one host; containers and volumes are the World's."""

    world: World
    lines: dict[str, list[LogLine]] = field(default_factory=dict)
    """Role -> its log."""
    streams: list[Stream] = field(default_factory=list)
    queries: list[LogQuery] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    sizings: int = 0
    slow: threading.Event | None = None
    """Measuring waits for it."""
    hold: threading.Event | None = None
    """Lists wait for it."""
    failure: HostError | None = None
    sampled: int = 0

    @property
    def diagnostics(self) -> "DiagnosedFake":
        return self

    def containers(self, labels: Sequence[str] = ()) -> list[ContainerFact]:
        if self.hold is not None:
            self.hold.wait(10)
        if self.failure is not None:
            raise self.failure
        return self.world.engine.containers(labels)

    def volumes(self, labels: Sequence[str] = ()) -> list[VolumeFact]:
        return self.world.engine.volumes(labels)

    def inspect_container(self, container: str) -> Mapping[str, Any]:
        box = self.world.engine._box(container)
        running = box.state == "running"
        state = {"Status": box.state, "Running": running, "ExitCode": box.exit_code or 0, "OOMKilled": False}
        return {"Id": box.id, "RestartCount": 3, "State": state, "Config": {"Env": box.body["Env"]}}

    def log_lines(self, container: str, query: LogQuery) -> Stream:
        box = self.world.engine._box(container)
        self.queries.append(query)
        self.streams.append(Stream(list(self.lines.get(box.role, [])), query, self.failure))
        return self.streams[-1]

    def sample(self, container: str) -> Sample:
        self.sampled += 1
        if self.world.engine._box(container).role == names.CACHE:
            raise NotFound("it went just now", 404)
        at = self.sampled * 1_000_000_000
        return Sample(cpu=at // 4, system=at * 2, cpus=2, memory=50 << 20, memory_limit=512 << 20, pids=7)

    def volume_sizes(self) -> Mapping[str, int]:
        self.sizings += 1
        if self.slow is not None:
            self.slow.wait(10)
        return self.sizes


@dataclass
class PoolFake:
    engine: DiagnosedFake
    addresses: list[HostAddress] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    def get(self, address: HostAddress) -> "PoolFake":
        self.addresses.append(address)
        return self

    def forget(self, name: str) -> None:
        self.forgotten.append(name)

    def close(self) -> None:
        for stream in self.engine.streams:
            stream.close()


@dataclass
class Site:
    """Everything a test looks at."""

    world: World
    engine: DiagnosedFake
    pool: PoolFake
    diagnostics: Diagnostics
    client: TestClient[Any, Any]
    base: str = BASE

    async def get(self, path: str, token: str = TOKEN, **query: str) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.client.get(path, params=query, headers=headers)

    async def until(self, what: Any, seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while not what():
                await asyncio.sleep(0.01)


def line(number: int, text: str = "", stream: str = "stdout") -> LogLine:
    return LogLine(f"2026-11-22T10:00:{number % 60:02d}.{number:09d}Z", stream, text or f"line {number}")


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(module, "SAMPLE_SECONDS", 0.0)
    world = deployed()
    engine = DiagnosedFake(world)
    pool = PoolFake(engine)
    made = Diagnostics(world.store, world.cluster, world.hosts, pool)
    endpoint = Endpoint(made, SecretStr(TOKEN))
    client = TestClient(TestServer(endpoint.application()))
    await client.start_server()
    yield Site(world, engine, pool, made, client)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(client.close(), 5)
    world.hosts.close()
