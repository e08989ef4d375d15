"""The election: who may act, when, and with which number. Time is the test's own."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dotmac_operator import identity
from dotmac_operator.hosts.port import NotLeading
from dotmac_operator.leader import (
    JITTER,
    LONG_AGO,
    Election,
    LeadershipLost,
    Surroundings,
    Timing,
    number_of,
)
from dotmac_operator.leases import Lease, LeaseConflict, LeaseError, LeaseForbidden, _spec

TIMING = Timing()
START = datetime(2026, 11, 23, tzinfo=UTC)


class World:
    """A clock, an API server with one Lease, and operators that share them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.lease: Lease | None = None
        self.version = 0
        self.ended: set[str] = set()

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def operator(self, name: str) -> "Operator":
        return Operator(self, name)


class FakeLeases:
    def __init__(self, world: World) -> None:
        self.world = world
        self.down = False
        self.answers_lost = 0
        self.forbidden = False
        self.said: list[str] = []

    def _reach(self) -> None:
        if self.forbidden:
            raise LeaseForbidden("may not get leases")
        if self.down:
            raise LeaseError("the API did not answer")

    def _store(self, lease: Lease) -> Lease:
        self.world.version += 1
        self.world.lease = replace(lease, raw=self.world.version)
        if self.answers_lost:
            self.answers_lost -= 1
            raise LeaseError("the answer was lost")
        return self.world.lease

    def read(self) -> Lease | None:
        self._reach()
        return self.world.lease

    def create(self, holder: str, duration: float) -> Lease:
        self._reach()
        if self.world.lease is not None:
            raise LeaseConflict("it exists")
        now = self.world.now
        return self._store(Lease(holder, duration, now, now, 0, now))

    def replace(self, lease: Lease) -> Lease:
        self._reach()
        if self.world.lease is None or lease.raw != self.world.lease.raw:
            raise LeaseConflict("somebody else was quicker")
        return self._store(lease)

    def domain(self) -> str:
        self._reach()
        return "erp.dotmac-operator.1"

    def announce(self, lease: Lease, message: str) -> None:
        self.said.append(message)


class Operator:
    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.leases = FakeLeases(world)
        around = Surroundings(lambda: world.seconds, lambda: world.now, lambda holder: holder in world.ended)
        self.election = Election(self.leases, name, TIMING, around)
        self.next = 0.0
        self.lost = False

    @property
    def leading(self) -> bool:
        return self.election.leading

    def turn(self) -> None:
        """One look, whatever comes of it."""
        pause = TIMING.retry
        try:
            pause = self.election.turn()
        except LeadershipLost as error:
            self.lost = True
            self.election._end(error)
        except LeaseError:
            pass
        self.next = self.world.seconds + pause


@pytest.fixture
def world() -> World:
    return World()


def test_a_lease_that_nobody_made_is_taken_at_once(world):
    one = world.operator("one")
    one.turn()
    assert one.leading
    assert one.election.token().number == int(START.timestamp()) * 1_000_000
    assert one.leases.said == ["one became leader"]
    assert world.lease is not None and (world.lease.holder, world.lease.transitions) == ("one", 0)


def test_of_two_that_start_together_one_leads(world):
    one, two = world.operator("one"), world.operator("two")
    found = world.lease
    one.leases.read = two.leases.read = lambda: found  # both have looked before either has written
    one.turn()
    two.turn()
    assert (one.leading, two.leading) == (True, False)


def test_a_held_lease_is_waited_for_from_when_it_was_first_seen(world):
    """Its renewal may be long past by a clock that is wrong: only our own clock counts."""
    world.operator("one").turn()
    world.seconds = 40
    two = world.operator("two")
    two.turn()
    world.seconds += TIMING.lease - 0.1
    two.turn()
    assert not two.leading
    world.seconds += 0.2
    two.turn()
    assert two.leading
    assert world.lease is not None and world.lease.transitions == 1


def test_a_lease_that_ran_out_long_ago_is_taken_at_first_sight(world):
    world.operator("one").turn()
    world.seconds = LONG_AGO.total_seconds() + TIMING.lease + 1
    two = world.operator("two")
    two.turn()
    assert two.leading


