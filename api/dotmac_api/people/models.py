"""The table of people; its key is `id`, as in the earlier platform."""

from enum import StrEnum

from sqlalchemy import CheckConstraint, Index, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from dotmac_api.database import Base, Identified, Timestamps


class PersonStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"
    ARCHIVED = "archived"


class Person(Identified, Timestamps, Base):
    """A person. `organisations` None means every organisation; a list, even an empty one, means only those."""

    __tablename__ = "people"
    __table_args__ = (
        Index("uq_people_email", text("lower(email)"), unique=True),
        CheckConstraint("status IN ('active', 'inactive', 'archived')", name="status"),
    )

    first_name: Mapped[str]
    last_name: Mapped[str]
    display_name: Mapped[str | None]
    email: Mapped[str]
    phone: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default=PersonStatus.ACTIVE)
    organisations: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    notes: Mapped[str | None]
