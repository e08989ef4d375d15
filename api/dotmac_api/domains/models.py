"""The table of stored settings; a secret's value is `enc:` and Fernet."""

import uuid
from typing import Any

from sqlalchemy import UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from dotmac_api.database import Base, Identified, Timestamps


class DomainSetting(Identified, Timestamps, Base):
    """The value that an administrator gave to one key; without a row the default of its spec holds."""

    __tablename__ = "domain_settings"
    __table_args__ = (UniqueConstraint("domain", "key"),)

    domain: Mapped[str]
    key: Mapped[str]
    value: Mapped[Any] = mapped_column(JSONB)
    is_secret: Mapped[bool] = mapped_column(server_default="false")
    updated_by: Mapped[uuid.UUID | None]
