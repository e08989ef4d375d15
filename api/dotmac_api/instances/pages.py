"""Pages of instances as JSON. A version of an instance is encoded once; the next request for it takes the bytes."""

import uuid
from collections import OrderedDict
from collections.abc import Sequence

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.errors import Invalid
from dotmac_api.instances.schemas import InstanceRead
from dotmac_api.mirror.models import InstanceRow
from dotmac_api.schemas import Orderable, Slice

KEPT = 10_000
"""Versions; at about 3 KB each, 30 MB."""

type Key = tuple[uuid.UUID, int]


class EncodedInstances:
    """The least recently shown versions are dropped first. One for a process; safe within one event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, bytes] = OrderedDict()

    async def page(self, session: AsyncSession, query: Select[InstanceRow], page: Slice, orderable: Orderable) -> bytes:
        """The body of a list's answer. Raises Invalid for an unknown `order_by`."""
        column = orderable.get(page.order_by or next(iter(orderable)))
        if column is None:
            raise Invalid.field("query.order_by", f"must be one of {', '.join(orderable)}")
        order = [
            c.asc() if page.order_dir == "asc" else c.desc() for c in dict.fromkeys([column, InstanceRow.instance_id])
        ]
        keys = query.with_only_columns(InstanceRow.instance_id, InstanceRow.change, func.count().over())
        found = (await session.execute(keys.order_by(*order).offset(page.offset).limit(page.limit))).all()
        total = found[0][2] if found else 0
        if not found and page.offset:
            total = await session.scalar(query.with_only_columns(func.count())) or 0
        items = await self._encoded(session, [(uid, change) for uid, change, _ in found])
        tail = f'],"count":{total},"limit":{page.limit},"offset":{page.offset}}}'
        return b'{"items":[' + b",".join(items) + tail.encode()

    async def _encoded(self, session: AsyncSession, keys: Sequence[Key]) -> list[bytes]:
        made: dict[uuid.UUID, bytes] = {}
        for key in keys:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                made[key[0]] = kept
        missing = [uid for uid, _ in keys if uid not in made]
        if missing:
            rows = await session.scalars(select(InstanceRow).where(InstanceRow.instance_id.in_(missing)))
            for row in rows:
                # It may be a later version by now; then it is kept as what it is.
                made[row.instance_id] = InstanceRead.of(row).model_dump_json().encode()
                self._kept[row.instance_id, row.change] = made[row.instance_id]
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return [made[uid] for uid, _ in keys if uid in made]
