"""A change that fails: what served before serves again, on a database that it can live with, and nothing is lost."""

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from tests.kits.fakes import QUICK, Box, World, crashed_at_each_call, deployed, upgrade
from tests.kits.tenant import RELEASE

from dotmac_operator.core import names
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.rollback import PATIENCE

KEY = "tenants/acme"
OLD, NEW = "example/app:1", "example/app:2"
MIGRATE = {**RELEASE["migrate"]}


def later(world: World, seconds: float) -> None:
    world.now += seconds
    world.touch()
    world.settle(300)


def fixed(world: World) -> World:
    keys = ("hash-key", "database-password", "cache-password", "admin-password", "session")
    world.cluster.plant("acme-credentials", {key: f"CANARY-{key}" * 2 for key in keys})
    world.touch()
    world.settle()
    return world


def failing(step: str, *, hates: bool = False, on_failure: str = "RestoreIfNeeded", **release: Any) -> World:
    """An upgrade whose migrate, start or verify will fail, on an old version that can or cannot live with it."""
    world = fixed(deployed())
    if hates:
        world.engine.hates.add((OLD, NEW))
    if step == "migrate":
        world.engine.exit_codes[("migrate", NEW)] = 3
    elif step == "start":
        world.engine.sick.add(NEW)
    elif step == "verify":
        world.engine.hates.add((NEW, NEW))
    upgrade(world, migrate={**MIGRATE, "onFailure": on_failure}, **release)
    return world


def rolled_back(world: World, reason: str = "UpgradeRolledBack") -> None:
    assert world.condition("Stalled")[:2] == ("True", reason), world.status()["conditions"]
    assert {box.body["Image"] for box in world.engine.of("web")} == {OLD}
    assert [box.state for box in world.engine.of("web")] == ["running"]
    assert world.engine.served("acme.erp.example") == 200
    for role in ("backup", "restore"):
        assert world.engine.of(role) == []
    assert world.status()["release"]["current"] == "erp-1"


STEPS = ("migrate", "start", "verify")


@pytest.mark.parametrize("step", STEPS)
def test_an_old_version_that_lives_with_the_database_keeps_what_was_written(step: str) -> None:
    world = failing(step)
    world.settle(300)
    rolled_back(world)
    assert world.engine.schema == NEW, "the database was not touched"
    told = world.status()["rollback"]
    assert (told["previous"], told["target"]) == ("erp-1", "erp-2")
    assert told["reason"].startswith(f"step {step}:")
    assert world.cluster.reasons().count("UpgradeRolledBack") == 1


@pytest.mark.parametrize("step", STEPS)
def test_an_old_version_that_does_not_gets_its_database_back(step: str) -> None:
    world = failing(step, hates=True)
    world.settle(300)
    for _ in range(4):
        later(world, PATIENCE / 3)
    rolled_back(world)
    assert world.engine.schema == OLD
    assert "the database was set back to 1.0-" in world.status()["rollback"]["reason"]
    assert "erp_before_" in world.condition("Stalled")[2]
    assert world.status()["oneShots"][-2]["name"] == "restore"
    assert "migrate" not in {shot["name"] for shot in world.status()["oneShots"]}


def _until_there(world: World) -> ContainerFact:
    """Runs until the new version's container exists."""
    for _ in range(60):
        for fact in world.engine.containers():
            if fact.labels.get(names.ROLE) == "web" and world.engine.containers_[fact.name].body["Image"] == NEW:
                return fact
        world.run("Instance", KEY)
        world.now += 0.2
    raise AssertionError(world.engine.shape())


def test_long_requests_to_the_failed_version_are_answered() -> None:
    world = failing("verify")
    new = _until_there(world)
    hexed = bytes(int(part) for part in new.networks["dotmac-acme"].split("."))[::-1].hex().upper()
    world.engine.connections_ = f"  sl  local_address rem_address   st\n 0: 0100007F:9999 {hexed}:1F40 01 00\n"
    for _ in range(120):  # seconds
        world.run("Instance", KEY)
        world.now += 1
        if world.condition("Ready")[1] == "RollingBack":
            break
    for _ in range(20):  # seconds
        world.run("Instance", KEY)
        world.now += 1
    assert new.name in world.engine.containers_
    assert world.engine.served("acme.erp.example") == 200, "by the previous version"
    assert world.condition("Stalled")[0] == "False", "not told before it is done"
    world.engine.connections_ = "  sl  local_address rem_address   st\n"
    later(world, 1)
    rolled_back(world)


