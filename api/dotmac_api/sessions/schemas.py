"""Bodies of /sessions."""

import uuid
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from dotmac_api.schemas import Body, Timestamped

SessionStatus = Literal["active", "revoked", "expired"]


class SessionUpdate(Body):
    """A session can be shortened and never prolonged."""

    expires_at: Annotated[AwareDatetime, Field(description="earlier than now is refused: DELETE the session")]


class SessionRead(Timestamped):
    id: uuid.UUID
    person_id: uuid.UUID
    credential_id: uuid.UUID
    status: SessionStatus
    ip_address: str | None
    user_agent: str | None
    last_seen_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    revoked_reason: str | None