def test_a_holder_that_is_proven_dead_is_not_waited_for(world):
    world.operator("one").turn()
    world.ended.add("one")
    two = world.operator("two")
    two.turn()
    assert two.leading
    assert two.election.token().number == int(START.timestamp()) * 1_000_000 + 1


def test_takeover_after_a_crash_is_within_fifteen_seconds(world):
    one, two = world.operator("one"), world.operator("two")
    rng = random.Random(3)
    for _ in range(200):
        one.turn()
        crashed = world.seconds
        world.seconds += rng.uniform(0, TIMING.look + JITTER)  # where the other is in its pause
        while not two.leading:
            two.turn()
            world.seconds = two.next
        assert world.seconds - crashed - TIMING.retry < TIMING.takeover
        one, two = two, world.operator("next")


@pytest.mark.parametrize("slow", [0.0, 0.5], ids=["an API that answers at once", "one that takes half a second"])
def test_the_slowest_takeover_is_the_sum_of_its_parts(world, monkeypatch, slow):
    """The leader dies right after a renewal, which the other has just missed; every pause is as long as it may be."""
    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    one, two = world.operator("one"), world.operator("two")
    for each in (one, two):
        answering_after(each, slow)
    one.turn()
    two.turn()
    seen = two.next
    world.seconds = seen - TIMING.look - JITTER + 0.001
    one.turn()
    crashed = world.seconds
    while not two.leading:
        world.seconds = max(world.seconds, two.next)
        two.turn()
    taken = world.seconds - crashed
    assert taken <= TIMING.takeover + 4 * slow
    assert taken > TIMING.takeover - 2 * JITTER, "as slow as it can be"
    assert TIMING.takeover + 4 * 0.5 < 12, "which leaves three of fifteen seconds for a first pass"


def test_a_candidate_that_starts_after_the_crash_counts_from_its_first_look(world, monkeypatch):
    """It cannot know how long the holder has been silent. A process that takes six seconds to start is in time."""
    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    world.operator("one").turn()
    world.seconds = started = 6.0
    two = world.operator("two")
    while not two.leading:
        two.turn()
        world.seconds = max(world.seconds, two.next) if not two.leading else world.seconds
    assert started + TIMING.lease <= world.seconds <= started + TIMING.lease + JITTER < 15


def answering_after(each: Operator, seconds: float) -> None:
    """Every question to the API takes so long."""
    read, store = each.leases.read, each.leases._store

    def late_read() -> Lease | None:
        found = read()
        each.world.seconds += seconds
        return found

    def late_store(lease: Lease) -> Lease:
        made = store(lease)
        each.world.seconds += seconds
        return made

    each.leases.read, each.leases._store = late_read, late_store  # type: ignore[method-assign]


@pytest.mark.parametrize(("asked", "written"), [(8.0, 8), (8.4, 9), (0.1, 1)])
def test_a_lease_is_written_in_whole_seconds_and_never_shorter_than_its_holder_acts(asked, written):
    assert _spec("one", asked, START, START, 0).lease_duration_seconds == written


def test_renewals_keep_it(world):
    one, two = world.operator("one"), world.operator("two")
    for _ in range(60):
        one.turn()
        two.turn()
        world.seconds += TIMING.retry
        assert (one.leading, two.leading) == (True, False)
    assert world.lease is not None and world.lease.transitions == 0


def test_it_acts_no_more_when_it_cannot_renew_and_again_when_nobody_took_over(world):
    one = world.operator("one")
    one.turn()
    before = one.election.token()
    one.leases.down = True
    world.seconds = TIMING.renew_deadline - 0.1
    one.turn()
    assert one.leading
    world.seconds = TIMING.renew_deadline
    one.turn()
    assert not one.leading
    with pytest.raises(NotLeading):
        one.election.token()
    one.leases.down = False
    world.seconds = 60
    one.turn()
    assert one.leading and one.election.token() == before


def test_its_term_counts_from_when_the_renewal_was_sent(world):
    one = world.operator("one")
    slow = one.leases._store

    def store(lease: Lease) -> Lease:
        world.seconds += 5  # the answer takes so long
        return slow(lease)

    one.leases._store = store
    one.turn()
    world.seconds = TIMING.renew_deadline
    assert not one.leading


