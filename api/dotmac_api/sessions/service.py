"""Everybody's sessions: reading, shortening, revoking."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.auth.identity import Identity
from dotmac_api.auth.models import AuthSession
from dotmac_api.auth.sessions import revoke
from dotmac_api.errors import Conflict, Invalid, NotFound
from dotmac_api.people.models import Person
from dotmac_api.people.service import visible_people
from dotmac_api.principal import Principal
from dotmac_api.schemas import Orderable, Slice, paginate
from dotmac_api.sessions.schemas import SessionStatus

ORDERABLE: Orderable = {
    "created_at": AuthSession.created_at,
    "last_seen_at": AuthSession.last_seen_at,
    "expires_at": AuthSession.expires_at,
    "id": AuthSession.id,
}


def status_of(row: AuthSession) -> SessionStatus:
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at <= datetime.now(UTC) else "active"


def _in_status(status: SessionStatus) -> ColumnElement[bool]:
    if status == "revoked":
        return AuthSession.revoked_at.is_not(None)
    live = AuthSession.expires_at > func.now()
    return and_(AuthSession.revoked_at.is_(None), live if status == "active" else ~live)


async def list_sessions(
    session: AsyncSession,
    principal: Principal,
    page: Slice,
    *,
    person_id: uuid.UUID | None,
    status: SessionStatus | None,
) -> tuple[Sequence[AuthSession], int]:
    query = select(AuthSession).join(Person).where(visible_people(principal))
    if person_id is not None:
        query = query.where(AuthSession.person_id == person_id)
    if status is not None:
        query = query.where(_in_status(status))
    return await paginate(session, query, page, ORDERABLE)


async def get_session(session: AsyncSession, principal: Principal, session_id: uuid.UUID) -> AuthSession:
    """Raises NotFound, also for a session of a person whom the caller may not see."""
    found = await session.scalar(
        select(AuthSession).join(Person).where(AuthSession.id == session_id, visible_people(principal))
    )
    if found is None:
        raise NotFound(f"there is no session {session_id}")
    return found


async def shorten_session(session: AsyncSession, identity: Identity, row: AuthSession, expires_at: datetime) -> None:
    """Let a live session end earlier. Raises Conflict, Invalid."""
    if status_of(row) != "active":
        raise Conflict("the session has ended already", code="session_ended")
    if not datetime.now(UTC) < expires_at <= row.expires_at:
        raise Invalid.field("body.expires_at", "must be in the future and not later than it is now")
    row.expires_at = expires_at
    identity.rights_changed(session)
    await session.flush()
    await session.refresh(row)


async def end_session(session: AsyncSession, identity: Identity, row: AuthSession) -> None:
    await revoke(session, identity, AuthSession.id == row.id, reason="revoked by an administrator")
