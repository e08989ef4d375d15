"""One active operator: a Lease elects it, and the hosts' fence keeps to what the Lease says. See ADR 0013."""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from dotmac_operator import identity, kube
from dotmac_operator.hosts.fence import FenceToken
from dotmac_operator.hosts.port import NotLeading
from dotmac_operator.leases import (
    KubeLeases,
    Lease,
    LeaseConflict,
    LeaseError,
    LeaseForbidden,
    LeaseName,
    Leases,
)
from dotmac_operator.settings import Settings

log = logging.getLogger(__name__)

LONG_AGO = timedelta(seconds=60)
"""A Lease that ran out so long ago, by the clocks of two machines, is taken at first sight."""
_MOST_TRANSITIONS = 2**31 - 1
"""leaseTransitions is an int32."""


def elect(settings: Settings) -> "Election | None":
    """The election that the settings ask for, not yet started; None without one.

    Raises:
        kube.NoCluster
    """
    if not settings.leader_election:
        return None
    timing = Timing(
        settings.leader_election_lease_duration,
        settings.leader_election_renew_deadline,
        settings.leader_election_retry_period,
    )
    api = kube.connect(2)
    leases = KubeLeases(api, lease_name(settings), timing.renew_deadline / 3, settings.fencing_domain)
    return Election(leases, str(identity.this_process()), timing)


def lease_name(settings: Settings) -> LeaseName:
    """Which Lease the operators with these settings elect their leader with."""
    namespace = settings.leader_election_namespace or kube.pod_namespace()
    if not namespace:
        namespace = settings.namespaces[0] if settings.namespaces else kube.current_namespace()
    return LeaseName(namespace, settings.leader_election_name)


class LeadershipLost(Exception):
    """Another process leads now; this one has stopped to act and must end."""


JITTER = 0.2
"""Seconds, at most, that a candidate's look comes later than its time, so that not all look at once."""


@dataclass(frozen=True)
class Timing:
    """Seconds. A leader that cannot renew stops to act at `renew_deadline`, before others take the Lease at `lease`."""

    lease: float = 8.0
    renew_deadline: float = 6.0
    retry: float = 1.5

    @property
    def look(self) -> float:
        """Between two looks of a candidate: twice as often as the Lease is renewed."""
        return self.retry / 2

    @property
    def takeover(self) -> float:
        """From the end of a leader to the next one's Lease at the latest, without what the API takes to answer: the
        last renewal is seen, the Lease runs out, and it is seen that it has.

        A candidate that has just started counts from its own first look, so it takes `lease + JITTER` from there.
        """
        return self.look + JITTER + self.lease + JITTER


