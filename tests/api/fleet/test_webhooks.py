"""Webhooks against a receiver of our own: what is sent, to where, how often, and what never is."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, get_args

import aiohttp
import httpx
import psycopg
import pytest
from aiohttp import web
from fastapi import FastAPI
from tests.api.conftest import Accounts, signed_in
from tests.kits.mirrored import Objects, until
from tests.kits.resources import backup, condition, instance, restore, server

from dotmac_api.facade import Facade
from dotmac_api.mirror.transitions import EVENTS
from dotmac_api.settings import Settings
from dotmac_api.webhooks.destination import (
    DestinationRefused,
    PrivateAddress,
    PublicResolver,
    allowed,
    check_url,
    guarded_socket,
)
from dotmac_api.webhooks.schemas import Event, WebhookCreate
from dotmac_api.webhooks.signature import verify

pytestmark = pytest.mark.services


@dataclass
class Receiver:
    """Keeps what it is sent; `answers` are the statuses to come, then 200."""

    url: str = ""
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.received.append((dict(request.headers), await request.read()))
        status = self.answers.pop(0) if self.answers else 200
        headers = {"Location": self.url + "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.received]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/{tail:.*}", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://localhost:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
def fleet_settings(fleet_settings: Settings) -> Settings:
    return fleet_settings.model_copy(update={"webhook_allow_networks": "127.0.0.0/8,::1/128"})


@pytest.fixture
def quick(facade: Facade, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries after milliseconds."""
    monkeypatch.setattr(facade.fleet.dispatcher, "_delays", (0.01, 0.01))
    monkeypatch.setattr("dotmac_api.webhooks.dispatcher.POLL", 0.05)


