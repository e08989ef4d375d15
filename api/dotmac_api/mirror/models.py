"""Tables of the mirror. Primary keys are the resources' uids, under the names the earlier platform gave them."""

import uuid
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Identity, Index, Sequence, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from dotmac_api.database import Base

CHANGES = Sequence("mirror_changes", metadata=Base.metadata)
"""Numbers every change of a row in the order of commits (there is one writer): readers resume after a number."""

Json = dict[str, Any]


class Mirrored:
    """Columns that every mirrored kind has."""

    UID: ClassVar[str]
    """Name of the primary key."""

    namespace: Mapped[str]
    name: Mapped[str]
    labels: Mapped[Json] = mapped_column(JSONB)
    annotations: Mapped[Json] = mapped_column(JSONB)
    spec: Mapped[Json] = mapped_column(JSONB)
    observed: Mapped[Json] = mapped_column(JSONB)
    """The resource's own status, whole."""
    resource_version: Mapped[int] = mapped_column(BigInteger)
    generation: Mapped[int] = mapped_column(BigInteger)
    observed_generation: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    deletion_requested_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    """Set when the resource is gone; the row stays, for those who ask what happened."""
    mirrored_at: Mapped[datetime]
    change: Mapped[int] = mapped_column(BigInteger, server_default=text("nextval('mirror_changes')"))

    @declared_attr.directive
    def __table_args__(cls) -> tuple[Index, ...]:  # noqa: N805 - SQLAlchemy hands the class in
        table = getattr(cls, "__tablename__", "")
        alive = text("deleted_at IS NULL")
        return (
            Index(f"ix_{table}_change", "change"),
            # Not unique: a list may bring the new holder of a name before the old one is known to be gone.
            Index(f"ix_{table}_alive", "namespace", "name", postgresql_where=alive),
        )


class ServerRow(Mirrored, Base):
    """A Server."""

    __tablename__ = "servers"
    UID = "server_id"

    server_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    hostname: Mapped[str]
    ssh_port: Mapped[int]
    ssh_user: Mapped[str]
    ssh_host_key_fingerprint: Mapped[str | None]
    base_domain: Mapped[str | None]
    status: Mapped[str] = mapped_column(index=True)
    """connected, unreachable or unknown."""
    last_connected: Mapped[datetime | None]


class InstanceRow(Mirrored, Base):
    """An Instance."""

    __tablename__ = "instances"
    UID = "instance_id"

    instance_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    server_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    server_name: Mapped[str | None]
    org_code: Mapped[str] = mapped_column(index=True)
    org_name: Mapped[str]
    sector_type: Mapped[str]
    framework: Mapped[str]
    currency: Mapped[str]
    domain: Mapped[str | None]
    app_url: Mapped[str | None]
    admin_email: Mapped[str]
    admin_username: Mapped[str]
    status: Mapped[str] = mapped_column(index=True)
    """provisioned, deploying, running, trial, suspended, archived, stopped or error."""
    phase: Mapped[str | None]
    plan_id: Mapped[str]
    """Name of the InstanceClass."""
    release: Mapped[str]
    """Name of the Release that is asked for."""
    deployed_release: Mapped[str | None]
    deployed_version: Mapped[str | None]


class ReleaseRow(Mirrored, Base):
    """A Release."""

    __tablename__ = "releases"
    UID = "release_id"

    release_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    version: Mapped[str]
    yanked: Mapped[bool]


class PlanRow(Mirrored, Base):
    """An InstanceClass: the earlier platform's plan."""

    __tablename__ = "plans"
    UID = "plan_uid"

    plan_uid: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    max_users: Mapped[int | None]
    max_storage: Mapped[str | None]


class OfInstance:
    """Columns of a kind whose objects belong to one Instance."""

    instance_name: Mapped[str] = mapped_column(index=True)
    instance_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    """The Instance; a later one of the same name only if it is the same tenant's. See mirror/links.py."""
    org_code: Mapped[str | None]
    """Of that Instance."""
    status: Mapped[str]
    """pending, running, completed or failed."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class BackupRow(OfInstance, Mirrored, Base):
    """A Backup."""

    __tablename__ = "backups"
    UID = "backup_id"

    backup_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    """full or db_only."""
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)


class RestoreRow(OfInstance, Mirrored, Base):
    """A Restore."""

    __tablename__ = "restores"
    UID = "restore_id"

    restore_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    backup_name: Mapped[str]
    backup_id: Mapped[uuid.UUID | None]
    """The Backup; kept when that is deleted."""


class TransitionRow(Base):
    """One thing that changed on a resource: the history that stays readable, and what webhooks are told."""

    __tablename__ = "transitions"
    __table_args__ = (Index("ix_transitions_uid_id", "uid", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    event: Mapped[str]
    """One of dotmac_api.mirror.transitions.EVENTS."""
    uid: Mapped[uuid.UUID]
    namespace: Mapped[str]
    name: Mapped[str]
    org_code: Mapped[str | None]
    subject: Mapped[str]
    """The condition's type, the step's name, the Instance of a Backup or Restore; empty for the others."""
    before: Mapped[str | None]
    after: Mapped[str | None]
    reason: Mapped[str]
    message: Mapped[str]
    generation: Mapped[int] = mapped_column(BigInteger)
    resource_version: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime]
    """When it happened, as the resource tells; seconds."""
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class CursorRow(Base):
    """How far the projector is with one collection."""

    __tablename__ = "mirror_cursors"

    path: Mapped[str] = mapped_column(primary_key=True)
    """URL path of the collection: another scope is another collection, and is listed anew."""
    resource_version: Mapped[int] = mapped_column(BigInteger)
    """Watched from here after a restart; 0: to be listed."""
    current_at: Mapped[datetime]
    """The mirror held everything that had arrived by then, over a watch that was open."""
    problem: Mapped[str | None]
    """Why it is not kept up, with the remedy."""
    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Counts the orders to rebuild, so that a running projector notices one."""


type Model = type[ServerRow] | type[InstanceRow] | type[ReleaseRow] | type[PlanRow] | type[BackupRow] | type[RestoreRow]

MODELS: dict[str, Model] = {
    "Server": ServerRow,
    "Release": ReleaseRow,
    "InstanceClass": PlanRow,
    "Instance": InstanceRow,
    "Backup": BackupRow,
    "Restore": RestoreRow,
}
