"""Bodies of /auth."""

import uuid
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dotmac_api.auth.passwords import MAX_LENGTH
from dotmac_api.people.schemas import Name
from dotmac_api.schemas import Body, Row

Delivery = Literal["cookie", "body"]
# Longer than any that may be set, so that an old one still gets its 401 and not a 422.
Password = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH * 2)]
Opaque = Annotated[str, Field(min_length=16, max_length=200)]
Code = Annotated[str, Field(min_length=6, max_length=24, description="six digits, or a recovery code")]


class Login(Body):
    """str_strip_whitespace must not touch passwords."""

    model_config = ConfigDict(str_strip_whitespace=False)

    username: Annotated[str, Field(min_length=1, max_length=254)]
    password: Password
    refresh_token_in: Annotated[Delivery, Field(description="body: for clients that are no browser")] = "cookie"  # noqa: S105


class Tokens(BaseModel):
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105
    expires_in: Annotated[int, Field(description="seconds until the access token expires")]
    refresh_token: Annotated[str | None, Field(description="only for clients that asked for it in the body")] = None
    must_change_password: bool = False


class MfaChallenge(BaseModel):
    """The password was right; POST /auth/mfa/verify wants this token and a code."""

    mfa_required: Literal[True] = True
    mfa_token: str
    expires_in: int


class Refresh(Body):
    refresh_token: Annotated[Opaque | None, Field(description="else the cookie")] = None


class ForgotPassword(Body):
    username: Annotated[str, Field(min_length=1, max_length=254, description="username or e-mail address")]


class Accepted(BaseModel):
    message: str


class ResetPassword(Body):
    model_config = ConfigDict(str_strip_whitespace=False)

    token: Opaque
    new_password: Password


class ChangePassword(Body):
    model_config = ConfigDict(str_strip_whitespace=False)

    current_password: Password
    new_password: Password


class MfaSetup(Body):
    model_config = ConfigDict(str_strip_whitespace=False)

    password: Password
    code: Annotated[Code | None, Field(description="needed when a second factor is on already")] = None


class MfaSecret(BaseModel):
    secret: str
    otpauth_uri: str


class MfaConfirm(Body):
    code: Annotated[str, Field(pattern=r"^\d{6}$")]


class RecoveryCodes(BaseModel):
    recovery_codes: Annotated[list[str], Field(description="each works once; they are shown now and never again")]


class MfaVerify(Body):
    mfa_token: Opaque
    code: Code


class Me(Row):
    id: uuid.UUID
    username: str
    first_name: str
    last_name: str
    display_name: str | None
    email: str
    phone: str | None
    organisations: list[str] | None
    roles: list[str]
    permissions: list[str]
    mfa_enabled: bool
    must_change_password: bool


class MeUpdate(Body):
    """Only the fields that are sent change; the e-mail address is changed by an administrator."""

    first_name: Name = ""
    last_name: Name = ""
    display_name: Annotated[str | None, Field(max_length=120)] = None
    phone: Annotated[str | None, Field(max_length=40)] = None


class MySession(Row):
    id: uuid.UUID
    current: bool
    ip_address: str | None
    user_agent: str | None
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime


class Revoked(BaseModel):
    revoked: Annotated[int, Field(description="how many sessions were ended")]