async def subscribe(client: httpx.AsyncClient, url: str, **body: Any) -> dict[str, Any]:
    answer = await client.post("/api/v1/webhooks", json={"url": url, **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_transition_is_delivered_signed(
    ready: httpx.AsyncClient, objects: Objects, receiver: Receiver, facade: Facade
) -> None:
    webhook = await subscribe(ready, receiver.url + "/hook", events=["instance.created", "instance.condition_changed"])
    objects.create(instance())
    await until(lambda: len(receiver.received) == 1)
    headers, body = receiver.received[0]
    told = json.loads(body)
    assert (told["event"], told["org_code"], told["after"]) == ("instance.created", "ACME", "provisioned")
    assert headers["X-DotMac-Event"] == "instance.created" and headers["X-DotMac-Delivery"] == told["id"]
    now = int(time.time())
    assert verify(webhook["secret"], body, headers["X-DotMac-Signature"], now)
    assert not verify(webhook["secret"], body + b" ", headers["X-DotMac-Signature"], now)
    assert not verify("another secret", body, headers["X-DotMac-Signature"], now)
    assert not verify(webhook["secret"], body, headers["X-DotMac-Signature"], now + 301), "too old"

    objects.merge("Instance", "acme", {"status": {"conditions": [condition("Ready", "True")]}}, status=True)
    await until(lambda: len(receiver.received) == 2)
    assert receiver.bodies[1]["subject"] == "Ready" and receiver.bodies[1]["sequence"] > told["sequence"]

    shown = (await ready.get(f"/api/v1/webhooks/{webhook['id']}")).json()
    assert "secret" not in shown
    with psycopg.connect(facade.settings.database_url.get_secret_value().replace("+psycopg", "")) as connection:
        stored = connection.execute("SELECT secret FROM webhooks").fetchall()[0][0]
    assert stored.startswith("enc:") and webhook["secret"] not in stored


async def test_backups_and_restores_are_told_to_their_organisation(
    ready: httpx.AsyncClient, objects: Objects, receiver: Receiver
) -> None:
    events = ["backup.completed", "backup.failed", "restore.completed", "restore.failed"]
    await subscribe(ready, receiver.url, events=events, organisations=["ACME"])
    for name in ("globex", "acme"):
        objects.create(instance(name))
        objects.create(backup(f"{name}-monday", name))
        objects.create(restore(f"{name}-back", name, f"{name}-monday"))
        status = {"phase": "Completed", "finishedAt": "2026-11-22T10:00:00Z"}
        objects.merge("Backup", f"{name}-monday", {"status": status}, status=True)
        status |= {"phase": "Failed", "message": "no space"}
        objects.merge("Restore", f"{name}-back", {"status": status}, status=True)
    await until(lambda: len(receiver.received) == 2)
    told = {(b["event"], b["name"], b["subject"], b["org_code"], b["message"]) for b in receiver.bodies}
    assert told == {
        ("backup.completed", "acme-monday", "acme", "ACME", ""),
        ("restore.failed", "acme-back", "acme", "ACME", "no space"),
    }


@pytest.mark.usefixtures("quick")
async def test_it_is_tried_again_then_dead_then_replayed(
    ready: httpx.AsyncClient, objects: Objects, receiver: Receiver
) -> None:
    receiver.answers = [500, 302, 404]
    webhook = await subscribe(ready, receiver.url, events=["instance.created"])
    path = f"/api/v1/webhooks/{webhook['id']}/deliveries"
    objects.create(instance())

    async def ended(state: str) -> dict[str, Any] | None:
        items = (await ready.get(path, params={"state": state})).json()["items"]
        return items[0] if items else None

    dead = await until(lambda: ended("dead"))
    assert (dead["attempts"], dead["last_status"], dead["last_error"]) == (3, 404, "answered 404")
    assert len({body["id"] for body in receiver.bodies}) == 1, "every attempt has the same id"
    assert len(receiver.received) == 3, "the redirect was not followed"
    again = await ready.post(f"{path}/{dead['id']}/replay")
    assert again.status_code == 202, again.text
    done = await until(lambda: ended("delivered"))
    assert done["attempts"] == 1 and len(receiver.received) == 4
    assert (await ready.post(f"{path}/{webhook['id']}/replay")).status_code == 404


async def test_a_claim_is_taken_up_after_a_crash(
    ready: httpx.AsyncClient, objects: Objects, receiver: Receiver, facade: Facade
) -> None:
    """A dispatcher that died in the middle of an attempt: the delivery becomes due again."""
    await subscribe(ready, receiver.url, events=["instance.created"], active=True)
    receiver.answers = [500]
    objects.create(instance())
    await until(lambda: len(receiver.received) == 1)
    with psycopg.connect(facade.settings.database_url.get_secret_value().replace("+psycopg", "")) as connection:
        await until(lambda: connection.execute("SELECT last_status FROM webhook_deliveries").fetchone() == (500,))
        connection.execute("UPDATE webhook_deliveries SET attempts = 2, next_attempt_at = now()")
        connection.commit()
    facade.fleet.dispatcher.wake()
    await until(lambda: len(receiver.received) == 2)


async def test_limits_of_a_subscription(
    ready: httpx.AsyncClient, app: FastAPI, accounts: Accounts, objects: Objects, receiver: Receiver
) -> None:
    everything = await subscribe(ready, receiver.url + "/all")
    account = await accounts.make("admin", organisations=["MINE"])
    async with signed_in(app, account) as limited:
        for organisations in (None, [], ["THEIRS"]):
            body = {"url": receiver.url, "organisations": organisations}
            answer = await limited.post("/api/v1/webhooks", json=body)
            wanted = 201 if organisations == [] else 422
            assert answer.status_code == wanted, answer.text
        mine = await subscribe(limited, receiver.url + "/mine", organisations=["MINE"])
        path = f"/api/v1/webhooks/{everything['id']}"
        assert (await limited.get(path)).status_code == 404
        assert (await limited.patch(path, json={"url": receiver.url})).status_code == 404
        assert (await limited.delete(path)).status_code == 404
        assert (await limited.get(f"{path}/deliveries")).status_code == 404
        widened = await limited.patch(f"/api/v1/webhooks/{mine['id']}", json={"organisations": None})
        assert widened.status_code == 422
    objects.create(server())
    objects.merge("Server", "host-1", {"status": {"conditions": [condition("Reachable", "True")]}}, status=True)
    objects.create(instance("theirs"))
    objects.create(instance("mine"))

    async def names(webhook: dict[str, Any]) -> set[str]:
        path = f"/api/v1/webhooks/{webhook['id']}/deliveries"
        return {d["name"] for d in (await ready.get(path, params={"limit": 100})).json()["items"]}

    async def all_told() -> bool:
        return await names(everything) == {"host-1", "mine", "theirs"}

    await until(all_told)
    assert await names(mine) == {"mine"}
    off = await ready.patch(f"/api/v1/webhooks/{mine['id']}", json={"active": False})
    assert off.status_code == 200 and off.json()["active"] is False
    stale = await ready.patch(f"/api/v1/webhooks/{mine['id']}", json={"active": True}, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    assert (await ready.delete(f"/api/v1/webhooks/{mine['id']}")).status_code == 204


async def test_a_webhook_tells_no_more_than_its_maker_may_see_now(
    ready: httpx.AsyncClient, app: FastAPI, accounts: Accounts, objects: Objects, receiver: Receiver
) -> None:
    account = await accounts.make("operator", organisations=["MINE", "THEIRS"])
    person = f"/api/v1/people/{account.person_id}"
    async with signed_in(app, account) as limited:
        hook = await subscribe(limited, receiver.url, events=["instance.created"], organisations=["MINE", "THEIRS"])
    everything = await subscribe(ready, receiver.url + "/all", events=["instance.created"])

    async def told(webhook: dict[str, Any], name: str) -> bool:
        path = f"/api/v1/webhooks/{webhook['id']}/deliveries"
        return name in {d["name"] for d in (await ready.get(path)).json()["items"]}

    async def made(name: str, org_code: str) -> bool:
        """Whether the limited one is told, too."""
        objects.create(instance(name, orgCode=org_code))
        await until(lambda: told(everything, name))
        return await told(hook, name)

    assert await made("theirs", "THEIRS")
    assert (await ready.patch(person, json={"organisations": ["MINE"]})).status_code == 200
    objects.delete("Instance", "theirs")
    assert not await made("theirs-again", "THEIRS")
    assert await made("mine", "MINE")
    assert (await ready.patch(person, json={"status": "inactive"})).status_code == 200
    objects.delete("Instance", "mine")
    assert not await made("mine-again", "MINE")
    assert (await ready.delete(person)).status_code == 204
    assert (await ready.get(f"/api/v1/webhooks/{hook['id']}")).status_code == 404
    assert (await ready.get(f"/api/v1/webhooks/{everything['id']}")).status_code == 200


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://[::1]/",
        "http://[::ffff:10.0.0.1]/", "http://10.0.0.1/", "http://169.254.169.254/latest", "http://100.64.0.1/",
        "http://[64:ff9b::a00:1]/", "http://[2002:a00:1::]/", "http://[fd00::1]/", "http://0.0.0.0/",
        "http://224.0.0.1/", "ftp://example.org/", "file:///etc/passwd", "https://u:p@example.org/",
        "https://example.org/#x", "https://exam ple.org/", "https://ex\u00e4mple.org/", "https:///x", "https://a:0/",
        "http://[::1", "gopher://x", "http://127.0.0.1./", "http://2130706433./", "http://%31%32%37.0.0.1/",
        "http://127.0.0.1%00.example.org/", "http://[fec0::1]/", "http://192.0.0.8/", "http://192.88.99.1/",
        "http://[::127.0.0.1]/", "http://[fe80::1%25eth0]/", "http://1.1.1.1\\@127.0.0.1/", "http://a..b/",
    ],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(DestinationRefused):
        check_url(url, ())


async def test_the_refusal_of_a_url_names_the_field(ready: httpx.AsyncClient) -> None:
    answer = await ready.post("/api/v1/webhooks", json={"url": "http://10.0.0.1/hook"})
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (422, "body.url")
    assert "DOTMAC_API_WEBHOOK_ALLOW_NETWORKS" in answer.json()["message"]
    events = await ready.post("/api/v1/webhooks", json={"url": "https://example.org", "events": ["instance.exploded"]})
    assert (events.status_code, events.json()["details"][0]["field"]) == (422, "body.events.0")


async def test_a_name_that_resolves_to_a_private_address_is_not_called() -> None:
    resolver = PublicResolver(())
    with pytest.raises(PrivateAddress, match="localhost is not a public address"):
        await resolver.resolve("localhost", 80)
    assert await PublicResolver((ip_network("127.0.0.0/8"),)).resolve("localhost", 80)
    assert allowed(ip_address("1.1.1.1"), ()) and allowed(ip_address("2606:4700::1111"), ())


async def test_a_private_receiver_is_never_reached(
    ready: httpx.AsyncClient, objects: Objects, receiver: Receiver, facade: Facade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was fine when it was subscribed, and points inside when it is called (DNS rebinding)."""
    webhook = await subscribe(ready, receiver.url, events=["instance.created"])
    monkeypatch.setattr(facade.fleet.dispatcher, "_networks", ())
    objects.create(instance())

    async def refused() -> bool:
        items = (await ready.get(f"/api/v1/webhooks/{webhook['id']}/deliveries")).json()["items"]
        return bool(items and "not a public address" in (items[0]["last_error"] or ""))

    await until(refused)
    await asyncio.sleep(0.05)
    assert receiver.received == []


async def test_an_address_that_no_resolver_saw_is_not_connected_to(receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    for networks, reached in (((), False), ((ip_network("127.0.0.0/8"),), True)):
        connector = aiohttp.TCPConnector(resolver=PublicResolver(networks), socket_factory=guarded_socket(networks))
        async with aiohttp.ClientSession(connector=connector) as session:
            try:
                async with session.post(f"http://127.0.0.1:{port}/") as answer:
                    assert answer.status == 200
            except aiohttp.ClientConnectorError as refusal:
                assert "not a public address" in str(refusal.os_error)
        assert bool(receiver.received) == reached


def test_every_event_can_be_subscribed_to() -> None:
    assert set(get_args(Event)) == set(EVENTS)
    assert WebhookCreate(url="https://example.org/", events=list(get_args(Event))).events == list(get_args(Event))
