"""Pure ASGI middleware: the request id, the body limit and one log line for each request."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dotmac_api import context
from dotmac_api.errors import BodyTooLarge, error_response, unexpected
from dotmac_api.routes import route_template
from dotmac_api.telemetry import describe_request

log = logging.getLogger("dotmac_api.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


class RequestContext:
    """Gives each request an id (the client's, if it is a plain one), answers what nobody foresaw, and logs its end."""

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
        status, started = 500, False

        async def answer(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started = True
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
                # The span ends with the answer.
                describe_request(request_id, context.person.get())
            await send(message)

        begun = time.perf_counter()
        try:
            await self.app(scope, receive, answer)
        except Exception as error:
            if started:
                raise
            await unexpected(error)(scope, receive, answer)
        finally:
            log.info(
                "%s %s %d",
                scope["method"],
                route_template(scope),
                status,
                extra={"milliseconds": round((time.perf_counter() - begun) * 1000, 2)},
            )


class BodyLimit:
    """Refuses bodies larger than `limit` bytes, by their declared length or as they come in."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._limit:
            error = BodyTooLarge(f"the body is larger than {self._limit} bytes")
            await error_response(error)(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._limit:
                # FastAPI lets an HTTPException through while it reads a body, and turns others into a 400.
                raise HTTPException(413, f"the body is larger than {self._limit} bytes")
            return message

        await self.app(scope, counted, send)