def test_one_that_was_stopped_and_overtaken_never_leads_again(world):
    one, two = world.operator("one"), world.operator("two")
    one.turn()
    two.turn()
    world.seconds = 20
    two.turn()
    assert two.leading and not one.leading
    one.turn()
    assert one.lost and not one.leading
    assert two.election.token().number > int(START.timestamp()) * 1_000_000


def test_the_same_holder_after_a_change_of_leaders_is_not_us(world):
    """We were away for two changes: what we began is not ours to go on with, even if the name in the Lease is."""
    one = world.operator("one")
    one.turn()
    assert world.lease is not None
    world.lease = replace(world.lease, transitions=2, raw=99)
    one.turn()
    assert one.lost


def test_somebody_may_label_the_lease(world):
    one = world.operator("one")
    one.turn()
    assert world.lease is not None
    world.lease = replace(world.lease, raw="labelled")
    one.turn()
    one.turn()
    assert one.leading and not one.lost
    assert world.lease.raw != "labelled"


def test_a_deleted_lease_is_made_anew_with_a_higher_number(world):
    one = world.operator("one")
    one.turn()
    before = one.election.token().number
    world.seconds, world.lease = 2.0, None
    one.turn()
    one.turn()
    assert one.leading and not one.lost
    assert one.election.token().number > before


def test_when_the_lease_was_deleted_and_another_was_quicker_it_is_lost(world):
    one = world.operator("one")
    one.turn()
    world.seconds, world.lease = 2.0, None
    two = world.operator("two")
    two.turn()
    one.turn()
    assert one.lost and two.leading


def test_an_answer_that_was_lost_costs_no_number(world):
    one = world.operator("one")
    one.leases.answers_lost = 1
    one.turn()
    assert not one.leading
    one.turn()
    assert one.leading
    assert world.lease is not None and world.lease.transitions == 0


def test_a_released_lease_is_taken_at_the_next_look(world):
    one, two = world.operator("one"), world.operator("two")
    one.turn()
    two.turn()
    one.election.stop()
    assert not one.leading
    two.turn()
    assert two.leading
    assert world.lease is not None and world.lease.transitions == 1


def test_release_gives_nothing_away_that_another_one_holds(world):
    one, two = world.operator("one"), world.operator("two")
    one.turn()
    two.turn()
    world.seconds = 20
    two.turn()
    one.election.stop()
    assert world.lease is not None and world.lease.holder == "two"


def test_hosts_that_remember_more_than_the_lease_raise_it(world):
    """A control plane restored from a backup tells numbers that hosts have seen already."""
    one = world.operator("one")
    one.turn()
    kept = one.election.token().number + 41
    one.election.refused(kept)
    one.turn()
    assert one.election.token().number == kept + 1
    one.turn()
    assert one.election.token().number == kept + 1


def test_who_is_refused_and_overtaken_raises_nothing(world):
    one, two = world.operator("one"), world.operator("two")
    one.turn()
    two.turn()
    world.seconds = 20
    two.turn()
    one.election.refused(two.election.token().number)
    one.turn()
    assert one.lost
    assert world.lease is not None and world.lease.transitions == 1


def test_a_number_out_of_reach_does_not_break_the_lease(world, caplog):
    one = world.operator("one")
    one.turn()
    one.election.refused(one.election.token().number + 2**40)
    one.turn()
    assert one.leading
    assert "cannot reach" in caplog.text


@pytest.mark.parametrize("seed", range(40))
def test_never_two_at_once_whatever_happens(world, seed):
    """Stops of any length, an API that comes and goes, lost answers, deletions, crashes and fresh processes."""
    rng = random.Random(seed)
    alive = [world.operator(f"{n}") for n in range(3)]
    frozen: dict[str, float] = {}
    numbers: dict[int, str] = {}
    for count in range(1500):
        world.seconds += rng.choice((0.05, 0.3, 1.0))
        for each in list(alive):
            me = each.election.identity
            if frozen.get(me, 0) > world.seconds:
                continue
            if each.next <= world.seconds:
                each.turn()
            if each.lost or rng.random() < 0.003:
                if not each.lost and rng.random() < 0.5:
                    each.election.stop()
                alive.remove(each)
                alive.append(world.operator(f"{me}'{count}"))
            elif rng.random() < 0.01:
                frozen[me] = world.seconds + rng.choice((1, 6, 9, 30))
            each.leases.down = rng.random() < (0.7 if each.leases.down else 0.03)
            each.leases.answers_lost = int(rng.random() < 0.02)
        if rng.random() < 0.002:
            world.lease = None
            continue  # Whoever leads learns of it with the next renewal: only the fence covers that moment.
        leading = [each for each in alive if each.leading]
        if world.lease is not None and world.lease.created < world.now - timedelta(seconds=TIMING.renew_deadline):
            assert len(leading) <= 1, [each.election.identity for each in leading]
        for each in leading:
            number = each.election.token().number
            assert numbers.setdefault(number, each.election.identity) == each.election.identity
    assert len(numbers) > 3


