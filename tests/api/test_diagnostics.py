"""Logs, usage and health: the facade in front of the operator's real endpoint, over a host that the tests set."""

import asyncio
import json
import threading
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import update
from tests.api.conftest import Account, Accounts, signed_in
from tests.kits.diagnosed import TOKEN, Site, line, site
from tests.kits.fakes import unreachable
from tests.kits.mirrored import until
from tests.kits.resources import condition, instance
from tests.kits.unprivileged import free_port

from dotmac_api.checks import CHECKS, Unfit
from dotmac_api.diagnostics import streams
from dotmac_api.diagnostics.operator import Operator
from dotmac_api.diagnostics.schemas import quantity_bytes
from dotmac_api.errors import Unavailable
from dotmac_api.facade import Facade
from dotmac_api.mirror.models import InstanceRow
from dotmac_api.mirror.projection import project
from dotmac_api.settings import Settings

pytestmark = pytest.mark.services

__all__ = ["site"]
NOW = "2026-11-22T10:00:00Z"
UID = uuid.UUID(int=7)
PATH = f"/api/v1/instances/{UID}"
SEEN: dict[str, Any] = {
    "quota": {"maxUsers": 10, "maxStorage": "1Gi"},
    "conditions": [condition(type_, "True") for type_ in ("Ready", "DatabaseReady", "AppHealthy", "RouteReady")],
}


@pytest.fixture
async def told(facade: Facade, site: Site) -> Site:
    """The operator, which the facade knows, and an instance of it in the mirror."""
    made = instance("acme")
    stamp = {"uid": str(UID), "namespace": "tenants", "resourceVersion": "1", "creationTimestamp": NOW}
    async with facade.sessions.begin() as session:
        seen = project({**made, "metadata": made["metadata"] | stamp, "status": SEEN})
        session.add(InstanceRow(**seen, mirrored_at=datetime.now(UTC)))
    await know(facade, str(site.client.make_url("/")), TOKEN)
    return site


async def know(facade: Facade, url: str | None, token: str | None) -> None:
    await facade.operator.aclose()
    facade.operator = Operator(url, token and SecretStr(token))


