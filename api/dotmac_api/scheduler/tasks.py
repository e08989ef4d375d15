"""What the tasks of this package's own tables do; each is safe to repeat and deletes in batches."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, func, or_, select

from dotmac_api.audit.models import AuditEvent
from dotmac_api.auth.models import AuthSession, PasswordReset
from dotmac_api.facade import Facade
from dotmac_api.idempotency.models import IdempotencyKey

# Small enough that no request waits for a lock of the pruning.
BATCH = 1000


async def _prune(facade: Facade, model: Any, key: Any, old: ColumnElement[bool]) -> int:
    total = 0
    while True:
        async with facade.sessions.begin() as session:
            batch = select(key).where(old).limit(BATCH)
            gone = await session.execute(delete(model).where(key.in_(batch)).returning(key))
            count = len(gone.all())
        total += count
        if count < BATCH:
            return total


async def sessions(facade: Facade) -> str:
    """Ended sessions go after the retention, with their refresh tokens; lapsed reset tokens go at once."""
    days = timedelta(days=await facade.domains.integer("scheduler", "session_retention_days"))
    horizon = func.now() - days
    old = or_(AuthSession.expires_at < horizon, AuthSession.revoked_at < horizon)
    ended = await _prune(facade, AuthSession, AuthSession.id, old)
    resets = await _prune(facade, PasswordReset, PasswordReset.token_hash, PasswordReset.expires_at < func.now())
    return f"{ended} sessions and {resets} reset tokens deleted"


async def audit_events(facade: Facade) -> str:
    days = timedelta(days=await facade.domains.integer("audit", "retention_days"))
    gone = await _prune(facade, AuditEvent, AuditEvent.id, AuditEvent.occurred_at < func.now() - days)
    return f"{gone} audit events deleted"


async def idempotency_keys(facade: Facade) -> str:
    hours = timedelta(hours=await facade.domains.integer("scheduler", "idempotency_retention_hours"))
    old = IdempotencyKey.created_at < func.now() - hours
    total = 0
    async with facade.sessions.begin() as session:
        gone = await session.execute(delete(IdempotencyKey).where(old).returning(IdempotencyKey.key))
        total = len(gone.all())
    return f"{total} keys deleted"
