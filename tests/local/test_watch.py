"""Watches beside what the recorded scenarios show: slow readers, hang-ups, overload, shutdown."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.kits.controlplane import ControlPlane, start
from tests.local import widgets
from tests.local.widgets import PATH, make, widget

from dotmac_local.auth.tokens import Credentials
from dotmac_local.server import app as server_app
from dotmac_local.verbs.read import Selection
from dotmac_local.watch import stream

MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(scope="module", autouse=True)
def _widgets(control_plane: ControlPlane) -> None:
    widgets.install(control_plane)


def follow(server: ControlPlane, seen: list[dict[str, Any]], **query: str) -> threading.Thread:
    """Collect the events of a watch until it ends."""

    def read() -> None:
        with server.connect().stream("GET", PATH, params={"watch": "true", **query}) as answer:
            seen.extend(json.loads(line) for line in answer.iter_lines())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def test_a_reader_that_stops_holds_nobody_up(control_plane: ControlPlane) -> None:
    rv = control_plane.client.get(PATH).json()["metadata"]["resourceVersion"]

    async def stuck() -> asyncio.StreamWriter:
        context = ssl.create_default_context(cafile=str(control_plane.ca))
        host, port = control_plane.url.removeprefix("https://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context, limit=1024)
        request = (
            f"GET {PATH}?watch=true HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {control_plane.token}\r\n\r\n"
        )
        writer.write(request.encode())
        await writer.drain()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        return writer

    async def main() -> None:
        writers = [await stuck() for _ in range(5)]
        seen: list[dict[str, Any]] = []
        thread = await asyncio.to_thread(follow, control_plane, seen, resourceVersion=rv, timeoutSeconds="120")
        obj = widget("loud")
        obj["spec"]["text"] = "x" * 8000
        await asyncio.to_thread(control_plane.create, obj)
        for number in range(300):
            body = {"spec": {"size": number % 90 + 2}}
            await asyncio.to_thread(control_plane.client.patch, f"{PATH}/loud", json=body, headers=MERGE)
        deadline = time.monotonic() + 60
        while len(seen) < 301:
            assert time.monotonic() < deadline and thread.is_alive(), f"{len(seen)} of 301 events came"
            await asyncio.sleep(0.05)
        for writer in writers:
            writer.transport.abort()

    asyncio.run(main())


def test_bookmarks_move_a_quiet_watch_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stream, "BOOKMARK_SECONDS", 0.05)

    async def main() -> list[dict[str, Any]]:
        application = server_app.Application(tmp_path, Credentials("token", b"x" * 32))
        await application.start()
        secrets = application.registry.get("", "secrets")
        query = stream.WatchQuery.parse({"resourceVersion": "1", "allowWatchBookmarks": "true", "timeoutSeconds": "1"})
        chunks = stream.stream(
            application.store, Selection(secrets, None), query, stream.json_render(secrets), asyncio.Event()
        )
        found = [json.loads(line) async for chunk in chunks for line in chunk.splitlines()]
        await application.close()
        return found

    found = asyncio.run(main())
    assert found and {event["type"] for event in found} == {"BOOKMARK"}
    assert int(found[-1]["object"]["metadata"]["resourceVersion"]) > 1


def test_hanging_up_leaves_nothing_behind(control_plane: ControlPlane) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{control_plane.process.pid}/fd").iterdir()))

    before = descriptors()
    for _ in range(30):
        with control_plane.connect() as client, client.stream("GET", PATH, params={"watch": "true"}) as answer:
            assert answer.status_code == 200
    deadline = time.monotonic() + 10
    while descriptors() > before + 3:
        assert time.monotonic() < deadline, "connections of watchers that left are still open"
        time.sleep(0.1)


def test_shutting_down_ends_watches_cleanly(tmp_path: Path) -> None:
    server = start(tmp_path)
    widgets.install(server)
    seen: list[dict[str, Any]] = []
    thread = follow(server, seen)
    make(server, "w")
    time.sleep(0.5)
    began = time.monotonic()
    server.stop()
    thread.join(5)
    assert not thread.is_alive() and time.monotonic() - began < 5
    assert [event["type"] for event in seen] == ["ADDED"]
    assert "Traceback" not in server.log


@pytest.fixture
def application(tmp_path: Path) -> Iterator[httpx.AsyncClient]:
    made = server_app.Application(tmp_path, Credentials("token", b"x" * 32))
    transport = httpx.ASGITransport(app=made)  # type: ignore[arg-type]
    yield httpx.AsyncClient(transport=transport, base_url="https://x", headers={"Authorization": "Bearer token"})


async def test_too_many_requests_at_once_are_told_to_come_back(
    application: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_app, "MAX_IN_FLIGHT", 0)
    answer = await application.get("/api/v1/namespaces")
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    assert answer.json()["reason"] == "TooManyRequests" and answer.json()["details"] == {"retryAfterSeconds": 1}


async def test_a_bug_answers_500_and_says_nothing_more(
    application: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(server_app.Api, "handle", broken)
    answer = await application.get("/api")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.json()["reason"] == "InternalError"


@pytest.mark.parametrize(
    "query",
    [
        {"resourceVersion": "x"},
        {"resourceVersion": "-1"},
        {"labelSelector": "a in (b"},
        {"labelSelector": "a in"},
        {"fieldSelector": "nonsense"},
        {"fieldSelector": "spec.size=1"},
        {"timeoutSeconds": "soon"},
        {"limit": "many"},
        {"continue": "AAAA"},
        {"continue": "eyJ2IjogMX0"},
        {"resourceVersionMatch": "Exact"},
        {"resourceVersionMatch": "Nonsense", "resourceVersion": "1"},
        {"sendInitialEvents": "true", "watch": "true"},
    ],
)
def test_queries_that_make_no_sense(control_plane: ControlPlane, query: dict[str, str]) -> None:
    answer = control_plane.client.get(PATH, params={"timeout": "1s", "watch": "false", **query})
    if answer.status_code == 200:
        assert query == {"timeoutSeconds": "soon"}, "only a watch looks at timeoutSeconds"
        return
    assert answer.status_code in (400, 422) and answer.json()["kind"] == "Status", answer.text
