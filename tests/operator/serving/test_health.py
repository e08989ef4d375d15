"""Each check: silent while all is well, and failing with the reason and the remedy when its part is made to fail."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from tests.kits.fakes import deployed

from dotmac_operator.handlers.workers import Workers
from dotmac_operator.reconcile.ports import DONE, ClusterError
from dotmac_operator.serving import health as module
from dotmac_operator.serving.health import (
    Canary,
    Health,
    check_loop,
    check_streams,
    check_workers,
    loop_canary,
    pool_canary,
)
from dotmac_operator.serving.kubeapi import versions_of
from dotmac_operator.serving.metrics import Metrics
from dotmac_operator.serving.watchers import Watchers
from dotmac_operator.serving.watching import Listed, Seen, VersionGone, WatchCanary, places_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def until(what: Callable[[], Any], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.01)


# -- the process itself


async def test_a_loop_that_is_blocked_is_noticed() -> None:
    check = check_loop(loop_canary(asyncio.get_running_loop()), limit=0.2)
    assert await asyncio.to_thread(check) == ""
    found: list[str] = []
    threading.Timer(0.5, lambda: found.append(check())).start()
    await asyncio.sleep(0.1)  # the first canary is back
    threading.Timer(0.05, check).start()  # this one finds the loop blocked
    time.sleep(0.8)  # noqa: ASYNC251 - that is the fault
    assert "the main loop has not turned for 0 s" in found[0]
    await asyncio.sleep(0.05)
    assert check() == ""


def test_a_loop_that_is_closed_is_noticed() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert "main loop" in check_loop(loop_canary(loop))()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


async def test_workers_that_are_all_stuck_are_noticed_and_told_apart(pool: ThreadPoolExecutor) -> None:
    go_on = threading.Event()

    def pass_(key: str) -> Any:
        go_on.wait(10)
        return DONE

    workers = Workers({"Instance": pass_}, pool, 600.0)
    workers.start(asyncio.get_running_loop())
    check = check_workers(pool_canary(pool), workers, limit=0.2)
    assert check() == ""
    try:
        workers.wake("Instance", "a")
        await asyncio.sleep(0.3)
        assert check() == "" and check() == ""  # one of two is free
        for key in "bcd":
            workers.wake("Instance", key)
        await asyncio.sleep(0.15)
        check()
        await asyncio.sleep(0.3)
        told = check()
        assert "no worker was free" in told and "2 passes run" in told and "2 objects wait" in told
        assert "DOTMAC_OPERATOR_WORKERS" in told
    finally:
        go_on.set()
    await until(lambda: check() == "")
    await workers.stop()


def test_a_pool_that_was_shut_down_is_noticed() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    assert "no worker" in check_workers(pool_canary(pool), Workers({}, pool, 600.0), 10.0)()


def test_one_canary_is_on_its_way_at_a_time() -> None:
    clock, sent = Clock(), []
    canary = Canary(sent.append, clock)
    assert [canary.overdue(), canary.overdue()] == [0.0, 0.0]
    clock.now += 7
    assert canary.overdue() == 7.0 and len(sent) == 1
    sent[0]()
    assert canary.overdue() == 0.0 and len(sent) == 2


async def test_a_watcher_that_has_ended_is_noticed() -> None:
    watchers = Watchers(asyncio.get_running_loop())
    names = ("watcher for instances.v1alpha1.platform.dotmac.io@tenants", "watcher for configmaps.v1@None", "other")
    tasks = [asyncio.create_task(asyncio.sleep(60), name=name) for name in names]
    assert watchers.check() == ""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    told = watchers.check()
    assert "instances" in told and "restart" in told and "configmaps" not in told
    again = asyncio.create_task(asyncio.sleep(60), name=names[0])
    await asyncio.sleep(0)
    assert watchers.check() == ""
    again.cancel()


# -- the watches


class Api:
    """What a second watch would tell."""

    def __init__(self) -> None:
        self.version = 10
        self.changes: list[int] = []
        self.failure: Exception | None = None
        self.empty = False
        self.asked: list[str] = []

    def newer(self, plural: str, namespace: str, version: str) -> list[str]:
        self.asked.append(f"{plural} {namespace} {version}")
        if self.failure is not None:
            raise self.failure
        return [str(change) for change in self.changes if change > int(version)]

    def current(self, plural: str, namespace: str) -> Listed:
        self.asked.append(f"{plural} {namespace}")
        if self.failure is not None and not isinstance(self.failure, VersionGone):
            raise self.failure
        return Listed(self.version, self.empty)


@pytest.fixture
def watched() -> SimpleNamespace:
    api, seen, clock = Api(), Seen(), Clock()
    canary = WatchCanary(api, seen, [("instances", "tenants")], 30.0, clock)
    return SimpleNamespace(api=api, seen=seen, clock=clock, canary=canary)


def told(version: int, namespace: str = "tenants") -> dict[str, Any]:
    return {"kind": "Instance", "metadata": {"resourceVersion": str(version), "namespace": namespace}}


def test_a_watch_that_tells_what_happens_is_never_doubted(watched: SimpleNamespace) -> None:
    watched.canary.probe()
    for version in range(11, 20):
        watched.api.changes.append(version)
        watched.canary.probe()
        watched.clock.now += 19
        watched.seen.take(told(version), True)
        watched.clock.now += 100
        assert watched.canary.check_watches() == ""
    assert watched.api.asked[-1] == "instances tenants 18"


def test_a_watch_that_is_silent_while_something_happens_is_noticed(watched: SimpleNamespace) -> None:
    watched.canary.probe()
    watched.api.changes = [12]
    watched.canary.probe()
    assert watched.canary.check_watches() == ""
    watched.clock.now += 21
    reason = watched.canary.check_watches()
    assert "instances in tenants" in reason and "version 12 owed for 21 s" in reason
    watched.seen.take(told(12), True)
    assert watched.canary.check_watches() == ""


def test_a_watch_that_lags_ever_behind_is_noticed(watched: SimpleNamespace) -> None:
    watched.canary.probe()
    for version in range(11, 20):
        watched.api.changes.append(version)
        watched.canary.probe()
        watched.clock.now += 5
    assert "owed for 45 s" in watched.canary.check_watches()


def test_what_happens_elsewhere_is_nothing_that_this_watch_owes(watched: SimpleNamespace) -> None:
    watched.seen.take(told(50, "other"), True)
    assert watched.seen.newest("instances", "tenants") == 0
    assert watched.seen.newest("instances", "") == 50


def test_versions_that_are_forgotten_begin_a_new_account(watched: SimpleNamespace) -> None:
    watched.canary.probe()
    watched.api.failure, watched.api.version = VersionGone("410"), 90
    watched.canary.probe()
    watched.api.failure, watched.api.changes = None, [12, 95]
    watched.canary.probe()
    watched.clock.now += 60
    assert "version 95 owed" in watched.canary.check_watches()


def test_an_api_that_does_not_answer_is_noticed(watched: SimpleNamespace) -> None:
    watched.canary.probe()
    watched.api.failure = ClusterError("the Kubernetes API did not answer: MaxRetryError")
    for _ in range(4):
        watched.clock.now += 30
        watched.canary.probe()
    assert "not answered for 120 s" in watched.canary.check_api()
    assert "MaxRetryError" in watched.canary.check_api()
    watched.api.failure = None
    watched.canary.probe()
    assert watched.canary.check_api() == ""


def test_the_first_lists_are_waited_for(watched: SimpleNamespace) -> None:
    assert "first lists" in watched.canary.check_lists()
    watched.canary.probe()
    watched.seen.take(told(5), False)  # taken into the index, but not every kind is
    watched.canary.probe()
    assert "first lists" in watched.canary.check_lists()
    watched.seen.take(told(5), True)
    assert watched.canary.check_lists() == ""


def test_nothing_is_waited_for_where_there_is_nothing(watched: SimpleNamespace) -> None:
    watched.api.empty = True
    watched.canary.probe()
    assert watched.canary.check_lists() == ""


def test_versions_that_are_no_numbers_are_left_alone(watched: SimpleNamespace) -> None:
    watched.seen.take({"kind": "Instance", "metadata": {"resourceVersion": "abc"}}, True)
    watched.api.version = 0
    watched.canary.probe()
    watched.canary.probe()
    assert watched.canary.check_watches() == "" and watched.canary.check_lists() == ""


def test_lines_of_a_watch() -> None:
    event = b'{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"7"}}}\n'
    mark = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}\n'
    assert list(versions_of([event, b"\n", mark])) == ["7"]
    with pytest.raises(VersionGone):
        list(versions_of([b'{"type":"ERROR","object":{"code":410,"message":"too old"}}']))
    with pytest.raises(ClusterError, match="500"):
        list(versions_of([b'{"type":"ERROR","object":{"code":500}}']))


def test_a_place_for_each_watch() -> None:
    assert ("instances", "b") in places_of(["b", "a"]) and ("releases", "") in places_of(["a"])
    assert len(places_of(["a", "b"])) == 10 and len(places_of([])) == 6


# -- event streams


def test_a_silent_stream_of_a_ready_server_is_noticed() -> None:
    world = deployed()
    inventory = world.hosts.inventory("tenants/host-1")
    assert inventory is not None
    until_ = time.monotonic() + 5
    while not inventory.streaming:
        assert time.monotonic() < until_
        time.sleep(0.01)
    check = check_streams(world.hosts, world.store)
    assert check() == ""
    inventory._stream.alive_at = time.monotonic() - 61  # type: ignore[union-attr]
    assert "tenants/host-1 (61 s)" in check()
    inventory._stream.alive_at = time.monotonic()  # type: ignore[union-attr]
    assert check() == ""
    world.hosts.close()


def test_a_stream_that_stays_closed_is_noticed_and_a_host_that_is_known_to_be_down_is_not() -> None:
    world = deployed()
    inventory = world.hosts.inventory("tenants/host-1")
    assert inventory is not None
    inventory.close()
    inventory._streaming = False
    check = check_streams(world.hosts, world.store, limit=0.05)
    assert check() == ""
    time.sleep(0.1)
    assert "1 event streams are silent" in check()
    server = world.cluster.get("Server", "tenants/host-1")
    for condition in server["status"]["conditions"]:
        if condition["type"] == "Ready":
            condition["status"] = "False"
    world.cluster._bump(server)
    world.store.put(server)
    assert check() == ""


# -- what is answered


async def asked(live: dict[str, Any], ready: dict[str, Any], path: str) -> tuple[int, str, str]:
    async with TestClient(TestServer(Health(Metrics(), live, ready).application())) as client:
        answer = await client.get(path)
        return answer.status, await answer.text(), answer.content_type


async def test_healthy_is_one_word() -> None:
    assert await asked({"a": str}, {"b": str}, "/readyz") == (200, "ok\n", "text/plain")


async def test_reasons_are_told_and_every_check_with_verbose() -> None:
    live, ready = {"a": str}, {"b": lambda: "it broke: mend it", "c": str}
    assert await asked(live, ready, "/readyz") == (503, "[-]b failed: it broke: mend it\n", "text/plain")
    status, body, kind = await asked(live, ready, "/readyz?verbose")
    assert (status, kind) == (503, "application/json")
    assert '{"name": "b", "ok": false, "reason": "it broke: mend it"}' in body and '"c", "ok": true' in body
    assert (await asked(live, ready, "/healthz"))[0] == 200  # a restart would not mend it


async def test_a_process_that_is_not_alive_is_not_ready() -> None:
    assert (await asked({"a": lambda: "stuck"}, {}, "/readyz"))[0] == 503


async def test_a_check_that_fails_is_no_success() -> None:
    def broken() -> str:
        raise RuntimeError("a bug")

    assert (await asked({"a": broken}, {}, "/healthz"))[0] == 500


def test_the_limits_fit_what_they_watch() -> None:
    assert module.STREAM_SECONDS >= 3 * 15 and module.STUCK_SECONDS > 1800 > module.BUSY_SECONDS
