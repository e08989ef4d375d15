"""Bodies of /audit-events."""

import uuid
from datetime import datetime
from typing import Any

from dotmac_api.schemas import Row


class AuditEventRead(Row):
    id: uuid.UUID
    occurred_at: datetime
    actor_type: str
    actor_id: uuid.UUID | None
    actor_name: str | None
    session_id: uuid.UUID | None
    action: str
    entity_type: str | None
    entity_id: str | None
    organisation: str | None
    status_code: int | None
    is_success: bool
    ip_address: str | None
    user_agent: str | None
    request_id: str | None
    details: dict[str, Any]
