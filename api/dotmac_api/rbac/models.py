"""Tables of role-based access control."""

import uuid

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dotmac_api.database import Base, Identified, Timestamps


class Role(Identified, Timestamps, Base):
    __tablename__ = "roles"

    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default="true")
    builtin: Mapped[bool] = mapped_column(server_default="false")


class Permission(Identified, Timestamps, Base):
    __tablename__ = "permissions"

    key: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default="true")
    builtin: Mapped[bool] = mapped_column(server_default="false")


class RolePermission(Identified, Timestamps, Base):
    __tablename__ = "role_permissions"
    __table_args__ = (UniqueConstraint("role_id", "permission_id"),)

    role_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("roles.id", ondelete="CASCADE"))
    permission_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("permissions.id", ondelete="CASCADE"), index=True)


class PersonRole(Identified, Timestamps, Base):
    __tablename__ = "person_roles"
    __table_args__ = (UniqueConstraint("person_id", "role_id"),)

    person_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"))
    role_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("roles.id", ondelete="CASCADE"), index=True)
