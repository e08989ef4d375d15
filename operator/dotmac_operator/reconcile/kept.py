"""What this process remembers of one Instance between passes; losing it costs a probe, never correctness."""

from dataclasses import dataclass, field, replace

from dotmac_operator.core.connections import OpenRequests
from dotmac_operator.core.status import Problem
from dotmac_operator.core.view import CRASH_LIMIT, CRASH_WINDOW, Memory, Probe, View

RETRY_FIRST, RETRY_MOST = 5.0, 300.0
"""Seconds before a failed attempt is repeated: doubled each time up to the most."""
STALLED_AFTER = 3
"""Failed attempts in a row after which somebody should look, although retries go on."""


@dataclass
class Kept:
    """Only the pass that runs for its Instance touches it."""

    probes: dict[str, Probe] = field(default_factory=dict)
    unhealthy_since: dict[str, float] = field(default_factory=dict)
    verified: str = ""
    serving: str = ""
    verify_since: float = 0.0
    verify_message: str = ""
    open_requests: dict[str, OpenRequests] = field(default_factory=dict)
    restarts: dict[str, tuple[int, tuple[float, ...]]] = field(default_factory=dict)
    """Container id -> (Docker's count of restarts, when it grew)."""
    attempts: int = 0
    attempted: str = ""
    """The state to be in and `Desired.hash` of the attempts."""
    not_before: float = 0.0
    """Unix seconds until which a failed attempt is not repeated."""
    problem: Problem | None = None
    drift: dict[str, str] = field(default_factory=dict)
    """Kind -> what was found of it and is being repaired."""
    step: str = ""
    """The step that has something to do, for the meter; empty: none."""
    step_since: float = 0.0
    announced: str = ""
    """`Desired.hash` whose beginning was told in an Event."""

    def memory(self) -> Memory:
        """A copy for the pure core."""
        return Memory(
            dict(self.probes),
            dict(self.unhealthy_since),
            self.verified,
            self.verify_since,
            self.verify_message,
            {id_: times for id_, (_, times) in self.restarts.items()},
            dict(self.open_requests),
        )

    def observe(self, view: View) -> Memory:
        """Brings what is remembered up to what was just observed."""
        if self.serving != view.verify_key:
            self.serving, self.verify_since, self.verify_message = view.verify_key, 0.0, ""
        running = {container.id for container in view.containers if container.running}
        self.probes = {id_: probe for id_, probe in self.probes.items() if id_ in running}
        if self.open_requests:
            # What was counted is good for one way out: on the next one there may be requests again.
            leaving = {c.id for c in view.containers if c.running and not view.serves(c)}
            self.open_requests = {id_: found for id_, found in self.open_requests.items() if id_ in leaving}
        self._count_restarts(view)
        judged = replace(view, memory=self.memory())
        since = {}
        parts = () if view.wanted != "Running" else (*view.desired.infrastructure, *view.desired.apps)
        for spec in parts:
            container = judged.container(spec)
            if container is not None and judged.health(spec, container) != "healthy":
                since[container.id] = self.unhealthy_since.get(container.id, view.now)
        self.unhealthy_since = since
        return self.memory()

    def _count_restarts(self, view: View) -> None:
        """Docker counts from the last start by hand, without times; so the growth is timed here. Of a container that is
        younger than the window all count, of an older one only those that were seen."""
        fresh = {}
        for container in view.containers:
            if container.inspected is None:
                continue
            now, young = container.inspected.restarts, view.now - container.created < CRASH_WINDOW
            before, times = self.restarts.get(container.id, (0 if young else now, ()))
            grown = (view.now,) * min(CRASH_LIMIT, max(0, now - before))
            kept = tuple(at for at in times if view.now - at < CRASH_WINDOW)
            fresh[container.id] = (now, (*kept, *grown)[-2 * CRASH_LIMIT :])
        self.restarts = fresh

    def start_afresh(self) -> None:
        """Somebody asked for another try: no waiting, and everything is probed again."""
        self.not_before, self.attempts, self.verified = 0.0, 0, ""
        self.probes.clear()
        self.restarts = {id_: (count, ()) for id_, (count, _) in self.restarts.items()}
        self.unhealthy_since.clear()
        self.verify_since = 0.0

    def succeeded(self) -> None:
        """The next difference is a new one and is repaired at once."""
        self.not_before, self.attempts, self.problem = 0.0, 0, None

    def count_attempt(self, attempt: str, problem: Problem, now: float) -> Problem:
        """Notes a failed attempt; a problem that is not stalled from the first counts as such after some of them."""
        if self.attempted != attempt:
            self.attempted, self.attempts = attempt, 0
        self.attempts += 1
        self.not_before = now + min(RETRY_MOST, RETRY_FIRST * 2 ** (self.attempts - 1))
        self.problem = replace(problem, stalled=problem.stalled or self.attempts >= STALLED_AFTER)
        self.unhealthy_since.clear()
        self.verify_since = 0.0
        return self.problem

    def note_verified(self, key: str, ok: bool, message: str, now: float) -> None:
        if ok:
            self.verified = key
        else:
            self.verify_since = self.verify_since or now
            self.verify_message = message
