"""Bodies of /user-credentials."""

import uuid
from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from dotmac_api.auth.schemas import Password
from dotmac_api.schemas import Body, Timestamped

USERNAME = r"^[^\s\x00-\x1f\x7f]{1,254}$"
Username = Annotated[str, Field(min_length=1, max_length=254, pattern=USERNAME)]


class CredentialCreate(Body):
    model_config = ConfigDict(str_strip_whitespace=False)

    person_id: uuid.UUID
    provider: Literal["local"] = "local"
    username: Username
    password: Password
    must_change_password: Annotated[bool, Field(description="somebody else knows the password, so yes")] = True
    is_active: bool = True


class CredentialUpdate(Body):
    """Only the fields that are sent change. A new password ends every session of the person."""

    model_config = ConfigDict(str_strip_whitespace=False)

    username: Username = ""
    password: Password = ""
    must_change_password: bool = False
    is_active: bool = True
    unlock: Annotated[bool, Field(description="forget the failures and the lock")] = False
    reset_mfa: Annotated[bool, Field(description="forget the second factor, for a lost device")] = False


class CredentialRead(Timestamped):
    id: uuid.UUID
    person_id: uuid.UUID
    provider: str
    username: str
    must_change_password: bool
    password_updated_at: datetime
    failed_attempts: int
    locked_until: datetime | None
    last_login_at: datetime | None
    is_active: bool
