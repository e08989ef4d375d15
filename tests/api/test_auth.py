"""Signing in: passwords, cookies, refresh rotation and reuse, lockout, second factors, reset by e-mail."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from email.message import Message
from typing import Any

import httpx
import jwt
import pyotp
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler
from cryptography.fernet import Fernet
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import func, select, text, update
from tests.api.conftest import Account, Accounts, connect, signed_in
from tests.kits.redis import RedisServer
from tests.kits.unprivileged import free_port

from dotmac_api.auth.models import AuthSession, RefreshToken, UserCredential
from dotmac_api.auth.opaque import refresh_hash
from dotmac_api.facade import Facade
from dotmac_api.main import create_app
from dotmac_api.settings import Settings

pytestmark = pytest.mark.services

PASSWORD = "violet-anchor-seventeen"
ANOTHER = "orange-lantern-forty-two"
COOKIE = "__Host-dotmac_refresh"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Limits out of the way; the tests of the limits bring their own. A hundred at once may wait long for a connection
    on a machine that is busy otherwise.
    """
    rates = {("auth", f"{key}_rate_max"): 100_000 for key in ("login", "refresh", "reset", "mfa")}
    return settings.model_copy(update={"overrides": rates, "database_timeout": 30.0})


@pytest.fixture
async def ada(facade: Facade, accounts: Accounts) -> Account:
    return await accounts.make("operator", username="ada", password_hash=await facade.passwords.hash(PASSWORD))


async def _login(client: httpx.AsyncClient, username: str = "ada", password: str = PASSWORD, **more: Any) -> Any:
    return await client.post("/api/v1/auth/login", json={"username": username, "password": password, **more})


async def _refresh(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post("/api/v1/auth/refresh", json={"refresh_token": token})


@pytest.mark.usefixtures("ada")
async def test_the_refresh_token_travels_in_a_host_cookie(client: httpx.AsyncClient) -> None:
    answer = await _login(client)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["refresh_token"] is None
    assert (body["token_type"], body["expires_in"]) == ("bearer", 900)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"secure", "httponly", "samesite=strict", "path=/"} <= attributes
    assert not any(part.startswith("domain") for part in attributes)
    assert answer.headers["cache-control"] == "no-store"
    again = await client.post("/api/v1/auth/refresh")
    assert again.status_code == 200
    assert again.json()["refresh_token"] is None
    assert again.headers["set-cookie"].split(";")[0] != cookie.split(";")[0]
    crossing = await client.post("/api/v1/auth/refresh", headers={"Sec-Fetch-Site": "cross-site"})
    assert (crossing.status_code, crossing.json()["code"]) == (403, "cross_site")
    out = await client.post("/api/v1/auth/logout")
    assert out.status_code == 204
    assert "Max-Age=0" in out.headers["set-cookie"]


