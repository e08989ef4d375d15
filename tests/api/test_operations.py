"""Audit, settings, scheduler, idempotency keys, health and metrics."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator

import aiosmtplib
import httpx
import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import func, select, text, update
from tests.api.conftest import Accounts, connect, make_settings, signed_in
from tests.kits.postgres import Postgres

from dotmac_api.checks import CHECKS, Unfit
from dotmac_api.domains.models import DomainSetting
from dotmac_api.facade import Facade, build_facade
from dotmac_api.mail import send_mail
from dotmac_api.main import create_app
from dotmac_api.rotation import rotate_everything
from dotmac_api.scheduler.loop import Scheduler, register
from dotmac_api.scheduler.models import ScheduledTask
from dotmac_api.scheduler.registry import TASKS, TaskSpec
from dotmac_api.settings import Settings
from dotmac_api.vault import Undecryptable

pytestmark = pytest.mark.services

ADA = {"first_name": "Ada", "last_name": "Lovelace", "email": "ada@example.org"}


async def _events(admin: httpx.AsyncClient, **query: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = (await admin.get("/api/v1/audit-events", params=query)).json()["items"]
    return found


async def test_every_change_is_audited_and_reads_are_on_request(app: FastAPI, admin: httpx.AsyncClient) -> None:
    await admin.get("/api/v1/people")
    assert await _events(admin) == []
    made = await admin.post("/api/v1/people", json=ADA, headers={"X-Request-ID": "request-0001", "User-Agent": "x"})
    [event] = await _events(admin, request_id="request-0001")
    assert (
        event
        | {
            "action": "POST /api/v1/people",
            "actor_type": "person",
            "entity_type": "people",
            "status_code": 201,
            "is_success": True,
            "ip_address": "192.0.2.1",
            "user_agent": "x",
        }
        == event
    )
    path = f"/api/v1/people/{made.json()['id']}"
    await admin.get(path, headers={"X-Audit-Read": "1"})
    await admin.get(path, params={"audit": "1"})
    assert [e["action"] for e in await _events(admin, entity_id=made.json()["id"])] == [
        "GET /api/v1/people/{person_id}"
    ] * 2
    async with connect(app) as stranger:
        assert (await stranger.delete(path)).status_code == 401
    [refused] = await _events(admin, is_success="false")
    assert (refused["actor_type"], refused["status_code"]) == ("anonymous", 401)
    one = await admin.get(f"/api/v1/audit-events/{refused['id']}")
    assert one.json() == refused


@pytest.mark.parametrize(("key", "value"), [("enabled", False), ("methods", []), ("skip_paths", ["/"])])
async def test_who_turns_the_trail_off_is_in_it(admin: httpx.AsyncClient, key: str, value: object) -> None:
    path = f"/api/v1/settings/audit/{key}"
    assert (await admin.put(path, json={"value": value})).status_code == 200
    await admin.post("/api/v1/people", json=ADA)
    [event] = await _events(admin)
    assert (event["entity_id"], event["details"]["after"]) == (f"audit.{key}", {"value": value})  # type: ignore[index]
    assert (await admin.put(path, json={"value": value})).status_code == 200
    assert len(await _events(admin)) == 2


async def test_secrets_never_reach_the_trail_or_the_logs(
    admin: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "canary-canary-7f3a"
    await admin.post("/api/v1/auth/login", json={"username": "nobody", "password": canary})
    await admin.put("/api/v1/settings/notifications/smtp_password", json={"value": canary})
    await admin.post("/api/v1/auth/reset-password", json={"token": canary * 2, "new_password": canary})
    await admin.post("/api/v1/people", json={"first_name": canary, "password": canary})
    events = await _events(admin, limit="100")
    assert len(events) == 4
    assert canary not in json.dumps(events)
    [login] = [e for e in events if e["action"] == "POST /api/v1/auth/login"]
    assert login["actor_name"] == "nobody"
    assert canary not in caplog.text


async def test_a_limited_auditor_sees_its_own_deeds_and_its_organisations(
    app: FastAPI, admin: httpx.AsyncClient, accounts: Accounts, facade: Facade
) -> None:
    await admin.post("/api/v1/people", json=ADA)
    auditor = await accounts.make("auditor", organisations=["ACME"])
    async with facade.sessions.begin() as session:
        for organisation in ("ACME", "OTHER"):
            await session.execute(
                text(
                    "INSERT INTO audit_events (actor_type, action, organisation, is_success)"
                    " VALUES ('system', 'x', :org, true)"
                ),
                {"org": organisation},
            )
    async with signed_in(app, auditor) as client:
        assert {event["organisation"] for event in await _events(client)} == {"ACME"}
        [hidden] = [e for e in await _events(admin) if e["organisation"] == "OTHER"]
        assert (await client.get(f"/api/v1/audit-events/{hidden['id']}")).status_code == 404


async def test_settings_are_typed_bounded_and_audited(admin: httpx.AsyncClient) -> None:
    path = "/api/v1/settings/auth/jwt_access_ttl_minutes"
    before = (await admin.get(path)).json()
    assert (before["value"], before["source"], before["minimum"], before["maximum"]) == (15, "default", 1, 60)
    for wrong in (0, 61, "15", True, None, [15], 2**70, 1.5):
        refused = await admin.put(path, json={"value": wrong})
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_error"), wrong
    changed = await admin.put(path, json={"value": 5})
    assert (changed.json()["value"], changed.json()["source"]) == (5, "database")
    assert (await admin.get(path)).json() == changed.json()
    [event] = await _events(admin, entity_id="auth.jwt_access_ttl_minutes", is_success="true")
    assert event["details"] == {"before": {"value": 15}, "after": {"value": 5}}
    assert (await admin.get("/api/v1/settings/nowhere")).status_code == 404
    assert (await admin.get("/api/v1/settings/auth/nothing")).status_code == 404
    for fixed in ("jwt_secret", "refresh_cookie_secure", "totp_encryption_key"):
        answer = await admin.put(f"/api/v1/settings/auth/{fixed}", json={"value": "x"})
        assert (answer.status_code, answer.json()["code"]) == (409, "read_only")


async def test_every_domain_is_listed(admin: httpx.AsyncClient) -> None:
    for domain in ("auth", "audit", "scheduler", "platform", "notifications"):
        listed = (await admin.get(f"/api/v1/settings/{domain}", params={"limit": 100})).json()
        assert listed["count"] == len(listed["items"]) > 0
        assert all(item["value"] in (None, "***") for item in listed["items"] if item["is_secret"])


async def test_the_environment_wins_over_the_database(settings: Settings, accounts: Accounts) -> None:
    overridden = settings.model_copy(update={"overrides": {("auth", "totp_issuer"): "From the environment"}})
    app = create_app(overridden)
    async with app.router.lifespan_context(app), signed_in(app, await accounts.make("admin")) as admin:
        shown = (await admin.get("/api/v1/settings/auth/totp_issuer")).json()
        assert (shown["value"], shown["source"]) == ("From the environment", "environment")
        refused = await admin.put("/api/v1/settings/auth/totp_issuer", json={"value": "x"})
        assert (refused.status_code, refused.json()["code"]) == (409, "read_only")


async def test_a_secret_setting_is_encrypted_masked_and_rotated(
    admin: httpx.AsyncClient, facade: Facade, settings: Settings
) -> None:
    path = "/api/v1/settings/notifications/smtp_password"
    for name, value in (("smtp_host", "127.0.0.1"), ("smtp_port", 1)):
        assert (await admin.put(f"/api/v1/settings/notifications/{name}", json={"value": value})).status_code == 200
    answer = await admin.put(path, json={"value": "hunter2hunter2"})
    assert answer.json()["value"] == "***"
    assert (await admin.get(path)).json()["value"] == "***"
    await admin.put(path, json={"value": " spaces count "})
    assert await facade.domains.text("notifications", "smtp_password") == " spaces count "
    assert (await admin.put(path, json={"value": "hunter2hunter2"})).status_code == 200
    assert (await admin.put(path, json={"value": "***"})).status_code == 422
    assert await facade.domains.text("notifications", "smtp_password") == "hunter2hunter2"

    async def stored() -> str:
        async with facade.sessions() as session:
            return str(await session.scalar(select(DomainSetting.value).where(DomainSetting.is_secret)))

    first = await stored()
    assert first.startswith("enc:") and "hunter2" not in first
    old, new = settings.encryption_keys[0], SecretStr(Fernet.generate_key().decode())
    rotating = build_facade(settings.model_copy(update={"encryption_keys": (new, old)}))
    try:
        assert (await rotate_everything(rotating.sessions, rotating.vault))["domain_settings"] == 1
    finally:
        await rotating.close()
    assert await stored() != first
    after = build_facade(settings.model_copy(update={"encryption_keys": (new,)}))
    try:
        assert await after.domains.text("notifications", "smtp_password") == "hunter2hunter2"
        assert await CHECKS["encryption"](after) == "1 key(s), 1 stored secrets"
        with pytest.raises(aiosmtplib.SMTPConnectError):
            await CHECKS["mail"](after)
    finally:
        await after.close()
    lost = build_facade(settings)  # the old key alone
    try:
        with pytest.raises(Undecryptable):
            await lost.domains.text("notifications", "smtp_password")
        with pytest.raises(Undecryptable):
            await rotate_everything(lost.sessions, lost.vault)
        with pytest.raises(Unfit, match="1 of 1 stored secrets fit none"):
            await CHECKS["encryption"](lost)
        assert await send_mail(lost.domains, "a@example.org", "x", "x") is False  # and says so in the log
    finally:
        await lost.close()


async def test_a_plain_text_secret_in_the_database_is_never_used(facade: Facade, admin: httpx.AsyncClient) -> None:
    async with facade.sessions.begin() as session:
        session.add(DomainSetting(domain="notifications", key="smtp_password", value="plain", is_secret=True))
    facade.domains.forget()
    with pytest.raises(Undecryptable):
        await facade.domains.text("notifications", "smtp_password")
    shown = await admin.get("/api/v1/settings/notifications/smtp_password")
    assert (shown.status_code, shown.json()["value"]) == (200, "***")


async def test_each_task_of_the_registry_runs(facade: Facade) -> None:
    async with facade.sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO audit_events (actor_type, action, is_success, occurred_at)"
                " SELECT 'system', 'x', true, now() - interval '400 days' FROM generate_series(1, 1500)"
            )
        )
    await register(facade)
    scheduler = Scheduler(facade)
    async with facade.sessions.begin() as session:
        await session.execute(update(ScheduledTask).values(due_at=func.now()))
    for spec in TASKS:
        await scheduler.run_if_due(spec)
    async with facade.sessions() as session:
        rows = (await session.scalars(select(ScheduledTask))).all()
    # There is no Kubernetes here; with one it is tested in fleet/test_tasks.py.
    ends = {spec.name: "failed" if spec.name == "verify_mirror" else "success" for spec in TASKS}
    assert {(row.name, row.last_status, row.runs) for row in rows} == {(name, end, 1) for name, end in ends.items()}
    assert {row.last_message for row in rows} >= {"1500 audit events deleted"}


async def test_a_due_task_runs_once_on_many_replicas(settings: Settings, facade: Facade) -> None:
    runs = 0

    async def work(_facade: Facade) -> str:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.05)
        return "done"

    spec = TaskSpec("only_once", "x", 3600, work)
    replicas = [build_facade(settings) for _ in range(5)]
    try:
        await register(facade, (spec,))
        async with facade.sessions.begin() as session:
            await session.execute(update(ScheduledTask).values(due_at=func.now()))
        await asyncio.gather(*(Scheduler(replica, (spec,)).run_if_due(spec) for replica in replicas for _ in range(2)))
    finally:
        for replica in replicas:
            await replica.close()
    assert runs == 1


REPLICA = """import asyncio
from sqlalchemy import text
from dotmac_api.facade import build_facade
from dotmac_api.scheduler import loop
from dotmac_api.scheduler.registry import TaskSpec
from dotmac_api.settings import load_settings
async def work(facade):
    async with facade.sessions.begin() as session:
        row = "INSERT INTO audit_events (actor_type, action, is_success) VALUES ('system', 'ran', true)"
        await session.execute(text(row))
    await asyncio.sleep(0.1)
    return "done"
