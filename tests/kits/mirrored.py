"""A projector over the embedded control plane and a database of the test's own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.kits.controlplane import ControlPlane, start

from dotmac_api.gateway.client import ClusterAddress, KubernetesClient
from dotmac_api.mirror.models import MODELS
from dotmac_api.mirror.projection import project
from dotmac_api.mirror.projector import Projector, mirror_engine
from dotmac_api.settings import Settings
from dotmac_crds.kinds import KINDS

PLURALS = {kind.name: kind.plural for kind in KINDS}
GROUP = "/apis/platform.dotmac.io/v1alpha1"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One control plane with our CRDs; `objects` empties it before each test."""
    server = start(tmp_path_factory.mktemp("facade-cluster"))
    server.apply_crds()
    yield server
    server.stop()


class Objects:
    """Objects of our group in the control plane, by short verbs."""

    def __init__(self, cluster: ControlPlane) -> None:
        self.cluster = cluster

    def path(self, kind: str, name: str = "") -> str:
        scope = "" if kind in ("Release", "InstanceClass") else "/namespaces/default"
        return f"{GROUP}{scope}/{PLURALS[kind]}" + (f"/{name}" if name else "")

    def list(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.cluster.client.get(self.path(kind)).json()["items"]
        return found

    def create(self, obj: dict[str, Any]) -> dict[str, Any]:
        answer = self.cluster.client.post(self.path(obj["kind"]), json=obj)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def merge(self, kind: str, name: str, patch: dict[str, Any], *, status: bool = False) -> dict[str, Any]:
        path = self.path(kind, name) + ("/status" if status else "")
        headers = {"Content-Type": "application/merge-patch+json"}
        answer = self.cluster.client.patch(path, json=patch, headers=headers)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def apply(self, obj: dict[str, Any], manager: str) -> dict[str, Any]:
        """Server-side apply as `manager`, as a GitOps tool does."""
        path = self.path(obj["kind"], obj["metadata"]["name"])
        headers = {"Content-Type": "application/apply-patch+yaml"}
        answer = self.cluster.client.patch(path, params={"fieldManager": manager}, json=obj, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        made: dict[str, Any] = answer.json()
        return made

    def delete(self, kind: str, name: str) -> None:
        assert self.cluster.client.delete(self.path(kind, name)).status_code == 200

    def clear(self) -> None:
        for kind in PLURALS:
            for obj in self.list(kind):
                if obj["metadata"].get("finalizers"):
                    self.merge(kind, obj["metadata"]["name"], {"metadata": {"finalizers": None}})
                self.cluster.client.delete(self.path(kind, obj["metadata"]["name"]))


@pytest.fixture
def objects(cluster: ControlPlane) -> Objects:
    made = Objects(cluster)
    made.clear()
    return made


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    made = mirror_engine(settings)
    yield made
    await made.dispose()


@asynccontextmanager
async def projecting(engine: AsyncEngine, cluster: ControlPlane) -> AsyncIterator[Projector]:
    """A projector that runs for as long as the block."""
    async with KubernetesClient(ClusterAddress(cluster.kubeconfig)) as client:
        projector = Projector(engine, client, "default")
        task = asyncio.create_task(projector.run())
        try:
            yield projector
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def rows(engine: AsyncEngine, kind: str) -> list[dict[str, Any]]:
    """Rows of resources that are not gone."""
    model = MODELS[kind]
    async with engine.connect() as connection:
        found = await connection.execute(select(model.__table__).where(model.deleted_at.is_(None)))
        return [dict(row) for row in found.mappings()]


async def differences(engine: AsyncEngine, objects: Objects) -> list[str]:
    """What the mirror has that Kubernetes has not, has not that Kubernetes has, or has otherwise: every column."""
    found = []
    servers = {s["metadata"]["name"]: s["metadata"]["uid"] for s in objects.list("Server")}
    for kind in PLURALS:
        wanted = {obj["metadata"]["uid"]: obj for obj in objects.list(kind)}
        kept = {str(row[MODELS[kind].UID]): row for row in await rows(engine, kind)}
        found += [
            f"{kind} {uid} is {'missing' if uid in wanted else 'too many'}" for uid in wanted.keys() ^ kept.keys()
        ]
        for uid in wanted.keys() & kept.keys():
            expected = project({**wanted[uid], "kind": kind})
            row = kept[uid]
            found += [f"{kind} {uid}.{c}: {row[c]!r} != {v!r}" for c, v in expected.items() if row[c] != v]
            if kind == "Instance":
                server = servers.get(expected["server_name"])
                if (str(row["server_id"]) if row["server_id"] else None) != server:
                    found.append(f"{kind} {uid}.server_id: {row['server_id']} != {server}")
    return found


async def until_equal(engine: AsyncEngine, objects: Objects, seconds: float = 15) -> None:
    """Waits until the mirror equals the API in every row and column; fails with the differences."""
    deadline = asyncio.get_running_loop().time() + seconds
    while found := await differences(engine, objects):
        assert asyncio.get_running_loop().time() < deadline, found[:10]
        await asyncio.sleep(0.05)


async def until(truth: Callable[[], Any], seconds: float = 10) -> Any:
    """Waits until `truth()` (plain or async) is true, and returns what it gave."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found = truth()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)
