"""Pure ASGI middleware: the request id, the body limit and one log line for each request."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dotmac_api import context
from dotmac_api.routes import route_template

log = logging.getLogger("dotmac_api.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


class RequestContext:
    """Gives each request an id (the client's, if it is a plain one), logs its end, and bounds nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if _REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex
        context.request_id.set(request_id)
        context.person.set(None)
        state = scope.setdefault("state", {})
        state["request_id"], state["arrived"] = request_id, time.monotonic()
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        begun = time.perf_counter()
        try:
            await self.app(scope, receive, answer)
        finally:
            log.info(
                "%s %s %d",
                scope["method"],
                route_template(scope),
                status,
                extra={"milliseconds": round((time.perf_counter() - begun) * 1000, 2)},
            )
