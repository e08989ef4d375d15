"""Containers that crash by themselves, or stop answering: told, not fought, and well again when they are."""

import pytest
from tests.kits.fakes import Box, World, deployed, prepared, upgrade

from dotmac_operator.core.view import CRASH_CALM as CALM
from dotmac_operator.core.view import CRASH_LIMIT as LIMIT
from dotmac_operator.reconcile.rollout import RECHECK

KEY = "tenants/acme"


def crash(world: World, box: Box, times: int = 1) -> None:
    """Docker's policy restarts it."""
    for _ in range(times):
        box.restarts += 1
        world.now += 1
        world.touch(box)
        world.run("Instance", KEY)


@pytest.mark.parametrize("role", ["web", "worker", "database", "cache"])
def test_a_crash_loop_stalls_and_is_not_fought(role: str) -> None:
    world = deployed()
    (box,) = world.engine.of(role)
    box.log = "Traceback: no such column"
    before = list(world.engine.mutations)
    crash(world, box, LIMIT - 1)
    assert world.condition("Stalled")[0] == "False"
    crash(world, box)
    assert world.condition("Stalled")[:2] == ("True", "CrashLooping")
    assert "Traceback: no such column" in world.condition("Stalled")[2]
    assert world.status()["phase"] == "Stalled"
    assert world.cluster.reasons().count("CrashLooping") == 1
    writes = len(world.cluster.writes)
    crash(world, box, 3)
    box.state = "restarting"
    crash(world, box)
    assert len(world.cluster.writes) == writes, "a crash that was told of costs no write"
    assert world.engine.mutations == before


def test_it_is_well_again_once_it_has_run_for_a_while() -> None:
    world = deployed()
    (box,) = world.engine.of("worker")
    crash(world, box, LIMIT)
    assert world.condition("Stalled")[0] == "True"
    world.now += CALM + 1
    world.run("Instance", KEY)
    assert world.condition("Ready")[0] == "True"
    assert world.condition("Stalled")[0] == "False"


def test_somebody_may_ask_to_look_again() -> None:
    world = deployed()
    (box,) = world.engine.of("worker")
    crash(world, box, LIMIT)
    world.annotate("Instance", KEY, reconcile_requested_at="now")
    world.run("Instance", KEY)
    assert world.condition("Ready")[0] == "True"
    crash(world, box, LIMIT)
    assert world.condition("Stalled")[:2] == ("True", "CrashLooping")


def test_a_new_spec_is_tried_at_once() -> None:
    world = deployed()
    crash(world, world.engine.of("worker")[0], LIMIT)
    world.edit("Instance", KEY, env=[{"name": "A", "value": "b"}])
    world.settle()
    assert world.condition("Ready")[0] == "True"


def test_old_crashes_do_not_count() -> None:
    """Docker counts since the last start by hand, which may be months ago."""
    world = deployed()
    (box,) = world.engine.of("worker")
    world.now += 10_000
    box.restarts = 40
    world.restart()
    world.settle()
    crash(world, box, LIMIT - 1)
    assert world.condition("Stalled")[0] == "False"
    for _ in range(3 * LIMIT):
        world.now += 200
        crash(world, box)
    assert world.condition("Stalled")[0] == "False", "now and then is no loop"


def test_kills_from_outside_are_repaired_each_time() -> None:
    world = deployed()
    (box,) = world.engine.of("web")
    for _ in range(3 * LIMIT):
        box.state, box.exit_code = "exited", 137
        world.touch(box)
        world.settle()
        assert box.state == "running"
        assert world.condition("Ready")[0] == "True"


def test_a_new_version_that_crashes_is_taken_back_without_waiting_for_its_deadline() -> None:
    world = deployed()
    begun: list[float] = []

    def hook(what: str) -> None:
        new = [box for box in world.engine.of("worker") if box.body["Image"] == "example/app:2"]
        if what.startswith("start dotmac-acme-worker") and new:
            begun.append(world.now)
            new[0].restarts, new[0].state, new[0].log = LIMIT, "restarting", "cannot import name"
            world.touch(new[0])

    world.engine.hook = hook
    upgrade(world)
    world.settle(300)
    assert world.condition("Stalled")[:2] == ("True", "UpgradeRolledBack")
    assert "cannot import name" in world.condition("Stalled")[2]
    assert world.engine.served("acme.erp.example") == 200
    assert world.now - begun[0] < 30


def test_a_first_deploy_that_crashes_stalls_at_once() -> None:
    world = prepared()

    def hook(what: str) -> None:
        for box in world.engine.of("worker"):
            if what.startswith("start dotmac-acme-worker"):
                box.restarts, box.state = LIMIT, "restarting"
                world.touch(box)

    world.engine.hook = hook
    world.settle()
    assert world.condition("Stalled")[:2] == ("True", "CrashLooping")


# -- after the health gate -------------------------------------------------------------------------------------


def test_health_is_asked_again_once_an_hour_and_costs_no_write() -> None:
    world = deployed()
    world.cluster.writes.clear()
    mutations = list(world.engine.mutations)
    reads = world.engine.reads
    for _ in range(11):
        world.now += RECHECK / 12
        world.run("Instance", KEY)
    assert world.engine.reads == reads, "nothing is asked within the hour"
    world.now += RECHECK / 6
    world.run("Instance", KEY)
    assert world.engine.reads == reads + 1
    assert (world.cluster.writes, world.engine.mutations) == ([], mutations)


def test_an_app_that_answers_no_more_is_told() -> None:
    world = deployed()
    world.engine.sick.add("example/app:1")
    world.now += RECHECK + 1
    world.run("Instance", KEY)
    assert world.condition("Ready")[0] != "True"
    assert world.condition("AppHealthy")[0] == "False"
    world.engine.sick.clear()
    world.touch()
    world.settle()
    assert world.condition("Ready")[0] == "True"
