"""The mirror under 100 changes a second, and a rebuild of 5,000 objects, over real PostgreSQL and the embedded server.

Measured: 5,000 Instances of about 2 KiB are mirrored from nothing (rebuild). Then for 30 s, 100 times a second, the
status of one of them is patched. Lag of a change: from the moment Kubernetes acknowledged the write to the moment a
listener of PostgreSQL can read it in the mirror. The projector is a process of its own, as `dotmac-api mirror` is.

Goals: lag p50 < 50 ms, p99 < 250 ms, rebuild < 10 s. The ratio of a measure is goal/value: 1 is just met, 2 twice as
good; the benchmark's is that of the worst. Load generator, API server, PostgreSQL and projector share the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from cryptography.fernet import Fernet
from tests.bench.registry import Measure, Result
from tests.kits.controlplane import ControlPlane, start
from tests.kits.postgres import postgres
from tests.kits.resources import condition, instance, plan, release, server

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


async def _load(client: Client, url: str) -> list[float]:
    seen: dict[int, float] = {}
    listener = asyncio.create_task(_listen(url, seen))
    await asyncio.sleep(1)
    writes: list[asyncio.Task[tuple[int, float]]] = []
    begun = time.perf_counter()
    for number in range(RATE * SECONDS):
        await asyncio.sleep(max(0.0, begun + number / RATE - time.perf_counter()))
        writes.append(asyncio.create_task(client.patch(number % OBJECTS, f"https://{number}.example")))
    acknowledged = await asyncio.gather(*writes)
    await asyncio.sleep(2)
    listener.cancel()
    # A version that was replaced before it was read was never late for anybody; each object changes once here, so none.
    return [max(0.0, seen.get(version, float("inf")) - at) for version, at in acknowledged]


@contextmanager
def _parts() -> Any:
    with postgres() as database, tempfile.TemporaryDirectory() as directory:
        cluster = start(Path(directory))
        try:
            cluster.apply_crds()
            for obj in (server(), release(), plan()):
                cluster.create(obj)
            values = {
                "database_url": database.create("mirror"),
                "redis_url": "redis://127.0.0.1:1/0",
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
        environment = {f"DOTMAC_API_{name.upper()}": value for name, value in values.items()}
        paths = os.pathsep.join(str(ROOT / part) for part in ("api", "crds"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MIRROR, env={**os.environ, **environment, "PYTHONPATH": paths}
        )
        try:
            await asyncio.sleep(5)
            lags = sorted(await _load(client, values["database_url"]))
        finally:
            process.kill()
            await process.wait()
    finally:
        await client.close()
    p50, p99 = lags[len(lags) // 2] * 1000, lags[int(len(lags) * 0.99)] * 1000
    return Result(
        "mirror",
        [
            Measure("lag p50", p50, "ms", 50),
            Measure("lag p99", p99, "ms", 250),
            Measure(f"rebuild of {objects:,} objects", seconds, "s", 10),
        ],
        [f"{len(lags):,} changes in {SECONDS} s; the worst lag was {lags[-1] * 1000:.0f} ms"],
    )


def run() -> Result:
    with _parts() as (values, cluster):
        return asyncio.run(_measure(values, cluster))
