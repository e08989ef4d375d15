"""The fleet's scheduled tasks, its metrics and its part of `dotmac-api check`."""

from datetime import UTC, datetime, timedelta

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


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_a_trial_that_is_over_is_told_once_and_changes_nothing(
    ready: httpx.AsyncClient, facade: Facade, engine: AsyncEngine, objects: Objects
) -> None:
    hook = {"url": "https://hooks.example/in", "events": ["instance.trial_expired"]}
    webhook = (await ready.post("/api/v1/webhooks", json=hook)).json()
    objects.create(server())
    objects.create(instance("over", trial={"expiresAt": in_days(-1)}))
    objects.create(instance("runs", trial={"expiresAt": in_days(3)}))
    await until_equal(engine, objects)
    assert await tasks.trials(facade) == "1 trials have ended since the last time"
    assert await tasks.trials(facade) == "0 trials have ended since the last time"
    (found,) = (await ready.get("/api/v1/instances?search=over")).json()["items"]
    events = f"/api/v1/instances/{found['instance_id']}/events"
    (event,) = (await ready.get(events, params={"event": "instance.trial_expired"})).json()["items"]
    assert event["reason"] == "TrialExpired"
    assert (await ready.get(f"/api/v1/webhooks/{webhook['id']}/deliveries")).json()["count"] == 1
    audited = await ready.get("/api/v1/audit-events", params={"action": "instance.trial_expired"})
    assert audited.json()["count"] == 1
    assert [obj["metadata"]["generation"] for obj in objects.list("Instance")] == [1, 1]
    # A trial that was prolonged and ends again is news.
    objects.merge("Instance", "over", {"spec": {"trial": {"expiresAt": in_days(-0.5)}}})
    await until_equal(engine, objects)
    assert await tasks.trials(facade) == "1 trials have ended since the last time"


async def test_certificates_that_were_not_renewed_are_told_of(
    ready: httpx.AsyncClient, facade: Facade, engine: AsyncEngine, objects: Objects
) -> None:
    objects.create(server())
    objects.create(instance("aa"))
    hosts = {"good.example": 60, "soon.example": 10, "over.example": -1}
    held = [{"host": host, "notAfter": in_days(days), "issuer": "CN=x"} for host, days in hosts.items()]
    objects.merge("Instance", "aa", {"status": {"phase": "Running", "certificates": held}}, status=True)
    await until_equal(engine, objects)
    assert await tasks.certificates(facade) == "2 certificates newly end within 21 days"
    assert await tasks.certificates(facade) == "0 certificates newly end within 21 days"
    (found,) = (await ready.get("/api/v1/instances")).json()["items"]
    events = f"/api/v1/instances/{found['instance_id']}/events"
    told = (await ready.get(events, params={"event": "instance.certificate_expiring"})).json()["items"]
    assert {(event["subject"], event["reason"]) for event in told} == {
        ("soon.example", "CertificateExpiring"),
        ("over.example", "CertificateExpired"),
    }


async def test_metrics_of_the_mirror_are_shown(ready: httpx.AsyncClient) -> None:
    answer = await ready.get("/metrics", headers={"Authorization": "Bearer metrics-token-of-the-tests"})
    assert answer.status_code == 200
    for name in ("dotmac_mirror_lag_seconds_count", "dotmac_mirror_behind_seconds", "dotmac_mirror_leading 1.0"):
        assert name in answer.text


async def test_check_names_what_is_missing_in_kubernetes(facade: Facade, cluster: ControlPlane) -> None:
    assert (await CHECKS["kubernetes"](facade)).startswith("version v")
