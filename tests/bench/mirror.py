"""The mirror under 100 changes a second, and a rebuild of 5,000 objects, over real PostgreSQL and the embedded server.

Measured: 5,000 Instances of about 2 KiB are mirrored from nothing (rebuild). Then for 30 s, 100 times a second, the
status of one of them is patched. Lag of a change: from the moment Kubernetes acknowledged the write to the moment a
listener of PostgreSQL can read it in the mirror; and to the moment a client of GET /stream has its event. The projector
is a process of its own, as `dotmac-api mirror` is, and so is the facade that serves the stream.

Goals: lag p50 < 50 ms, p99 < 250 ms, event p99 < 250 ms, rebuild < 10 s. The ratio of a measure is goal/value: 1 is
just met, 2 twice as good; the benchmark's is that of the worst. Load generator, API server, PostgreSQL, projector and
facade share the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from cryptography.fernet import Fernet
from tests.api.conftest import Accounts
from tests.bench.registry import Measure, Result
from tests.kits.controlplane import ControlPlane, start
from tests.kits.postgres import postgres
from tests.kits.redis import redis_server
from tests.kits.resources import condition, instance, plan, release, server
from tests.kits.unprivileged import free_port

from dotmac_api.facade import build_facade
from dotmac_api.migrations import upgrade
from dotmac_api.mirror.rebuild import rebuild
from dotmac_api.settings import Settings, random_key

OBJECTS = 5000
RATE = 100
SECONDS = 30
PATH = "/apis/platform.dotmac.io/v1alpha1/namespaces/default/instances"
ROOT = Path(__file__).resolve().parents[2]
MIRROR = """import uvloop
from dotmac_api.mirror.rebuild import run_mirror
from dotmac_api.settings import load_settings
uvloop.run(run_mirror(load_settings()))"""
SERVE = """import uvicorn
from dotmac_api.main import create_app
from dotmac_api.settings import load_settings
settings = load_settings().model_copy(update={"mirror_enabled": False, "scheduler_enabled": False})
uvicorn.run(create_app(settings), port={port}, log_level="error", access_log=False)"""


class Client:
    """Requests to the embedded server, many at once."""

    def __init__(self, cluster: ControlPlane) -> None:
        self._url = cluster.url
        context = ssl.create_default_context(cafile=str(cluster.ca))
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {cluster.token}"}, connector=aiohttp.TCPConnector(ssl=context)
        )

    async def create(self, number: int) -> None:
        text = {"name": "PADDING", "value": "x" * 1500}
        obj = instance(f"t{number:04}", env=[text])
        async with self._session.post(self._url + PATH, json=obj) as answer:
            assert answer.status == 201, await answer.text()

    async def patch(self, number: int, mark: str) -> tuple[int, float]:
        """Returns (resourceVersion, time of the acknowledgement)."""
        status = {"phase": "Deploying", "url": mark, "conditions": [condition("Ready", "Unknown", "Progressing")]}
        headers = {"Content-Type": "application/merge-patch+json"}
        path = f"{self._url}{PATH}/t{number:04}/status"
        async with self._session.patch(path, data=json.dumps({"status": status}), headers=headers) as answer:
            body = await answer.read()
            at = time.perf_counter()
            assert answer.status == 200, body
            return int(json.loads(body)["metadata"]["resourceVersion"]), at

    async def close(self) -> None:
        await self._session.close()


async def _fill(client: Client) -> None:
    numbers = iter(range(OBJECTS))

    async def turn() -> None:
        for number in numbers:
            await client.create(number)

    await asyncio.gather(*(turn() for _ in range(16)))


async def _listen(url: str, seen: dict[int, float]) -> None:
    """Notes when each resourceVersion can be read."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as listener:
        await listener.execute("LISTEN dotmac_mirror")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as reader:
            last = (await (await reader.execute("SELECT max(change) FROM instances")).fetchone() or (0,))[0]
            async for _ in listener.notifies():
                query = "SELECT change, resource_version FROM instances WHERE change > %s"
                rows = await (await reader.execute(query, [last])).fetchall()
                now = time.perf_counter()
                for change, version in rows:
                    seen[version] = now
                    last = max(last, change)


