"""Events are kept for an hour, as etcd leases do it for a kube-apiserver (--event-ttl)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from dotmac_local.resources import Registry
from dotmac_local.storage import StorageFailed, Store
from dotmac_local.verbs.write import Writer

EVENTS = "/events"
TTL = timedelta(hours=1)
_SWEEP_SECONDS = 60.0


async def expire_events(store: Store, registry: Registry, writer: Writer) -> None:
    """Delete old events once a minute, for ever."""
    resource = registry.get("", "events")
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        oldest = datetime.now(UTC) - TTL
        for revision in store.select(EVENTS):
            meta = revision.load()["metadata"]
            if datetime.fromisoformat(meta["creationTimestamp"]) >= oldest:
                continue
            try:
                writer.remove(resource, revision)
            except StorageFailed:
                return
            await asyncio.sleep(0)
