"""The table of scheduled tasks; one row for each task of the registry."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dotmac_api.database import Base, Identified, Timestamps


class ScheduledTask(Identified, Timestamps, Base):
    """When a task runs and how its last run went. `due_at` moves when a run begins, so that a crash repeats nothing."""

    __tablename__ = "scheduled_tasks"
    __table_args__ = (
        CheckConstraint("interval_seconds BETWEEN 10 AND 2592000", name="interval"),
        CheckConstraint("last_status IN ('running', 'success', 'failed')", name="last_status"),
    )

    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str]
    enabled: Mapped[bool] = mapped_column(server_default="true")
    interval_seconds: Mapped[int]
    due_at: Mapped[datetime]
    last_started_at: Mapped[datetime | None]
    last_finished_at: Mapped[datetime | None]
    last_status: Mapped[str | None]
    last_message: Mapped[str | None]
    runs: Mapped[int] = mapped_column(server_default="0")
    failures: Mapped[int] = mapped_column(server_default="0")

    @property
    def version(self) -> str:
        """Of what administrators change: a run is no change."""
        return f"{self.interval_seconds}-{'on' if self.enabled else 'off'}"
