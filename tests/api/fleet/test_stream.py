"""Server-sent events: what is told to whom, how fast, and how a client comes back."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from tests.api.conftest import Account, Accounts
from tests.kits.mirrored import Objects, until
from tests.kits.redis import RedisServer
from tests.kits.resources import condition, instance, server

from dotmac_api.facade import Facade
from dotmac_api.live.hub import WAITING, Change, Subscription

pytestmark = pytest.mark.services


class Stream:
    """The events of one stream, as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self, seconds: float = 5) -> dict[str, Any]:
        """The next event: {"event", "id", "data", "at"}; comments are skipped."""
        async with asyncio.timeout(seconds):
            event: dict[str, Any] = {}
            async for line in self._lines:
                if not line and "data" in event:
                    return {**event, "data": json.loads(event["data"]), "at": time.perf_counter()}
                name, _, value = line.partition(": ")
                if name:
                    event[name] = value
        raise EOFError

    async def until_open(self) -> None:
        async with asyncio.timeout(5):
            async for line in self._lines:
                if line.startswith(": after"):
                    return


@asynccontextmanager
async def streaming(url: str, account: Account, path: str = "/stream", **headers: str) -> AsyncIterator[Stream]:
    headers |= account.headers
    async with httpx.AsyncClient(timeout=30) as client:
        async with client.stream("GET", f"{url}/api/v1{path}", headers=headers) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("text/event-stream")
            stream = Stream(response)
            yield stream


async def test_a_change_arrives_within_a_quarter_of_a_second(
    ready: httpx.AsyncClient, served: str, accounts: Accounts, objects: Objects
) -> None:
    account = await accounts.make("admin")
    objects.create(instance())
    async with streaming(served, account) as stream, streaming(served, account) as other:
        await stream.until_open()
        await other.until_open()
        # Whatever else this machine does may hold up one round; `tests.bench mirror` measures it by itself.
        for attempt in range(4):
            delays = [await _delay(stream, objects, f"name {attempt}-{number}") for number in range(100)]
            if sorted(delays)[98] < 0.25:
                break
        else:
            raise AssertionError(sorted(delays)[-5:])
        while (await other.next())["data"]["org_name"] != f"name {attempt}-99":
            pass


async def _delay(stream: Stream, objects: Objects, org_name: str) -> float:
    """Seconds from Kubernetes' answer to a change until the stream tells it."""
    await asyncio.to_thread(objects.merge, "Instance", "acme", {"spec": {"orgName": org_name}})
    acknowledged = time.perf_counter()
    while (event := await stream.next())["data"]["org_name"] != org_name:
        pass
    return float(event["at"] - acknowledged)


async def test_a_client_comes_back_with_the_last_id(
    ready: httpx.AsyncClient, served: str, accounts: Accounts, objects: Objects
) -> None:
    account = await accounts.make("admin")
    async with streaming(served, account) as stream:
        await stream.until_open()
        objects.create(instance("one"))
        last = (await stream.next())["id"]
    objects.create(instance("two"))
    objects.delete("Instance", "one")

    async def both() -> bool:
        return [i["name"] for i in (await ready.get("/api/v1/instances")).json()["items"]] == ["two"]

    await until(both)
    async with streaming(served, account, **{"Last-Event-ID": last}) as stream:
        told = [await stream.next(), await stream.next()]
        assert {(e["event"], e["data"]["name"]) for e in told} == {("instance", "two"), ("instance.deleted", "one")}
        objects.create(server())
        assert (await stream.next())["event"] == "server"
    bad = await ready.get("/api/v1/stream", headers={"Last-Event-ID": "now"})
    assert (bad.status_code, bad.json()["details"][0]["field"]) == (422, "header.Last-Event-ID")


async def known(client: httpx.AsyncClient, uid: str) -> bool:
    return (await client.get(f"/api/v1/instances/{uid}")).status_code == 200


async def test_an_instance_is_followed_to_its_end(
    ready: httpx.AsyncClient, served: str, accounts: Accounts, objects: Objects
) -> None:
    uid = objects.create(instance())["metadata"]["uid"]
    await until(lambda: known(ready, uid))
    async with streaming(served, await accounts.make("admin"), f"/instances/{uid}/stream") as stream:
        assert (await stream.next())["data"]["status"] == "provisioned"
        objects.create(instance("other"))
        for number in range(1, 11):
            steps = [{"name": f"s{i}", "state": "Succeeded" if i < number else "Running"} for i in range(1, number + 1)]
            objects.merge("Instance", "acme", {"status": {"phase": "Deploying", "steps": steps}}, status=True)
            event = await stream.next()
            assert event["data"]["name"] == "acme" and len(event["data"]["steps"]) == number
        ready_now = {"phase": "Running", "conditions": [condition("Ready", "True")]}
        objects.merge("Instance", "acme", {"status": ready_now}, status=True)
        assert (await stream.next())["data"]["status"] == "running"
        objects.delete("Instance", "acme")
        assert (await stream.next())["event"] == "instance.deleted"
        with pytest.raises(EOFError):
            await stream.next()
    assert (await ready.get(f"/api/v1/instances/{uuid.uuid4()}/stream")).status_code == 404


