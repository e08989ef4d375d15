"""Tables of credentials, sessions, refresh tokens, second factors, reset tokens and API keys."""

import uuid
from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from dotmac_api.database import Base, Identified, Timestamps


class Provider(StrEnum):
    LOCAL = "local"


class UserCredential(Identified, Timestamps, Base):
    """A way to sign in. Usernames differ by more than case."""

    __tablename__ = "user_credentials"
    __table_args__ = (
        Index("uq_user_credentials_username", text("lower(username)"), unique=True),
        CheckConstraint("provider IN ('local')", name="provider"),
    )

    person_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    provider: Mapped[str] = mapped_column(server_default=Provider.LOCAL)
    username: Mapped[str]
    password_hash: Mapped[str]
    must_change_password: Mapped[bool] = mapped_column(server_default="false")
    password_updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    failed_attempts: Mapped[int] = mapped_column(server_default="0")
    locked_until: Mapped[datetime | None]
    last_login_at: Mapped[datetime | None]
    is_active: Mapped[bool] = mapped_column(server_default="true")


class AuthSession(Identified, Timestamps, Base):
    """One sign-in on one device, and the family of its refresh tokens. It ends for good at expires_at."""

    __tablename__ = "sessions"

    person_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    credential_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("user_credentials.id", ondelete="CASCADE"), index=True)
    ip_address: Mapped[str | None]
    user_agent: Mapped[str | None]
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None]
    revoked_reason: Mapped[str | None]

    @property
    def version(self) -> str:
        """Of what administrators change: that it was seen again is no change."""
        return f"{self.expires_at.timestamp()}-{'live' if self.revoked_at is None else 'revoked'}"


class RefreshToken(Base):
    """The SHA-256 of one refresh token. A row with spent_at stays until its session is pruned, to notice reuse."""

    __tablename__ = "refresh_tokens"

    token_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    session_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    spent_at: Mapped[datetime | None]


class MfaMethod(Identified, Timestamps, Base):
    """A TOTP secret (encrypted). Only a confirmed one is asked for; last_step makes each code work once."""

    __tablename__ = "mfa_methods"
    __table_args__ = (
        Index(
            "uq_mfa_methods_person_confirmed",
            "person_id",
            unique=True,
            postgresql_where=text("confirmed_at IS NOT NULL"),
        ),
    )

    person_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    secret: Mapped[str]
    confirmed_at: Mapped[datetime | None]
    last_step: Mapped[int] = mapped_column(BigInteger, server_default="0")


class RecoveryCode(Identified, Base):
    """The keyed hash of one recovery code, usable once."""

    __tablename__ = "recovery_codes"

    person_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    code_hash: Mapped[bytes] = mapped_column(LargeBinary)
    used_at: Mapped[datetime | None]


class PasswordReset(Base):
    """The keyed hash of a reset token: single use, 60 minutes."""

    __tablename__ = "password_resets"

    token_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    credential_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("user_credentials.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class ApiKey(Identified, Timestamps, Base):
    """An API key: its public prefix and the HMAC-SHA256 of the whole. It acts for its person, within its scopes."""

    __tablename__ = "api_keys"

    person_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), index=True)
    label: Mapped[str]
    prefix: Mapped[str]
    key_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    is_active: Mapped[bool] = mapped_column(server_default="true")
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