def test_numbers_grow_with_leaders_and_with_leases(world):
    first = Lease("one", 10, START, START, 5, START)
    later = START + timedelta(seconds=1)
    assert number_of(first) < number_of(replace(first, transitions=6)) < number_of(replace(first, created=later))


# ---- its thread


def test_it_tells_once_when_it_leads_and_when_it_does_not(world):
    one = world.operator("one")
    told: list[bool] = []
    one.election.on_change.append(told.append)
    one.election.start()
    until(lambda: told == [True])
    one.election.refused(one.election.token().number)  # wakes it
    time.sleep(0.05)
    one.election.stop()
    assert told == [True, False]
    assert world.lease is not None and world.lease.holder == ""


def test_a_missing_right_ends_it_with_the_reason(world):
    one = world.operator("one")
    one.leases.forbidden = True
    ends: list[Exception] = []
    one.election.on_end.append(ends.append)
    one.election.start()
    until(lambda: bool(ends))
    assert isinstance(ends[0], LeaseForbidden)
    one.election.stop()


def test_a_right_that_is_taken_away_for_a_moment_does_not(world):
    one = world.operator("one")
    ends: list[Exception] = []
    one.election.on_end.append(ends.append)
    one.election.start()
    until(lambda: one.leading)
    one.leases.forbidden = True
    one.election.refused(-1)
    time.sleep(0.1)
    one.leases.forbidden = False
    assert one.leading and ends == []
    one.election.stop()


def until(what, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


# ---- who a process is


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def other():
    """A process of this machine, as it would call itself."""
    process = subprocess.Popen(["sleep", "60"])
    here = identity.this_process()
    started = int((identity.PROC / str(process.pid) / "stat").read_text().rpartition(")")[2].split()[19])
    yield process, replace(here, pid=process.pid, started=started)
    process.kill()
    process.wait()


@linux
def test_a_process_that_runs_has_not_ended(other):
    process, called = other
    assert not identity.ended(str(identity.this_process()))
    assert not identity.ended(str(called))
    process.send_signal(signal.SIGSTOP)
    assert not identity.ended(str(called))


@linux
def test_a_process_that_was_killed_has(other):
    process, called = other
    process.kill()
    until(lambda: identity.ended(str(called)))  # a zombie: its parent has not asked yet
    process.wait()
    assert identity.ended(str(called))


@linux
def test_its_pid_may_be_somebody_elses_by_now(other):
    _, called = other
    assert identity.ended(str(replace(called, started=called.started - 1)))


@linux
@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"boot": "00000000"}, {"namespace": 1}])
def test_of_another_machine_boot_or_container_nothing_is_known(other, elsewhere):
    process, called = other
    process.kill()
    process.wait()
    assert not identity.ended(str(replace(called, **elsewhere)))


@pytest.mark.parametrize("holder", ["", "pod-1_0e8c", "x_12345678-1-2", "x_12345678-1-2-3 ", "_" * 300])
def test_of_a_name_that_is_not_ours_nothing_is_known(holder):
    assert not identity.ended(holder)


@linux
def test_a_process_that_proc_hides_is_asked_for_by_its_pid(other, monkeypatch):
    process, called = other
    monkeypatch.setattr(identity, "_stat", lambda pid: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setattr(identity, "this_process", lambda: replace(called, pid=os.getpid()))
    assert not identity.ended(str(called))
    process.kill()
    process.wait()
    assert identity.ended(str(called))
