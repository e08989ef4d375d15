"""The table of audit events. No foreign keys: the trail outlives what it tells about."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Index, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from dotmac_api.database import Base, Identified


class AuditEvent(Identified, Base):
    """One event. `organisation` is the org code of the row acted on, where it has one."""

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_entity", "entity_type", "entity_id"),
        Index("ix_audit_events_actor", "actor_id", "occurred_at"),
    )

    occurred_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp(), index=True)
    actor_type: Mapped[str]
    actor_id: Mapped[uuid.UUID | None]
    actor_name: Mapped[str | None]
    session_id: Mapped[uuid.UUID | None]
    action: Mapped[str]
    entity_type: Mapped[str | None]
    entity_id: Mapped[str | None]
    organisation: Mapped[str | None]
    status_code: Mapped[int | None]
    is_success: Mapped[bool]
    ip_address: Mapped[str | None]
    user_agent: Mapped[str | None]
    request_id: Mapped[str | None]
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
