"""The stream of one watch, from parsing its query to its last bookmark."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass

import orjson

from dotmac_local import views
from dotmac_local.errors import ApiError, expired, invalid_options, timed_out
from dotmac_local.metadata import Object
from dotmac_local.resources import ResourceType
from dotmac_local.schema import Cause
from dotmac_local.storage import Collection, Revision, Store, TooOld
from dotmac_local.verbs.read import Selection, integer, resource_version

# Kubernetes sends a bookmark about once a minute.
BOOKMARK_SECONDS = 60.0
# Without timeoutSeconds a watch ends after 30 to 60 minutes (--min-request-timeout is 1800).
_DEFAULT_TIMEOUT = 1800
# How many changes one chunk carries at most, so that a watcher that catches up does not hold the loop.
_CHUNK = 250
_INITIAL_END = {"k8s.io/initial-events-end": "true"}
_FUTURE_TIMEOUT = 3.0

Render = Callable[[str, Revision], bytes]


@dataclass(frozen=True)
class WatchQuery:
    """Where a watch starts, what it tells beside changes, and when it ends (seconds)."""

    start: int | None
    """The resourceVersion to go on from; None: show what is there first."""
    at_least: int
    bookmarks: bool
    mark_initial: bool
    timeout: float

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> WatchQuery:
        """Raises ApiError 400 or 422."""
        rv, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
        initial = query.get("sendInitialEvents")
        causes = _check(initial, match)
        if causes:
            raise invalid_options("ListOptions", causes)
        version = resource_version(rv)
        bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        replay = initial in ("true", "1") or (initial is None and rv in ("", "0"))
        start = None if replay else version
        if initial in ("false", "0") and rv in ("", "0"):
            start = -1
        jitter = _DEFAULT_TIMEOUT * (1 + random.random())  # noqa: S311 - spreads reconnects, protects nothing
        timeout = integer(query, "timeoutSeconds") or jitter
        mark = bookmarks and (initial in ("true", "1") or (replay and rv == "0"))
        return cls(start, version if replay else 0, bookmarks, mark, timeout)


def _check(initial: str | None, match: str) -> list[Cause]:
    if initial is not None and match != "NotOlderThan":
        why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        return [Cause("FieldValueForbidden", why, "resourceVersionMatch")]
    if initial is None and match:
        why = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        return [Cause("FieldValueForbidden", why, "resourceVersionMatch")]
    return []


def json_render(resource: ResourceType) -> Render:
    """Events that carry whole objects; most are the stored bytes between two constants."""

    def render(kind: str, revision: Revision) -> bytes:
        return b'{"type":"%s","object":%s}\n' % (kind.encode(), views.as_bytes(revision, resource))

    return render


def error_event(error: ApiError) -> bytes:
    return b'{"type":"ERROR","object":%s}\n' % orjson.dumps(error.status())


def changes(selection: Selection, revisions: Iterable[Revision], render: Render) -> list[bytes]:
    """The events that a selection sees of some writes: entering it is ADDED, leaving it DELETED."""
    events = []
    for revision in revisions:
        before = revision.live
        was = before is not None and before in selection
        if revision.deleted:
            if was:
                events.append(render("DELETED", revision))
        elif revision in selection:
            events.append(render("MODIFIED" if was else "ADDED", revision))
        elif was and before is not None:
            events.append(render("DELETED", _left(before, revision)))
    return events


def _left(before: Revision, now: Revision) -> Revision:
    """The object as it last was in the selection, at the resourceVersion where it left."""
    obj = before.load()
    obj["metadata"]["resourceVersion"] = str(now.rv)
    return Revision(now.rv, now.storage, now.namespace, now.name, True, before.tag, orjson.dumps(obj))


def bookmark(resource: ResourceType, rv: int, annotations: Object | None = None) -> bytes:
    meta: Object = {"annotations": annotations} if annotations else {}
    meta["resourceVersion"] = str(rv)
    obj = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta}
    return b'{"type":"BOOKMARK","object":%s}\n' % orjson.dumps(obj)


async def stream(
    store: Store, selection: Selection, query: WatchQuery, render: Render, stop: asyncio.Event
) -> AsyncIterator[bytes]:
    """Chunks of newline-separated events, until the timeout, `stop`, or an ERROR event."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + query.timeout
    collection = store.collection(selection.resource.storage)
    await store.committed()
    try:
        cursor = await _start(store, query)
    except ApiError as error:
        yield error_event(error)
        return
    if query.start is None:
        found = store.select(selection.resource.storage, selection.namespace, cursor)
        yield b"".join(render("ADDED", revision) for revision in found if revision in selection)
        if query.mark_initial:
            yield bookmark(selection.resource, cursor, _INITIAL_END)
    next_bookmark = loop.time() + BOOKMARK_SECONDS
    while not stop.is_set():
        news = collection.news
        until = store.durable
        try:
            pending = collection.since(cursor, until)
        except TooOld as error:
            yield error_event(expired(str(error)))
            return
        if pending:
            for start in range(0, len(pending), _CHUNK):
                yield b"".join(changes(selection, pending[start : start + _CHUNK], render))
        cursor = max(cursor, until)
        if query.bookmarks and loop.time() >= next_bookmark:
            next_bookmark = loop.time() + BOOKMARK_SECONDS
            yield bookmark(selection.resource, cursor)
        if loop.time() >= deadline:
            return
        if not pending:
            await _sleep(collection, news, min(deadline, next_bookmark) - loop.time())


async def _start(store: Store, query: WatchQuery) -> int:
    """The resourceVersion to begin after."""
    wanted = query.at_least if query.start is None else query.start
    deadline = asyncio.get_running_loop().time() + _FUTURE_TIMEOUT
    while store.durable < wanted:
        if asyncio.get_running_loop().time() > deadline:
            error = timed_out(f"Too large resource version: {wanted}, current: {store.durable}")
            error.details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                             "retryAfterSeconds": 1}  # fmt: skip
            raise error
        await asyncio.sleep(0.05)
    return store.durable if query.start is None or query.start < 0 else query.start


async def _sleep(collection: Collection, news: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await news.wait()
    except TimeoutError:
        return
