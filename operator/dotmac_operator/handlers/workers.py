"""One reconciler task per object, with a wake flag: a wake-up while a pass runs starts another one after it."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from dotmac_operator.hosts.port import NotLeading
from dotmac_operator.logs import about
from dotmac_operator.reconcile.ports import ClusterError, Outcome

log = logging.getLogger(__name__)

BACKOFF_FIRST, BACKOFF_MOST = 1.0, 60.0
"""Seconds after a failed pass: doubled each time, jittered, up to the most."""
COALESCE = 0.05
"""Seconds that a wake-up waits for its companions: one event of a host seldom comes alone. A change of the object
itself is one event, so its pass begins at once, unless the last one began less than this ago."""

type Pass = Callable[[str], Outcome]


class PassMeter(Protocol):
    """What is counted of passes. Calls are cheap and never fail; they come from several threads."""

    def added(self, kind: str) -> None:
        """An object was put into the queue."""

    def began(self, kind: str, waited: float) -> None:
        """Its pass begins, after so many seconds in the queue."""

    def ended(self, kind: str, outcome: Outcome, seconds: float) -> None: ...


class UnmeteredPasses:
    """Counts nothing."""

    def added(self, kind: str) -> None: ...

    def began(self, kind: str, waited: float) -> None: ...

    def ended(self, kind: str, outcome: Outcome, seconds: float) -> None: ...


@dataclass
class Queue:
    """The objects of one kind."""

    waiting: int = 0
    running: list[float] = field(default_factory=list)
    """Seconds that each pass of now has taken."""


class Workers:
    """Runs passes for (kind, key). Passes of one object never overlap; those of different objects do."""

    def __init__(
        self, passes: Mapping[str, Pass], pool: Executor, resync: float, meter: PassMeter | None = None
    ) -> None:
        """`resync` in seconds; jittered by a fifth, so that a fleet does not look at its hosts all at once."""
        self._passes = passes
        self._pool = pool
        self._resync = resync
        self._meter = meter or UnmeteredPasses()
        self._waiting: dict[tuple[str, str], float] = {}
        self._running: dict[tuple[str, str], float] = {}
        self._flags: dict[tuple[str, str], asyncio.Event] = {}
        self._urgent: set[tuple[str, str]] = set()
        """What was woken up by somebody who waits for it."""
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self._leading = asyncio.Event()
        self._leading.set()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def lead(self, leading: bool) -> None:
        """While another operator leads no pass begins; each object gets one when this process leads (again)."""
        if not leading:
            self._leading.clear()
            return
        self._leading.set()
        for place, flag in self._flags.items():
            self._waiting[place] = time.monotonic()
            flag.set()

    def wake(self, kind: str, key: str, *, urgent: bool = False) -> None:
        """Thread-safe. Starts the object's task when it has none. `urgent`: without waiting for companions."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake, kind, key, urgent)

    def _wake(self, kind: str, key: str, urgent: bool = False) -> None:
        if self._stopping:
            return
        log.debug("wake %s %s", kind, key)
        place = (kind, key)
        if urgent:
            self._urgent.add(place)
        if place not in self._waiting:
            self._waiting[place] = time.monotonic()
            self._meter.added(kind)
        self._flags.setdefault(place, asyncio.Event()).set()
        if place not in self._tasks:
            self._tasks[place] = asyncio.get_running_loop().create_task(self._run(kind, key), name=f"{kind} {key}")

    def _forget(self, kind: str, key: str) -> None:
        del self._tasks[(kind, key)], self._flags[(kind, key)]
        self._waiting.pop((kind, key), None)
        self._urgent.discard((kind, key))

    def queues(self) -> dict[str, Queue]:
        """What waits and what runs, by kind in lower case. Thread-safe. While another operator leads nothing waits."""
        found: dict[str, Queue] = {}
        now = time.monotonic()
        for kind, _ in list(self._waiting) if self._leading.is_set() else ():
            found.setdefault(kind.lower(), Queue()).waiting += 1
        for (kind, _), since in list(self._running.items()):
            found.setdefault(kind.lower(), Queue()).running.append(now - since)
        return found

    async def stop(self) -> None:
        """No new passes; those that run are waited for by whoever owns the pool."""
        self._stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, kind: str, key: str) -> None:
        flag = self._flags[(kind, key)]
        failures, began = 0, 0.0
        while True:
            await self._companions((kind, key), began)
            await self._leading.wait()
            flag.clear()
            self._urgent.discard((kind, key))
            began = time.monotonic()
            outcome = await self._pass(kind, key)
            if outcome.gone and not flag.is_set():
                self._forget(kind, key)
                return
            failures = failures + 1 if outcome.failed else 0
            delay = self._delay(outcome, failures)
            try:
                async with asyncio.timeout(delay):
                    await flag.wait()
            except TimeoutError:
                pass

    async def _companions(self, place: tuple[str, str], began: float) -> None:
        """Waits for what belongs to this wake-up; `began` is when the last pass did."""
        until = time.monotonic() + COALESCE
        while (left := (began + COALESCE if place in self._urgent else until) - time.monotonic()) > 0:
            await asyncio.sleep(min(left, COALESCE / 5))

    async def _pass(self, kind: str, key: str) -> Outcome:
        # A pass without a wake-up, because its time has come, waits for a thread too.
        self._waiting.setdefault((kind, key), time.monotonic())
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._metered, kind, key)

    def _metered(self, kind: str, key: str) -> Outcome:
        """One pass, in a thread of the pool."""
        began = time.monotonic()
        self._meter.began(kind, began - self._waiting.pop((kind, key), began))
        self._running[(kind, key)] = began
        outcome = Outcome(failed=True)
        try:
            outcome = self._safely(kind, key)
        finally:
            del self._running[(kind, key)]
            self._meter.ended(kind, outcome, time.monotonic() - began)
        return outcome

    def _safely(self, kind: str, key: str) -> Outcome:
        with about(**{kind.lower(): key}):
            try:
                return self._passes[kind](key)
            except NotLeading as error:
                log.info("%s", error)
            except ClusterError as error:
                log.warning("%s", error)
            except Exception:
                # A bug in one object's pass must not end its task, nor anybody else's.
                log.exception("pass failed")
            return Outcome(failed=True)

    def _delay(self, outcome: Outcome, failures: int) -> float:
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing
        if outcome.failed:
            return min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(failures - 1, 10)) * jitter
        resync = self._resync * jitter  # for a wait of days, too: a trial's end, a maintenance window
        return resync if outcome.after is None else min(resync, outcome.after)