async def test_a_stream_tells_of_ones_own_organisations_only(
    ready: httpx.AsyncClient, served: str, accounts: Accounts, objects: Objects
) -> None:
    account = await accounts.make("admin", organisations=["MINE"])
    async with streaming(served, account) as stream:
        await stream.until_open()
        objects.create(server())
        objects.create(instance("theirs"))
        objects.create(instance("mine"))
        event = await stream.next()
        assert (event["event"], event["data"]["name"]) == ("instance", "mine")
        objects.merge("Instance", "theirs", {"spec": {"orgName": "x"}})
        objects.merge("Instance", "mine", {"spec": {"orgName": "y"}})
        assert (await stream.next())["data"]["org_name"] == "y"


async def _ended(stream: Stream) -> None:
    with pytest.raises(EOFError):
        await stream.next()


async def test_a_stream_ends_with_its_session_or_key_and_tells_nothing_after(
    ready: httpx.AsyncClient, served: str, accounts: Accounts, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dotmac_api.live.endpoints.LOOK_SECONDS", 60.0)
    account = await accounts.make("admin")
    made = await ready.post("/api/v1/api-keys/generate", json={"label": "x", "scopes": ["instances:read"]})
    key = {"X-API-Key": made.json()["key"]}
    uid = objects.create(instance("one"))["metadata"]["uid"]
    await until(lambda: known(ready, uid))
    async with (
        streaming(served, account) as everything,
        streaming(served, account, f"/instances/{uid}/stream") as followed,
        httpx.AsyncClient(timeout=30) as client,
        client.stream("GET", f"{served}/api/v1/stream", headers=key) as response,
    ):
        keyed = Stream(response)
        await everything.until_open()
        await keyed.until_open()
        assert (await followed.next())["data"]["name"] == "one"
        objects.merge("Instance", "one", {"spec": {"orgName": "first"}})
        for stream in (everything, keyed, followed):
            assert (await stream.next())["data"]["org_name"] == "first"
        assert (await ready.delete(f"/api/v1/sessions/{account.session_id}")).status_code == 204
        assert (await ready.delete(f"/api/v1/api-keys/{made.json()['id']}")).status_code == 204
        objects.merge("Instance", "one", {"spec": {"orgName": "second"}})
        for stream in (everything, keyed, followed):
            await _ended(stream)


async def test_a_stream_ends_when_the_limits_of_its_person_change(
    ready: httpx.AsyncClient, served: str, accounts: Accounts, objects: Objects
) -> None:
    account = await accounts.make("operator", organisations=["MINE", "THEIRS"])
    async with streaming(served, account) as stream:
        await stream.until_open()
        objects.create(instance("theirs"))
        assert (await stream.next())["data"]["name"] == "theirs"
        body = {"organisations": ["MINE"]}
        assert (await ready.patch(f"/api/v1/people/{account.person_id}", json=body)).status_code == 200
        objects.merge("Instance", "theirs", {"spec": {"orgName": "secret"}})
        await _ended(stream)


async def test_a_silent_stream_ends_with_its_session_also_without_redis(
    ready: httpx.AsyncClient,
    served: str,
    accounts: Accounts,
    facade: Facade,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dotmac_api.live.endpoints.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("dotmac_api.auth.standing.WITHOUT_REDIS_SECONDS", 0.1)
    here, there = await accounts.make("admin"), await accounts.make("admin")
    async with streaming(served, here) as first, streaming(served, there) as second:
        await first.until_open()
        await second.until_open()
        assert (await ready.delete(f"/api/v1/sessions/{here.session_id}")).status_code == 204
        await _ended(first)
        redis.stop()
        try:
            async with facade.sessions.begin() as session:
                await session.execute(
                    text("UPDATE sessions SET revoked_at = now() WHERE id = :id"), {"id": there.session_id}
                )
            await _ended(second)
        finally:
            redis.start()


async def test_streams_outlive_a_lost_connection_to_the_database(
    ready: httpx.AsyncClient, served: str, accounts: Accounts, objects: Objects, facade: Facade
) -> None:
    async with streaming(served, await accounts.make("admin")) as stream:
        await stream.until_open()
        url = facade.settings.database_url.get_secret_value().replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
        objects.create(instance())
        assert (await stream.next())["data"]["name"] == "acme"


async def test_a_slow_client_is_sent_away_and_holds_up_nobody(app: FastAPI) -> None:
    subscription = Subscription()
    change = Change(1, "instance", "u", "ORG", "{}")
    assert subscription.offer([change] * WAITING)
    assert not subscription.offer([change])
    taken = [subscription.queue.get_nowait() for _ in range(subscription.queue.qsize())]
    assert taken[-1] is None, "its stream ends"