def test_a_short_disturbance_costs_no_data() -> None:
    world = failing("migrate", hates=True)
    begun = world.now
    while world.now < begun + PATIENCE / 2:
        world.run("Instance", KEY)
        world.now += 1
    assert world.condition("Ready")[:2] == ("False", "RollingBack")
    assert world.condition("Stalled")[0] == "False"
    world.engine.hates.clear()
    later(world, 2)
    rolled_back(world)
    assert world.engine.schema == NEW


def test_a_release_may_ask_for_its_database_back_in_any_case() -> None:
    world = failing("migrate", on_failure="Restore")
    world.settle(300)
    rolled_back(world)
    assert world.engine.schema == OLD


def test_a_release_may_ask_for_its_database_to_be_kept() -> None:
    world = failing("migrate", hates=True, on_failure="Keep")
    world.settle(300)
    later(world, 2 * PATIENCE)
    assert world.condition("Stalled")[:2] == ("True", "UpgradeRolledBack")
    assert world.engine.schema == NEW


def test_a_migration_alone_that_fails_is_rolled_back_too() -> None:
    """Regression: no container differed, so the migration was repeated again and again on the live database."""
    world = fixed(deployed())
    (web,) = world.engine.of("web")
    world.engine.exit_codes[("migrate", "example/tool:2")] = 3
    images = {**RELEASE["images"], "tool": "example/tool:2"}
    migrate = {**MIGRATE, "image": "tool", "onFailure": "Restore"}
    world.create("Release", "erp-2", {**QUICK, "version": "2.0", "images": images, "migrate": migrate})
    world.edit("Instance", KEY, releaseRef={"name": "erp-2"})
    world.settle(300)
    rolled_back(world)
    assert world.engine.schema == OLD
    assert world.engine.of("web")[0].id == web.id
    runs = [call for call in world.engine.mutations if call.startswith("start dotmac-acme-migrate")]
    assert len(runs) == 2


def test_a_failed_change_without_migration_restores_nothing() -> None:
    """Regression in the making: the containers of the last upgrade's migration are there, and its dump."""
    world = fixed(deployed())
    upgrade(world, migrate={**MIGRATE, "onFailure": "Restore"})
    world.settle(300)
    assert world.condition("Ready")[0] == "True"
    world.engine.sick.add("example/app:2.1")
    images = {**RELEASE["images"], "app": NEW, "web": "example/app:2.1"}
    roles = [{**QUICK["roles"][0], "image": "web"}, QUICK["roles"][1]]
    world.edit("Release", "erp-2", images=images, roles=roles)
    world.settle(300)
    assert world.condition("Stalled")[:2] == ("True", "UpgradeRolledBack")
    assert not [call for call in world.engine.mutations if "restore" in call]


def test_the_same_failing_spec_is_not_tried_again_by_itself() -> None:
    world = failing("migrate", on_failure="Restore")
    world.settle(300)
    before, writes = list(world.engine.mutations), list(world.cluster.writes)
    for _ in range(3):
        later(world, 600)
    world.restart()
    world.settle()
    assert (world.engine.mutations, world.cluster.writes) == (before, writes)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("on_failure", ["RestoreIfNeeded", "Restore"])
def test_the_next_try_dumps_and_migrates_anew(step: str, on_failure: str) -> None:
    world = failing(step, on_failure=on_failure)
    world.settle(300)
    first = world.status()["lastBackup"]["file"]
    world.engine.exit_codes.clear()
    world.engine.sick.clear()
    world.engine.hates.clear()
    mark = len(world.engine.mutations)
    world.annotate("Instance", KEY, reconcile_requested_at="again")
    world.settle(300)
    assert world.status()["release"] == {"current": "erp-2", "currentVersion": "2.0", "previous": "erp-1"}
    assert world.engine.schema == NEW
    assert world.engine.served("acme.erp.example") == 200
    anew = [call for call in world.engine.mutations[mark:] if call.startswith("start dotmac-acme-migrate")]
    # A migration that has succeeded and was not taken back is done.
    assert len(anew) == (0 if step != "migrate" and on_failure == "RestoreIfNeeded" else 1)
    if anew:
        assert world.status()["lastBackup"]["file"] != first, "what the old version wrote since must be in it"
        assert set(world.engine.dumps) >= {first}