@pytest.fixture
async def served(app: FastAPI) -> AsyncIterator[str]:
    """The facade behind a real server: the client in the process collects answers whole."""
    port = free_port()
    config = uvicorn.Config(app, port=port, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield f"http://127.0.0.1:{port}{PATH}"
    server.should_exit = True
    await task


async def logs(client: httpx.AsyncClient, **query: str | int) -> list[dict[str, str]]:
    answer = await client.get(f"{PATH}/logs", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    # Not splitlines, to which U+2028 is an end, too.
    return [json.loads(text) for text in answer.text.split("\n") if text]


async def test_lines_come_as_ndjson_with_tail_since_role_and_container(admin: httpx.AsyncClient, told: Site) -> None:
    told.engine.lines = {"web": [line(n) for n in range(5)], "worker": [line(9, "ünïcode \u2028 job")]}
    found = await logs(admin)
    assert [made["line"] for made in found][-1] == "ünïcode \u2028 job"
    assert set(found[0]) == {"container", "role", "time", "stream", "line"}
    assert [made["line"] for made in await logs(admin, tail=2, role="web")] == ["line 3", "line 4"]
    name = told.world.engine.of("worker")[0].name
    assert [made["role"] for made in await logs(admin, container=name)] == ["worker"]
    await logs(admin, since="2026-11-22T10:00:00.5+01:00")
    assert told.engine.queries[-1].since == "1795338000.500000"


async def test_no_more_than_2000_lines_whatever_the_operator_sends(
    admin: httpx.AsyncClient, told: Site, facade: Facade
) -> None:
    for wrong in ({"tail": 2001}, {"tail": 0}, {"since": "yesterday"}, {"role": "a/b"}, {"container": "../x"}):
        assert (await admin.get(f"{PATH}/logs", params=wrong)).status_code == 422, wrong
    lying = [{"container": "c", "role": "web", "time": "t", "stream": "stdout", "line": str(n)} for n in range(2500)]
    async with answering(facade, "\n".join(map(json.dumps, lying)).encode() + b"\n"):
        assert len(await logs(admin, tail=2000)) == 2000


async def test_who_may_read_logs(app: FastAPI, accounts: Accounts, told: Site) -> None:
    told.engine.lines = {"web": [line(1)]}
    cases: list[tuple[str, list[str] | None, int]] = [
        ("support", None, 200),
        ("operator", ["ACME"], 200),
        ("operator", ["OTHER"], 404),
        ("operator", [], 404),
        ("auditor", None, 403),
    ]
    for role, organisations, status in cases:
        async with signed_in(app, await accounts.make(role, organisations=organisations)) as client:
            assert (await client.get(f"{PATH}/logs")).status_code == status, (role, organisations)
            for what in ("usage", "health"):
                assert (await client.get(f"{PATH}/{what}")).status_code == (404 if status == 404 else 200), what


async def test_an_operator_that_is_not_told_or_not_there_is_named(
    admin: httpx.AsyncClient, told: Site, facade: Facade, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    cases = [
        (None, None, "operator_not_configured", "DOTMAC_API_OPERATOR_URL"),
        ("http://127.0.0.1:1", None, "operator_not_configured", "DOTMAC_API_OPERATOR_TOKEN"),
        (nowhere, TOKEN, "operator_unreachable", "DOTMAC_API_OPERATOR_URL"),
        (str(told.client.make_url("/")), "x" * 40, "operator_refused", "DOTMAC_OPERATOR_DIAGNOSTICS_TOKEN"),
    ]
    for url, token, code, remedy in cases:
        await know(facade, url, token)
        for what in ("logs", "usage", "logs?follow=true"):
            answer = await admin.get(f"{PATH}/{what}")
            assert (answer.status_code, answer.json()["code"]) == (503, code), answer.text
            assert remedy in answer.json()["message"]
        health = await admin.get(f"{PATH}/health")
        assert health.status_code == 200 and health.json()["live"] is False
        assert health.json()["healthy"] is True and remedy in health.json()["live_error"]
    assert TOKEN not in caplog.text and "x" * 40 not in caplog.text


async def test_the_check_asks_the_operator(facade: Facade, told: Site) -> None:
    url, check = str(told.client.make_url("/")), CHECKS["operator"]

    async def checked(token: str, where: str = url) -> str:
        facade.settings = facade.settings.model_copy(update={"operator_url": where, "operator_token": SecretStr(token)})
        await know(facade, where, token)
        return await check(facade)

    assert await checked(TOKEN) == "answers"
    with pytest.raises(Unavailable, match="DOTMAC_API_OPERATOR_TOKEN must be"):
        await checked("x" * 40)
    with pytest.raises(Unfit, match="is not the operator's"):
        await checked(TOKEN, url + "elsewhere")


async def test_what_the_operator_refuses_is_passed_on(admin: httpx.AsyncClient, told: Site, facade: Facade) -> None:
    missing = await admin.get(f"{PATH}/logs", params={"role": "nothing"})
    assert (missing.status_code, missing.json()["code"]) == (404, "container_not_found")
    assert "there are" in missing.json()["message"]
    told.engine.failure = unreachable()
    lost = await admin.get(f"{PATH}/logs")
    assert lost.status_code == 503 and lost.headers["retry-after"]
    async with facade.sessions.begin() as session:
        await session.execute(update(InstanceRow).values(name="unheard-of"))
    unknown = await admin.get(f"{PATH}/usage")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "instance_not_found")


async def test_usage_is_shown_beside_what_the_plan_grants(admin: httpx.AsyncClient, told: Site) -> None:
    told.engine.sizes = {f"dotmac-acme-{name}": 500_000_000 for name in ("database", "files")}
    told.engine.sizes["dotmac-acme-backups"] = 0
    usage = (await admin.get(f"{PATH}/usage")).json()
    assert {c["role"] for c in usage["containers"]} >= {"web", "worker", "database"}
    assert usage["containers"][0]["memory_bytes"] == 50 << 20
    assert (usage["max_users"], usage["max_storage"], usage["storage_notice"]) == (10, "1Gi", 90)
    assert 93.0 < usage["storage_percent"] < 93.2


async def test_what_is_not_measured_yet_is_null_and_not_nothing(admin: httpx.AsyncClient, told: Site) -> None:
    usage = (await admin.get(f"{PATH}/usage")).json()
    assert {v["bytes"] for v in usage["volumes"]} == {None}
    assert usage["storage_bytes"] is usage["storage_percent"] is usage["storage_notice"] is None


async def test_health_is_of_the_mirror_and_of_the_host(admin: httpx.AsyncClient, told: Site) -> None:
    health = (await admin.get(f"{PATH}/health")).json()
    assert health["live"] is True and health["live_error"] is None and health["healthy"] is True
    web = next(c for c in health["components"] if c["role"] == "web")
    assert (web["state"], web["restarts"], web["oom_killed"]) == ("running", 3, False)
    assert {c["type"] for c in health["conditions"]} == {"Ready", "DatabaseReady", "AppHealthy", "RouteReady"}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"containers": [{}]}', b'{"containers": 5}', b"null"])
async def test_an_answer_that_cannot_be_read_is_no_500(
    admin: httpx.AsyncClient, told: Site, facade: Facade, body: bytes
) -> None:
    async with answering(facade, body):
        usage = await admin.get(f"{PATH}/usage")
        assert (usage.status_code, usage.json()["code"]) == (503, "operator_failed")
        assert (await admin.get(f"{PATH}/health")).status_code == 200


async def test_a_failure_on_the_way_is_told_in_the_stream(admin: httpx.AsyncClient, told: Site, facade: Facade) -> None:
    good = json.dumps({"container": "c", "role": "web", "time": "t", "stream": "stdout", "line": "x"}).encode() + b"\n"
    for rest in (b"no json\n", b"[" * 300_000, b"[1]\n"):
        async with answering(facade, good + rest):
            first, last = await logs(admin)
            assert first["line"] == "x"
            assert last["error"]["code"] == "operator_failed"  # type: ignore[index]
            events = (await admin.get(f"{PATH}/logs", headers={"Accept": "text/event-stream"})).text
            assert events.startswith("event: line\ndata: ") and "event: error\ndata: " in events


class answering:  # noqa: N801 - used as a function
    """Another operator, which answers everything with these bytes."""

    def __init__(self, facade: Facade, body: bytes) -> None:
        self._facade, self._body = facade, body

    async def __aenter__(self) -> None:
        async def handler(_: web.Request) -> web.Response:
            return web.Response(body=self._body)

        application = web.Application()
        application.router.add_get("/{rest:.*}", handler)
        self._server = TestServer(application)
        await self._server.start_server()
        await know(self._facade, str(self._server.make_url("/")), TOKEN)

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


@pytest.fixture
async def reader(accounts: Accounts) -> Account:
    return await accounts.make("support")


async def test_a_followed_log_tells_each_line_when_it_comes(
    served: str, reader: Account, told: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_SECONDS", 0.1)
    told.engine.lines = {"web": [line(1)]}
    headers = reader.headers | {"Accept": "text/event-stream"}
    async with httpx.AsyncClient(headers=headers, timeout=10) as client:
        async with client.stream("GET", f"{served}/logs?follow=true&role=web") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-store"
            events = response.aiter_lines()

            async def next_line() -> str:
                async for text in events:
                    if text.startswith("data: "):
                        return str(json.loads(text[6:])["line"])
                raise EOFError

            assert await next_line() == "line 1"
            [stream] = told.engine.streams
            for number in range(2, 5):
                stream.add(line(number))
                async with asyncio.timeout(2):
                    assert await next_line() == f"line {number}"
            async with asyncio.timeout(2):
                assert any([text.startswith(": ") async for text in _until_ping(events)])

    async def let_go() -> bool:
        # Whoever writes to a connection that is closed notices it.
        stream.add(line(9))
        return stream.closed.is_set()

    await until(let_go)


async def _until_ping(events: AsyncIterator[str]) -> AsyncIterator[str]:
    async for text in events:
        yield text
        if text.startswith(": "):
            return


async def test_a_followed_log_ends_with_its_session(
    served: str, admin: httpx.AsyncClient, reader: Account, told: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "RECHECK_SECONDS", 0.0)
    told.engine.lines = {"web": [line(1)]}
    async with httpx.AsyncClient(headers=reader.headers, timeout=10) as client:
        async with client.stream("GET", f"{served}/logs?follow=true&role=web") as response:
            lines = response.aiter_lines()
            assert json.loads(await anext(lines))["line"] == "line 1"
            assert (await admin.delete(f"/api/v1/sessions/{reader.session_id}")).status_code == 204
            told.engine.streams[0].add(line(2))
            async with asyncio.timeout(5):
                rest = [json.loads(text) for text in [text async for text in lines] if text]
    assert [told["error"]["code"] for told in rest] == ["session_ended"]


async def test_a_followed_log_ends_in_time(
    served: str, reader: Account, told: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FOLLOW_SECONDS", 0.3)
    told.engine.lines = {"web": [line(1)]}
    async with httpx.AsyncClient(headers=reader.headers, timeout=5) as client:
        answer = await client.get(f"{served}/logs", params={"follow": "true", "role": "web"})
    assert answer.status_code == 200, answer.text
    assert [json.loads(text)["line"] for text in answer.text.split("\n") if text] == ["line 1"]
    await told.until(told.engine.streams[0].closed.is_set)


async def test_an_operator_that_hangs_is_given_up(
    admin: httpx.AsyncClient, told: Site, facade: Facade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dotmac_api.diagnostics.endpoints.HEALTH_SECONDS", 0.2)
    told.engine.slow = threading.Event()

    async def never(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    application = web.Application()
    application.router.add_get("/{rest:.*}", never)
    async with TestServer(application) as server:
        await know(facade, str(server.make_url("/")), TOKEN)
        async with asyncio.timeout(3):
            health = await admin.get(f"{PATH}/health")
    assert health.status_code == 200 and "ReadTimeout" in health.json()["live_error"]


def test_the_settings_take_a_url_without_a_password(settings: Settings) -> None:
    values = settings.model_dump() | {"database_url": "postgresql://x/x", "redis_url": "redis://x"}
    for wrong in ("operator:8082", "ftp://operator", "http://u:p@operator", "http://operator/?x=1"):
        with pytest.raises(ValueError, match="operator_url"):
            Settings.model_validate(values | {"operator_url": wrong})
    with pytest.raises(ValueError, match="operator_token"):
        Settings.model_validate(values | {"operator_token": "short"})


def test_quantities() -> None:
    cases = {"5Gi": 5 << 30, "500M": 500_000_000, "1.5Ki": 1536, "10": 10, None: None, "": None}
    assert {text: quantity_bytes(text) for text in cases} == cases