@pytest.mark.usefixtures("ada")
async def test_the_access_token_says_what_the_contract_promises(client: httpx.AsyncClient, facade: Facade) -> None:
    token = (await _login(client)).json()["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert set(claims) == {"sub", "session_id", "typ", "iat", "exp", "iss", "aud", "roles", "scopes"}
    assert claims["exp"] - claims["iat"] == 900
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    me = await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
    assert (me.json()["username"], me.json()["roles"]) == ("ada", ["operator"])


@pytest.mark.parametrize("forgery", ["none", "alg", "kid", "aud", "expired", "typ", "session", "garbage"])
async def test_a_forged_token_is_refused(client: httpx.AsyncClient, facade: Facade, ada: Account, forgery: str) -> None:
    kid, key = next(iter(facade.settings.signing_keys.items()))
    now = int(time.time())
    claims = {
        "sub": str(ada.person_id),
        "session_id": str(ada.session_id),
        "typ": "access",
        "iat": now,
        "exp": now + 60,
        "iss": "dotmac-api",
        "aud": "dotmac",
    }
    headers, algorithm = {"kid": kid}, "HS256"
    valid = jwt.encode(claims, key, algorithm, headers=headers)
    good = await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {valid}"})
    assert good.status_code == 200
    match forgery:
        case "none":
            key, algorithm = "", "none"
        case "alg":
            algorithm = "HS512"
        case "kid":
            headers = {"kid": "../../etc/passwd"}
        case "aud":
            claims["aud"] = "other"
        case "expired":
            claims["exp"] = now - 3600
        case "typ":
            claims["typ"] = "refresh"
        case "session":
            claims["session_id"] = str(ada.person_id)
    token = "a.b.c" if forgery == "garbage" else jwt.encode(claims, key, algorithm, headers=headers)
    answer = await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_hundred_refreshes_of_one_token_give_one_success_and_a_replay_kills_the_family(
    client: httpx.AsyncClient, facade: Facade, ada: Account
) -> None:
    token = (await _login(client, refresh_token_in="body")).json()["refresh_token"]
    answers = await asyncio.gather(*(_refresh(client, token) for _ in range(100)))
    winners = [answer for answer in answers if answer.status_code == 200]
    assert len(winners) == 1
    assert {(a.status_code, a.json()["code"]) for a in answers if a is not winners[0]} == {(409, "refresh_raced")}
    successor = winners[0].json()["refresh_token"]
    access = {"Authorization": f"Bearer {winners[0].json()['access_token']}"}
    assert (await client.get("/api/v1/auth/me", headers=access)).status_code == 200

    replay = await _refresh(client, token)
    assert (replay.status_code, replay.json()["code"]) == (401, "refresh_token_reused")
    dead = await _refresh(client, successor)
    assert (dead.status_code, dead.json()["code"]) == (401, "session_ended")
    assert (await client.get("/api/v1/auth/me", headers=access)).status_code == 401
    async with facade.sessions() as session:
        audited = await session.scalar(
            text("SELECT count(*) FROM audit_events WHERE action = 'auth.refresh_token_reused'")
        )
    assert audited == 1


async def test_only_hashes_of_refresh_tokens_are_stored(
    client: httpx.AsyncClient, facade: Facade, ada: Account
) -> None:
    token = (await _login(client, refresh_token_in="body")).json()["refresh_token"]
    assert len(token) == 64  # 48 bytes in base64
    async with facade.sessions() as session:
        assert await session.get(RefreshToken, refresh_hash(token)) is not None
        dump = str((await session.execute(text("SELECT * FROM refresh_tokens"))).all())
    assert token not in dump


async def test_a_session_ends_for_good_at_its_absolute_expiry(
    client: httpx.AsyncClient, facade: Facade, ada: Account
) -> None:
    body = (await _login(client, refresh_token_in="body")).json()
    session_id = jwt.decode(body["access_token"], options={"verify_signature": False})["session_id"]
    async with facade.sessions.begin() as session:
        opened = await session.get_one(AuthSession, session_id)
        life = opened.expires_at - opened.created_at
        await session.execute(update(AuthSession).values(expires_at=func.now()))
    assert abs(life.total_seconds() - 30 * 86400) < 5
    assert (await _refresh(client, body["refresh_token"])).status_code == 401


async def test_five_failures_lock_the_account_and_an_unknown_one_looks_the_same(
    client: httpx.AsyncClient, facade: Facade, ada: Account
) -> None:
    known = [(await _login(client, password="wrong-wrong-wrong")).status_code for _ in range(6)]
    unknown = [(await _login(client, username="nobody", password="wrong-wrong-wrong")).status_code for _ in range(6)]
    assert known == unknown == [401, 401, 401, 401, 401, 423]
    assert (await _login(client)).status_code == 423
    async with facade.sessions.begin() as session:
        row = (await session.execute(select(UserCredential.locked_until, func.now()))).one()
        assert 14 * 60 < (row[0] - row[1]).total_seconds() <= 15 * 60
        await session.execute(update(UserCredential).values(locked_until=func.now()))
    assert (await _login(client)).status_code == 200


async def test_a_lock_tells_nothing_of_whether_the_account_exists(
    client: httpx.AsyncClient, facade: Facade, ada: Account, monkeypatch: pytest.MonkeyPatch, redis: RedisServer
) -> None:
    """Neither by the time that an answer takes, nor by when the lock ends."""
    verified: list[str | None] = []
    verify = facade.passwords.verify

    async def counted(password: str, stored: str | None) -> tuple[bool, str | None]:
        verified.append(stored)
        return await verify(password, stored)

    monkeypatch.setattr(facade.passwords, "verify", counted)
    wrong = {"password": "wrong-wrong-wrong"}
    for name in ("ada", "nobody"):
        verified.clear()
        assert [(await _login(client, name, **wrong)).status_code for _ in range(8)] == [401] * 5 + [423] * 3
        assert len(verified) == 8, "an answer without a hash is faster"
    async with facade.sessions.begin() as session:
        await session.execute(update(UserCredential).values(locked_until=func.now()))
    keys = [key async for key in facade.redis.scan_iter("dotmac:unknown-locked:*")]
    assert [0 < await facade.redis.ttl(key) <= 900 for key in keys] == [True]
    await facade.redis.delete(*keys)
    for name in ("ada", "nobody"):
        assert [(await _login(client, name, **wrong)).status_code for _ in range(6)] == [401] * 5 + [423]


@pytest.mark.parametrize("username", ["\u0130brahim", "\u00c9cole", "\U0001f600", "stra\u00dfe"])
async def test_any_username_can_sign_in(
    client: httpx.AsyncClient, facade: Facade, accounts: Accounts, username: str
) -> None:
    await accounts.make(username=username, password_hash=await facade.passwords.hash(PASSWORD))
    assert (await _login(client, username)).status_code == 200


@pytest.mark.usefixtures("ada")
async def test_who_signs_out_late_is_signed_out(client: httpx.AsyncClient) -> None:
    """With an access token that has expired and the refresh token, in the body or the cookie."""
    expired = {"Authorization": "Bearer a.b.c"}
    token = (await _login(client, refresh_token_in="body")).json()["refresh_token"]
    assert (await client.post("/api/v1/auth/logout", headers=expired)).json()["code"] == "invalid_token"
    assert (await client.post("/api/v1/auth/logout")).status_code == 401
    body = {"refresh_token": token}
    assert (await client.post("/api/v1/auth/logout", headers=expired, json=body)).status_code == 204
    assert (await _refresh(client, token)).json()["code"] == "session_ended"
    await _login(client)
    assert (await client.post("/api/v1/auth/logout", headers=expired)).status_code == 204


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize(
    "body",
    [
        {"username": "ada"},
        {"username": "ada", "password": PASSWORD, "admin": True},
        {"username": "ada\x00", "password": PASSWORD},
        {"username": ["ada"], "password": PASSWORD},
        {"username": "ada", "password": "x" * 5000},
        {"username": "' OR 1=1 --", "password": "'"},
        {"username": "ada", "password": "\x00"},
    ],
)
async def test_hostile_bodies_are_refused_without_echo(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await client.post("/api/v1/auth/login", json=body)
    assert answer.status_code in (401, 422)
    assert PASSWORD not in answer.text


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"\\ud800"', b'{"username": "\\ud800", "password": "x"}'])
async def test_broken_json_is_refused(client: httpx.AsyncClient, raw: bytes) -> None:
    answer = await client.post("/api/v1/auth/login", content=raw, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_error")


async def test_login_is_limited_by_address_and_by_account(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"overrides": {}}))
    async with app.router.lifespan_context(app):
        async with connect(app) as client:
            statuses = [(await _login(client, username=f"u{n}", password="x" * 12)).status_code for n in range(11)]
            refused = await _login(client, username="other", password="x" * 12)
        assert statuses == [401] * 10 + [429]
        assert refused.json()["code"] == "rate_limited"
        assert 0 < int(refused.headers["Retry-After"]) <= 60
        answers = []
        for n in range(11):
            async with connect(app, address=f"198.51.100.{n}") as client:
                answers.append((await _login(client, username="victim", password="x" * 12)).status_code)
        assert answers == [401] * 5 + [423] * 5 + [429]


@pytest.mark.parametrize(
    ("path", "body", "times"),
    [
        ("refresh", {"refresh_token": "x" * 64}, 10),
        ("forgot-password", {"username": "ada"}, 5),
        ("reset-password", {"token": "x" * 43, "new_password": PASSWORD}, 5),
        ("mfa/verify", {"mfa_token": "x" * 43, "code": "123456"}, 5),
    ],
)
async def test_what_guesses_could_be_made_at_is_limited_by_address(
    settings: Settings, path: str, body: dict[str, str], times: int
) -> None:
    app = create_app(settings.model_copy(update={"overrides": {}}))
    async with app.router.lifespan_context(app), connect(app) as client:
        answers = [await client.post(f"/api/v1/auth/{path}", json=body) for _ in range(times + 1)]
    assert [a.status_code == 429 for a in answers] == [False] * times + [True]
    assert 0 < int(answers[-1].headers["Retry-After"]) <= (60 if path == "refresh" else 300)


async def test_passwords_are_kept_as_the_contract_says(facade: Facade) -> None:
    assert (await facade.passwords.hash(PASSWORD)).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_reads_without_redis_have_a_cap_of_their_own(settings: Settings, redis: RedisServer) -> None:
    app = create_app(settings.model_copy(update={"overrides": {("auth", "session_rate_max"): 3}}))
    async with app.router.lifespan_context(app):
        person = await Accounts(app.state.facade).make("operator")
        redis.stop()
        try:
            async with signed_in(app, person) as client:
                statuses = [(await client.get("/api/v1/auth/me")).status_code for _ in range(8)]
        finally:
            redis.start()
    # Three pass, or six when a minute turns in between.
    assert statuses[:3] == [200, 200, 200]
    assert 429 in statuses


@pytest.mark.usefixtures("ada")
async def test_login_fails_closed_without_redis_and_reads_go_on(
    client: httpx.AsyncClient, ada: Account, redis: RedisServer
) -> None:
    redis.stop()
    try:
        answer = await _login(client)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        me = await client.get("/api/v1/auth/me", headers=ada.headers)
        assert me.status_code == 200
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["checks"]["redis"]["ready"]) == (503, False)
        assert (await client.get("/health")).status_code == 200
    finally:
        redis.start()
    assert (await _login(client)).status_code == 200