def test_a_second_failure_is_told_again() -> None:
    world = failing("migrate")
    world.settle(300)
    world.annotate("Instance", KEY, reconcile_requested_at="again")
    world.settle(300)
    rolled_back(world)
    assert world.cluster.reasons().count("UpgradeRolledBack") == 2


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["migrate", "start"])
def test_a_crash_at_any_call_of_a_restore_ends_the_same(step: str, when: str) -> None:
    start = failing(step, on_failure="Restore")
    straight = start.copy()
    straight.settle(300)
    rolled_back(straight)
    assert any("restore" in call for call in straight.engine.mutations)
    for where, world in crashed_at_each_call(start, straight, when, rounds=300):
        rolled_back(world)
        assert world.engine.schema == OLD, where
        assert world.engine.shape() == straight.engine.shape(), where


def test_a_restore_that_fails_leaves_everything_and_says_so() -> None:
    world = failing("migrate", on_failure="Restore")
    world.engine.exit_codes[("restore", image_of(world, "database"))] = 65
    world.engine.logs_["restore"] = "the checksum is not the recorded one"
    world.settle(300)
    assert world.condition("Stalled")[:2] == ("True", "RestoreFailed")
    assert "the checksum is not the recorded one" in world.condition("Stalled")[2]
    assert "step migrate" in world.condition("Stalled")[2]
    assert [box.state for box in world.engine.of("web")] == ["running"]
    assert world.engine.schema == NEW
    before = list(world.engine.mutations)
    later(world, 600)
    assert world.engine.mutations == before
    world.engine.exit_codes.clear()
    world.annotate("Instance", KEY, reconcile_requested_at="again")
    world.settle(300)
    assert world.condition("Ready")[0] == "True"
    assert world.engine.of("restore") == []


def image_of(world: World, role: str) -> str:
    return world.engine.of(role)[0].image_id


def test_an_edit_in_the_middle_of_a_restore_waits_for_it() -> None:
    world = failing("start", on_failure="Restore")
    done: list[str] = []

    def hook(what: str) -> None:
        if what.startswith("start dotmac-acme-restore") and not done:
            done.append(what)
            world.edit("Instance", KEY, orgName="Another")

    world.engine.hook = hook
    world.engine.sick.clear()
    world.engine.sick.add(NEW)
    world.settle(300)
    assert done
    world.engine.sick.clear()
    world.annotate("Instance", KEY, reconcile_requested_at="again")
    world.settle(300)
    assert world.condition("Ready")[0] == "True"
    assert world.engine.schema == NEW, "the migration that was undone has run anew"
    assert world.engine.served("acme.erp.example") == 200


def test_secrets_of_a_restore_are_in_its_environment_only() -> None:
    world = failing("migrate", on_failure="Restore")
    seen: list[Box] = []

    def hook(what: str) -> None:
        seen.extend(box for box in world.engine.of("restore") if box not in seen)

    world.engine.hook = hook
    world.settle(300)
    (box,) = seen
    password = world.cluster.secrets["tenants/acme-credentials"]["database-password"]
    assert box.env["PGPASSWORD"] == password
    assert password not in repr([box.body.get("Cmd"), box.body.get("Entrypoint"), box.labels, box.name])
    assert box.body["HostConfig"]["Mounts"] == [
        {"Type": "volume", "Source": "dotmac-acme-backups", "Target": "/var/lib/postgresql/data"}
    ]


# -- another database server -----------------------------------------------------------------------------------


def another_database(**changes: Any) -> World:
    world = fixed(deployed())
    images = {**RELEASE["images"], "db": "example/postgres:16"}
    world.edit("Release", "erp-1", images=images, **changes)
    return world


def test_a_new_database_server_takes_the_place_of_the_old() -> None:
    world = another_database()
    world.settle(300)
    assert world.condition("Ready")[0] == "True"
    assert [box.body["Image"] for box in world.engine.of("database")] == ["example/postgres:16"]


def test_two_servers_never_run_on_one_data_directory() -> None:
    world = another_database()

    def hook(what: str) -> None:
        running = [box for box in world.engine.of("database") if box.state == "running"]
        assert len(running) <= 1, what

    world.engine.hook = hook
    world.engine.sick.add("example/postgres:16")
    world.settle(300)
    assert world.condition("Stalled")[:2] == ("True", "UpgradeRolledBack")


def test_a_new_database_server_that_does_not_work_gives_way_to_the_old_one() -> None:
    world = fixed(deployed())
    (old,) = world.engine.of("database")
    world.engine.sick.add("example/postgres:16")
    world.edit("Release", "erp-1", images={**RELEASE["images"], "db": "example/postgres:16"}, version="1.1")
    world.settle(300)
    rolled_back(world)
    assert [(box.id, box.state) for box in world.engine.of("database")] == [(old.id, "running")]
    assert world.status()["failure"]["step"] == "infra"


