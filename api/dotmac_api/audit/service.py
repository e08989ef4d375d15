"""Reading the audit trail; nothing writes to it but the trail itself, and pruning."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.audit.models import AuditEvent
from dotmac_api.errors import NotFound
from dotmac_api.principal import Principal
from dotmac_api.schemas import Orderable, Slice, paginate

ORDERABLE: Orderable = {
    "occurred_at": AuditEvent.occurred_at,
    "action": AuditEvent.action,
    "actor_name": AuditEvent.actor_name,
    "status_code": AuditEvent.status_code,
    "id": AuditEvent.id,
}


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What to look for; None does not filter."""

    actor_id: uuid.UUID | None = None
    action: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None
    is_success: bool | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        equal = ("actor_id", "action", "entity_type", "entity_id", "is_success", "request_id")
        found = [getattr(AuditEvent, n) == getattr(self, n) for n in equal if getattr(self, n) is not None]
        if self.since is not None:
            found.append(AuditEvent.occurred_at >= self.since)
        if self.until is not None:
            found.append(AuditEvent.occurred_at < self.until)
        return found


def visible_events(principal: Principal) -> ColumnElement[bool]:
    """A limited person sees its own deeds and what was done to rows of its organisations."""
    if not principal.limited:
        return true()
    return or_(AuditEvent.actor_id == principal.person_id, principal.tenancy(AuditEvent.organisation))


async def list_events(
    session: AsyncSession, principal: Principal, page: Slice, wanted: AuditFilter
) -> tuple[Sequence[AuditEvent], int]:
    query = select(AuditEvent).where(visible_events(principal), *wanted.clauses())
    return await paginate(session, query, page, ORDERABLE)


async def get_event(session: AsyncSession, principal: Principal, event_id: uuid.UUID) -> AuditEvent:
    """Raises NotFound."""
    event = await session.scalar(select(AuditEvent).where(AuditEvent.id == event_id, visible_events(principal)))
    if event is None:
        raise NotFound(f"there is no audit event {event_id}")
    return event
