"""Kopf handlers: they take versions of objects in and wake reconcilers, nothing else.

Why `event` and not `daemon`: see ADR 0002. In short, Kopf starts no daemon for an object that is already being
deleted, so an operator that restarts in the middle of a deletion would let go of the object with its containers
still on the host; and its other handlers write annotations to users' objects.
"""

from collections.abc import Callable
from typing import Any

import kopf

from dotmac_crds.base import GROUP, VERSION
from dotmac_crds.kinds import KINDS
from dotmac_operator.handlers.firstlists import FirstLists
from dotmac_operator.handlers.routing import Routing
from dotmac_operator.handlers.workers import Workers
from dotmac_operator.reconcile.ports import Body
from dotmac_operator.reconcile.store import Resource, Store, parse, relevant


class Watch:
    """Feeds the store, each version parsed once, and wakes nobody before the store is full."""

    def __init__(
        self,
        store: Store,
        routing: Routing,
        workers: Workers,
        first: FirstLists,
        told: Callable[[Body, bool], None] = lambda *_: None,
    ) -> None:
        """`told` hears of each version that comes, and whether the first lists of all kinds are taken in."""
        self._told = told
        self._store = store
        self._routing = routing
        self._workers = workers
        self._first = first
        self._held: set[tuple[str, str]] = set()
        """What waits for the first lists."""
        self._seen: dict[tuple[str, str], Resource[Any, Any]] = {}
        """The last version that came by the watch. Not the store's: an answer to a write of ours may have put a user's
        edit into that before the watch tells of it."""
        first.on_complete = self._let_go

    def register(self, registry: kopf.OperatorRegistry) -> None:
        for kind in KINDS:
            kopf.on.event(GROUP, VERSION, kind.plural, id=f"wake-{kind.plural}", registry=registry)(self._event)

    async def _event(self, event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        version = dict(body)
        now = parse(version)
        place = (now.ref.kind, now.key)
        before = self._seen.get(place)
        if event["type"] == "DELETED":
            self._store.drop(*place, now.ref.uid)
            self._seen.pop(place, None)
            self._held.discard(place)
            changed, before = True, None
        else:
            known, kept = self._store.keep(now)
            if self._first.complete and kept is now and _told_by_another(known, now):
                self._workers.wake(*place)  # what was concluded from the older status may be wrong
            changed = relevant(before, now)
            self._seen[place] = now
        if changed and self._first.complete:
            self._routing.changed(now, before)
        elif changed:
            self._held.add(place)
        self._first.came(*place)
        self._told(version, self._first.complete)

    def _let_go(self) -> None:
        """Everything is there: each object gets its pass, and none has to be told of another."""
        held, self._held = self._held, set()
        for place in held:
            self._workers.wake(*place)


def _told_by_another(before: Resource[Any, Any] | None, now: Resource[Any, Any]) -> bool:
    """Whether an Instance's status is not what this process wrote: the answer to a write of ours is kept at once."""
    if before is None or before.ref.kind != "Instance" or before.ref.uid != now.ref.uid:
        return False
    return bool(before.status != now.status)
