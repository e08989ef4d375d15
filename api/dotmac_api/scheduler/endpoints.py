"""/scheduler/tasks."""

import uuid
from typing import Annotated

from fastapi import APIRouter, status

from dotmac_api.access import require
from dotmac_api.audit.trail import Note
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.etag import ShownDep, VersionsDep
from dotmac_api.principal import Principal
from dotmac_api.scheduler import service
from dotmac_api.scheduler.schemas import TaskRead, TaskUpdate
from dotmac_api.schemas import ListSlice, Page, page_of

router = APIRouter(prefix="/scheduler/tasks", tags=["scheduler"])

Reader = Annotated[Principal, require("scheduler:read")]
Writer = Annotated[Principal, require("scheduler:write", admin=True)]


@router.get("")
async def list_tasks(
    principal: Reader, session: DatabaseSession, page: ListSlice, enabled: bool | None = None
) -> Page[TaskRead]:
    return page_of(await service.list_tasks(session, page, enabled=enabled), page, TaskRead.model_validate)


@router.get("/{task_id}")
async def get_task(principal: Reader, session: DatabaseSession, shown: ShownDep, task_id: uuid.UUID) -> TaskRead:
    return shown.show(await service.get_task(session, task_id), TaskRead.model_validate)


@router.patch("/{task_id}")
async def update_task(
    principal: Writer,
    session: DatabaseSession,
    note: Note,
    versions: VersionsDep,
    task_id: uuid.UUID,
    body: TaskUpdate,
) -> TaskRead:
    principal.require_unlimited()
    task = await versions.check(await service.get_task(session, task_id))
    before = {"enabled": task.enabled, "interval_seconds": task.interval_seconds}
    await service.update_task(session, task, body)
    note.change(before, {"enabled": task.enabled, "interval_seconds": task.interval_seconds})
    return versions.show(task, TaskRead.model_validate)


@router.post("/{task_id}/enqueue", status_code=status.HTTP_202_ACCEPTED)
async def enqueue(principal: Writer, session: DatabaseSession, facade: FacadeDep, task_id: uuid.UUID) -> TaskRead:
    """Make a task due now; it runs once, on some replica."""
    principal.require_unlimited()
    task = await service.get_task(session, task_id)
    await service.enqueue(facade, session, task)
    return TaskRead.model_validate(task)
