"""The middleware that audits requests, and the note by which an endpoint says what it acted on."""

import logging
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dotmac_api.audit.models import AuditEvent
from dotmac_api.database import Sessions
from dotmac_api.domains.store import SettingsStore
from dotmac_api.principal import Principal
from dotmac_api.routes import route_template

log = logging.getLogger(__name__)

MASK = "***"
_SECRET_WORDS = ("password", "secret", "token", "key_hash", "code", "credential", "private", "authorization")
_LONGEST = 2000
_ALWAYS = "/api/v1/settings/audit/"


@dataclass(slots=True)
class AuditNote:
    """What an endpoint adds to the event of its request; all of it is optional."""

    entity_type: str | None = None
    entity_id: str | None = None
    organisation: str | None = None
    actor_name: str | None = None
    actor_id: uuid.UUID | None = None
    action: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def on(self, entity_type: str, entity_id: object, organisation: str | None = None) -> None:
        """Say which row it is about; `organisation` lets people limited to that org code see the event."""
        self.entity_type, self.entity_id, self.organisation = entity_type, str(entity_id), organisation

    def change(self, before: object, after: object) -> None:
        """Keep the values before and after, with what looks like a secret masked."""
        self.details.update(before=masked(before), after=masked(after))


def masked(value: Any, name: str = "") -> Any:
    """`value` fit for the trail: JSON types only, texts cut, anything under a secret-looking name replaced by ***."""
    if any(word in name.lower() for word in _SECRET_WORDS) and value is not None:
        return MASK
    if isinstance(value, dict):
        return {str(k): masked(v, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [masked(v, name) for v in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    return str(value).replace("\x00", "")[:_LONGEST]


async def _note(request: Request) -> AuditNote:
    note: AuditNote = request.scope["state"].setdefault("audit", AuditNote())
    return note


Note = Annotated[AuditNote, Depends(_note)]


async def record(sessions: Sessions, event: AuditEvent) -> None:
    """Write an event in a transaction of its own. A failure is logged with the event and does not fail the request."""
    try:
        async with sessions.begin() as session:
            session.add(event)
    except (SQLAlchemyError, OSError) as error:
        log.error(
            "an audit event could not be stored: %s",
            type(error).__name__,
            extra={"audit": {"action": event.action, "entity": event.entity_id, "actor": str(event.actor_id)}},
        )


class AuditTrail:
    """Writes the event of a request before its answer leaves: who saw an answer can find its event."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                facade = scope["app"].state.facade
                if await self._wanted(facade.domains, scope):
                    await record(facade.sessions, event_of(scope, message["status"]))
            await send(message)

        await self.app(scope, receive, answer)

    async def _wanted(self, store: SettingsStore, scope: Scope) -> bool:
        method, path = scope["method"], scope["path"]
        if path.startswith(_ALWAYS) and method != "GET":
            # By now they may say that nothing is audited: who said so is.
            return True
        try:
            if not await store.boolean("audit", "enabled"):
                return False
            if any(path.startswith(prefix) for prefix in await store.texts("audit", "skip_paths") if prefix):
                return False
            if method in await store.texts("audit", "methods"):
                return True
            header = await store.text("audit", "read_trigger_header")
            query = await store.text("audit", "read_trigger_query")
        except (SQLAlchemyError, RedisError, OSError):
            # The settings cannot be read: audit what changes things, which is the default.
            return method not in ("GET", "HEAD", "OPTIONS")
        return bool(header and header in Headers(scope=scope)) or bool(
            query and query in QueryParams(scope["query_string"])
        )


def event_of(scope: Scope, status: int) -> AuditEvent:
    """The event of a request that ends with `status`."""
    state = scope.get("state", {})
    principal: Principal | None = state.get("principal")
    note: AuditNote = state.get("audit") or AuditNote()
    template = route_template(scope)
    if template == "-":
        template = _text(scope["path"]) or "-"
    segments = [part for part in template.removeprefix("/api/v1").split("/") if part and not part.startswith("{")]
    parameters = scope.get("path_params") or {}
    client = scope.get("client")
    return AuditEvent(
        actor_type="anonymous" if principal is None else "api_key" if principal.api_key_id else "person",
        actor_id=principal.person_id if principal else note.actor_id,
        actor_name=principal.name if principal else _text(note.actor_name),
        session_id=principal.session_id if principal else None,
        action=note.action or f"{scope['method']} {template}",
        entity_type=note.entity_type or (segments[0] if segments else None),
        entity_id=_text(note.entity_id or next((str(v) for v in parameters.values()), None)),
        organisation=note.organisation,
        status_code=status,
        is_success=status < 400,
        ip_address=client[0] if client else None,
        user_agent=_text(Headers(scope=scope).get("user-agent")),
        request_id=state.get("request_id"),
        details=masked(note.details),
    )


def _text(value: str | None) -> str | None:
    return None if value is None else value.replace("\x00", "")[:300]
