"""What this process remembers of one Instance between passes; losing it costs a probe, never correctness."""

from dataclasses import dataclass, field, replace

from dotmac_operator.core.connections import OpenRequests
from dotmac_operator.core.status import Problem
from dotmac_operator.core.view import Memory, Probe, View

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
            dict(self.open_requests),
        )

    def observe(self, view: View) -> Memory:
        """Brings what is remembered up to what was just observed."""
        if self.serving != view.verify_key:
            self.serving, self.verify_since, self.verify_message = view.verify_key, 0.0, ""
        running = {container.id for container in view.containers if container.running}
        self.probes = {id_: probe for id_, probe in self.probes.items() if id_ in running}
        self.open_requests = {id_: found for id_, found in self.open_requests.items() if id_ in running}
        judged = replace(view, memory=self.memory())
        since = {}
        parts = () if view.wanted != "Running" else (*view.desired.infrastructure, *view.desired.apps)
        for spec in parts:
            container = judged.container(spec)
            if container is not None and judged.health(spec, container) != "healthy":
                since[container.id] = self.unhealthy_since.get(container.id, view.now)
        self.unhealthy_since = since
        return self.memory()

    def start_afresh(self) -> None:
        """Somebody asked for another try: no waiting, and everything is probed again."""
        self.not_before, self.attempts, self.verified = 0.0, 0, ""
        self.probes.clear()
        self.unhealthy_since.clear()
        self.verify_since = 0.0

    def succeeded(self) -> None:
        """The next difference is a new one and is repaired at once."""
        self.not_before, self.attempts, self.problem = 0.0, 0, None

    def count_attempt(self, attempt: str, problem: Problem, now: float) -> Problem:
        """Notes a failed attempt; the problem counts as stalled after some of them."""
        if self.attempted != attempt:
            self.attempted, self.attempts = attempt, 0
        self.attempts += 1
        self.not_before = now + min(RETRY_MOST, RETRY_FIRST * 2 ** (self.attempts - 1))
        self.problem = replace(problem, stalled=self.attempts >= STALLED_AFTER)
        self.unhealthy_since.clear()
        self.verify_since = 0.0
        return self.problem

    def note_verified(self, key: str, ok: bool, message: str, now: float) -> None:
        if ok:
            self.verified = key
        else:
            self.verify_since = self.verify_since or now
            self.verify_message = message
