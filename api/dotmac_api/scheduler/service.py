"""Scheduled tasks: seeing, changing, starting."""

import uuid
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.database import after_commit
from dotmac_api.errors import Conflict, NotFound
from dotmac_api.facade import Facade
from dotmac_api.scheduler.models import ScheduledTask
from dotmac_api.scheduler.schemas import TaskUpdate
from dotmac_api.schemas import Orderable, Slice, paginate

ORDERABLE: Orderable = {
    "name": ScheduledTask.name,
    "due_at": ScheduledTask.due_at,
    "last_started_at": ScheduledTask.last_started_at,
    "id": ScheduledTask.id,
}


async def list_tasks(
    session: AsyncSession, page: Slice, *, enabled: bool | None
) -> tuple[Sequence[ScheduledTask], int]:
    query = select(ScheduledTask)
    if enabled is not None:
        query = query.where(ScheduledTask.enabled.is_(enabled))
    return await paginate(session, query, page, ORDERABLE)


async def get_task(session: AsyncSession, task_id: uuid.UUID) -> ScheduledTask:
    """Raises NotFound."""
    task = await session.get(ScheduledTask, task_id)
    if task is None:
        raise NotFound(f"there is no scheduled task {task_id}")
    return task


async def update_task(session: AsyncSession, task: ScheduledTask, body: TaskUpdate) -> None:
    """Enable, disable, or change the interval; a shorter one brings the next run forward."""
    for name, value in body.model_dump(exclude_unset=True).items():
        setattr(task, name, value)
    if "interval_seconds" in body.model_fields_set:
        soonest = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, body.interval_seconds)
        task.due_at = await session.scalar(select(func.least(task.due_at, soonest))) or task.due_at
    await session.flush()
    await session.refresh(task)


async def enqueue(facade: Facade, session: AsyncSession, task: ScheduledTask) -> None:
    """Make a task due now; some replica takes it within a few seconds. Raises Conflict for a disabled one."""
    if not task.enabled:
        raise Conflict("the task is disabled; enable it first", code="task_disabled")
    task.due_at = await session.scalar(select(func.now())) or task.due_at

    async def wake() -> None:
        facade.wake_scheduler.set()

    after_commit(session, wake)
    await session.flush()
    await session.refresh(task)
