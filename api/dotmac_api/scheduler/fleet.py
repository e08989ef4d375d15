"""Tasks of the fleet: webhooks, the mirror, and what becomes true by the clock."""

from datetime import UTC, datetime, timedelta

from dotmac_api.facade import Facade
from dotmac_api.mirror.notices import certificate_notices, tell, trial_notices, with_clocks
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


async def trials(facade: Facade) -> str:
    """Tells of trials that are over. The operator suspends their tenants; this changes no resource."""
    told = 0
    async with facade.sessions.begin() as session:
        for row in await with_clocks(session):
            told += await tell(session, row, trial_notices(row, datetime.now(UTC)))
    return f"{told} trials have ended since the last time"


async def certificates(facade: Facade) -> str:
    """Tells of certificates that end soon: the proxy renews them well before, so something keeps it from that."""
    ahead = timedelta(days=await facade.domains.integer("platform", "certificate_notice_days"))
    told = 0
    async with facade.sessions.begin() as session:
        for row in await with_clocks(session):
            told += await tell(session, row, certificate_notices(row, datetime.now(UTC), ahead))
    return f"{told} certificates newly end within {ahead.days} days"