async def test_a_second_factor_is_asked_for_and_each_code_works_once(
    client: httpx.AsyncClient, facade: Facade, ada: Account
) -> None:
    wrong = await client.post("/api/v1/auth/mfa/setup", json={"password": "nope"}, headers=ada.headers)
    assert wrong.status_code == 401
    setup = await client.post("/api/v1/auth/mfa/setup", json={"password": PASSWORD}, headers=ada.headers)
    secret = setup.json()["secret"]
    assert setup.json()["otpauth_uri"].startswith("otpauth://totp/DotMac:ada?secret=")
    assert "access_token" in (await _login(client)).json()  # not in force before it is confirmed
    totp = pyotp.TOTP(secret)
    before = totp.at(time.time() - 30)
    confirmed = await client.post("/api/v1/auth/mfa/confirm", json={"code": before}, headers=ada.headers)
    codes = confirmed.json()["recovery_codes"]
    assert len(set(codes)) == 10

    async def verify(code: str) -> httpx.Response:
        challenge = (await _login(client, refresh_token_in="body")).json()
        assert challenge["mfa_required"] is True
        assert "access_token" not in challenge
        return await client.post("/api/v1/auth/mfa/verify", json={"mfa_token": challenge["mfa_token"], "code": code})

    assert (await verify(before)).json()["code"] == "mfa_code_invalid"  # spent by the confirmation
    now = totp.now()
    tries = await asyncio.gather(*(verify(now) for _ in range(5)))
    assert sorted(t.status_code for t in tries) == [200, 401, 401, 401, 401]
    first = await verify(codes[0].upper())
    assert first.status_code == 200
    assert first.json()["refresh_token"]
    assert (await verify(codes[0])).status_code == 401
    assert (await verify("000000")).status_code == 401
    async with facade.sessions() as session:
        stored = str((await session.execute(text("SELECT * FROM mfa_methods"))).all())
    assert secret not in stored
    assert "enc:" in stored
    again = await client.post("/api/v1/auth/mfa/setup", json={"password": PASSWORD}, headers=ada.headers)
    assert again.status_code == 401


