"""The store: every object in memory as JSON bytes, every write in the log before anybody hears of it.

Writes are made on the event loop without awaiting, so a read-modify-write there is atomic. They share transactions:
while one commits, the next gather (group commit). Until its transaction is on disk, a write is neither acknowledged nor
shown to a watcher, and reads that saw it wait: a crash can then take back nothing that anyone was told.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from dotmac_local.storage.log import Batch, Log, Row

log = logging.getLogger("dotmac_local")

Key = tuple[str, str]
"""Namespace ("" for cluster-scoped objects) and name."""


_NONE: dict[str, str] = {}


class TooOld(Exception):
    """The history from the asked resourceVersion on is compacted away: list again (410 Expired)."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {asked} ({oldest})")


class StorageFailed(Exception):
    """The log could not be written; nothing is accepted any more, as memory and disk differ now."""


@dataclass(frozen=True)
class HistoryLimits:
    """How much history is kept for watches that resume. Beyond it, the oldest tenth is compacted.

    revisions: number of writes. size: bytes of JSON.
    """

    revisions: int = 10_000
    size: int = 40 * 2**20


@dataclass(slots=True, eq=False)
class Revision:
    """One object at one resourceVersion. `data` is its JSON, without `previous` when that is compacted."""

    rv: int
    storage: str
    namespace: str
    name: str
    deleted: bool
    tag: str
    data: bytes
    previous: Revision | None = None
    created: bool = False
    _labels: dict[str, str] | None = None

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)

    @property
    def live(self) -> Revision | None:
        """What the write replaced, if that was an object and not a deletion."""
        return self.previous if self.previous and not self.previous.deleted else None

    def load(self) -> dict[str, Any]:
        """A fresh copy of the object that the caller may change."""
        loaded: dict[str, Any] = orjson.loads(self.data)
        return loaded

    @property
    def labels(self) -> dict[str, str]:
        """The labels, parsed once: selectors look at them for every watcher and list."""
        if self._labels is None:
            self._labels = self.load()["metadata"].get("labels") or _NONE
        return self._labels


def _row(revision: Revision) -> Row:
    r = revision
    return (r.rv, r.storage, r.namespace, r.name, r.deleted, r.tag, r.data)


