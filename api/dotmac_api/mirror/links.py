"""Rows that name others: which row that is. Either of the two may be mirrored first.

An Instance names its Server, and moves. A Restore is for one Instance and from one Backup: once found, that stays. A
Backup is one tenant's, and goes over to an Instance that was made anew for the same tenant.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import TEXT, ColumnElement, and_, cast, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from dotmac_api.mirror.models import CHANGES, BackupRow, InstanceRow, RestoreRow, ServerRow
from dotmac_api.mirror.projection import Row

_NOTED = ("instanceUid", "volume")
"""Fields of a Backup's status that tell whose it is."""

type Owned = type[BackupRow] | type[RestoreRow]


def moved(old: Mapping[str, Any] | None, row: Row) -> bool:
    """Whether what the row names, or what names it, may be another one with this version."""
    if old is None or old["deleted_at"] != row["deleted_at"]:
        return True
    if "server_name" in row:
        return bool(old["server_name"] != row["server_name"] or old.get("server_id") is None)
    if "instance_name" in row:
        unknown = old.get("instance_id") is None or old.get("backup_id", ...) is None
        return unknown or any(old["observed"].get(name) != row["observed"].get(name) for name in _NOTED)
    return False


async def link(connection: AsyncConnection, kind: str, rows: Sequence[Row]) -> None:
    """Completes the rows of `kind` that were just written, and those that name them."""
    if not rows:
        return
    names = [(row["namespace"], row["name"]) for row in rows]
    if kind == "Server":
        await _servers(connection, tuple_(InstanceRow.namespace, InstanceRow.server_name).in_(names))
    elif kind == "Instance":
        await _servers(connection, InstanceRow.instance_id.in_([row["instance_id"] for row in rows]))
        for model in (BackupRow, RestoreRow):
            await _owners(connection, model, tuple_(model.namespace, model.instance_name).in_(names))
    elif kind == "Backup":
        await _owners(connection, BackupRow, BackupRow.backup_id.in_([row["backup_id"] for row in rows]))
        await _sources(connection, tuple_(RestoreRow.namespace, RestoreRow.backup_name).in_(names))
    elif kind == "Restore":
        touched = RestoreRow.restore_id.in_([row["restore_id"] for row in rows])
        await _owners(connection, RestoreRow, touched)
        await _sources(connection, touched)


async def _servers(connection: AsyncConnection, touched: ColumnElement[bool]) -> None:
    server = (
        select(ServerRow.server_id)
        .where(
            ServerRow.deleted_at.is_(None),
            ServerRow.namespace == InstanceRow.namespace,
            ServerRow.name == InstanceRow.server_name,
        )
        .order_by(ServerRow.created_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    await connection.execute(
        update(InstanceRow)
        .where(touched, InstanceRow.deleted_at.is_(None), InstanceRow.server_id.is_distinct_from(server))
        .values(server_id=server, change=CHANGES.next_value())
    )


async def _owners(connection: AsyncConnection, model: Owned, touched: ColumnElement[bool]) -> None:
    """The Instance of the name, if it is the tenant's: of a Backup, the operator notes whose it is once it works on it.

    Before, and of a Restore, the name counts once, and only for an Instance that is as old as what names it.
    """
    uid, volume = (model.observed[name].as_string() for name in _NOTED)
    the_same = or_(
        cast(InstanceRow.instance_id, TEXT) == uid,
        # The volume of a tenant's backups, as the operator names it; it may outlive its Instance.
        func.concat("dotmac-", func.lower(InstanceRow.org_code), "-backups") == volume,
        and_(uid.is_(None), model.instance_id.is_(None), InstanceRow.created_at <= model.created_at),
    )
    await connection.execute(
        update(model)
        .where(
            touched,
            InstanceRow.deleted_at.is_(None),
            InstanceRow.namespace == model.namespace,
            InstanceRow.name == model.instance_name,
            model.instance_id.is_distinct_from(InstanceRow.instance_id),
            the_same,
        )
        .values(instance_id=InstanceRow.instance_id, org_code=InstanceRow.org_code, change=CHANGES.next_value())
    )


async def _sources(connection: AsyncConnection, touched: ColumnElement[bool]) -> None:
    source = (
        BackupRow.deleted_at.is_(None),
        BackupRow.namespace == RestoreRow.namespace,
        BackupRow.name == RestoreRow.backup_name,
        BackupRow.created_at <= RestoreRow.created_at,
    )
    await connection.execute(
        update(RestoreRow)
        .where(touched, RestoreRow.backup_id.is_(None), *source)
        .values(backup_id=BackupRow.backup_id, change=CHANGES.next_value())
    )