async def test_an_mfa_token_works_once(client: httpx.AsyncClient, facade: Facade, ada: Account) -> None:
    setup = await client.post("/api/v1/auth/mfa/setup", json={"password": PASSWORD}, headers=ada.headers)
    totp = pyotp.TOTP(setup.json()["secret"])
    code = totp.at(time.time() - 30)
    codes = (await client.post("/api/v1/auth/mfa/confirm", json={"code": code}, headers=ada.headers)).json()
    token = (await _login(client)).json()["mfa_token"]
    answers = [
        await client.post("/api/v1/auth/mfa/verify", json={"mfa_token": token, "code": recovery})
        for recovery in codes["recovery_codes"][:2]
    ]
    assert [a.status_code for a in answers] == [200, 401]


async def test_a_second_factor_that_no_key_reads_is_no_way_in_and_no_500(
    settings: Settings, app: FastAPI, ada: Account
) -> None:
    """The replicas were started with another key than the one that the secret is stored under."""
    async with connect(app) as client:
        setup = await client.post("/api/v1/auth/mfa/setup", json={"password": PASSWORD}, headers=ada.headers)
        totp = pyotp.TOTP(setup.json()["secret"])
        body = {"code": totp.at(time.time() - 30)}
        assert (await client.post("/api/v1/auth/mfa/confirm", json=body, headers=ada.headers)).status_code == 200
    key = SecretStr(Fernet.generate_key().decode())
    replica = create_app(settings.model_copy(update={"encryption_keys": (key,)}))
    async with replica.router.lifespan_context(replica), connect(replica) as client:
        challenge = (await _login(client)).json()
        body = {"mfa_token": challenge["mfa_token"], "code": totp.now()}
        answer = await client.post("/api/v1/auth/mfa/verify", json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "secret_undecryptable")
    assert "DOTMAC_API_ENCRYPTION_KEYS" in answer.json()["message"]