async def _follow(url: str, token: str, seen: dict[str, float]) -> None:
    """Notes when a client of the stream has each change, by the mark that was patched in."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=2**20) as session:
        headers = {"Authorization": f"Bearer {token}"}
        async with session.get(f"{url}/api/v1/stream", headers=headers) as stream:
            assert stream.status == 200, await stream.text()
            async for line in stream.content:
                if line.startswith(b"data:"):
                    seen[json.loads(line[5:])["app_url"]] = time.perf_counter()


@dataclass(frozen=True)
class Lags:
    """Sorted seconds from Kubernetes' acknowledgement to the mirror, and to a client of the stream."""

    mirror: list[float]
    stream: list[float]


async def _load(client: Client, url: str, facade: str, token: str) -> Lags:
    seen: dict[int, float] = {}
    told: dict[str, float] = {}
    listeners = [asyncio.create_task(_listen(url, seen)), asyncio.create_task(_follow(facade, token, told))]
    await asyncio.sleep(1)
    writes: list[asyncio.Task[tuple[int, float]]] = []
    begun = time.perf_counter()
    for number in range(RATE * SECONDS):
        await asyncio.sleep(max(0.0, begun + number / RATE - time.perf_counter()))
        writes.append(asyncio.create_task(client.patch(number % OBJECTS, _mark(number))))
    acknowledged = await asyncio.gather(*writes)
    await asyncio.sleep(2)
    for listener in listeners:
        if listener.done():
            listener.result()  # it never ends but by a failure
        listener.cancel()
    # A version that was replaced before it was read was never late for anybody; each object changes once here, so none.
    never = float("inf")
    mirror = [max(0.0, seen.get(version, never) - at) for version, at in acknowledged]
    stream = [max(0.0, told.get(_mark(number), never) - at) for number, (_, at) in enumerate(acknowledged)]
    return Lags(sorted(mirror), sorted(stream))


def _mark(number: int) -> str:
    return f"https://{number}.example"


@contextmanager
def _parts() -> Any:
    with postgres() as database, redis_server() as redis, tempfile.TemporaryDirectory() as directory:
        cluster = start(Path(directory))
        try:
            cluster.apply_crds()
            for obj in (server(), release(), plan()):
                cluster.create(obj)
            values = {
                "database_url": database.create("mirror"),
                "redis_url": redis.url,
                "jwt_keys": json.dumps({"bench": random_key()}),
                "api_key_pepper": random_key(),
                "encryption_keys": Fernet.generate_key().decode(),
                "kubeconfig": str(cluster.kubeconfig),
            }
            yield values, cluster
        finally:
            cluster.stop()


async def _measure(values: dict[str, str], cluster: ControlPlane) -> Result:
    settings = Settings.model_validate(values)
    await upgrade(settings)
    client = Client(cluster)
    try:
        await _fill(client)
        seconds, objects = await rebuild(settings, 120)
        facade = free_port()
        async with _running(MIRROR, values), _running(SERVE.replace("{port}", str(facade)), values):
            token = await _token(settings)
            await _ready(f"http://127.0.0.1:{facade}")
            await asyncio.sleep(2)
            lags = await _load(client, values["database_url"], f"http://127.0.0.1:{facade}", token)
    finally:
        await client.close()
    p50, p99 = (lags.mirror[int(len(lags.mirror) * part)] * 1000 for part in (0.5, 0.99))
    told = lags.stream[int(len(lags.stream) * 0.99)] * 1000
    return Result(
        "mirror",
        [
            Measure("lag p50", p50, "ms", 50),
            Measure("lag p99", p99, "ms", 250),
            Measure("event p99", told, "ms", 250),
            Measure(f"rebuild of {objects:,} objects", seconds, "s", 10),
        ],
        [
            f"{len(lags.mirror):,} changes in {SECONDS} s; the worst lag was {lags.mirror[-1] * 1000:.0f} ms",
            f"events: p50 {lags.stream[len(lags.stream) // 2] * 1000:.0f} ms, worst {lags.stream[-1] * 1000:.0f} ms",
        ],
    )


async def _ready(url: str) -> None:
    """Waits until the facade finds everything ready, the mirror by the other process included."""
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/health/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.2)


async def _token(settings: Settings) -> str:
    facade = build_facade(settings)
    try:
        return (await Accounts(facade).make("admin")).token
    finally:
        await facade.close()


@asynccontextmanager
async def _running(source: str, values: dict[str, str]) -> AsyncIterator[None]:
    environment = {f"DOTMAC_API_{name.upper()}": value for name, value in values.items()}
    paths = os.pathsep.join(str(ROOT / part) for part in ("api", "crds"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", source, env={**os.environ, **environment, "PYTHONPATH": paths}
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


def run() -> Result:
    with _parts() as (values, cluster):
        return asyncio.run(_measure(values, cluster))
