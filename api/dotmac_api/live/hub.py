"""Tells the streams of this process what changed in the mirror.

PostgreSQL's NOTIFY only says that something did; what it was is read by its number (`change`), so nothing is missed
while the connection was away, and a client that comes back with the last number it saw gets the rest.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.backups.schemas import BackupRead, RestoreRead
from dotmac_api.database import KEEPALIVE, Sessions
from dotmac_api.instances.schemas import InstanceRead
from dotmac_api.mirror.models import BackupRow, InstanceRow, Mirrored, RestoreRow, ServerRow
from dotmac_api.mirror.store import CHANNEL
from dotmac_api.servers.schemas import ServerRead
from dotmac_api.webhooks import outbox

log = logging.getLogger(__name__)

WAITING = 1000
"""Events that may wait for one slow client; then its stream ends, and it comes back with Last-Event-ID."""
PAGE = 500


@dataclass(frozen=True)
class Change:
    """One version of one row, encoded once for all streams."""

    number: int
    event: str
    uid: str
    org_code: str | None
    data: str
    instance: str = ""
    """Uid of the instance that it is of; empty for a server, and while that is not known."""


@dataclass(eq=False)
class Subscription:
    """One stream's queue; None in it ends the stream."""

    queue: asyncio.Queue[Change | None] = field(default_factory=lambda: asyncio.Queue(WAITING))

    def offer(self, changes: Iterable[Change]) -> bool:
        """Whether there was room for all."""
        try:
            for change in changes:
                self.queue.put_nowait(change)
        except asyncio.QueueFull:
            self.close()
            return False
        return True

    def close(self) -> None:
        while self.queue.full():
            self.queue.get_nowait()
        self.queue.put_nowait(None)


class Hub:
    """`run` never returns. Streams come by `subscribe` and go by `leave`."""

    def __init__(self, sessions: Sessions, conninfo: str, on_webhooks: Callable[[], None]) -> None:
        self._sessions = sessions
        self._conninfo = make_conninfo(conninfo, **KEEPALIVE)
        self._on_webhooks = on_webhooks
        self._subscriptions: set[Subscription] = set()
        self._last: int | None = None

    def subscribe(self) -> Subscription:
        """From now on every change is offered to it."""
        made = Subscription()
        self._subscriptions.add(made)
        return made

    def leave(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    async def run(self) -> None:
        """Listens; after a loss of the connection catches up."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}; LISTEN {outbox.CHANNEL}".encode())
                    await self._catch_up()
                    async for note in connection.notifies():
                        if note.channel == CHANNEL:
                            await self._catch_up()
                        else:
                            self._on_webhooks()
            except (psycopg.Error, SQLAlchemyError, OSError) as failure:
                log.warning("live streams wait for the database: %s", type(failure).__name__)
            await asyncio.sleep(random.uniform(0.2, 1.0))  # noqa: S311 - jitter

    async def _catch_up(self) -> None:
        async with self._sessions() as session:
            if self._last is None or not self._subscriptions:
                self._last = await newest(session)
                return
            while True:
                changes = await changes_after(session, self._last)
                for subscription in list(self._subscriptions):
                    if not subscription.offer(changes):
                        self.leave(subscription)
                self._last = max([self._last, *(change.number for change in changes)])
                if len(changes) < PAGE:
                    return


async def newest(session: AsyncSession) -> int:
    """The number of the newest change."""
    return max((await _newest(session)).values())


async def changes_after(session: AsyncSession, number: int) -> Sequence[Change]:
    """Rows as they are now that changed after `number`, oldest change first, a page at most."""
    numbers = await _newest(session)
    made: list[Change] = []
    for model, last in numbers.items():
        if last > number:
            # What is committed while this asks one kind after the other is for the next time: all kinds of it.
            new = model.change > number, model.change <= max(numbers.values())
            rows = await session.scalars(select(model).where(*new).order_by(model.change).limit(PAGE))
            made += [_TOLD[model](row) for row in rows]
    return sorted(made, key=lambda change: change.number)[:PAGE]


async def _newest(session: AsyncSession) -> dict[Any, int]:
    """Of each kind, asked in one trip: mostly only one of them has changed."""
    numbers = (select(func.coalesce(func.max(model.change), 0)).scalar_subquery() for model in _TOLD)
    return dict(zip(_TOLD, (await session.execute(select(*numbers))).one(), strict=True))


def of_instance(row: InstanceRow) -> Change:
    uid = str(row.instance_id)
    return Change(row.change, _event("instance", row), uid, row.org_code, InstanceRead.of(row).model_dump_json(), uid)


def of_server(row: ServerRow) -> Change:
    return Change(row.change, _event("server", row), str(row.server_id), None, ServerRead.of(row).model_dump_json())


def of_backup(row: BackupRow) -> Change:
    data = BackupRead.of(row).model_dump_json()
    return Change(row.change, _event("backup", row), str(row.backup_id), row.org_code, data, _owner(row))


def of_restore(row: RestoreRow) -> Change:
    data = RestoreRead.of(row).model_dump_json()
    return Change(row.change, _event("restore", row), str(row.restore_id), row.org_code, data, _owner(row))


def _owner(row: BackupRow | RestoreRow) -> str:
    return str(row.instance_id) if row.instance_id else ""


def _event(noun: str, row: Mirrored) -> str:
    return noun if row.deleted_at is None else f"{noun}.deleted"


_TOLD: dict[Any, Callable[[Any], Change]] = {
    InstanceRow: of_instance,
    ServerRow: of_server,
    BackupRow: of_backup,
    RestoreRow: of_restore,
}
"""The kinds whose changes are told."""