async def test_without_an_encryption_key_no_totp_secret_is_stored(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"encryption_keys": ()}))
    async with app.router.lifespan_context(app):
        facade: Facade = app.state.facade
        hashed = await facade.passwords.hash(PASSWORD)
        ada = await Accounts(facade).make("operator", password_hash=hashed)
        async with signed_in(app, ada) as client:
            answer = await client.post("/api/v1/auth/mfa/setup", json={"password": PASSWORD})
    assert (answer.status_code, answer.json()["code"]) == (409, "encryption_key_missing")


async def test_sessions_are_listed_and_ended_at_once(app: FastAPI, client: httpx.AsyncClient, ada: Account) -> None:
    other = (await _login(client)).json()["access_token"]
    theirs = {"Authorization": f"Bearer {other}"}
    assert (await client.get("/api/v1/auth/me", headers=theirs)).status_code == 200
    listed = (await client.get("/api/v1/auth/me/sessions", headers=ada.headers)).json()
    assert (listed["count"], [s["current"] for s in listed["items"]].count(True)) == (2, True)
    ended = await client.delete("/api/v1/auth/me/sessions", headers=ada.headers)
    assert ended.json() == {"revoked": 1}
    assert (await client.get("/api/v1/auth/me", headers=theirs)).status_code == 401
    assert (await client.get("/api/v1/auth/me", headers=ada.headers)).status_code == 200
    missing = await client.delete(f"/api/v1/auth/me/sessions/{ada.person_id}", headers=ada.headers)
    assert missing.status_code == 404
    mine = await client.delete(f"/api/v1/auth/me/sessions/{ada.session_id}", headers=ada.headers)
    assert mine.status_code == 204
    assert (await client.get("/api/v1/auth/me", headers=ada.headers)).status_code == 401


async def test_a_revocation_counts_on_every_replica_at_once(settings: Settings, app: FastAPI, ada: Account) -> None:
    replica = create_app(settings)
    async with replica.router.lifespan_context(replica), connect(replica) as there, connect(app) as here:
        for client in (there, here):
            assert (await client.get("/api/v1/auth/me", headers=ada.headers)).status_code == 200
        assert (await here.post("/api/v1/auth/logout", headers=ada.headers)).status_code == 204
        assert (await there.get("/api/v1/auth/me", headers=ada.headers)).status_code == 401


