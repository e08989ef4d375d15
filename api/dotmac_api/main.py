"""create_app: the whole application from one Settings object; importing this module builds nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from dotmac_api import health, metrics, openapi
from dotmac_api.access import assert_guarded
from dotmac_api.api_keys import endpoints as api_keys
from dotmac_api.audit import endpoints as audit
from dotmac_api.audit.trail import AuditTrail
from dotmac_api.auth import endpoints as auth
from dotmac_api.backups import endpoints as backups
from dotmac_api.catalog import endpoints as catalog
from dotmac_api.credentials import endpoints as credentials
from dotmac_api.diagnostics import endpoints as diagnostics
from dotmac_api.domains import endpoints as domains
from dotmac_api.errors import ERROR_RESPONSES, install_handlers
from dotmac_api.facade import Facade, build_facade
from dotmac_api.idempotency.middleware import Idempotency
from dotmac_api.instances import endpoints as instances
from dotmac_api.instances import life_endpoints as life
from dotmac_api.live import endpoints as live
from dotmac_api.metrics import RequestMetrics
from dotmac_api.middleware import BodyLimit, RequestContext
from dotmac_api.people import endpoints as people
from dotmac_api.rbac import endpoints as rbac
from dotmac_api.routes import index_templates
from dotmac_api.scheduler import endpoints as scheduler
from dotmac_api.scheduler.loop import Scheduler
from dotmac_api.servers import endpoints as servers
from dotmac_api.sessions import endpoints as sessions
from dotmac_api.settings import Settings
from dotmac_api.telemetry import traced_by, tracer_provider
from dotmac_api.webhooks import endpoints as webhooks

PREFIX = "/api/v1"

# One line for each noun. A request tries them in this order, so what is asked for most comes first.
ROUTERS: tuple[APIRouter, ...] = (
    instances.router,
    servers.router,
    auth.router,
    people.router,
    life.router,
    backups.router,
    diagnostics.router,
    catalog.router,
    live.router,
    webhooks.router,
    credentials.router,
    sessions.router,
    api_keys.router,
    rbac.router,
    audit.router,
    domains.router,
    scheduler.router,
)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    facade: Facade = app.state.facade
    background: list[asyncio.Task[None]] = []
    if facade.settings.scheduler_enabled:
        background.append(asyncio.create_task(Scheduler(facade).run(), name="scheduler"))
    try:
        async with facade.fleet.running():
            yield
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await facade.close()
        if app.state.tracing is not None:
            # It sends what waits; in a thread, since its exporter blocks.
            await asyncio.to_thread(app.state.tracing.shutdown)


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application. Raises RuntimeError when a route has no guard."""
    tracing = tracer_provider(settings.otlp_endpoint) if settings.otlp_endpoint else None
    app = FastAPI(
        title="DotMac Operator facade",
        version="0.1.0",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        responses=ERROR_RESPONSES,
        telemetry=traced_by(tracing),
    )
    app.state.tracing = tracing
    app.state.facade = build_facade(settings)
    install_handlers(app)
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.add_middleware(Idempotency)
    app.add_middleware(AuditTrail)
    app.add_middleware(RequestMetrics)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(RequestContext)
    assert_guarded(app)
    index_templates(app)
    openapi.complete(app)
    return app
