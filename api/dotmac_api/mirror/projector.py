"""Watches every kind and writes what it learns. Any number may run: one holds the lock and works, the rest wait."""

import asyncio
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import orjson
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from dotmac_api.database import KEEPALIVE
from dotmac_api.gateway.client import KubernetesClient, Object, Refused, Unreachable, resource_path
from dotmac_api.mirror.projection import project
from dotmac_api.mirror.store import Cursor, MirrorStore, Position, Version
from dotmac_api.settings import Settings
from dotmac_crds.kinds import KINDS, Kind

log = logging.getLogger(__name__)

LAG = Histogram(
    "dotmac_mirror_lag_seconds",
    "Seconds from the arrival of a change to its commit.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
LEADING = Gauge("dotmac_mirror_leading", "1 in the process that writes the mirror.")
RELISTS = Counter("dotmac_mirror_lists_total", "Whole lists of a kind.", ["kind"])
UNREADABLE = Counter("dotmac_mirror_unreadable_total", "Objects that could not be mirrored.", ["kind"])
STALE = Counter("dotmac_mirror_stale_versions_total", "Versions that were not newer than the row.", ["kind"])

METRICS = (LAG, LEADING, RELISTS, UNREADABLE, STALE)

type Begin = Callable[[], AbstractAsyncContextManager[object]]

HEARTBEAT = 2.0
TAKEOVER = 1.0
BATCH = 500
BACKLOG = 5000
"""Objects that may wait for the database; then watches are not read on, and Kubernetes keeps them for us."""
SHORTEST_WAIT, LONGEST_WAIT = 0.05, 5.0


class RebuildOrdered(Exception):
    """Somebody ordered a rebuild: begin anew, from lists."""


class AheadOfKubernetes(RuntimeError):
    """The mirror has seen later versions than Kubernetes has."""

    def __init__(self, kind: str, kept: int, found: int) -> None:
        super().__init__(
            f"the mirror of {kind} is at version {kept}, Kubernetes only at {found}: it was restored or replaced. "
            "Run `dotmac-api rebuild-mirror`"
        )


@dataclass(frozen=True)
class Arrival:
    """Something read from Kubernetes. `listed` (with the uids of the whole list) ends a list."""

    versions: tuple[Version, ...]
    resource_version: int
    at: float
    listed: frozenset[uuid.UUID] | None = None
    seed: bool = False
    live: bool = True
    """From a watch: up to date once it is committed."""


@dataclass
class Collection:
    """What the projector follows: one kind, in one namespace or all."""

    kind: Kind
    path: str
    cursor: int = 0
    open: bool = False
    problem: str | None = None
    committed: int = 0
    epoch: int = 0
    noted: float = 0.0
    arrivals: deque[Arrival] = field(default_factory=deque)


class Projector:
    """`run` never returns and survives every failure of Kubernetes and PostgreSQL."""

    def __init__(self, engine: AsyncEngine, client: KubernetesClient, namespace: str | None) -> None:
        self._engine = engine
        self._client = client
        self._namespace = namespace
        self._collections: list[Collection] = []
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self.leading = False

    async def run(self) -> None:
        """Leads when it can; after a failure tries again with growing, jittered pauses."""
        failures = 0
        while True:
            try:
                await self._lead()
            except* RebuildOrdered:
                log.warning("the mirror is rebuilt on order")
                failures = 0
            except* (SQLAlchemyError, OSError) as broken:
                failures += 1
                log.warning("the mirror lost the database: %s", str(broken.exceptions[0]).partition("\n")[0])
            except* Exception:
                failures += 1
                log.exception("the mirror failed")
            finally:
                self.leading = False
                LEADING.set(0)
            await asyncio.sleep(_pause(failures))

    async def _lead(self) -> None:
        async with self._engine.connect() as connection:
            store = MirrorStore(connection)
            while not await store.lock():
                await connection.commit()
                await asyncio.sleep(TAKEOVER * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            self._collections = collections(self._namespace)
            kept = await store.cursors(c.path for c in self._collections)
            await connection.commit()
            for collection in self._collections:
                collection.epoch = kept[collection.path].epoch
                collection.cursor = collection.committed = kept[collection.path].resource_version
            self.leading = True
            LEADING.set(1)
            log.info("this process writes the mirror")
            async with asyncio.TaskGroup() as group:
                for collection in self._collections:
                    group.create_task(self._follow(collection))
                group.create_task(self._write(store, connection.begin))

    async def _follow(self, collection: Collection) -> None:
        failures = 0
        while True:
            begun = time.monotonic()
            try:
                await self._read(collection)
                failures = 0 if time.monotonic() - begun > 1 else failures + 1
            except Refused as refusal:
                failures += 1
                if refusal.expired:
                    log.info("%s: version %s is too old, listing", collection.kind.name, collection.cursor)
                    collection.cursor = 0
                else:
                    collection.problem = f"Kubernetes refuses to list {collection.kind.plural}: {refusal.message}"
                    log.warning(collection.problem)
            except (Unreachable, AheadOfKubernetes) as failure:
                failures += 1
                collection.problem = str(failure)
                log.warning("%s: %s", collection.kind.name, failure)
            finally:
                collection.open = False
            if collection.problem:
                self._news.set()
            await asyncio.sleep(_pause(failures))

    async def _read(self, collection: Collection) -> None:
        """Lists where that is needed, then reads one watch to its end."""
        if collection.cursor == 0:
            await self._list(collection)
        else:
            await self._not_ahead(collection)
        async for events in self._client.watch(collection.path, str(collection.cursor)):
            collection.open = True
            collection.problem = None
            if events:
                collection.cursor = max(collection.cursor, _version_of(events[-1]["object"]))
                await self._arrived(collection, _from_events(collection, events))

    async def _list(self, collection: Collection) -> None:
        RELISTS.labels(collection.kind.name).inc()
        seed = collection.committed == 0
        uids: set[uuid.UUID] = set()
        version = 0
        async for page in self._client.pages(collection.path):
            version = int(page["metadata"]["resourceVersion"])
            if version < collection.committed:
                raise AheadOfKubernetes(collection.kind.plural, collection.committed, version)
            uids.update(uuid.UUID(item["metadata"]["uid"]) for item in page["items"])
            versions = tuple(_versions(collection.kind, ((item, False) for item in page["items"])))
            await self._arrived(collection, Arrival(versions, 0, time.monotonic(), seed=seed, live=False))
        await self._arrived(collection, Arrival((), version, time.monotonic(), frozenset(uids), live=False))
        collection.cursor = version

    async def _not_ahead(self, collection: Collection) -> None:
        """A watch from a version that does not exist yet would just stay silent."""
        page = (await self._client.request("GET", collection.path, params={"limit": "1"}))[1]
        found = int(page["metadata"]["resourceVersion"])
        if found < collection.cursor:
            raise AheadOfKubernetes(collection.kind.plural, collection.cursor, found)

    async def _arrived(self, collection: Collection, arrival: Arrival) -> None:
        while sum(len(a.versions) for a in collection.arrivals) >= BACKLOG:
            self._room.clear()
            await self._room.wait()
        collection.arrivals.append(arrival)
        self._news.set()

    async def _write(self, store: MirrorStore, begin: Begin) -> None:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            async with begin():
                taken = await self._take(store)
            committed = time.monotonic()
            for arrival in taken:
                if arrival.live:
                    for _ in arrival.versions:
                        LAG.observe(committed - arrival.at)
            self._room.set()

    async def _take(self, store: MirrorStore) -> list[Arrival]:
        """Writes what waits, up to a batch of each kind, and how far that is."""
        taken: list[Arrival] = []
        positions = []
        for collection in self._collections:
            batch = _batch(collection.arrivals)
            await self._record(store, collection, batch)
            taken += batch
            if collection.arrivals:
                self._news.set()
            if batch or collection.problem or time.monotonic() - collection.noted > HEARTBEAT / 2:
                collection.noted = time.monotonic()
                positions.append(_position(collection, batch))
        if not await store.advance(positions, news=any(a.versions or a.listed is not None for a in taken)):
            raise RebuildOrdered
        return taken

    async def _record(self, store: MirrorStore, collection: Collection, batch: list[Arrival]) -> None:
        kind = collection.kind.name
        for group in _runs(batch):
            versions = [version for arrival in group for version in arrival.versions]
            if versions:
                STALE.labels(kind).inc(await store.record(kind, versions, seed=group[0].seed))
            last = group[-1]
            if last.listed is not None:
                gone = await store.sweep(kind, last.listed, last.resource_version)
                log.info("%s: listed %d, %d gone", kind, len(last.listed), gone)


def collections(namespace: str | None) -> list[Collection]:
    """What is mirrored: namespaced kinds of one namespace (None: of all) and the cluster-wide ones.

    Servers come first, so that an Instance finds the row of its Server.
    """
    made = []
    for kind in KINDS:
        scope = namespace if kind.scope == "Namespaced" else None
        made.append(Collection(kind, resource_path(kind.plural, scope)))
    return made


def mirror_engine(settings: Settings) -> AsyncEngine:
    """Connections for one holder each, whose loss the database notices within 25 s, so that the lock becomes free."""
    keep_alive = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
    return create_async_engine(
        settings.database_url.get_secret_value(),
        poolclass=NullPool,
        connect_args={
            "connect_timeout": 5,
            "application_name": "dotmac-mirror",
            **KEEPALIVE,
            "options": f"-c timezone=UTC -c statement_timeout=60000 {keep_alive}",
        },
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        hide_parameters=True,
    )


def _from_events(collection: Collection, events: list[Object]) -> Arrival:
    told = ((event["object"], event["type"] == "DELETED") for event in events if event["type"] != "BOOKMARK")
    versions = tuple(_versions(collection.kind, told))
    return Arrival(versions, _version_of(events[-1]["object"]), time.monotonic())


def _versions(kind: Kind, objects: Iterable[tuple[Object, bool]]) -> Iterator[Version]:
    for obj, gone in objects:
        try:
            yield Version(project({**obj, "kind": kind.name}), gone)
        except (KeyError, TypeError, ValueError, AttributeError):
            # One object that the schema should have refused must not stop the mirror of all others.
            UNREADABLE.labels(kind.name).inc()
            log.exception("%s %s cannot be mirrored", kind.name, obj.get("metadata", {}).get("name"))


def _version_of(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


def _batch(arrivals: deque[Arrival]) -> list[Arrival]:
    made: list[Arrival] = []
    count = 0
    while arrivals and (not made or count + len(arrivals[0].versions) <= BATCH):
        made.append(arrivals.popleft())
        count += len(made[-1].versions)
    return made


def _runs(batch: list[Arrival]) -> list[list[Arrival]]:
    """Arrivals that can be written together: a run ends after a list's end, and where seeding begins or ends."""
    made: list[list[Arrival]] = []
    for arrival in batch:
        last = made[-1][-1] if made else None
        if last is None or last.listed is not None or last.seed != arrival.seed:
            made.append([])
        made[-1].append(arrival)
    return made


def _position(collection: Collection, batch: list[Arrival]) -> Position:
    collection.committed = max([collection.committed, *(arrival.resource_version for arrival in batch)])
    behind = None
    if collection.open:
        behind = time.monotonic() - collection.arrivals[0].at if collection.arrivals else 0.0
    cursor = Cursor(collection.committed, collection.epoch)
    return Position(collection.path, cursor, behind, collection.problem)


def _pause(failures: int) -> float:
    longest: float = min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** min(failures, 10))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
