"""Tasks of the fleet: webhooks and the mirror."""

from dotmac_api.facade import Facade
from dotmac_api.mirror.store import order_rebuild
from dotmac_api.mirror.verify import differing
from dotmac_api.webhooks.dispatcher import BATCH


async def webhooks(facade: Facade) -> str:
    """Sends what is due now."""
    sent = 0
    while (count := await facade.fleet.dispatcher.deliver_due()) > 0:
        sent += count
        if count < BATCH:
            break
    return f"{sent} attempts"


async def deliveries(facade: Facade) -> str:
    """Drops what ended long ago."""
    return f"{await facade.fleet.dispatcher.prune()} deleted"


async def mirror(facade: Facade) -> str:
    """Compares, and orders a rebuild where something is amiss."""
    found = await differing(facade.fleet.engine, facade.fleet.client, facade.fleet.namespace)
    if not found:
        return "the mirror equals Kubernetes"
    async with facade.fleet.engine.begin() as connection:
        await order_rebuild(connection)
    return f"{len(found)} objects differed, a rebuild was ordered: {', '.join(found[:5])}"
