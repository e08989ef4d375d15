"""Backups and restores of one instance: reads from the mirror, writes to Kubernetes."""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.backups.schemas import FIELD_NAMES, SPEC_TYPES, BackupType
from dotmac_api.errors import Conflict, NotFound
from dotmac_api.gateway.client import Object
from dotmac_api.gateway.edge import refusals
from dotmac_api.gateway.writes import Gateway, Intent, New, Target
from dotmac_api.mirror.models import BackupRow, InstanceRow, RestoreRow
from dotmac_api.mirror.projection import project
from dotmac_api.schemas import Orderable, Slice, paginate
from dotmac_crds.kinds import BACKUP, RESTORE

BACKUP_ORDER: Orderable = {
    "created_at": BackupRow.created_at,
    "finished_at": BackupRow.finished_at,
    "status": BackupRow.status,
    "type": BackupRow.type,
    "size_bytes": BackupRow.size_bytes,
    "name": BackupRow.name,
    "backup_id": BackupRow.backup_id,
}
RESTORE_ORDER: Orderable = {
    "created_at": RestoreRow.created_at,
    "finished_at": RestoreRow.finished_at,
    "status": RestoreRow.status,
    "name": RestoreRow.name,
    "restore_id": RestoreRow.restore_id,
}
NAME_BASE = 200
"""Characters of the Instance's name that a name begins with; 253 are allowed."""


@dataclass(frozen=True)
class BackupFilter:
    """What a list is narrowed to."""

    status: str | None = None
    type: str | None = None


def _of[Row: (BackupRow, RestoreRow)](instance: InstanceRow, kind: type[Row]) -> Select[Row]:
    return select(kind).where(kind.instance_id == instance.instance_id, kind.deleted_at.is_(None))


async def list_backups(
    session: AsyncSession, instance: InstanceRow, page: Slice, wanted: BackupFilter
) -> tuple[Sequence[BackupRow], int]:
    """Of an instance that the caller may see."""
    query = _of(instance, BackupRow)
    if wanted.status is not None:
        query = query.where(BackupRow.status == wanted.status)
    if wanted.type is not None:
        query = query.where(BackupRow.type == wanted.type)
    return await paginate(session, query, page, BACKUP_ORDER)


async def find_backup(session: AsyncSession, instance: InstanceRow, backup_id: uuid.UUID) -> BackupRow:
    """Raises NotFound, also for another instance's."""
    row = await session.scalar(_of(instance, BackupRow).where(BackupRow.backup_id == backup_id))
    if row is None:
        raise NotFound(f"the instance has no backup {backup_id}")
    return row


async def list_restores(
    session: AsyncSession, instance: InstanceRow, page: Slice, status: str | None
) -> tuple[Sequence[RestoreRow], int]:
    """Of an instance that the caller may see."""
    query = _of(instance, RestoreRow)
    if status is not None:
        query = query.where(RestoreRow.status == status)
    return await paginate(session, query, page, RESTORE_ORDER)


async def find_restore(session: AsyncSession, instance: InstanceRow, restore_id: uuid.UUID) -> RestoreRow:
    """Raises NotFound, also for another instance's."""
    row = await session.scalar(_of(instance, RestoreRow).where(RestoreRow.restore_id == restore_id))
    if row is None:
        raise NotFound(f"the instance has no restore {restore_id}")
    return row


async def create_backup(gateway: Gateway, instance: InstanceRow, type_: BackupType, intent: Intent) -> BackupRow:
    """Raises Conflict for an instance that is being deleted."""
    _check_alive(instance)
    spec = {"instanceRef": {"name": instance.name}, "type": SPEC_TYPES[type_]}
    made = await _create(gateway, Target(BACKUP, _name(instance, "backup"), instance.namespace), spec, intent)
    return BackupRow(**project(made), instance_id=instance.instance_id)


async def delete_backup(session: AsyncSession, gateway: Gateway, row: BackupRow, intent: Intent) -> BackupRow:
    """Raises Conflict while an instance is restored from it."""
    if await _restoring(session, RestoreRow.backup_id == row.backup_id):
        raise Conflict("an instance is restored from it just now; wait for its end", code="restore_running")
    gone = await _delete(gateway, Target(BACKUP, row.name, row.namespace, str(row.backup_id)), intent)
    return BackupRow(**project(gone), instance_id=row.instance_id)


async def restore(
    session: AsyncSession, gateway: Gateway, instance: InstanceRow, backup: BackupRow, intent: Intent
) -> RestoreRow:
    """Raises Conflict for a backup that is not complete or goes away, and while another restore runs."""
    _check_alive(instance)
    if backup.status != "completed":
        raise Conflict(f"the backup is {backup.status}; only a completed one can be restored", code="not_completed")
    if backup.deletion_requested_at is not None:
        raise Conflict("the backup is being deleted; choose another one", code="being_deleted")
    if await _restoring(session, RestoreRow.instance_id == instance.instance_id):
        text = "another restore of the instance has not ended: see GET .../restores; one that waits can be deleted"
        raise Conflict(text, code="restore_running")
    spec = {"instanceRef": {"name": instance.name}, "backupRef": {"name": backup.name}}
    made = await _create(gateway, Target(RESTORE, _name(instance, "restore"), instance.namespace), spec, intent)
    return RestoreRow(**project(made), instance_id=instance.instance_id, backup_id=backup.backup_id)


async def delete_restore(gateway: Gateway, row: RestoreRow, intent: Intent) -> RestoreRow:
    """One that waits is given up; the operator brings one that runs to its end first."""
    gone = await _delete(gateway, Target(RESTORE, row.name, row.namespace, str(row.restore_id)), intent)
    return RestoreRow(**project(gone), instance_id=row.instance_id, backup_id=row.backup_id)


async def _delete(gateway: Gateway, target: Target, intent: Intent) -> Object:
    with refusals(FIELD_NAMES, intent):
        return {**await gateway.delete(target, intent), "kind": target.kind.name}


async def _create(gateway: Gateway, target: Target, spec: dict[str, Any], intent: Intent) -> Object:
    # Other kinds' names are locked against a second creation; nobody else has this one.
    with refusals(FIELD_NAMES, intent):
        return {**await gateway.create(target, New(spec), intent), "kind": target.kind.name}


async def _restoring(session: AsyncSession, which: ColumnElement[bool]) -> bool:
    unfinished = RestoreRow.status.in_(("pending", "running"))
    return bool(await session.scalar(select(exists().where(which, unfinished, RestoreRow.deleted_at.is_(None)))))


def _check_alive(instance: InstanceRow) -> None:
    if instance.deletion_requested_at is not None:
        raise Conflict("the instance is being deleted", code="being_deleted")


def _name(instance: InstanceRow, noun: str) -> str:
    """Sorts by time, and is nobody else's."""
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{instance.name[:NAME_BASE].rstrip('.-')}-{noun}-{moment}-{secrets.token_hex(3)}"
