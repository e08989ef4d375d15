"""A reverse proxy of the Kubernetes API, where requests can be counted, refused, lost, and answered from the past."""

import asyncio
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from tests.simhost import Phase

_HOP_BY_HOP = {
    "connection",
    "transfer-encoding",
    "content-length",
    "content-encoding",
    "host",
    "accept-encoding",
    "keep-alive",
}
_OBJECT = re.compile(r"/(?:namespaces/[^/]+/)?(?P<kind>[a-z]+)/(?P<name>[^/]+)(?P<sub>/status)?$")
ANSWER_SECONDS = 30.0
LAG_SECONDS = 1.5
"""How far an API server that answers from the past is behind."""


@dataclass(frozen=True)
class ApiCall:
    """One request to the API."""

    method: str
    path: str
    watch: bool
    write: int
    """Number among the writes, from 1, without those of Leases and reviews; 0 for a read."""

    @property
    def label(self) -> str:
        """Without names that differ from run to run."""
        found = _OBJECT.search(self.path)
        what = f"{found['kind']}{found['sub'] or ''}" if found else self.path.rpartition("/")[2]
        return f"{self.method} {what}"


@dataclass(frozen=True)
class Refuse:
    """The API answers so, and does nothing."""

    status: int
    reason: str
    retry_after: int = 0


@dataclass(frozen=True)
class Lose:
    """The connection ends: before the effect there is none, after it only the answer is lost."""


type ApiFault = Refuse | Lose
type ApiHook = Callable[[ApiCall, Phase], ApiFault | None]


class ApiProxy:
    """Speaks plain HTTP on loopback to clients, TLS to the control plane. Thread-safe from outside."""

    def __init__(self, upstream: str, ca: str) -> None:
        self.hook: ApiHook | None = None
        self.written: list[str] = []
        """Labels of the writes, without those of Leases and reviews."""
        self.down = False
        """True: connections are ended at once."""
        self.stale: dict[str, bytes] = {}
        """Path -> an older list, which is given in place of the present one until somebody watches from there: as by an
        API server that lags. That watch tells nothing for a while, or what is old would be acted on by nobody."""
        self.counts: Counter[str] = Counter()
        """What clients have met: `turned away`, `lost`, `broken`, `refused STATUS`, `watches`, `watches expired`,
        `watches from the past`."""
        self._listed: set[str] = set()
        """Which of the older lists were given."""
        self._upstream = upstream
        self._tls = ssl.create_default_context(cafile=ca)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-proxy", daemon=True)
        self._watches: dict[web.StreamResponse, aiohttp.ClientResponse] = {}
        self._transports: set[asyncio.Transport] = set()
        self.url = ""

    def start(self) -> "ApiProxy":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def expire_watches(self) -> None:
        """Every watch is told 410: its place in the history is gone."""
        asyncio.run_coroutine_threadsafe(self._expire(), self._loop)

    def go_down(self, seconds: float) -> None:
        """Nobody answers for so long; whatever is open breaks."""

        def down() -> None:
            self.down = True
            for transport in list(self._transports):
                transport.abort()
            self._loop.call_later(seconds, up)

        def up() -> None:
            self.down = False

        self._loop.call_soon_threadsafe(down)

    @property
    def writes(self) -> int:
        return len(self.written)

    async def _listen(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0),
            auto_decompress=False,
            skip_auto_headers=["Content-Type", "User-Agent"],
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert self._runner.addresses
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _shut(self) -> None:
        for transport in list(self._transports):
            transport.abort()
        await self._session.close()
        await self._runner.cleanup()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._transports.add(transport)
        self._transports = {known for known in self._transports if not known.is_closing()}
        if self.down:
            return self._lose(transport, "turned away")
        call = self._call(request)
        try:
            body = await request.read()
        except ConnectionError:  # its sender was killed
            return self._lose(transport)
        fault = self.hook(call, Phase.BEFORE) if self.hook else None
        if fault is not None:
            return self._refuse(fault) if isinstance(fault, Refuse) else self._lose(transport, "lost")
        if call.watch:
            return await self._watch(request)
        if request.method == "GET" and request.path in self.stale:
            return self._from_the_past(request)
        try:
            answer, headers, status = await self._ask(request, body)
        except aiohttp.ClientError:
            return self._lose(transport)
        fault = self.hook(call, Phase.AFTER) if self.hook else None
        if fault is not None:
            return self._lose(transport, "lost")
        return web.Response(body=answer, status=status, headers=headers)

    def _from_the_past(self, request: web.Request) -> web.Response:
        body = self.stale[request.path]
        if request.query.get("limit") == "1":  # it only counts
            body = _first_of(body)
        else:
            self._listed.add(request.path)
        return web.Response(body=body, content_type="application/json")

    def _call(self, request: web.Request) -> ApiCall:
        writes = request.method not in ("GET", "HEAD")
        counted = writes and "/leases" not in request.path and "accessreviews" not in request.path
        call = ApiCall(request.method, request.path, "watch" in request.query, len(self.written) + 1 if counted else 0)
        if counted:
            self.written.append(call.label)
        return call

    async def _ask(self, request: web.Request, body: bytes) -> tuple[bytes, dict[str, str], int]:
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with self._session.request(
            request.method,
            self._upstream + request.path_qs,
            data=body or None,
            headers=_passed(request.headers),
            timeout=timeout,
        ) as got:
            return await got.read(), _passed(got.headers), got.status

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if request.path in self._listed:
            self._listed.discard(request.path)
            await asyncio.sleep(LAG_SECONDS)
            del self.stale[request.path]
            self.counts["watches from the past"] += 1
        response = web.StreamResponse()
        timeout = aiohttp.ClientTimeout(total=None)
        try:
            async with self._session.get(
                self._upstream + request.path_qs, headers=_passed(request.headers), timeout=timeout
            ) as got:
                self.counts["watches"] += 1
                response.set_status(got.status)
                response.content_type = "application/json"
                await response.prepare(request)
                self._watches[response] = got
                async for chunk in got.content.iter_any():
                    await response.write(chunk)
        except (aiohttp.ClientError, ConnectionError, RuntimeError):  # RuntimeError: expired meanwhile
            if request.transport is not None:
                request.transport.close()
        finally:
            self._watches.pop(response, None)
        return response

    async def _expire(self) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
        line = json.dumps({"type": "ERROR", "object": {**status, "message": "too old resource version"}}).encode()
        for response, upstream in list(self._watches.items()):
            try:
                await response.write(line + b"\n")
                self.counts["watches expired"] += 1
                await response.write_eof()
            except (ConnectionError, RuntimeError):
                continue
            finally:
                # Its handler ends, or the client's next request on this connection would wait behind it.
                upstream.close()

    def _lose(self, transport: asyncio.Transport, why: str = "broken") -> web.Response:
        self.counts[why] += 1
        transport.abort()
        return web.Response(status=500)

    def _refuse(self, fault: Refuse) -> web.Response:
        self.counts[f"refused {fault.status}"] += 1
        body: dict[str, Any] = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": fault.reason,
            "message": "injected by the test", "code": fault.status,
        }  # fmt: skip
        headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
        return web.json_response(body, status=fault.status, headers=headers)


def _first_of(body: bytes) -> bytes:
    """The first page of a list, of one object."""
    told = json.loads(body)
    kept, others = told["items"][:1], len(told["items"]) - 1
    rest = {"continue": "the-past", "remainingItemCount": others} if others > 0 else {}
    return json.dumps({**told, "items": kept, "metadata": {**told["metadata"], **rest}}).encode()


def _passed(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
