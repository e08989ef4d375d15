"""Runs due tasks, each on one replica at a time: a PostgreSQL advisory lock is held for as long as a task runs.

A replica that dies loses its connection and with it the lock; the task's due time moved when the run began, so the
run is not repeated at once but at its next turn.
"""

import asyncio
import contextlib
import logging
import random
import zlib
from datetime import timedelta

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dotmac_api import context
from dotmac_api.facade import Facade
from dotmac_api.scheduler.models import ScheduledTask
from dotmac_api.scheduler.registry import TASKS, TaskSpec

log = logging.getLogger(__name__)

TICK_SECONDS = 5.0
# Each running task holds a connection of the side pool.
AT_ONCE = 5
# The first half of the advisory lock key; the second is the task.
LOCK_CLASS = 0x646D7363


async def register(facade: Facade, tasks: tuple[TaskSpec, ...] = TASKS) -> None:
    """Add the rows of tasks that have none; what administrators changed stays. First runs are spread over 60 s."""
    rows = [
        {
            "name": spec.name,
            "description": spec.description,
            "interval_seconds": spec.interval_seconds,
            "due_at": func.now() + timedelta(seconds=random.uniform(5, 60)),  # noqa: S311 - jitter
        }
        for spec in tasks
    ]
    async with facade.sessions.begin() as session:
        for row in rows:
            await session.execute(insert(ScheduledTask).values(row).on_conflict_do_nothing())


class Scheduler:
    """The loop of one replica."""

    def __init__(self, facade: Facade, tasks: tuple[TaskSpec, ...] = TASKS) -> None:
        self._facade = facade
        self._tasks = {spec.name: spec for spec in tasks}
        self._running: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Until cancelled. A database that is away is waited for."""
        registered = False
        try:
            while True:
                try:
                    if not registered:
                        await register(self._facade, tuple(self._tasks.values()))
                        registered = True
                    if await self._facade.domains.boolean("scheduler", "enabled"):
                        await self.tick()
                except (SQLAlchemyError, OSError) as error:
                    log.warning("the scheduler waits for the database: %s", type(error).__name__)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_SECONDS * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
                        await self._facade.wake_scheduler.wait()
                self._facade.wake_scheduler.clear()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def tick(self) -> None:
        """Start each task that is due, in the background; a slow one delays no other."""
        async with self._facade.sessions() as session:
            due = await session.scalars(
                select(ScheduledTask.name).where(ScheduledTask.enabled, ScheduledTask.due_at <= func.now())
            )
            names = [name for name in due if name in self._tasks]
        for name in names:
            task = asyncio.create_task(self.run_if_due(self._tasks[name]), name=f"task {name}")
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def run_if_due(self, spec: TaskSpec) -> None:
        """Run a task unless another replica does, or did since it was found due."""
        context.request_id.set(f"task-{spec.name}")
        lock = {"class": LOCK_CLASS, "task": zlib.crc32(spec.name.encode()) - 2**31}
        try:
            # On the side pool: the lock's connection is held for the whole run, and must not starve requests.
            async with self._slots, self._facade.side_engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                if not await connection.scalar(text("SELECT pg_try_advisory_lock(:class, :task)"), lock):
                    return
                try:
                    if await self._begin(spec):
                        await self._run(spec)
                finally:
                    await connection.execute(text("SELECT pg_advisory_unlock(:class, :task)"), lock)
        except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
            log.warning("task %s: the database went away: %s", spec.name, type(error).__name__)
        except Exception:
            log.exception("task %s could not be recorded", spec.name)

    async def _begin(self, spec: TaskSpec) -> bool:
        async with self._facade.sessions.begin() as session:
            begun = await session.scalar(
                update(ScheduledTask)
                .where(ScheduledTask.name == spec.name, ScheduledTask.enabled, ScheduledTask.due_at <= func.now())
                .values(
                    due_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, ScheduledTask.interval_seconds),
                    last_started_at=func.now(),
                    last_finished_at=None,
                    last_status="running",
                    last_message=None,
                    runs=ScheduledTask.runs + 1,
                )
                .returning(ScheduledTask.id)
            )
        return begun is not None

    async def _run(self, spec: TaskSpec) -> None:
        status, message = "success", ""
        try:
            message = await spec.run(self._facade)
        except asyncio.CancelledError:
            await self._end(spec, "failed", "stopped: the process was shutting down")
            raise
        except Exception as error:
            # The text of an error may hold data, so the row gets its type and the log the rest.
            log.exception("task %s failed", spec.name)
            status, message = "failed", type(error).__name__
        await self._end(spec, status, message)

    async def _end(self, spec: TaskSpec, status: str, message: str) -> None:
        async with self._facade.sessions.begin() as session:
            await session.execute(
                update(ScheduledTask)
                .where(ScheduledTask.name == spec.name)
                .values(
                    last_finished_at=func.clock_timestamp(),
                    last_status=status,
                    last_message=message[:500],
                    failures=ScheduledTask.failures + int(status == "failed"),
                )
            )
