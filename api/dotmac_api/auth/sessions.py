"""Sessions and their refresh tokens: opening, rotating by one atomic statement, noticing reuse, revoking."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.auth.identity import Identity
from dotmac_api.auth.models import AuthSession, RefreshToken
from dotmac_api.auth.opaque import new_refresh_token, refresh_hash


@dataclass(frozen=True, slots=True)
class Device:
    """Where a sign-in comes from, for the person to recognise it."""

    ip_address: str
    user_agent: str | None


class Refused(Enum):
    """Why a refresh token was not taken."""

    UNKNOWN = "unknown"
    ENDED = "ended"
    RACED = "raced"
    REUSED = "reused"


@dataclass(frozen=True, slots=True)
class Rotation:
    """What became of a refresh: a new token, or the reason against it."""

    session_id: uuid.UUID | None = None
    person_id: uuid.UUID | None = None
    token: str | None = None
    expires_at: datetime | None = None
    refused: Refused | None = None


# One statement: the row lock lets exactly one of any number of concurrent calls see spent_at IS NULL, and the new
# token exists if and only if the old one was spent.
_ROTATE = text("""
WITH spent AS (
    UPDATE refresh_tokens t SET spent_at = clock_timestamp()
    FROM sessions s JOIN people p ON p.id = s.person_id JOIN user_credentials c ON c.id = s.credential_id
    WHERE t.token_hash = :old AND t.spent_at IS NULL AND s.id = t.session_id
      AND s.revoked_at IS NULL AND s.expires_at > now() AND p.status = 'active' AND c.is_active
    RETURNING t.session_id, s.person_id, s.expires_at
), made AS (
    INSERT INTO refresh_tokens (token_hash, session_id) SELECT :new, session_id FROM spent
), seen AS (
    UPDATE sessions SET last_seen_at = now() WHERE id IN (SELECT session_id FROM spent)
)
SELECT session_id, person_id, expires_at FROM spent
""")


async def open_session(
    session: AsyncSession, person_id: uuid.UUID, credential_id: uuid.UUID, device: Device, ttl: timedelta
) -> tuple[AuthSession, str]:
    """A new session with an absolute end, and its first refresh token."""
    opened = AuthSession(
        person_id=person_id,
        credential_id=credential_id,
        ip_address=device.ip_address,
        user_agent=device.user_agent,
        expires_at=datetime.now(UTC) + ttl,
    )
    session.add(opened)
    await session.flush()
    token = new_refresh_token()
    session.add(RefreshToken(token_hash=refresh_hash(token), session_id=opened.id))
    await session.flush()
    return opened, token


async def rotate(session: AsyncSession, identity: Identity, token: str, arrived: float) -> Rotation:
    """Spend `token` for a new one.

    A token that was spent before this request arrived (`arrived` by time.monotonic()) is a replay: its whole session
    is revoked, and the caller must commit that. One spent since then lost a race of concurrent refreshes: it gets
    nothing, and the session lives on. Only the database's clock is compared, so replicas need not agree on the time.
    """
    fresh = new_refresh_token()
    row = (await session.execute(_ROTATE, {"old": refresh_hash(token), "new": refresh_hash(fresh)})).one_or_none()
    if row is not None:
        return Rotation(row.session_id, row.person_id, fresh, row.expires_at)
    found = (
        await session.execute(
            select(
                AuthSession.id,
                AuthSession.person_id,
                RefreshToken.spent_at,
                AuthSession.revoked_at,
                func.clock_timestamp().label("now"),
            )
            .join(AuthSession, AuthSession.id == RefreshToken.session_id)
            .where(RefreshToken.token_hash == refresh_hash(token))
        )
    ).one_or_none()
    if found is None:
        return Rotation(refused=Refused.UNKNOWN)
    if found.spent_at is None or found.revoked_at is not None:
        return Rotation(found.id, found.person_id, refused=Refused.ENDED)
    # Measured after the answer, so that the time under way counts for the race and never against it.
    if found.spent_at > found.now - timedelta(seconds=time.monotonic() - arrived):
        return Rotation(found.id, found.person_id, refused=Refused.RACED)
    await revoke(session, identity, AuthSession.id == found.id, reason="refresh token reused")
    return Rotation(found.id, found.person_id, refused=Refused.REUSED)


async def revoke(
    session: AsyncSession, identity: Identity, which: ColumnElement[bool], *, reason: str
) -> Sequence[uuid.UUID]:
    """Revoke the live sessions that `which` selects, at once on every replica; returns their ids."""
    ended = await session.scalars(
        update(AuthSession)
        .where(which, AuthSession.revoked_at.is_(None))
        .values(revoked_at=func.now(), revoked_reason=reason)
        .returning(AuthSession.id)
        .execution_options(synchronize_session=False)
    )
    ids = ended.all()
    identity.revoke_after_commit(session, list(ids))
    return ids


async def session_of_refresh_token(session: AsyncSession, token: str) -> uuid.UUID | None:
    """The session that a refresh token, spent or not, belongs to."""
    found: uuid.UUID | None = await session.scalar(
        select(RefreshToken.session_id).where(RefreshToken.token_hash == refresh_hash(token))
    )
    return found
