"""/metrics for Prometheus, behind a bearer token, and the middleware that counts requests."""

import hmac
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dotmac_api.access import BEARER, mark_guard
from dotmac_api.errors import NotFound, Unauthorized
from dotmac_api.routes import route_template

BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The metrics of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "dotmac_api_request_seconds",
            "time to answer",
            ("method", "route", "status"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.sign_ins = Counter("dotmac_api_sign_ins", "sign-ins by outcome", ("outcome",), registry=self.registry)
        self.in_flight = Gauge("dotmac_api_requests_in_flight", "requests being answered", registry=self.registry)

    def expose(self, *collectors: Collector) -> None:
        """Shows metrics of other rooms, which are one for the process, here as well."""
        for collector in collectors:
            self.registry.register(collector)


class RequestMetrics:
    """Times each request by the template of its route, so that ids make no new series."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        metrics: Metrics = scope["app"].state.facade.metrics
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        begun = time.perf_counter()
        metrics.in_flight.inc()
        try:
            await self.app(scope, receive, answer)
        finally:
            metrics.in_flight.dec()
            route = route_template(scope)
            metrics.requests.labels(scope["method"], route, str(status)).observe(time.perf_counter() - begun)
            if route.endswith("/auth/login"):
                metrics.sign_ins.labels("success" if status < 400 else str(status)).inc()


async def _bearer(request: Request, _bearer: Annotated[Any, Depends(BEARER)]) -> None:
    token = request.app.state.facade.settings.metrics_token
    if token is None:
        raise NotFound("no metrics are served: set DOTMAC_API_METRICS_TOKEN")
    expected = f"Bearer {token.get_secret_value()}".encode()
    if not hmac.compare_digest(request.headers.get("authorization", "").encode("latin-1"), expected):
        raise Unauthorized("send the metrics token as Authorization: Bearer ...")


router = APIRouter(tags=["metrics"])


@router.get("/metrics", dependencies=[Depends(mark_guard(_bearer))], response_class=Response)
async def metrics(request: Request) -> Response:
    """The metrics of this process, in Prometheus' text format."""
    return Response(generate_latest(request.app.state.facade.metrics.registry), media_type=CONTENT_TYPE_LATEST)
