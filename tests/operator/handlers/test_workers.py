"""Workers: one pass of an object at a time, none forgotten, and a bug ends nothing but its pass."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dotmac_operator.handlers import workers as module
from dotmac_operator.handlers.workers import Workers
from dotmac_operator.hosts.port import NotLeading
from dotmac_operator.reconcile.ports import DONE, GONE, ClusterError, Outcome

Pass = Callable[[str], Outcome]
Start = Callable[..., Workers]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setattr(module, "COALESCE", 0.005)
    monkeypatch.setattr(module, "BACKOFF_FIRST", 0.01)
    made: list[Workers] = []
    pool = ThreadPoolExecutor(4)

    def begin(pass_: Pass, resync: float = 600.0) -> Workers:
        workers = Workers({"Instance": pass_}, pool, resync)
        workers.start(asyncio.get_running_loop())
        made.append(workers)
        return workers

    yield begin
    for workers in made:
        await workers.stop()
    pool.shutdown(wait=True)


async def until(what: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.002)


async def test_passes_of_one_object_never_overlap_and_others_do(start: Start) -> None:
    lock = threading.Lock()
    running: dict[str, int] = {}
    most: dict[str, int] = {}
    together = 0

    def pass_(key: str) -> Outcome:
        nonlocal together
        with lock:
            running[key] = running.get(key, 0) + 1
            most[key] = max(most.get(key, 0), running[key])
            together = max(together, sum(running.values()))
        time.sleep(0.02)
        with lock:
            running[key] -= 1
        return DONE

    workers = start(pass_)
    for _ in range(20):
        workers.wake("Instance", "a")
        workers.wake("Instance", "b")
        await asyncio.sleep(0.005)
    await until(lambda: not any(running.values()))
    assert most == {"a": 1, "b": 1}
    assert together == 2


async def test_companions_of_a_wake_up_share_a_pass(start: Start) -> None:
    seen: list[str] = []
    workers = start(lambda key: seen.append(key) or DONE)  # type: ignore[func-returns-value]
    for _ in range(50):
        workers.wake("Instance", "a")
    await until(lambda: bool(seen))
    await asyncio.sleep(0.05)
    assert seen == ["a"]


async def test_what_is_waited_for_begins_at_once_but_not_again_and_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COALESCE", 0.6)  # long, so that a busy machine is not taken for it
    began: list[float] = []
    workers = start(lambda key: began.append(time.monotonic()) or DONE)  # type: ignore[func-returns-value]
    asked = time.monotonic()
    workers.wake("Instance", "a", urgent=True)
    await until(lambda: len(began) == 1)
    assert began[0] - asked < 0.5
    for _ in range(10):
        workers.wake("Instance", "a", urgent=True)
        await asyncio.sleep(0.005)
    await until(lambda: len(began) == 2)
    await asyncio.sleep(0.8)
    assert len(began) == 2, "one pass for all of them"
    workers.wake("Instance", "a")
    asked = time.monotonic()
    await asyncio.sleep(0.02)
    workers.wake("Instance", "a", urgent=True)
    await until(lambda: len(began) == 3)
    assert began[2] - asked < 0.5, "it does not wait for the companions of one that nobody waits for"


async def test_a_wake_up_during_a_pass_runs_another_one(start: Start) -> None:
    began, go_on = threading.Event(), threading.Event()
    count = 0

    def pass_(key: str) -> Outcome:
        nonlocal count
        count += 1
        began.set()
        go_on.wait(5)
        return DONE

    workers = start(pass_)
    workers.wake("Instance", "a")
    await until(began.is_set)
    workers.wake("Instance", "a")
    await asyncio.sleep(0.02)
    assert count == 1
    go_on.set()
    await until(lambda: count == 2)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ClusterError("503"), None])
async def test_a_failed_pass_is_repeated_and_ends_nobody(start: Start, error: Exception | None) -> None:
    count: dict[str, int] = {}

    def pass_(key: str) -> Outcome:
        count[key] = count.get(key, 0) + 1
        if key == "bad" and count[key] < 4:
            if error is not None:
                raise error
            return Outcome(failed=True)
        return DONE

    workers = start(pass_)
    workers.wake("Instance", "bad")
    workers.wake("Instance", "good")
    await until(lambda: count.get("bad") == 4 and count.get("good") == 1)


def test_backoff_doubles_up_to_its_most() -> None:
    with ThreadPoolExecutor(1) as pool:
        workers = Workers({}, pool, 600.0)
        delays = [workers._delay(Outcome(failed=True), failures) for failures in range(1, 12)]
        for number, delay in enumerate(delays):
            usual = min(60.0, 2.0**number)
            assert usual * 0.8 <= delay <= usual * 1.2
        assert workers._delay(Outcome(after=3.0), 0) == 3.0
        assert 480 <= workers._delay(DONE, 0) <= 720
        assert 480 <= workers._delay(Outcome(after=30 * 86400.0), 0) <= 720, "a wait of days is no reason to look away"


async def test_outcomes_say_when_to_look_again(start: Start) -> None:
    times: list[float] = []

    def pass_(key: str) -> Outcome:
        times.append(time.monotonic())
        return Outcome(after=0.03) if len(times) < 3 else DONE

    start(pass_).wake("Instance", "a")
    await until(lambda: len(times) == 3)
    await asyncio.sleep(0.08)
    assert len(times) == 3


async def test_the_task_of_an_object_that_is_gone_ends(start: Start) -> None:
    workers = start(lambda key: GONE)
    workers.wake("Instance", "a")
    await until(lambda: bool(workers._tasks))
    await until(lambda: not workers._tasks and not workers._flags)
    workers.wake("Instance", "a")
    await until(lambda: bool(workers._tasks))


async def test_nothing_begins_after_the_stop(start: Start) -> None:
    count = 0

    def pass_(key: str) -> Outcome:
        nonlocal count
        count += 1
        return DONE

    workers = start(pass_)
    await workers.stop()
    workers.wake("Instance", "a")
    await asyncio.sleep(0.03)
    assert count == 0


async def test_who_stands_by_begins_no_pass_and_makes_up_for_it_when_it_leads(start: Start) -> None:
    seen: list[str] = []
    workers = start(lambda key: seen.append(key) or DONE)  # type: ignore[func-returns-value]
    workers.lead(False)
    for key in ("a", "b", "a"):
        workers.wake("Instance", key)
    await asyncio.sleep(0.1)
    assert seen == []
    workers.lead(True)
    await until(lambda: sorted(seen) == ["a", "b"])
    workers.lead(False)
    workers.wake("Instance", "a")
    await asyncio.sleep(0.1)
    assert len(seen) == 2
    workers.lead(True)  # whoever led meanwhile may have changed anything
    await until(lambda: sorted(seen) == ["a", "a", "b", "b"])


async def test_a_pass_that_is_cut_off_because_another_leads_is_tried_again(start: Start) -> None:
    count = 0

    def pass_(key: str) -> Outcome:
        nonlocal count
        count += 1
        if count == 1:
            raise NotLeading("this operator does not lead")
        return DONE

    start(pass_).wake("Instance", "a")
    await until(lambda: count == 2)
