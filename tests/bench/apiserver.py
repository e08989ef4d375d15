"""The embedded API server under the load of a large fleet, over real HTTPS on loopback, in a process of its own.

Measured: 5,000 objects of 4 KiB are made; all are listed; then objects are patched as fast as the server answers (32
clients at once) while 20 watchers follow, one of which reads nothing at all. Every write goes through validation, field
ownership and a commit synced to disk.

Goals: list < 1 s (median of 5), 500 acknowledged writes/s, < 300 MiB resident at the peak, and every reading watcher
sees every write within 2 s of its acknowledgement (worst of all) although one watcher never reads.

The ratio of a measure is goal/value (value/goal for writes/s): 1 is just met, 2 twice as good. The ratio of the
benchmark is that of its worst measure. The load generator runs on the same machine, so the figures include its share of
the processors.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from tests.bench.registry import Measure, Result
from tests.kits.controlplane import ControlPlane, start
from tests.local import widgets
from tests.local.widgets import PATH

OBJECTS = 5000
SIZE = 4096
WRITES = 5000
WRITERS = 32
WATCHERS = 20


@dataclass
class Watched:
    """When which resourceVersion was acknowledged to a writer, and seen by each watcher (seconds)."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    seen: list[dict[str, float]] = field(default_factory=list)

    def worst_lag(self) -> float:
        missed = [rv for watcher in self.seen for rv in self.acknowledged if rv not in watcher]
        if missed:
            return float("inf")
        return max(watcher[rv] - at for watcher in self.seen for rv, at in self.acknowledged.items())


def resident(pid: int) -> float:
    """The peak of resident memory so far, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not tell the peak of memory")


def _object(index: int) -> dict[str, Any]:
    obj = widgets.widget(f"o{index:05}", labels={"fleet": str(index % 10)})
    obj["spec"]["text"] = "x" * (SIZE - len(json.dumps(obj)) - 12)
    return obj


async def _in_turns(count: int, work: Any) -> float:
    """Call work(0..count-1) from WRITERS tasks; returns the seconds it took."""
    numbers = iter(range(count))

    async def turn() -> None:
        for number in numbers:
            await work(number)

    began = time.perf_counter()
    await asyncio.gather(*(turn() for _ in range(WRITERS)))
    return time.perf_counter() - began


async def _watch(session: aiohttp.ClientSession, rv: str, seen: dict[str, float], ready: asyncio.Event) -> None:
    async with session.get(PATH, params={"watch": "true", "resourceVersion": rv}) as answer:
        ready.set()
        rest = b""
        async for chunk in answer.content.iter_any():
            now = time.perf_counter()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                seen[_version(line)] = now


def _version(line: bytes) -> str:
    """The resourceVersion of an event; parsing 4 KiB of JSON per event would measure the load generator."""
    at = line.rindex(b'"resourceVersion":"') + 19
    return line[at : line.index(b'"', at)].decode()


async def _stuck(server: ControlPlane, rv: str) -> asyncio.StreamWriter:
    """A watcher that asks and never reads."""
    context = ssl.create_default_context(cafile=str(server.ca))
    host, port = server.url.removeprefix("https://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, limit=1024)
    asked = f"GET {PATH}?watch=true&resourceVersion={rv} HTTP/1.1"
    writer.write(f"{asked}\r\nHost: {host}\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode())
    await writer.drain()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer


async def _write_under_watch(server: ControlPlane, session: aiohttp.ClientSession) -> tuple[float, Watched]:
    async with session.get(PATH, params={"limit": "1"}) as answer:
        rv = (await answer.json())["metadata"]["resourceVersion"]
    watched = Watched()
    tasks, bells = [], []
    for _ in range(WATCHERS - 1):
        watched.seen.append({})
        bells.append(asyncio.Event())
        tasks.append(asyncio.create_task(_watch(session, rv, watched.seen[-1], bells[-1])))
    stuck = await _stuck(server, rv)
    await asyncio.gather(*(bell.wait() for bell in bells))
    headers = {"Content-Type": "application/merge-patch+json"}

    async def patch(number: int) -> None:
        body = json.dumps({"spec": {"size": number % 99 + 1, "replicas": number}})
        async with session.patch(f"{PATH}/o{number % OBJECTS:05}", data=body, headers=headers) as answer:
            document = await answer.json()
            assert answer.status == 200, document
        watched.acknowledged[document["metadata"]["resourceVersion"]] = time.perf_counter()

    seconds = await _in_turns(WRITES, patch)
    await asyncio.sleep(2)
    for task in tasks:
        task.cancel()
    stuck.close()
    return seconds, watched


async def _list(session: aiohttp.ClientSession) -> float:
    began = time.perf_counter()
    async with session.get(PATH) as answer:
        body = await answer.read()
    seconds = time.perf_counter() - began
    assert body.count(b'"uid":') == OBJECTS and len(body) > OBJECTS * SIZE
    return seconds


async def _measure(server: ControlPlane) -> list[Measure]:
    context = ssl.create_default_context(cafile=str(server.ca))
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=600)
    # Events and lists come in one line or document that is longer than the default buffer of 64 KiB.
    async with aiohttp.ClientSession(
        server.url, connector=connector, headers=headers, timeout=timeout, read_bufsize=2**20
    ) as session:

        async def create(number: int) -> None:
            async with session.post(PATH, data=json.dumps(_object(number))) as answer:
                assert answer.status == 201, await answer.text()

        created = await _in_turns(OBJECTS, create)
        lists = [await _list(session) for _ in range(5)]
        patched, watched = await _write_under_watch(server, session)
    return [
        Measure(f"list of {OBJECTS:,} objects of {SIZE // 1024} KiB", statistics.median(lists), "s", 1.0),
        Measure(f"writes with {WATCHERS} watchers", WRITES / patched, "/s", 500.0, lower_is_better=False),
        Measure("creations, no watcher", OBJECTS / created, "/s", 500.0, lower_is_better=False),
        Measure("slowest event beside a stuck watcher", max(watched.worst_lag(), 0.001), "s", 2.0),
        Measure("resident memory, peak", resident(server.process.pid), "MiB", 300.0),
    ]


def run() -> Result:
    """Start a server, load it, stop it."""
    with tempfile.TemporaryDirectory(prefix="bench-apiserver-", dir=os.environ.get("TMPDIR", "/var/tmp")) as directory:
        server = start(Path(directory))
        try:
            widgets.install(server)
            measures = asyncio.run(_measure(server))
        finally:
            server.stop()
    return Result("apiserver", measures, [f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}"])
