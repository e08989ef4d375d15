"""What a process of the facade runs beside its requests (mirror, streams, webhooks), and its way to Kubernetes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from dotmac_api.database import Sessions
from dotmac_api.gateway.client import ClusterAddress, KubernetesClient
from dotmac_api.gateway.writes import Gateway
from dotmac_api.instances.pages import InstancePages
from dotmac_api.live.hub import Hub
from dotmac_api.mirror import projector, readiness
from dotmac_api.mirror.projector import Projector, mirror_engine
from dotmac_api.mirror.readiness import mirror_lag
from dotmac_api.settings import Settings
from dotmac_api.vault import Vault
from dotmac_api.webhooks import dispatcher
from dotmac_api.webhooks.dispatcher import Dispatcher

log = logging.getLogger(__name__)

METRICS = (*projector.METRICS, readiness.BEHIND, dispatcher.SENT)
"""What the fleet's rooms count; kept once for the process."""


@dataclass(slots=True)
class Fleet:
    """Built by build_facade; nothing connects before `running`."""

    settings: Settings
    sessions: Sessions
    client: KubernetesClient
    gateway: Gateway
    hub: Hub
    dispatcher: Dispatcher
    engine: AsyncEngine
    pages: InstancePages

    @property
    def namespace(self) -> str | None:
        """The namespace that is mirrored; None: all."""
        return None if self.settings.all_namespaces else self.settings.namespace

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The background work of this process, for as long as the block."""
        jobs: list[Coroutine[Any, Any, None]] = [self.hub.run()]
        if self.settings.mirror_enabled:
            jobs.append(self.projector().run())
        if self.settings.webhooks_enabled:
            jobs.append(self.dispatcher.run())
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, Exception):
                    log.error("background work had ended early", exc_info=ended)
            await self.client.__aexit__()
            await self.engine.dispose()

    def projector(self) -> Projector:
        return Projector(self.engine, self.client, self.namespace)

    async def kubernetes_ready(self) -> dict[str, object]:
        """For /health/ready: raises when the API server does not answer."""
        await self.client.get("/version")
        return {}

    async def mirror_ready(self) -> dict[str, object]:
        """For /health/ready: the mirror's lag; raises when it is too large or something is wrong with the mirror."""
        async with self.sessions() as session:
            lag = await mirror_lag(session, self.settings.mirror_max_lag_seconds)
        return {"lag_seconds": round(lag, 3)}


def build_fleet(settings: Settings, sessions: Sessions, reading: Sessions, vault: Vault) -> Fleet:
    client = KubernetesClient(ClusterAddress(settings.kubeconfig, settings.kube_context))
    sender = Dispatcher(sessions, vault, settings.webhook_networks)
    conninfo = make_url(settings.database_url.get_secret_value()).set(drivername="postgresql")
    return Fleet(
        settings=settings,
        sessions=sessions,
        client=client,
        gateway=Gateway(client),
        hub=Hub(sessions, conninfo.render_as_string(hide_password=False), sender.wake),
        dispatcher=sender,
        engine=mirror_engine(settings),
        pages=InstancePages(reading),
    )
