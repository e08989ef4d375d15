"""Pages of instances as JSON, made once for each state of the mirror.

Every change of a row has a number (`change`), and the newest one says whether a page that was made earlier still holds.
It is asked for on behalf of each request, after the request came in, so that no answer is older than its question; what
waits at the same time shares one question.
"""

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.batch import Batch
from dotmac_api.database import Sessions
from dotmac_api.instances.schemas import InstanceRead
from dotmac_api.mirror.models import InstanceRow
from dotmac_api.schemas import Orderable, Slice, unknown_order

KEPT_PAGES = 512
KEPT_ROWS = 10_000
"""Encoded versions of instances; at about 3 KB each, 30 MB. A page of 25 is about 75 KB."""

type RowKey = tuple[uuid.UUID, int]


class InstancePages:
    """The least recently shown pages and versions are dropped first. One for a process, safe within one event loop."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._newest = Batch(self._ask_newest)
        self._seen = 0
        self._pages: OrderedDict[Hashable, tuple[int, asyncio.Task[bytes]]] = OrderedDict()
        self._rows: OrderedDict[RowKey, bytes] = OrderedDict()

    async def page(
        self, subject: Hashable, query: Callable[[], Select[InstanceRow]], page: Slice, orderable: Orderable
    ) -> bytes:
        """The body of a list's answer. `subject` names what `query` selects: who asks, and for what.

        Raises Invalid for an unknown `order_by`.
        """
        column = orderable.get(page.order_by or next(iter(orderable)))
        if column is None:
            raise unknown_order(orderable)
        newest = await self._newest.ask(None)
        key = (subject, column.key, page.order_dir, page.offset, page.limit)
        kept = self._pages.get(key)
        if kept is None or kept[0] != newest or _failed(kept[1]):
            down = page.order_dir != "asc"
            columns = dict.fromkeys([column, InstanceRow.instance_id])
            ordered = query().order_by(*(c.desc() if down else c.asc() for c in columns))
            # A page may hold later changes than its number says; then the next request makes it anew.
            kept = self._pages[key] = newest, asyncio.create_task(self._make(ordered, page))
            if len(self._pages) > KEPT_PAGES:
                self._pages.popitem(last=False)
        self._pages.move_to_end(key)
        return await asyncio.shield(kept[1])

    async def _ask_newest(self, questions: list[None]) -> list[int]:
        async with self._sessions() as session:
            newest = await session.scalar(select(func.max(InstanceRow.change))) or 0
        if newest < self._seen:
            # Numbers only grow, unless the database was set back: then one may come again for something else.
            self._pages.clear()
            self._rows.clear()
        self._seen = newest
        return [newest] * len(questions)

    async def _make(self, query: Select[InstanceRow], page: Slice) -> bytes:
        keys = query.with_only_columns(InstanceRow.instance_id, InstanceRow.change, func.count().over())
        async with self._sessions() as session:
            found = (await session.execute(keys.offset(page.offset).limit(page.limit))).all()
            total = found[0][2] if found else 0
            if not found and page.offset:
                total = await session.scalar(query.order_by(None).with_only_columns(func.count())) or 0
            items = await self._encoded(session, [(uid, change) for uid, change, _ in found])
        tail = f'],"count":{total},"limit":{page.limit},"offset":{page.offset}}}'
        return b'{"items":[' + b",".join(items) + tail.encode()

    async def _encoded(self, session: AsyncSession, keys: Sequence[RowKey]) -> list[bytes]:
        made: dict[uuid.UUID, bytes] = {}
        for key in keys:
            if (kept := self._rows.get(key)) is not None:
                self._rows.move_to_end(key)
                made[key[0]] = kept
        missing = [uid for uid, _ in keys if uid not in made]
        if missing:
            rows = await session.scalars(select(InstanceRow).where(InstanceRow.instance_id.in_(missing)))
            for row in rows:
                # It may be a later version by now; then it is kept as what it is.
                made[row.instance_id] = InstanceRead.of(row).model_dump_json().encode()
                self._rows[row.instance_id, row.change] = made[row.instance_id]
        while len(self._rows) > KEPT_ROWS:
            self._rows.popitem(last=False)
        return [made[uid] for uid, _ in keys if uid in made]


def _failed(task: asyncio.Task[bytes]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
