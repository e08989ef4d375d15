"""Bodies of /api-keys."""

import uuid
from datetime import datetime
from typing import Annotated

from pydantic import Field

from dotmac_api.schemas import Body, Timestamped

Label = Annotated[str, Field(min_length=1, max_length=80)]
Scopes = Annotated[list[Annotated[str, Field(max_length=60)]], Field(min_length=1, max_length=60)]
Days = Annotated[int, Field(ge=1, le=366, description="the key expires after so many days")]


class ApiKeyGenerate(Body):
    """A key of one's own."""

    label: Label
    scopes: Annotated[Scopes, Field(description="permissions such as instances:read; only those you have yourself")]
    expires_in_days: Days = 90


class ApiKeyCreate(ApiKeyGenerate):
    """A key for somebody else."""

    person_id: uuid.UUID


class ApiKeyUpdate(Body):
    """Only the fields that are sent change; scopes can be taken away, and none added."""

    label: Label = ""
    scopes: Scopes = []
    is_active: bool = True


class ApiKeyRead(Timestamped):
    id: uuid.UUID
    person_id: uuid.UUID
    label: str
    prefix: str
    scopes: list[str]
    is_active: bool
    last_used_at: datetime | None
    expires_at: datetime
    revoked_at: datetime | None


class ApiKeyMade(ApiKeyRead):
    key: Annotated[str, Field(description="the key itself; it is shown now and never again")]