loop.TICK_SECONDS = 0.05
asyncio.run(loop.Scheduler(build_facade(load_settings()), (TaskSpec("probe", "x", 3600, work),)).run())"""


async def test_two_processes_run_a_task_once_each_time_it_is_due(settings: Settings, facade: Facade) -> None:
    secret = {"database_url", "redis_url", "jwt_keys", "api_key_pepper"}
    environment = {f"DOTMAC_API_{name.upper()}": getattr(settings, name).get_secret_value() for name in secret}
    environment |= {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    replicas = [await asyncio.create_subprocess_exec(sys.executable, "-c", REPLICA, env=environment) for _ in range(2)]
    try:
        for turn in range(1, 6):
            await _until_run(facade, turn)
    finally:
        for replica in replicas:
            replica.kill()
            await replica.wait()
    async with facade.sessions() as session:
        assert await session.scalar(text("SELECT count(*) FROM audit_events WHERE action = 'ran'")) == 5


async def _until_run(facade: Facade, turn: int) -> None:
    """Makes the task due and waits for the end of the run, and a few looks of both processes longer."""
    async with asyncio.timeout(120):
        while True:
            async with facade.sessions.begin() as session:
                if await session.scalar(update(ScheduledTask).values(due_at=func.now()).returning(ScheduledTask.id)):
                    break
            await asyncio.sleep(0.05)
        while True:
            async with facade.sessions() as session:
                task = await session.scalar(select(ScheduledTask))
                if task is not None and task.runs == turn and task.last_status == "success":
                    break
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)


async def test_a_task_that_fails_is_shown_and_comes_again(facade: Facade) -> None:
    async def work(_facade: Facade) -> str:
        raise RuntimeError("a text that may hold data")

    spec = TaskSpec("fails", "x", 3600, work)
    await register(facade, (spec,))
    async with facade.sessions.begin() as session:
        await session.execute(update(ScheduledTask).values(due_at=func.now()))
    await Scheduler(facade, (spec,)).run_if_due(spec)
    async with facade.sessions() as session:
        row = await session.scalar(select(ScheduledTask))
    assert row is not None
    assert (row.last_status, row.last_message, row.failures) == ("failed", "RuntimeError", 1)
    assert row.due_at > row.last_started_at  # type: ignore[operator]


async def test_tasks_are_seen_changed_and_started_by_administrators(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"scheduler_enabled": True}))
    async with app.router.lifespan_context(app):
        facade: Facade = app.state.facade
        accounts = Accounts(facade)
        admin, support = await accounts.make("admin"), await accounts.make("support")
        async with signed_in(app, admin) as client, signed_in(app, support) as other:
            for _ in range(100):
                tasks = (await client.get("/api/v1/scheduler/tasks", params={"order_dir": "asc"})).json()
                if tasks["count"] == len(TASKS):
                    break
                await asyncio.sleep(0.05)
            assert {task["name"] for task in tasks["items"]} == {spec.name for spec in TASKS}
            path = f"/api/v1/scheduler/tasks/{tasks['items'][0]['id']}"
            assert (await other.get(path)).status_code == 200
            assert (await other.patch(path, json={"enabled": False})).status_code == 403
            assert (await client.patch(path, json={"interval_seconds": 1})).status_code == 422
            assert (await client.patch(path, json={"enabled": False})).json()["enabled"] is False
            assert (await client.post(f"{path}/enqueue")).status_code == 409
            changed = await client.patch(path, json={"enabled": True, "interval_seconds": 60})
            assert changed.json()["interval_seconds"] == 60
            started = await client.post(f"{path}/enqueue")
            assert started.status_code == 202
            for _ in range(100):
                task = (await client.get(path)).json()
                if task["last_status"] == "success":
                    break
                await asyncio.sleep(0.05)
            assert (task["last_status"], task["runs"]) == ("success", 1)


async def test_a_repeated_post_with_its_key_is_done_once(admin: httpx.AsyncClient, facade: Facade) -> None:
    body = {"label": "ci", "scopes": ["people:read"]}

    async def post(key: str, **changes: object) -> httpx.Response:
        headers = {"Idempotency-Key": key}
        return await admin.post("/api/v1/api-keys/generate", json=body | changes, headers=headers)

    first = await post("k1")
    again = await post("k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await post("k1", label="another")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (await post("k2")).json()["id"] != first.json()["id"]
    async with facade.sessions() as session:
        stored = str((await session.execute(text("SELECT answer FROM idempotency_keys"))).all())
    assert first.json()["key"] not in stored
    for wrong in ("", "x" * 201, "a b"):
        assert (await post(wrong)).status_code == 400, wrong


async def test_concurrent_posts_with_one_key_make_one_row(admin: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "same"}
    answers = await asyncio.gather(*(admin.post("/api/v1/people", json=ADA, headers=headers) for _ in range(10)))
    assert {a.status_code for a in answers} <= {201, 409}
    assert {a.json()["code"] for a in answers if a.status_code == 409} <= {"idempotency_running"}
    assert (await admin.get("/api/v1/people", params={"search": "ada@"})).json()["count"] == 1


async def test_a_refused_post_may_be_mended_and_sent_again(admin: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "mended"}
    assert (await admin.post("/api/v1/people", json={}, headers=headers)).status_code == 422
    assert (await admin.post("/api/v1/people", json=ADA, headers=headers)).status_code == 201


async def test_a_key_belongs_to_its_person(app: FastAPI, admin: httpx.AsyncClient, accounts: Accounts) -> None:
    headers = {"Idempotency-Key": "shared"}
    await admin.post("/api/v1/people", json=ADA, headers=headers)
    async with signed_in(app, await accounts.make("admin")) as other:
        answer = await other.post("/api/v1/people", json=ADA, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")


async def test_an_answer_is_not_repeated_to_who_may_not_see_it_any_more(
    app: FastAPI, admin: httpx.AsyncClient, accounts: Accounts
) -> None:
    person, headers = await accounts.make("admin"), {"Idempotency-Key": "mine"}
    async with signed_in(app, person) as client:
        made = await client.post("/api/v1/people", json=ADA, headers=headers)
        assert (await client.post("/api/v1/people", json=ADA, headers=headers)).json() == made.json()
        await admin.patch(f"/api/v1/people/{person.person_id}", json={"organisations": ["ACME"]})
        answer = await client.post("/api/v1/people", json=ADA, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_rights_changed")
    assert "Lovelace" not in answer.text


async def test_metrics_need_their_token_and_have_no_ids(client: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    assert (await client.get("/metrics")).status_code == 401
    assert (await admin.get("/metrics")).status_code == 401
    await admin.get("/api/v1/people/00000000-0000-0000-0000-000000000000")
    answer = await client.get("/metrics", headers={"Authorization": "Bearer metrics-token-of-the-tests"})
    assert answer.status_code == 200
    assert 'route="/api/v1/people/{person_id}",status="404"' in answer.text
    assert "00000000-0000" not in answer.text


async def test_every_answer_has_a_request_id_and_the_error_shape(client: httpx.AsyncClient) -> None:
    kept = await client.get("/health", headers={"X-Request-ID": "my-own-id-1"})
    assert kept.headers["X-Request-ID"] == "my-own-id-1"
    forged = await client.get("/health", headers={"X-Request-ID": "a\tb <script>"})
    assert forged.headers["X-Request-ID"] != "a\tb <script>"
    for method, path in (("GET", "/nowhere"), ("PUT", "/api/v1/people"), ("GET", "/api/v1/people/not-a-uuid")):
        answer = await client.request(method, path)
        assert set(answer.json()) == {"code", "message", "details"}, path
        assert answer.headers["X-Request-ID"]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "large"}])
async def test_a_large_body_is_refused_however_it_comes(admin: httpx.AsyncClient, headers: dict[str, str]) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100_000

    for content in (b"x" * 2_000_000, parts()):
        answer = await admin.post("/api/v1/people", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert answer.headers["X-Request-ID"]


async def test_what_nobody_foresaw_says_nothing_and_has_a_request_id(
    app: FastAPI, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("dotmac_api.people.service.list_people", broken)
    answer = await admin.get("/api/v1/people")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret detail" not in answer.text
    assert answer.headers["X-Request-ID"]


async def test_a_database_that_is_away_answers_503_and_comes_back(
    postgres_server: Postgres, settings: Settings, client: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    assert (await admin.get("/api/v1/people")).status_code == 200
    postgres_server.stop()
    try:
        answer = await admin.get("/api/v1/people")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["checks"]["database"]["ready"] is False
        assert "127.0.0.1" not in ready.text
        assert (await client.get("/health")).status_code == 200
    finally:
        postgres_server.start()
    for _ in range(20):
        if (await admin.get("/api/v1/people")).status_code == 200:
            break
    assert (await admin.get("/api/v1/people")).status_code == 200
    assert (await client.get("/health/ready")).json()["checks"]["database"]["ready"] is True


async def test_without_an_encryption_key_no_secret_is_stored(settings: Settings, accounts: Accounts) -> None:
    bare = make_settings(settings.database_url.get_secret_value(), settings.redis_url.get_secret_value())
    app = create_app(bare.model_copy(update={"encryption_keys": ()}))
    async with app.router.lifespan_context(app), signed_in(app, await accounts.make("admin")) as admin:
        answer = await admin.put("/api/v1/settings/notifications/smtp_password", json={"value": "secret"})
        assert (answer.status_code, answer.json()["code"]) == (409, "encryption_key_missing")
        plain = await admin.put("/api/v1/settings/notifications/smtp_host", json={"value": "mail.example.org"})
        assert plain.status_code == 200
