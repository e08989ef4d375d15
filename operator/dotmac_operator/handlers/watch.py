"""Kopf handlers: they take versions of objects in and wake reconcilers, nothing else.

Why `index` and `event` and not `daemon`: see ADR 0002. In short, Kopf starts no daemon for an object that is already
being deleted, so an operator that restarts in the middle of a deletion would let go of the object with its containers
still on the host; and its other handlers write annotations to users' objects.
"""

from collections.abc import Callable
from typing import Any

import kopf

from dotmac_crds.base import GROUP, VERSION
from dotmac_crds.kinds import KINDS
from dotmac_operator.handlers.routing import Routing
from dotmac_operator.handlers.workers import Workers
from dotmac_operator.reconcile.ports import Body
from dotmac_operator.reconcile.store import Resource, Store, parse, relevant


class Watch:
    """Feeds the store before any handler runs: Kopf fills all indexes first, so no Release is missed at a start."""

    def __init__(
        self, store: Store, routing: Routing, workers: Workers, told: Callable[[Body, bool], None] = lambda *_: None
    ) -> None:
        """`told` hears of each version that comes, and whether the first lists of all kinds are taken in."""
        self._told = told
        self._store = store
        self._routing = routing
        self._workers = workers
        self._relevant: set[tuple[str, str]] = set()
        self._seen: dict[tuple[str, str], Resource[Any, Any]] = {}
        """The last version that came by the watch. Not the store's: an answer to a write of ours may have put a user's
        edit into that before the watch tells of it."""

    def register(self, registry: kopf.OperatorRegistry) -> None:
        for kind in KINDS:
            kopf.index(GROUP, VERSION, kind.plural, id=f"store-{kind.plural}", registry=registry)(self._index)
            kopf.on.event(GROUP, VERSION, kind.plural, id=f"wake-{kind.plural}", registry=registry)(self._event)

    async def _index(self, body: kopf.Body, **_: Any) -> None:
        self._told(dict(body), False)
        self._store.put(dict(body))
        now = parse(dict(body))
        place = (now.ref.kind, now.key)
        if relevant(self._seen.get(place), now):
            self._relevant.add(place)
        self._seen[place] = now

    async def _event(self, event: kopf.RawEvent, body: kopf.Body, **_: Any) -> None:
        self._told(dict(body), True)
        resource = parse(dict(body))
        place = (resource.ref.kind, resource.key)
        if event["type"] == "DELETED":
            self._store.drop(*place, resource.ref.uid)
            self._seen.pop(place, None)
            self._routing.changed(resource)
        elif place in self._relevant:
            self._relevant.discard(place)
            self._routing.changed(resource)
