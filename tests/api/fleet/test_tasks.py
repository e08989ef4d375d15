"""The fleet's scheduled tasks, its metrics and its part of `dotmac-api check`."""

import httpx
import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.kits.controlplane import ControlPlane
from tests.kits.mirrored import Objects, differences, until_equal
from tests.kits.resources import instance, server

from dotmac_api.checks import CHECKS
from dotmac_api.facade import Facade
from dotmac_api.mirror import verify
from dotmac_api.mirror.models import InstanceRow
from dotmac_api.scheduler import fleet as tasks

pytestmark = pytest.mark.services


async def test_the_mirror_is_verified_and_mended(
    ready: httpx.AsyncClient,
    facade: Facade,
    engine: AsyncEngine,
    objects: Objects,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verify, "CATCH_UP_SECONDS", 0.2)
    objects.create(server())
    objects.create(instance("aa"))
    objects.create(instance("bb"))
    await until_equal(engine, objects)
    assert await tasks.mirror(facade) == "the mirror equals Kubernetes"
    async with engine.begin() as connection:
        await connection.execute(update(InstanceRow).where(InstanceRow.name == "aa").values(deleted_at=text("now()")))
    assert "1 objects differed" in await tasks.mirror(facade)
    await until_equal(engine, objects)
    assert not await differences(engine, objects)


async def test_tasks_of_webhooks_say_what_they_did(ready: httpx.AsyncClient, facade: Facade) -> None:
    assert await tasks.webhooks(facade) == "0 attempts"
    assert await tasks.deliveries(facade) == "0 deleted"


async def test_metrics_of_the_mirror_are_shown(ready: httpx.AsyncClient) -> None:
    answer = await ready.get("/metrics", headers={"Authorization": "Bearer metrics-token-of-the-tests"})
    assert answer.status_code == 200
    for name in ("dotmac_mirror_lag_seconds_count", "dotmac_mirror_behind_seconds", "dotmac_mirror_leading 1.0"):
        assert name in answer.text


async def test_check_names_what_is_missing_in_kubernetes(facade: Facade, cluster: ControlPlane) -> None:
    assert (await CHECKS["kubernetes"](facade)).startswith("version v")