async def test_a_password_is_changed_by_its_owner(client: httpx.AsyncClient, ada: Account) -> None:
    other = (await _login(client)).json()["access_token"]

    async def change(current: str, new: str) -> httpx.Response:
        body = {"current_password": current, "new_password": new}
        return await client.post("/api/v1/auth/me/password", json=body, headers=ada.headers)

    assert (await change("wrong-wrong-wrong", ANOTHER)).status_code == 401
    for weak in ("short", "password1234", "aaaaaaaaaaaaaaaa", "ada-ada-ada@example.org", "qwertyuiop12"):
        refused = await change(PASSWORD, weak)
        assert (refused.status_code, refused.json()["details"][0]["field"]) == (422, "body.new_password"), weak
    assert (await change(PASSWORD, ANOTHER)).status_code == 204
    assert (await client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {other}"})).status_code == 401
    assert (await client.get("/api/v1/auth/me", headers=ada.headers)).status_code == 200
    assert (await _login(client)).status_code == 401
    assert (await _login(client, password=ANOTHER)).status_code == 200


async def test_a_password_that_must_change_allows_nothing_else(
    client: httpx.AsyncClient, facade: Facade, ada: Account
) -> None:
    async with facade.sessions.begin() as session:
        await session.execute(update(UserCredential).values(must_change_password=True))
    answer = await _login(client)
    assert answer.json()["must_change_password"] is True
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    refused = await client.get("/api/v1/people", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "password_change_required")
    body = {"current_password": PASSWORD, "new_password": ANOTHER}
    assert (await client.post("/api/v1/auth/me/password", json=body, headers=headers)).status_code == 204
    assert (await client.get("/api/v1/people", headers=headers)).status_code == 200


class _Mailbox(MessageHandler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []

    def handle_message(self, message: Message) -> None:
        self.messages.append(message)


def _text(message: Message) -> str:
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


@pytest.fixture
def mailbox() -> Iterator[tuple[_Mailbox, int]]:
    """A real SMTP server that keeps what it is given."""
    box, port = _Mailbox(), free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, port
    controller.stop()


@pytest.fixture
async def mailing(settings: Settings, mailbox: tuple[_Mailbox, int]) -> AsyncIterator[FastAPI]:
    """An application that sends to the mailbox."""
    smtp = {
        ("notifications", "smtp_host"): "127.0.0.1",
        ("notifications", "smtp_port"): mailbox[1],
        ("notifications", "smtp_security"): "none",
    }
    made = create_app(settings.model_copy(update={"overrides": {**settings.overrides, **smtp}}))
    async with made.router.lifespan_context(made):
        yield made


async def test_a_password_is_reset_by_mail_once(mailing: FastAPI, mailbox: tuple[_Mailbox, int]) -> None:
    facade: Facade = mailing.state.facade
    ada = await Accounts(facade).make(username="ada", password_hash=await facade.passwords.hash(PASSWORD))

    async def reset(token: str, password: str = ANOTHER) -> httpx.Response:
        return await client.post("/api/v1/auth/reset-password", json={"token": token, "new_password": password})

    async with connect(mailing) as client:
        for name in ("nobody@example.org", "ADA@example.org"):
            answer = await client.post("/api/v1/auth/forgot-password", json={"username": name})
            assert answer.status_code == 202
        [message] = mailbox[0].messages
        assert message["To"] == "ada@example.org"
        token = re.search(r"#token=(\S+)", _text(message)).group(1)  # type: ignore[union-attr]
        assert (await reset(token, "password1234")).status_code == 422  # and the token is not spent by it
        answers = await asyncio.gather(*(reset(token) for _ in range(5)))
        assert sorted(a.status_code for a in answers) == [204, 401, 401, 401, 401]
        assert (await client.get("/api/v1/auth/me", headers=ada.headers)).status_code == 401
        assert (await _login(client, password=ANOTHER)).status_code == 200


async def test_a_reset_token_lapses_after_an_hour(mailing: FastAPI, mailbox: tuple[_Mailbox, int]) -> None:
    facade: Facade = mailing.state.facade
    await Accounts(facade).make(username="ada")
    async with connect(mailing) as client:
        await client.post("/api/v1/auth/forgot-password", json={"username": "ada"})
        token = re.search(r"#token=(\S+)", _text(mailbox[0].messages[0])).group(1)  # type: ignore[union-attr]
        async with facade.sessions.begin() as session:
            life = await session.scalar(text("SELECT expires_at - created_at FROM password_resets"))
            await session.execute(text("UPDATE password_resets SET expires_at = now()"))
        assert life is not None and 59 * 60 < life.total_seconds() < 61 * 60
        body = {"token": token, "new_password": ANOTHER}
        assert (await client.post("/api/v1/auth/reset-password", json=body)).status_code == 401
