"""Bodies of /scheduler/tasks."""

import uuid
from datetime import datetime
from typing import Annotated

from pydantic import Field

from dotmac_api.schemas import Body, Timestamped


class TaskUpdate(Body):
    """Only the fields that are sent change."""

    enabled: bool = True
    interval_seconds: Annotated[int, Field(ge=10, le=2_592_000)] = 3600


class TaskRead(Timestamped):
    id: uuid.UUID
    name: str
    description: str
    enabled: bool
    interval_seconds: int
    due_at: datetime
    last_started_at: datetime | None
    last_finished_at: datetime | None
    last_status: Annotated[str | None, Field(description="running, success or failed")]
    last_message: str | None
    runs: int
    failures: int
