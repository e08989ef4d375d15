"""/instances/{id}/backups and /instances/{id}/restores."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Response, status

from dotmac_api.audit.trail import Note
from dotmac_api.backups import service
from dotmac_api.backups.schemas import BackupCreate, BackupRead, BackupType, RestoreRead, WorkWord
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.etag import etag_of, set_etag
from dotmac_api.instances.writing import Write, reading, writing
from dotmac_api.mirror.models import InstanceRow
from dotmac_api.schemas import ListSlice, Page, page_of

router = APIRouter(prefix="/instances", tags=["backups"])

Readable = Annotated[InstanceRow, reading("backups:read")]
Writing = Annotated[Write, writing("backups:write")]
Deleting = Annotated[Write, writing("backups:delete", admin=True)]


@router.get("/{instance_id}/backups")
async def list_backups(
    row: Readable,
    session: DatabaseSession,
    page: ListSlice,
    status: WorkWord | None = None,
    type: BackupType | None = None,
) -> Page[BackupRead]:
    """Newest first unless asked otherwise."""
    found = await service.list_backups(session, row, page, service.BackupFilter(status, type))
    return page_of(found, page, BackupRead.of)


@router.post("/{instance_id}/backups", status_code=status.HTTP_202_ACCEPTED)
async def create_backup(
    write: Writing, facade: FacadeDep, note: Note, response: Response, body: BackupCreate | None = None
) -> BackupRead:
    """Accepted by Kubernetes; the operator then makes it. It has ended when `status` is completed or failed."""
    write.writer.check_version(write.row)
    wanted = (body or BackupCreate()).type
    made = await service.create_backup(facade.fleet.gateway, write.row, wanted, write.writer.intent)
    note.on("backups", made.backup_id, write.row.org_code)
    set_etag(response, etag_of(made.resource_version))
    return BackupRead.of(made)


@router.get("/{instance_id}/backups/{backup_id}")
async def get_backup(row: Readable, session: DatabaseSession, backup_id: uuid.UUID, response: Response) -> BackupRead:
    found = await service.find_backup(session, row, backup_id)
    set_etag(response, etag_of(found.resource_version))
    return BackupRead.of(found)


@router.delete("/{instance_id}/backups/{backup_id}", status_code=status.HTTP_202_ACCEPTED)
async def delete_backup(
    write: Deleting,
    session: DatabaseSession,
    facade: FacadeDep,
    note: Note,
    backup_id: uuid.UUID,
    response: Response,
) -> BackupRead:
    """The operator removes its files from the server, then it is gone. If-Match names a version of the backup."""
    found = await service.find_backup(session, write.row, backup_id)
    note.on("backups", backup_id, write.row.org_code)
    gone = await service.delete_backup(session, facade.fleet.gateway, found, write.writer.intent)
    set_etag(response, etag_of(gone.resource_version))
    return BackupRead.of(gone)


@router.post("/{instance_id}/backups/{backup_id}/restore", status_code=status.HTTP_202_ACCEPTED)
async def restore_backup(
    write: Writing, session: DatabaseSession, facade: FacadeDep, note: Note, backup_id: uuid.UUID, response: Response
) -> RestoreRead:
    """Gives the instance its data of then back; what was written since is lost.

    Follow it at /instances/{id}/restores/{restore_id}: it has ended when `status` is completed or failed. If-Match
    names a version of the instance.
    """
    write.writer.check_version(write.row)
    backup = await service.find_backup(session, write.row, backup_id)
    note.on("backups", backup_id, write.row.org_code)
    made = await service.restore(session, facade.fleet.gateway, write.row, backup, write.writer.intent)
    note.details["restore_id"] = str(made.restore_id)
    set_etag(response, etag_of(made.resource_version))
    return RestoreRead.of(made)


@router.get("/{instance_id}/restores")
async def list_restores(
    row: Readable, session: DatabaseSession, page: ListSlice, status: WorkWord | None = None
) -> Page[RestoreRead]:
    """Newest first unless asked otherwise."""
    return page_of(await service.list_restores(session, row, page, status), page, RestoreRead.of)


@router.get("/{instance_id}/restores/{restore_id}")
async def get_restore(
    row: Readable, session: DatabaseSession, restore_id: uuid.UUID, response: Response
) -> RestoreRead:
    found = await service.find_restore(session, row, restore_id)
    set_etag(response, etag_of(found.resource_version))
    return RestoreRead.of(found)


@router.delete("/{instance_id}/restores/{restore_id}", status_code=status.HTTP_202_ACCEPTED)
async def delete_restore(
    write: Deleting, session: DatabaseSession, facade: FacadeDep, note: Note, restore_id: uuid.UUID, response: Response
) -> RestoreRead:
    """Gives up one that waits. One that runs comes to its end first: half of the data would be in place."""
    found = await service.find_restore(session, write.row, restore_id)
    note.on("restores", restore_id, write.row.org_code)
    gone = await service.delete_restore(facade.fleet.gateway, found, write.writer.intent)
    set_etag(response, etag_of(gone.resource_version))
    return RestoreRead.of(gone)