def _elapsed() -> float:
    """Seconds that also pass while this process, or the machine under it, is stopped."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Surroundings:
    """What an election asks the world, so that a test can answer."""

    elapsed: Callable[[], float] = _elapsed
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    ended: Callable[[str], bool] = identity.ended
    """Whether the process with this identity is proven to be no more."""


@dataclass(frozen=True)
class _Term:
    """Up to when this process may act, and with which number."""

    until: float
    token: FenceToken | None


_NO_TERM = _Term(float("-inf"), None)


def number_of(lease: Lease) -> int:
    """Grows with each change of the leader, and when the Lease was deleted and made anew (unless within a second)."""
    return int(lease.created.timestamp()) * 1_000_000 + lease.transitions


class Election:
    """Takes the Lease when it is free, renews it, and knows at each moment whether this process may act.

    Implements `hosts.fence.Fence`. One thread calls `turn`; everything else may be called from any.
    """

    def __init__(self, leases: Leases, me: str, timing: Timing, around: Surroundings | None = None) -> None:
        self.identity = me
        self.on_change: list[Callable[[bool], object]] = []
        """Called with whether this process leads, each time that this changes, from the election's thread."""
        self.on_end: list[Callable[[Exception], None]] = []
        """Called once, when this process can never lead (again), with LeadershipLost or LeaseForbidden."""
        self._leases = leases
        self._timing = timing
        self._around = around or Surroundings()
        self._held: Lease | None = None
        self._seen: tuple[tuple[object, ...], float] | None = None
        self._term = _NO_TERM
        self._floor = -1
        self._told = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # ---- what others ask

    @property
    def leading(self) -> bool:
        return self._around.elapsed() < self._term.until

    def token(self) -> FenceToken:
        term = self._term
        if term.token is None or self._around.elapsed() >= term.until:
            raise NotLeading("this operator does not lead: nothing was done; the one that leads does it")
        return term.token

    def refused(self, kept: int) -> None:
        """Looks at the Lease at once: either somebody else has it, or it tells less than the hosts remember."""
        self._floor = max(self._floor, kept)
        self._wake.set()

    # ---- its life

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """From here on this process does not act; the Lease is released, so that another one need not wait."""
        self._term = _NO_TERM
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=self._timing.renew_deadline)
        self._term = _NO_TERM
        self._tell()
        held, self._held = self._held, None
        if held is not None:
            self._release(held)

    def _release(self, held: Lease) -> None:
        now = self._around.now()
        try:
            self._leases.replace(replace(held, holder="", duration=1.0, renewed=now, acquired=now))
            log.info("the leader's Lease is released")
        except LeaseError as error:
            log.warning("the leader's Lease could not be released and has to run out: %s", error)

    def _run(self) -> None:
        troubled = ""
        while not self._stopping.is_set():
            pause, trouble = self._timing.retry, ""
            try:
                pause = self.turn()
            except LeadershipLost as error:
                return self._end(error)
            except LeaseError as error:
                if isinstance(error, LeaseForbidden) and self._held is None:
                    return self._end(error)
                trouble = str(error)
            except Exception:
                # A bug here must not end the renewals; while it lasts the term runs out by itself.
                log.exception("the election failed")
            if trouble and trouble != troubled:
                log.warning("the leader's Lease cannot be reached: %s", trouble)
            troubled = trouble
            self._tell()
            self._wake.wait(pause)
            self._wake.clear()

    def _end(self, error: Exception) -> None:
        self._term, self._held = _NO_TERM, None
        self._tell()
        for call in self.on_end:
            call(error)

    def _tell(self) -> None:
        leading = self.leading
        if leading == self._told:
            return
        self._told = leading
        log.info("leading, as %s" if leading else "not leading, as %s", self.identity)
        for call in self.on_change:
            call(leading)

    # ---- one look at the Lease

    def turn(self) -> float:
        """Takes or renews the Lease if possible; returns the seconds until the next look.

        Raises:
            LeadershipLost: somebody else has taken it. LeaseForbidden: a right is missing, and this process never led.
            LeaseError: the API did not answer.
        """
        if self._held is not None:
            return self._renew(self._held)
        self._leases.domain()  # What it cannot be told by must show before the Lease is taken.
        started = self._around.elapsed()
        found = self._leases.read()
        wait = self._wait(found) if found is not None else 0.0
        if wait > 0:
            # And at the very moment when it runs out.
            return min(self._timing.look, wait) + random.uniform(0.0, JITTER)  # noqa: S311
        try:
            if found is None:
                self._took(self._leases.create(self.identity, self._timing.lease), started)
            else:
                self._took(self._leases.replace(self._taken(found)), started)
        except LeaseConflict:
            log.debug("another candidate was quicker")
        return self._timing.retry

    def _wait(self, found: Lease) -> float:
        """Seconds until the Lease may be taken, if nobody renews it.

        Counted from when this process first saw it as it is, since clocks of machines differ.
        """
        if not found.holder or found.holder == self.identity or self._around.ended(found.holder):
            return 0.0
        state = (found.holder, found.renewed, found.acquired, found.transitions)
        now = self._around.elapsed()
        if self._seen is None and found.renewed + timedelta(seconds=found.duration) + LONG_AGO < self._around.now():
            return 0.0
        if self._seen is None or self._seen[0] != state:
            if self._seen is None or self._seen[0][0] != found.holder:
                log.info("standing by: %s leads", found.holder)
            self._seen = (state, now)
        return max(0.0, self._seen[1] + found.duration - now)

    def _taken(self, found: Lease) -> Lease:
        now = self._around.now()
        ours = found.holder == self.identity  # taken already; only the answer was lost
        transitions = found.transitions if ours else found.transitions + 1
        return replace(
            found,
            holder=self.identity,
            duration=self._timing.lease,
            renewed=now,
            acquired=found.acquired if ours else now,
            transitions=transitions,
        )

    def _took(self, lease: Lease, started: float) -> None:
        token = FenceToken(number_of(lease), self._leases.domain())
        self._lead(lease, token, started)
        log.info("took the leader's Lease with number %d", token.number)
        self._leases.announce(lease, f"{self.identity} became leader")

    def _lead(self, lease: Lease, token: FenceToken, started: float) -> None:
        """`started`: when the request began that the Lease was written with; others count from later."""
        self._held = lease
        if not self._stopping.is_set():
            self._term = _Term(started + self._timing.renew_deadline, token)

    def _renew(self, held: Lease) -> float:
        started = self._around.elapsed()
        try:
            lease = self._leases.replace(self._raised(replace(held, renewed=self._around.now())))
        except LeaseConflict:
            self._held = self._still_ours(held)
            return 0.1
        self._lead(lease, FenceToken(number_of(lease), self._leases.domain()), started)
        return self._timing.retry

    def _still_ours(self, held: Lease) -> Lease | None:
        """The Lease as it is now; None: deleted, so that it is made anew.

        Raises:
            LeadershipLost
        """
        found = self._leases.read()
        if found is None:
            log.warning("the leader's Lease was deleted; it is made anew")
            return None
        if found.holder != self.identity or found.transitions != held.transitions or found.created != held.created:
            raise LeadershipLost(f"{found.holder or 'somebody else'} has taken the leader's Lease")
        return found

    def _raised(self, lease: Lease) -> Lease:
        """With a number above what hosts have refused us for: a Lease restored from a backup tells an old one.

        Safe, because the write that follows succeeds only while the Lease is ours.
        """
        number = number_of(lease)
        if self._floor < number:
            return lease
        transitions = lease.transitions + self._floor - number + 1
        if transitions > _MOST_TRANSITIONS:
            log.error("hosts remember number %d, which this Lease cannot reach: see ADR 0013", self._floor)
            self._floor = -1
            return lease
        log.warning("hosts remember number %d: the Lease seems to be older, and is raised above it", self._floor)
        return replace(lease, transitions=transitions)
