"""The internal endpoint by which the facade asks for logs and diagnostics: HTTP, a token, caps.

    GET /internal/v1/instances/{namespace}/{name}/logs?role=&container=&tail=&since=&follow=   NDJSON
    GET /internal/v1/instances/{namespace}/{name}/usage                                        JSON
    GET /internal/v1/instances/{namespace}/{name}/health                                       JSON

Errors are `{"code": ..., "message": ...}`. Why it exists: ADR 0014.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from typing import Any

from aiohttp import web

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.port import DeadlineExceeded, HostError
from dotmac_operator.serving.diagnostics import TAIL_MOST, Diagnostics, Follow, Line, LogRequest, Refused

log = logging.getLogger(__name__)

THREADS = 8
"""Requests that are answered at the same time; as many may wait."""
RATE, BURST = 20.0, 40.0
"""Requests in a second, and how many of them at once."""
BATCH = 500
"""Lines that one write to a follower may hold."""
SWEEP_SECONDS = 30.0
NDJSON = "application/x-ndjson"
_QUERY = frozenset({"role", "container", "tail", "since", "follow"})

type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Bucket:
    """A token bucket. Not locked: one event loop uses it."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._at = burst, clock()

    def take(self) -> bool:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Endpoint:
    """The application. Everything that blocks runs in threads of its own, never in those of the passes."""

    def __init__(self, diagnostics: Diagnostics, token: SecretStr) -> None:
        self._diagnostics = diagnostics
        self._token = token
        self._bucket = Bucket(RATE, BURST)
        self._waiting = 0
        self._follows: set[Follow] = set()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="diagnostics")

    def application(self) -> web.Application:
        made = web.Application(middlewares=[self._guard], client_max_size=1024)
        base = "/internal/v1/instances/{namespace}/{name}"
        made.router.add_get(f"{base}/logs", self._logs, allow_head=False)
        made.router.add_get(f"{base}/usage", self._usage, allow_head=False)
        made.router.add_get(f"{base}/health", self._health, allow_head=False)
        made.cleanup_ctx.append(self._life)
        made.on_shutdown.append(self._let_go)  # before the server waits for its handlers
        return made

    async def _life(self, _: web.Application) -> AsyncIterator[None]:
        sweep = asyncio.create_task(self._sweep(), name="close idle diagnostics connections")
        yield
        sweep.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._diagnostics.close()

    async def _let_go(self, _: web.Application) -> None:
        for follow in list(self._follows):
            follow.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await asyncio.to_thread(self._diagnostics.close_idle)

    # ---- the door

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._admit(request)
            return await handler(request)
        except Refused as refused:
            return _error(refused.status, refused.code, str(refused))
        except web.HTTPException as error:
            return _error(error.status, (error.reason or "error").title().replace(" ", ""), error.text or "")
        except (asyncio.CancelledError, ConnectionError):
            raise  # the client has left
        except Exception:
            log.exception("a request for diagnostics failed")
            return _error(500, "InternalError", "the operator failed to answer; its log tells why")

    def _admit(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, f"Bearer {self._token.reveal()}".encode()):
            raise Refused(401, "Unauthorized", "send the operator's diagnostics token as Authorization: Bearer ...")
        if not self._bucket.take():
            raise Refused(429, "TooManyRequests", f"more than {RATE:.0f} requests in a second: slow down")

    async def _answer[T](self, work: Callable[[], T], unwanted: Callable[[T], None] = lambda _: None) -> T:
        """Runs blocking work in one of our threads. `unwanted` gets what it made for a client that has left."""
        if self._waiting >= 2 * THREADS:
            raise Refused(429, "TooManyRequests", f"{self._waiting} requests are being answered: try again later")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        job = self._pool.submit(work)
        # Not when the client leaves: the thread is busy until the host has answered.
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finished))
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.add_done_callback(
                lambda done: None if done.cancelled() or done.exception() else unwanted(done.result())
            )
            raise

    def _finished(self) -> None:
        self._waiting -= 1

    # ---- what is answered

    async def _usage(self, request: web.Request) -> web.Response:
        where = _where(request)
        return web.json_response(await self._answer(lambda: self._diagnostics.usage(*where)))

    async def _health(self, request: web.Request) -> web.Response:
        where = _where(request)
        return web.json_response(await self._answer(lambda: self._diagnostics.health(*where)))

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        where, (asked, follow) = _where(request), _asked(request)
        if follow:
            opened = await self._answer(lambda: self._diagnostics.follow(*where, asked), Follow.close)
            return await self._followed(request, opened)
        lines, cut = await self._answer(lambda: self._diagnostics.logs(*where, asked))
        headers = {"X-Truncated": "true"} if cut else {}
        return web.Response(body=_ndjson(lines), content_type=NDJSON, headers=headers)

    async def _followed(self, request: web.Request, follow: Follow) -> web.StreamResponse:
        """Writes until every container's log has ended, or the client leaves, which cancels this."""
        self._follows.add(follow)
        feed = _Feed(asyncio.get_running_loop(), len(follow.containers))
        try:
            response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
            await response.prepare(request)
            for container in follow.containers:
                name = f"follow-{container}"
                threading.Thread(target=feed.read, args=(follow.lines(container),), name=name, daemon=True).start()
            async for lines in feed:
                await response.write(_ndjson(lines))
            await response.write_eof()
            return response
        finally:
            feed.close()
            follow.close()
            self._follows.discard(follow)


