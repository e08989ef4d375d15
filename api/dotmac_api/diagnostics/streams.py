"""Log lines on their way to a client: as NDJSON or as server-sent events, bounded in number and in time."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from dotmac_api.auth.standing import Standing
from dotmac_api.diagnostics.operator import TAIL_MOST, LogStream
from dotmac_api.errors import ApiError, Unauthorized

FOLLOW_SECONDS = 900.0
"""The lifetime of an access token: then the client comes back, with `since`, and is authenticated again."""
PING_SECONDS = 5.0
"""Proxies close connections on which nothing is said for long; and so soon a silent log ends with its session."""
RECHECK_SECONDS = 1.0
"""For so long a log that is followed takes its reader's rights for granted."""

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """How things are written for one kind of client."""

    media_type: str
    ping: bytes

    def line(self, line: Line) -> bytes:
        raise NotImplementedError

    def error(self, error: ApiError) -> bytes:
        raise NotImplementedError

    def end(self) -> bytes:
        return b""


class Ndjson(Format):
    """One JSON object in a line; a failure on the way is a last line {"error": {"code", "message"}}."""

    def __init__(self) -> None:
        super().__init__("application/x-ndjson", b"\n")

    def line(self, line: Line) -> bytes:
        return orjson.dumps(line) + b"\n"

    def error(self, error: ApiError) -> bytes:
        return orjson.dumps({"error": {"code": error.code, "message": error.message}}) + b"\n"


class Events(Format):
    """Server-sent events `line`, `error` and `end`."""

    def __init__(self) -> None:
        super().__init__("text/event-stream", b": still here\n\n")

    def line(self, line: Line) -> bytes:
        return b"event: line\ndata: " + orjson.dumps(line) + b"\n\n"

    def error(self, error: ApiError) -> bytes:
        return b"event: error\ndata: " + orjson.dumps({"code": error.code, "message": error.message}) + b"\n\n"

    def end(self) -> bytes:
        return b"event: end\ndata: {}\n\n"


class LogResponse(StreamingResponse):
    """Lines as they come; the operator's stream is let go when this ends, also when the client leaves."""

    def __init__(self, stream: LogStream, form: Format, follower: Standing | None = None) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if stream.truncated:
            headers["X-Truncated"] = "true"
        self._lines = relay(stream, form, follower)
        self._stream = stream
        super().__init__(self._lines, media_type=form.media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Out here, where the cancellation that a client's leaving brings is over.
            await self._lines.aclose()
            await self._stream.aclose()


async def relay(stream: LogStream, form: Format, follower: Standing | None) -> AsyncGenerator[bytes]:
    """The lines, one by one: nothing is collected. Ends after 2,000 lines; for a follower after 15 minutes, and with
    its session.
    """
    deadline = time.monotonic() + FOLLOW_SECONDS
    sent = 0
    try:
        async with aclosing(_timed(stream.lines(), deadline)) as lines:
            async for line in lines:
                if follower is not None and not await follower.holds(within=RECHECK_SECONDS):
                    raise Unauthorized("the session has ended, or its rights have changed", code="session_ended")
                yield form.ping if line is None else form.line(line)
                sent += line is not None
                if sent >= TAIL_MOST and follower is None:
                    break
        yield form.end()
    except ApiError as error:
        # The status is sent already.
        yield form.error(error)


async def _timed(lines: AsyncIterator[Line], deadline: float) -> AsyncGenerator[Line | None]:
    """The lines until the deadline; None for each stretch of silence."""
    waiting: asyncio.Future[Line] | None = None
    try:
        while (left := deadline - time.monotonic()) > 0:
            waiting = waiting or asyncio.ensure_future(anext(lines))
            done, _ = await asyncio.wait({waiting}, timeout=min(left, PING_SECONDS))
            if not done:
                yield None
                continue
            finished, waiting = waiting, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if waiting is not None:
            # Not awaited: a second cancellation would interrupt it while it closes the connection.
            waiting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            waiting.cancel()
