"""Tables of webhooks and of what was, or is to be, delivered."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, func, text
from sqlalchemy.dialects.postgresql import ARRAY, TEXT
from sqlalchemy.orm import Mapped, mapped_column

from dotmac_api.database import Base, Identified, Timestamps

PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"


class WebhookRow(Identified, Timestamps, Base):
    """A subscription."""

    __tablename__ = "webhooks"

    url: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    events: Mapped[list[str]] = mapped_column(ARRAY(TEXT))
    """Names of dotmac_api.mirror.transitions.EVENTS; empty: all."""
    organisations: Mapped[list[str] | None] = mapped_column(ARRAY(TEXT))
    """Org codes that it is told about; None: all, and Servers too."""
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    secret: Mapped[str]
    """`enc:` and the Fernet token of the signing secret."""
    created_by: Mapped[uuid.UUID | None]


class DeliveryRow(Base):
    """One event for one subscription."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_due", "next_attempt_at", postgresql_where=text("state = 'pending'")),
        Index("ix_webhook_deliveries_webhook", "webhook_id", "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    webhook_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    transition_id: Mapped[int] = mapped_column(BigInteger, ForeignKey("transitions.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(server_default=PENDING)
    """pending, delivered or dead."""
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_attempt_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """While an attempt runs, when it counts as lost."""
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