class _Feed:
    """From reader threads to the event loop. A client that reads slowly slows the readers, and so the host."""

    def __init__(self, loop: asyncio.AbstractEventLoop, readers: int) -> None:
        self._loop = loop
        self._readers = readers
        self._queue: asyncio.Queue[list[Line] | None] = asyncio.Queue(maxsize=4)
        self._closed = False

    def read(self, lines: Iterable[Line]) -> None:
        """Runs in a reader's thread until its log ends."""
        try:
            for line in lines:
                if not self._put([line]):
                    return
        except DeadlineExceeded:
            log.debug("a followed log has had its time")
        except HostError as error:
            log.info("a followed log was lost: %s", error)
        except Exception:
            log.exception("a followed log failed")
        self._put(None)

    def _put(self, item: list[Line] | None) -> bool:
        if self._closed:
            return False
        with contextlib.suppress(RuntimeError):  # the loop is gone
            waiting = asyncio.run_coroutine_threadsafe(self._queue.put(item), self._loop)
            while not self._closed:
                with contextlib.suppress(TimeoutError):
                    waiting.result(timeout=1.0)
                    return True
            waiting.cancel()
        return False

    def close(self) -> None:
        self._closed = True

    async def __aiter__(self) -> AsyncIterator[list[Line]]:
        left = self._readers
        while left:
            batch: list[Line] = []
            item = await self._queue.get()
            while True:
                if item is None:
                    left -= 1
                else:
                    batch += item
                if self._queue.empty() or len(batch) >= BATCH:
                    break
                item = self._queue.get_nowait()
            if batch:
                yield batch


def _where(request: web.Request) -> tuple[str, str]:
    return request.match_info["namespace"], request.match_info["name"]


def _asked(request: web.Request) -> tuple[LogRequest, bool]:
    query = request.query
    unknown = sorted(set(query) - _QUERY)
    if unknown:
        raise _invalid(f"there is no parameter {unknown[0]!r}; there are {', '.join(sorted(_QUERY))}")
    text = query.get("tail") or "200"
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) > TAIL_MOST:
        raise _invalid(f"tail is a number of lines from 0 to {TAIL_MOST}")
    follow = query.get("follow") or "false"
    if follow not in ("true", "false", "1", "0"):
        raise _invalid("follow is true or false")
    made = LogRequest(query.get("role", ""), query.get("container", ""), int(text), _since(query.get("since") or ""))
    return made, follow in ("true", "1")


def _since(text: str) -> str:
    """Unix seconds, of an RFC 3339 time with a zone or of Unix seconds."""
    if not text or re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _invalid("since is a time such as 2026-11-22T10:00:00Z, or Unix seconds")
    return f"{moment.timestamp():.6f}"


def _invalid(message: str) -> Refused:
    return Refused(400, "InvalidQuery", message)


def _ndjson(lines: Iterable[Line]) -> bytes:
    return b"".join(json.dumps(asdict(line), ensure_ascii=False).encode("utf-8", "replace") + b"\n" for line in lines)


def _error(status: int, code: str, message: str) -> web.Response:
    headers: dict[str, Any] = {}
    if status == web.HTTPUnauthorized.status_code:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = "2"
    return web.json_response({"code": code, "message": message}, status=status, headers=headers)
