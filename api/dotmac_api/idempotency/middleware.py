"""Answers a POST with an Idempotency-Key that was answered before from what was kept, without doing it again."""

import hashlib
import json
import logging
import re
from datetime import timedelta
from typing import Any

from fastapi import Request
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dotmac_api.access import authenticate
from dotmac_api.errors import ApiError, BadRequest, BodyTooLarge, Conflict, Invalid, error_response, from_database
from dotmac_api.facade import Facade
from dotmac_api.idempotency.models import IdempotencyKey
from dotmac_api.principal import Principal

log = logging.getLogger(__name__)

_KEY = re.compile(r"[\x21-\x7e]{1,200}")
# A first request that has not finished after this long died with its process; its key may be used again.
ABANDONED = timedelta(minutes=2)
_KEPT_HEADERS = ("content-type", "etag", "location", "cache-control")


class Idempotency:
    """For POST requests of somebody signed in, with an Idempotency-Key. Only answers below 400 are kept: a refused
    request may be mended and sent again under its key. They are kept encrypted, since one may hold an API key."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = Headers(scope=scope).get("idempotency-key") if _is_post(scope) else None
        if key is None:
            await self.app(scope, receive, send)
            return
        try:
            principal = await authenticate(Request(scope))
        except Exception:
            # The endpoint says it better, and knows whether it wants anybody signed in at all.
            await self.app(scope, receive, send)
            return
        try:
            await self._once(scope, receive, send, principal, key)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
        except HTTPException as error:
            await error_response(BodyTooLarge(str(error.detail)))(scope, receive, send)

    async def _once(self, scope: Scope, receive: Receive, send: Send, principal: Principal, key: str) -> None:
        facade: Facade = scope["app"].state.facade
        if not _KEY.fullmatch(key):
            raise BadRequest("Idempotency-Key must be 1 to 200 visible ASCII characters", code="idempotency_key")
        if not facade.vault.ready:
            raise Conflict("idempotency keys need DOTMAC_API_ENCRYPTION_KEYS", code="encryption_key_missing")
        body = await _read(receive)
        kept = await self._claim(facade, principal, key, _fingerprint(scope, body))
        if kept is not None:
            await _replay(kept, send)
            return
        recorder = _Recorder()
        try:
            await self.app(scope, _given(body, receive), recorder)
        finally:
            await self._finish(facade, principal, key, recorder)
        # Sent only when it is kept, so that a client that repeats at once finds it.
        for message in recorder.messages:
            await send(message)

    async def _claim(self, facade: Facade, principal: Principal, key: str, print_: bytes) -> dict[str, Any] | None:
        """The kept answer, or None when the key is now ours. Raises Conflict, Invalid, Unavailable."""
        try:
            async with facade.sessions.begin() as session:
                mine = {"person_id": principal.person_id, "key": key, "fingerprint": print_}
                row = insert(IdempotencyKey).values(mine)
                abandoned = IdempotencyKey.status.is_(None) & (IdempotencyKey.created_at < func.now() - ABANDONED)
                taken = row.on_conflict_do_update(
                    index_elements=["person_id", "key"],
                    set_={"created_at": func.now(), "fingerprint": print_},
                    where=abandoned,
                ).returning(IdempotencyKey.key)
                if await session.scalar(taken) is not None:
                    return None
                found = await session.scalar(
                    select(IdempotencyKey).where(
                        IdempotencyKey.person_id == principal.person_id, IdempotencyKey.key == key
                    )
                )
        except Exception as error:
            raise from_database(error) from error
        if found is None or found.status is None:
            raise Conflict("the first request with this Idempotency-Key is still running", code="idempotency_running")
        if found.fingerprint != print_:
            raise Invalid("this Idempotency-Key was used for another request", code="idempotency_key_reused")
        kept: dict[str, Any] = json.loads(facade.vault.decrypt((found.answer or b"").decode()))
        if kept.get("rights") != _rights(principal):
            text = "the request with this Idempotency-Key was done, but your rights have changed since: read its result"
            raise Conflict(text, code="idempotency_rights_changed")
        return kept

    async def _finish(self, facade: Facade, principal: Principal, key: str, recorder: "_Recorder") -> None:
        mine = (IdempotencyKey.person_id == principal.person_id) & (IdempotencyKey.key == key)
        try:
            async with facade.sessions.begin() as session:
                if recorder.complete and recorder.status < 400:
                    answer = recorder.kept() | {"rights": _rights(principal)}
                    kept = facade.vault.encrypt(json.dumps(answer)).encode()
                    values = {"status": recorder.status, "answer": kept}
                    await session.execute(update(IdempotencyKey).where(mine).values(values))
                else:
                    await session.execute(delete(IdempotencyKey).where(mine, IdempotencyKey.status.is_(None)))
        except (SQLAlchemyError, OSError) as error:
            # The request itself is done or refused; repeats of it are refused until the key counts as abandoned.
            log.error("the answer to an idempotency key is not kept: %s", type(error).__name__)


def _rights(principal: Principal) -> list[list[str] | None]:
    """What decides whether somebody may see an answer again."""
    organisations = None if principal.organisations is None else sorted(principal.organisations)
    return [sorted(principal.permissions), sorted(principal.roles), organisations]


def _is_post(scope: Scope) -> bool:
    return bool(scope["type"] == "http" and scope["method"] == "POST")


def _fingerprint(scope: Scope, body: bytes) -> bytes:
    digest = hashlib.sha256(scope["path"].encode() + b"\0" + scope["query_string"] + b"\0")
    digest.update(body)
    return digest.digest()


async def _read(receive: Receive) -> bytes:
    """The whole body, which BodyLimit bounds."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _given(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


class _Recorder:
    """Collects an answer."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.status = 500
        self.complete = False
        self._headers: list[tuple[str, str]] = []
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
            self._headers = [pair for pair in pairs if pair[0].lower() in _KEPT_HEADERS]
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
        self.messages.append(message)

    def kept(self) -> dict[str, Any]:
        return {"status": self.status, "headers": self._headers, "body": self._body.decode("utf-8", "replace")}


async def _replay(kept: dict[str, Any], send: Send) -> None:
    body = str(kept["body"]).encode()
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept["headers"]]
    headers += [(b"idempotency-replayed", b"true"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": kept["status"], "headers": headers})
    await send({"type": "http.response.body", "body": body})
