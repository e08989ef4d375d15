"""/metrics, /healthz and /readyz.

/healthz fails for what only a restart mends: the main loop or every worker is stuck, or a watch has ended for good.
/readyz fails for what makes this process blind for now: the first lists are not done, the Kubernetes API does not
answer, a watch or an event stream is silent, no worker is free. A host that is down is not among them: its Server says
so, and no restart brings it back.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from dotmac_operator.core.conditions import is_true
from dotmac_operator.handlers.workers import Workers
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.store import Store
from dotmac_operator.serving.metrics import Metrics

LOOP_SECONDS = 10.0
"""The main loop only passes things on: a turn of it takes milliseconds."""
BUSY_SECONDS = 120.0
"""So long without a free worker, and the process is not ready: too many slow hosts, or too few workers."""
STUCK_SECONDS = 2400.0
"""So long, and it is stuck. The longest call of a pass is a pull with 1,800 s; see `hosts.port.Engine.pull`."""
STREAM_SECONDS = 60.0
"""A stream is asked after 15 s of silence, and has to be open again within some attempts after it broke."""

type Check = Callable[[], str]
"""Returns what is wrong and what to do; empty when all is well. Quick, and thread-safe."""


@dataclass(frozen=True)
class Checked:
    name: str
    reason: str


class Canary:
    """Something small that is sent through a room now and then, to see that it comes out at the other end."""

    def __init__(
        self, send: Callable[[Callable[[], None]], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`send` has its argument called by the room. One canary is on its way at a time."""
        self._send = send
        self._clock = clock
        self._sent: float | None = None
        self._failure = ""

    def overdue(self) -> float:
        """Seconds that the present canary has been on its way; sends one when there is none."""
        sent = self._sent
        if sent is None:
            self._sent = sent = self._clock()
            try:
                self._send(self._back)
            except RuntimeError as error:  # a closed loop, a pool that was shut down
                self._failure = str(error)
        return float("inf") if self._failure else self._clock() - sent

    def _back(self) -> None:
        self._sent = None


def loop_canary(loop: asyncio.AbstractEventLoop) -> Canary:
    return Canary(loop.call_soon_threadsafe)


def pool_canary(pool: Executor) -> Canary:
    def send(back: Callable[[], None]) -> Future[None]:
        return pool.submit(back)

    return Canary(send)


def check_loop(canary: Canary, limit: float = LOOP_SECONDS) -> Check:
    def check() -> str:
        late = canary.overdue()
        return f"the main loop has not turned for {late:.0f} s" if late > limit else ""

    return check


def check_workers(canary: Canary, workers: Workers, limit: float) -> Check:
    """No worker was free for `limit` seconds."""

    def check() -> str:
        late = canary.overdue()
        if late <= limit:
            return ""
        queues = workers.queues().values()
        running = [seconds for queue in queues for seconds in queue.running]
        waiting = sum(queue.waiting for queue in queues)
        return (
            f"no worker was free for {late:.0f} s: {len(running)} passes run, the longest for "
            f"{max(running, default=0):.0f} s, and {waiting} objects wait; look for slow hosts, or set "
            "DOTMAC_OPERATOR_WORKERS higher"
        )

    return check


def check_streams(hosts: Hosts, store: Store, limit: float = STREAM_SECONDS) -> Check:
    """Every Server that is said to be Ready has an open event stream that proved to be alive lately."""
    since: dict[str, float] = {}

    def silence(key: str) -> float:
        inventory = hosts.inventory(key)
        if inventory is not None and inventory.streaming:
            since.pop(key, None)
            return inventory.silent_for()
        return time.monotonic() - since.setdefault(key, time.monotonic())

    def check() -> str:
        connected = {key for key, _ in hosts.connected()}
        ready = [s.key for s in store.all_servers() if s.key in connected and is_true(s.status.conditions, "Ready")]
        for key in set(since) - set(ready):
            since.pop(key, None)
        silent = [(key, seconds) for key in ready if (seconds := silence(key)) > limit]
        if not silent:
            return ""
        told = ", ".join(f"{key} ({seconds:.0f} s)" for key, seconds in sorted(silent)[:5])
        return f"{len(silent)} event streams are silent although their Servers are Ready: {told}"

    return check


class Health:
    """The application. `live` and `ready` are checks by name, in the order in which they are told."""

    def __init__(self, metrics: Metrics, live: dict[str, Check], ready: dict[str, Check]) -> None:
        self._metrics = metrics
        self._live = live
        self._ready = ready

    def application(self) -> web.Application:
        made = web.Application(client_max_size=1024)
        made.router.add_get("/metrics", self._told)
        made.router.add_get("/healthz", self._healthz)
        made.router.add_get("/readyz", self._readyz)
        return made

    async def _told(self, _: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._metrics.text)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthz(self, request: web.Request) -> web.Response:
        return await self._answer(request, self._live)

    async def _readyz(self, request: web.Request) -> web.Response:
        return await self._answer(request, {**self._live, **self._ready})

    async def _answer(self, request: web.Request, checks: dict[str, Check]) -> web.Response:
        found = await asyncio.to_thread(lambda: [Checked(name, check()) for name, check in checks.items()])
        good = all(not checked.reason for checked in found)
        status = 200 if good else 503
        if "verbose" in request.query:
            body = {"status": "ok" if good else "failed", "checks": list(_as_json(found))}
            return web.json_response(body, status=status)
        text = "ok" if good else "\n".join(f"[-]{c.name} failed: {c.reason}" for c in found if c.reason)
        return web.Response(text=text + "\n", status=status)


def _as_json(found: Iterable[Checked]) -> Iterable[dict[str, object]]:
    for checked in found:
        made: dict[str, object] = {"name": checked.name, "ok": not checked.reason}
        yield made | {"reason": checked.reason} if checked.reason else made
