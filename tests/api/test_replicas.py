"""Two processes of the facade over one database and one Redis: what one decides holds on the other at once."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from tests.api.conftest import Accounts
from tests.kits.served import environment_of, served

from dotmac_api.facade import Facade
from dotmac_api.settings import Settings

pytestmark = pytest.mark.services
PASSWORD = "correct horse battery staple"


@pytest.fixture
def replicas(settings: Settings, tmp_path: Path) -> Iterator[list[str]]:
    """Base URLs. A hundred refreshes from one address are more than the default allows in a minute."""
    values = environment_of(settings) | {"auth_refresh_rate_max": "1000"}
    with ExitStack() as running:
        yield [running.enter_context(served(values, tmp_path / f"{n}.log")) for n in range(2)]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as made:
        yield made


async def test_two_processes_agree_on_sessions_and_tokens(
    replicas: list[str], facade: Facade, accounts: Accounts, client: httpx.AsyncClient
) -> None:
    hashed = await facade.passwords.hash(PASSWORD)
    ada = await accounts.make("admin", username="ada", password_hash=hashed)
    await _one_of_a_hundred_refreshes_succeeds(replicas, client)
    await _revocation_counts_at_once(replicas, client, ada.headers)
    await _what_is_no_http_has_a_request_id_too(replicas[0])


async def _one_of_a_hundred_refreshes_succeeds(replicas: list[str], client: httpx.AsyncClient) -> None:
    body = {"username": "ada", "password": PASSWORD, "refresh_token_in": "body"}
    token = (await client.post(f"{replicas[0]}/api/v1/auth/login", json=body)).json()["refresh_token"]

    async def refresh(number: int) -> httpx.Response:
        url = f"{replicas[number % 2]}/api/v1/auth/refresh"
        return await client.post(url, json={"refresh_token": token})

    answers = await asyncio.gather(*(refresh(n) for n in range(100)))
    winners = [answer for answer in answers if answer.status_code == 200]
    assert len(winners) == 1, [answer.status_code for answer in answers]
    # Whose request arrived after the token was spent replays it, and that ends the session, winner included.
    others = {(answer.status_code, answer.json()["code"]) for answer in answers if answer is not winners[0]}
    assert others <= {(409, "refresh_raced"), (401, "refresh_token_reused"), (401, "session_ended")}
    assert (await refresh(0)).status_code == 401
    successor = {"refresh_token": winners[0].json()["refresh_token"]}
    for replica in replicas:
        assert (await client.post(f"{replica}/api/v1/auth/refresh", json=successor)).status_code == 401


async def _revocation_counts_at_once(replicas: list[str], client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    here, there = (f"{replica}/api/v1" for replica in replicas)
    for replica in (here, there):
        assert (await client.get(f"{replica}/auth/me", headers=headers)).status_code == 200
    assert (await client.post(f"{here}/auth/logout", headers=headers)).status_code == 204
    assert (await client.get(f"{there}/auth/me", headers=headers)).status_code == 401


NO_HTTP = {
    "garbage": b"GARBAGE\r\n\r\n",
    "a verb that there is not": b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header in two lines": b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-ID: abcdefgh\nSet-Cookie: a=b\r\n\r\n",
    "a negative length": b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
}


async def _what_is_no_http_has_a_request_id_too(replica: str) -> None:
    url = httpx.URL(replica)
    for name, sent in NO_HTTP.items():
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(sent)
        head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 400 ") and b"\r\nx-request-id: " in head, (name, head)
        assert set(json.loads(body)) == {"code", "message", "details"}, name
