"""Instances as the mirror shows them."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.errors import NotFound
from dotmac_api.mirror.models import BackupRow, InstanceRow, RestoreRow, TransitionRow
from dotmac_api.principal import Principal
from dotmac_api.schemas import Orderable, Slice, paginate
from dotmac_api.servers.service import matches

ORDERABLE: Orderable = {
    "created_at": InstanceRow.created_at,
    "org_code": InstanceRow.org_code,
    "org_name": InstanceRow.org_name,
    "name": InstanceRow.name,
    "status": InstanceRow.status,
    "plan": InstanceRow.plan_id,
    "release": InstanceRow.release,
    "instance_id": InstanceRow.instance_id,
}

EVENT_ORDER: Orderable = {"id": TransitionRow.id}


@dataclass(frozen=True)
class InstanceFilter:
    """What a list is narrowed to."""

    status: str | None = None
    org_code: str | None = None
    server_id: uuid.UUID | None = None
    plan: str | None = None
    release: str | None = None
    sector_type: str | None = None
    search: str | None = None


def visible_instances(principal: Principal, wanted: InstanceFilter) -> Select[InstanceRow]:
    """Those that the caller may see, narrowed."""
    query = select(InstanceRow).where(InstanceRow.deleted_at.is_(None), principal.tenancy(InstanceRow.org_code))
    equal = {
        InstanceRow.status: wanted.status,
        InstanceRow.org_code: wanted.org_code,
        InstanceRow.server_id: wanted.server_id,
        InstanceRow.plan_id: wanted.plan,
        InstanceRow.release: wanted.release,
        InstanceRow.sector_type: wanted.sector_type,
    }
    query = query.where(*(column == value for column, value in equal.items() if value is not None))
    if wanted.search:
        columns = (InstanceRow.name, InstanceRow.org_code, InstanceRow.org_name, InstanceRow.domain)
        query = query.where(matches(wanted.search, *columns))
    return query


async def list_instances(
    session: AsyncSession, principal: Principal, page: Slice, wanted: InstanceFilter
) -> tuple[Sequence[InstanceRow], int]:
    return await paginate(session, visible_instances(principal, wanted), page, ORDERABLE)


async def find_instance(session: AsyncSession, principal: Principal, instance_id: uuid.UUID) -> InstanceRow:
    """Raises NotFound, also for another organisation's, and for one that is gone."""
    row = await session.scalar(
        select(InstanceRow).where(
            InstanceRow.instance_id == instance_id,
            InstanceRow.deleted_at.is_(None),
            principal.tenancy(InstanceRow.org_code),
        )
    )
    if row is None:
        raise NotFound(f"there is no instance {instance_id}")
    return row


async def list_events(
    session: AsyncSession, row: InstanceRow, page: Slice, event: str | None
) -> tuple[Sequence[TransitionRow], int]:
    """The history of one instance, of its backups and of its restores."""
    own = union_all(
        select(BackupRow.backup_id).where(BackupRow.instance_id == row.instance_id),
        select(RestoreRow.restore_id).where(RestoreRow.instance_id == row.instance_id),
    )
    # Asked before, since the index of the history serves ids, and not a join.
    uids = [row.instance_id, *await session.scalars(own)]
    query = select(TransitionRow).where(TransitionRow.uid.in_(uids))
    if event:
        query = query.where(TransitionRow.event == event)
    return await paginate(session, query, page, EVENT_ORDER)