@dataclass(slots=True, eq=False)
class Collection:
    """All objects of one stored resource, their history, and the bell that rings when there is news."""

    objects: dict[Key, Revision] = field(default_factory=dict)
    history: list[Revision] = field(default_factory=list)
    compacted: int = 0
    """Changes up to here may be missing from `history`."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def ring(self) -> None:
        """Wake whoever waits for `news`; each waiter takes the current bell before it looks."""
        self.news.set()
        self.news = asyncio.Event()

    def since(self, rv: int, until: int) -> list[Revision]:
        """The changes in (rv, until], oldest first; raises TooOld."""
        if rv < self.compacted:
            raise TooOld(rv, self.compacted)
        start = bisect.bisect_right(self.history, rv, key=lambda revision: revision.rv)
        end = len(self.history)
        while end > start and self.history[end - 1].rv > until:
            end -= 1
        return self.history[start:end]

    def at(self, rv: int) -> dict[Key, Revision]:
        """The objects as they were at a resourceVersion: the present with newer changes taken back; raises TooOld."""
        then = dict(self.objects)
        for revision in reversed(self.since(rv, self.history[-1].rv if self.history else rv)):
            if before := revision.live:
                then[revision.key] = before
            else:
                then.pop(revision.key, None)
        return then


class Store:
    """Objects of every resource, with one resourceVersion counter. Use from one event loop only."""

    def __init__(self, path: Path, limits: HistoryLimits | None = None) -> None:
        self._limits = limits or HistoryLimits()
        self._log = Log(path)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log")
        self._collections: dict[str, Collection] = {}
        self._history: deque[Revision] = deque()
        self._history_size = 0
        self._pending: list[Revision] = []
        self._gathering: asyncio.Future[None] | None = None
        self._committing: asyncio.Future[None] | None = None
        self._failure: StorageFailed | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.observers: list[Callable[[Revision], None]] = []
        """Called on the loop for every change, once it is durable, in order."""
        self.compacted = self._log.compacted()
        self.head = self.compacted
        self._load()
        self.durable = self.head

    def _load(self) -> None:
        for rv, storage, namespace, name, deleted, tag, data in self._log.rows():
            self._remember(Revision(rv, storage, namespace, name, bool(deleted), tag, data))
            self.head = max(self.head, rv)
        for collection in self._collections.values():
            collection.compacted = self.compacted

    def start(self) -> None:
        """Begin to commit, on the running loop."""
        self._task = asyncio.create_task(self._commit_forever(), name="commit")

    async def close(self) -> None:
        """Commit what is pending, then let go of the file."""
        if self._failure is None:
            await self.committed()
        if self._task:
            self._task.cancel()
        self._thread.shutdown()
        self._log.close()

    def collection(self, storage: str, *, new: bool = False) -> Collection:
        """The objects of one resource; a `new` one has no history before now, so older watches get 410."""
        if (found := self._collections.get(storage)) is None:
            found = self._collections[storage] = Collection(compacted=self.head if new else self.compacted)
        return found

    def storages(self) -> list[str]:
        """The resources that have or had objects, as "group/plural"."""
        return list(self._collections)

    def get(self, storage: str, namespace: str, name: str) -> Revision | None:
        found = self._collections.get(storage)
        return found.objects.get((namespace, name)) if found else None

    def select(self, storage: str, namespace: str | None = None, rv: int | None = None) -> list[Revision]:
        """Objects ordered by namespace and name; of one namespace, or at an earlier resourceVersion (raises TooOld)."""
        found = self._collections.get(storage)
        if found is None:
            return []
        objects = found.objects if rv is None or rv >= self.head else found.at(rv)
        keys = sorted(objects if namespace is None else (key for key in objects if key[0] == namespace))
        return [objects[key] for key in keys]

    def put(self, storage: str, obj: dict[str, Any], tag: str) -> Revision:
        """Store an object under its name, giving it the next resourceVersion (set in `obj` too)."""
        return self._append(storage, obj, tag, deleted=False)

    def delete(self, storage: str, obj: dict[str, Any], tag: str) -> Revision:
        """Remove an object; `obj` is its last state: watchers get it with the resourceVersion of the deletion."""
        return self._append(storage, obj, tag, deleted=True)

    def _append(self, storage: str, obj: dict[str, Any], tag: str, *, deleted: bool) -> Revision:
        if self._failure:
            raise self._failure
        rv = self.head + 1
        meta = obj["metadata"]
        meta["resourceVersion"] = str(rv)
        namespace, name = meta.get("namespace", ""), meta["name"]
        # orjson hands out buffers several times as long as what is in them; a copy holds only that.
        data = bytes(memoryview(orjson.dumps(obj)))
        revision = Revision(rv, storage, namespace, name, deleted, tag, data)
        revision._labels = meta.get("labels") or _NONE
        self.head = rv
        self._remember(revision)
        self._pending.append(revision)
        self._wake.set()
        return revision

    def _remember(self, revision: Revision) -> None:
        collection = self._collections.get(revision.storage)
        if collection is None:
            collection = self._collections[revision.storage] = Collection(compacted=revision.rv - 1)
        revision.previous = collection.objects.get(revision.key)
        revision.created = revision.previous is None
        if revision.deleted:
            collection.objects.pop(revision.key, None)
        else:
            collection.objects[revision.key] = revision
        if revision.rv > self.compacted:
            collection.history.append(revision)
            self._history.append(revision)
            self._history_size += len(revision.data)

    @property
    def failed(self) -> bool:
        """Whether the log could not be written: nothing is accepted until a restart."""
        return self._failure is not None

    async def committed(self) -> None:
        """Wait until everything written so far is on disk; raises StorageFailed."""
        if self._failure:
            raise self._failure
        if self._pending:
            if self._gathering is None:
                self._gathering = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._gathering)
        elif self._committing is not None:
            await asyncio.shield(self._committing)

    async def _commit_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = Batch()
            self._compact(batch)
            pending, self._pending = self._pending, []
            batch.rows = [_row(revision) for revision in pending]
            done, self._gathering = self._gathering or loop.create_future(), None
            self._committing = done
            try:
                await loop.run_in_executor(self._thread, self._log.write, batch)
            except Exception as error:
                self._fail(error, done)
                return
            self._committing = None
            self._publish(pending)
            done.set_result(None)

    def _publish(self, committed: list[Revision]) -> None:
        self.durable = committed[-1].rv
        for observer in self.observers:
            for revision in committed:
                observer(revision)
        for storage in {revision.storage for revision in committed}:
            self._collections[storage].ring()

    def _fail(self, error: Exception, done: asyncio.Future[None]) -> None:
        self._failure = StorageFailed(f"cannot write the log: {error}; free the disk, then start the server again")
        log.critical("%s", self._failure)
        for future in (done, self._gathering):
            if future is not None:
                future.set_exception(self._failure)
                future.exception()
        for collection in self._collections.values():
            collection.ring()

    def _compact(self, batch: Batch) -> None:
        """Forget the oldest tenth when the history is over its limits: watches from before it get 410."""
        limits = self._limits
        if len(self._history) <= limits.revisions and self._history_size <= limits.size:
            return
        dropped: list[Revision] = []
        while (
            self._history
            and self._history[0].rv <= self.durable
            and (len(self._history) > limits.revisions * 0.9 or self._history_size > limits.size * 0.9)
        ):
            dropped.append(self._history.popleft())
            self._history_size -= len(dropped[-1].data)
        if dropped:
            self._forget(dropped, batch)

    def _forget(self, dropped: list[Revision], batch: Batch) -> None:
        self.compacted = batch.compacted = dropped[-1].rv
        for revision in dropped:
            if revision.previous is not None:
                batch.freed.append(revision.previous.rv)
                revision.previous = None
            if revision.deleted:
                batch.freed.append(revision.rv)
        for storage in {revision.storage for revision in dropped}:
            collection = self._collections[storage]
            cut = bisect.bisect_right(collection.history, self.compacted, key=lambda revision: revision.rv)
            collection.compacted = collection.history[cut - 1].rv
            del collection.history[:cut]