# -- drift of what serves again --------------------------------------------------------------------------------


def stop(world: World, box: Box) -> None:
    box.state, box.exit_code = "exited", 137


def remove(world: World, box: Box) -> None:
    del world.engine.containers_[box.name]


def pause(world: World, box: Box) -> None:
    box.state = "paused"


def rename(world: World, box: Box) -> None:
    world.engine.rename_container(box.name, "somebody")


def cut(world: World, box: Box) -> None:
    box.networks.clear()


HARMS: dict[str, Callable[[World, Box], None]] = {
    "stopped": stop, "removed": remove, "paused": pause, "renamed": rename, "cut off": cut,
}  # fmt: skip


@pytest.mark.parametrize("role", ["web", "worker", "database", "cache"])
@pytest.mark.parametrize("harm", HARMS)
def test_drift_is_repaired_while_rolled_back(role: str, harm: str) -> None:
    world = failing("migrate")
    world.settle(300)
    rolled_back(world)
    shape, stalled = world.engine.shape(), world.condition("Stalled")
    (box,) = world.engine.of(role)
    HARMS[harm](world, box)
    world.touch()
    world.settle()
    assert world.engine.shape() == shape
    assert world.condition("Stalled") == stalled
    assert world.cluster.reasons().count("DriftRepaired") == 1
    assert role in world.status()["drift"]["what"]
    assert world.counts.drift
    assert world.cluster.reasons().count("UpgradeRolledBack") == 1


def test_a_route_that_is_deleted_while_rolled_back_comes_back() -> None:
    world = failing("migrate")
    world.settle(300)
    world.engine.autosave = b'{"apps":{"http":{"servers":{"plain":{"routes":[]}}}}}'
    world.touch()
    world.settle()
    rolled_back(world)
    assert "RouteChanged" in world.counts.drift


def test_a_container_that_cannot_be_made_again_is_told_with_the_remedy() -> None:
    """The Release was edited in place, so what the old container was made from is not known any more."""
    world = fixed(deployed())
    world.engine.exit_codes[("migrate", NEW)] = 1
    world.edit("Release", "erp-1", version="2.0", images={**RELEASE["images"], "app": NEW})
    world.settle(300)
    assert world.condition("Stalled")[:2] == ("True", "UpgradeRolledBack")
    remove(world, world.engine.of("worker")[0])
    world.touch()
    world.settle()
    assert world.condition("Stalled")[:2] == ("True", "PreviousVersionLost")
    assert "dotmac-acme-worker-" in world.condition("Stalled")[2]
    assert world.engine.served("acme.erp.example") == 200


def test_everything_of_the_old_version_is_made_again_from_its_release() -> None:
    world = failing("migrate")
    world.settle(300)
    shape = world.engine.shape()
    for role in ("web", "worker", "database", "cache"):
        remove(world, world.engine.of(role)[0])
    world.touch()
    world.settle()
    assert world.engine.shape() == shape
    rolled_back(world)


# -- backups ---------------------------------------------------------------------------------------------------


def test_a_dump_without_a_checksum_ends_the_upgrade() -> None:
    """Regression: it was asked for its checksum again and again, for ever."""
    world = fixed(deployed())
    world.engine.logs_["backup"] = "nothing to see"
    upgrade(world)
    world.settle(300)
    rolled_back(world)
    assert "step backup: container dotmac-acme-backup-" in world.condition("Stalled")[2]
    assert world.status()["failure"]["step"] == "backup"
    assert world.engine.of("migrate")[0].body["Image"] == OLD
    del world.engine.logs_["backup"]
    world.annotate("Instance", KEY, reconcile_requested_at="again")
    world.settle(300)
    assert world.condition("Ready")[0] == "True"


def test_logs_in_the_message_are_masked() -> None:
    world = failing("migrate")
    password = world.cluster.secrets["tenants/acme-credentials"]["database-password"]
    basic = b64encode(f"erp:{password}".encode()).decode()
    world.engine.logs_["migrate"] = f"cannot log in as erp with {password}, Basic {basic}"
    world.settle(300)
    rolled_back(world)
    assert "cannot log in as erp with ***, Basic " in world.condition("Stalled")[2]
    told = repr([world.cluster.statuses, world.cluster.events])
    assert password not in told
    assert basic not in told and basic[8:-4] not in told
    assert names.RESTORE not in {box.role for box in world.engine.containers_.values()}
