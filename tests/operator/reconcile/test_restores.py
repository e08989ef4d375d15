"""An Instance gets the data of a Backup back: once, whole or not at all, and never under a running application."""

import copy
from typing import Any

import pytest
from tests.kits.backups import FILES, STORE, asked, backed_up, kill_at_write, leftovers, served
from tests.kits.backups import RESTORE as KEY
from tests.kits.fakes import World, crashed_at_each_call, upgrade
from tests.kits.tenant import INSTANCE

HOST = "acme.erp.example"


def changed(**instance: Any) -> World:
    """A tenant that has written more since its Backup."""
    world = backed_up(**instance)
    world.engine.rows, world.engine.data[FILES] = "order 1, order 2", "virus.exe"
    return world


def restored(world: World, backup: str = "monday", name: str = "back", instance: str = "acme") -> None:
    world.create("Restore", name, {"instanceRef": {"name": instance}, "backupRef": {"name": backup}})


def data(world: World) -> tuple[str, str]:
    return world.engine.rows, world.engine.data[FILES]


def outcome(world: World, key: str = KEY) -> tuple[str, str, str]:
    """(phase, reason, message)."""
    return world.status(key, "Restore")["phase"], *world.condition("Ready", key, "Restore")[1:]


OLD, NEW = ("order 1", "invoice.pdf"), ("order 1, order 2", "virus.exe")


def test_the_data_is_back_and_served() -> None:
    world = changed()
    seen: list[int] = []
    world.engine.hook = lambda _: seen.append(world.engine.served(HOST))
    restored(world)
    world.settle()
    assert outcome(world)[:2] == ("Completed", "Restored")
    assert data(world) == OLD
    assert world.condition("Ready")[0] == "True"
    assert world.engine.served(HOST) == 200
    assert leftovers(world) == [] and world.engine.beside == {}
    first_page = seen.index(503)
    assert set(seen[:first_page]) == {200}, "it is served while files are verified and unpacked"
    assert "DriftRepaired" not in world.cluster.reasons(), "nobody has changed the host behind our back"
    assert world.counts.jobs[-1] == ("Restore", "succeeded", 0)
    assert world.status(KEY, "Restore")["step"] == "Starting"
    started = world.status(KEY, "Restore")["startedAt"]
    assert started <= world.status(KEY, "Restore")["finishedAt"]


def test_the_cache_forgets_what_is_no_more() -> None:
    world = changed()
    stopped: list[str] = []
    world.engine.hook = stopped.append
    restored(world)
    world.settle()
    assert any(what.startswith("stop dotmac-acme-cache") for what in stopped)
    assert world.engine.of("cache")[0].state == "running"


def test_of_the_database_alone() -> None:
    world = served()
    asked(world, type_="Database")
    world.settle()
    world.engine.rows, world.engine.data[FILES] = NEW
    restored(world)
    world.settle()
    assert outcome(world)[0] == "Completed"
    assert data(world) == (OLD[0], NEW[1]), "files are left alone"


def test_what_has_ended_stays_as_it_is() -> None:
    world = changed()
    restored(world)
    world.settle()
    world.engine.rows = "order 3"
    calls, writes = len(world.engine.mutations), len(world.cluster.writes)
    world.restart()
    world.settle()
    assert world.engine.rows == "order 3"
    assert (len(world.engine.mutations), len(world.cluster.writes)) == (calls, writes)


def test_the_same_backup_can_be_restored_again() -> None:
    world = changed()
    for name in ("back", "again"):
        world.engine.rows, world.engine.data[FILES] = NEW
        restored(world, name=name)
        world.settle()
        assert data(world) == OLD, name


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_each_call_it_ends_the_same(when: str) -> None:
    start = changed()
    restored(start)
    straight = start.copy()
    straight.settle()
    ways = 0
    for where, world in crashed_at_each_call(start, straight, when):
        assert outcome(world)[0] == "Completed", (where, world.status(KEY, "Restore"))
        assert data(world) == OLD, where
        assert world.condition("Ready")[0] == "True", where
        assert leftovers(world) == [] and world.engine.beside == {}, where
        assert world.engine.shape() == straight.engine.shape(), where
        ways += 1
    assert ways >= 15


@pytest.mark.slow
def test_killed_at_each_write_it_ends_the_same() -> None:
    start = changed()
    restored(start)
    straight = start.copy()
    straight.settle()
    for number in range(len(straight.cluster.writes) - len(start.cluster.writes)):
        world = start.copy()
        kill_at_write(world, number)
        assert (outcome(world)[0], data(world)) == ("Completed", OLD), number
        assert world.condition("Ready")[0] == "True", number


@pytest.mark.slow
@pytest.mark.parametrize("task", ["prepare", "database"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_one_that_fails_leaves_everything_as_it_was_also_under_kill(task: str, when: str) -> None:
    start = changed()
    start.engine.ends[task] = [(1, "No space left on device")]
    restored(start)
    straight = start.copy()
    straight.settle()
    for where, world in (("straight", straight), *crashed_at_each_call(start, straight, when)):
        phase, _, message = outcome(world)
        if phase == "Completed":  # the kill came after one of the two failures: one more try was made
            assert task == "prepare" and data(world) == OLD, where
            continue
        assert phase == "Failed", where
        assert "No space left on device" in message and "create another Restore" in message, where
        assert data(world) == NEW, where
        assert world.condition("Ready")[0] == "True", where
        assert world.engine.served(HOST) == 200, where
        assert leftovers(world) == [] and world.engine.beside == {}, where


def test_a_file_that_is_not_as_recorded_is_refused_before_anything_is_touched() -> None:
    world = changed()
    path = next(path for path in world.engine.saved if path.endswith("files.tar.gz"))
    world.engine.saved[path] = "something else"
    seen: set[int] = set()
    world.engine.hook = lambda _: seen.add(world.engine.served(HOST))
    restored(world)
    world.settle()
    phase, reason, message = outcome(world)
    assert (phase, reason) == ("Failed", "ChecksumMismatch")
    assert "nothing was changed" in message and "files.tar.gz: FAILED" in message
    assert data(world) == NEW
    assert seen == {200}
    assert leftovers(world) == []


def test_an_exchange_that_fails_is_tried_until_it_is_done() -> None:
    """There is no way back from there, and half of the data would be worse."""
    world = changed()
    world.engine.ends["exchange"] = [(1, "Input/output error")]
    restored(world)
    world.settle()
    assert outcome(world)[:2] == ("Running", "RestoreFailed")
    assert world.engine.served(HOST) == 503
    assert world.condition("Ready")[:2] == ("False", "Restoring")
    assert world.status()["phase"] == "Restoring"
    world.now += 30
    world.woken.add(("Restore", KEY))
    world.settle()
    assert (outcome(world)[0], data(world)) == ("Completed", OLD)


def test_a_database_that_may_have_been_exchanged_is_not_given_up() -> None:
    world = changed()
    world.engine.ends["database"] = [(2, "dotmac-restore: exchanging\nserver closed the connection unexpectedly")]
    restored(world)
    world.settle()
    assert outcome(world)[:2] == ("Running", "RestoreFailed")
    assert world.engine.served(HOST) == 503
    world.now += 30
    world.woken.add(("Restore", KEY))
    world.settle()
    assert (outcome(world)[0], data(world)) == ("Completed", OLD)


def test_a_server_that_refuses_the_exchange_leaves_the_data_as_it_was() -> None:
    world = changed()
    world.engine.ends["database"] = [(75, "dotmac-restore: exchanging\ndatabase is being accessed by other users")]
    restored(world)
    world.settle()
    assert (outcome(world)[0], data(world)) == ("Failed", NEW)
    assert world.engine.served(HOST) == 200


def test_an_edit_meanwhile_neither_gets_between_nor_is_waited_for() -> None:
    world = changed()
    restored(world)

    def edit(what: str) -> None:
        if "stop dotmac-acme-web" in what:
            world.engine.hook = None
            world.edit("Instance", "tenants/acme", orgName="Renamed", approval="Required")

    world.engine.hook = edit
    world.settle()
    assert (outcome(world)[0], data(world)) == ("Completed", OLD)
    assert world.condition("Ready")[1] == "ApprovalNeeded"
    assert world.engine.served(HOST) == 200


def test_an_application_that_does_not_come_up_is_told() -> None:
    world = changed()
    restored(world)
    world.engine.hook = lambda what: (
        world.engine.sick.add("example/app:1") if "start dotmac-acme-restore" in what else None
    )
    for _ in range(12):
        world.settle(400)
        world.now += 400
        world.woken |= {("Instance", "tenants/acme"), ("Restore", KEY)}
    phase, reason, message = outcome(world)
    assert (phase, reason) == ("Failed", "RestoreFailed")
    assert "the data is restored, but the Instance does not come up" in message


def test_a_restore_that_is_deleted_comes_to_its_end_first() -> None:
    world = changed()
    restored(world)

    def delete(what: str) -> None:
        if "stop dotmac-acme-web" in what:
            world.engine.hook = None
            world.delete("Restore", KEY)

    world.engine.hook = delete
    world.settle()
    assert ("Restore", KEY) not in world.cluster.objects
    assert data(world) == OLD
    assert world.condition("Ready")[0] == "True"


def test_a_backup_stays_while_it_is_read() -> None:
    world = changed()
    restored(world)

    def delete(what: str) -> None:
        if "stop dotmac-acme-web" in what:
            world.engine.hook = None
            world.delete("Backup", "tenants/monday")
            world.run("Backup", "tenants/monday")

    world.engine.hook = delete
    world.settle()
    assert (outcome(world)[0], data(world)) == ("Completed", OLD)
    world.woken.add(("Backup", "tenants/monday"))
    world.settle()
    assert ("Backup", "tenants/monday") not in world.cluster.objects
    assert world.engine.saved == {}


# -- another Release


def two_releases(**release: Any) -> World:
    world = changed()
    upgrade(world, **release)
    world.settle()
    assert world.status()["release"]["current"] == "erp-2"
    return world


def test_data_of_an_older_release_is_migrated_again() -> None:
    world = two_releases()
    assert world.engine.schema == "example/app:2"
    restored(world)
    world.settle()
    assert (outcome(world)[0], data(world)) == ("Completed", OLD)
    assert world.engine.schema == "example/app:2", "migrate ran anew on what was made by erp-1"
    assert world.condition("Ready")[0] == "True"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_so_it_is_when_killed(when: str) -> None:
    start = two_releases()
    restored(start)
    straight = start.copy()
    straight.settle()
    for where, world in crashed_at_each_call(start, straight, when):
        assert (outcome(world)[0], data(world)) == ("Completed", OLD), where
        assert world.engine.schema == "example/app:2", where
        assert world.condition("Ready")[0] == "True", where


def test_data_that_the_release_cannot_take_over_is_refused() -> None:
    world = two_releases()
    world.cluster.get("Release", "erp-2")["spec"]["upgradeFrom"] = [">=1.5"]
    world.store.put(world.cluster.get("Release", "erp-2"))
    restored(world)
    world.settle()
    phase, reason, message = outcome(world)
    assert (phase, reason) == ("Failed", "ReleaseDiffers")
    assert "set the Instance's spec.releaseRef to erp-1 first" in message
    assert data(world) == NEW


def test_data_of_a_newer_release_is_refused() -> None:
    world = two_releases()
    asked(world, "tuesday")
    world.settle()
    world.edit("Instance", "tenants/acme", releaseRef={"name": "erp-1"})
    world.settle()
    assert world.status()["release"]["current"] == "erp-1"
    restored(world, "tuesday")
    world.settle()
    assert outcome(world)[:2] == ("Failed", "ReleaseDiffers")
    assert "which is older: set the Instance's spec.releaseRef to erp-2 first" in outcome(world)[2]


# -- mistakes


def test_a_backup_that_does_not_exist_is_waited_for() -> None:
    world = changed()
    restored(world, "mondy")
    world.settle()
    assert outcome(world)[:2] == ("Pending", "BackupNotFound")
    assert data(world) == NEW
    world.delete("Restore", KEY)
    world.settle()
    assert ("Restore", KEY) not in world.cluster.objects


def test_an_instance_that_does_not_exist_is_waited_for() -> None:
    world = changed()
    restored(world, instance="acmee")
    world.settle()
    assert outcome(world)[:2] == ("Pending", "InstanceNotFound")


def test_a_backup_of_another_instance_is_refused() -> None:
    world = changed()
    world.create("Instance", "beta", INSTANCE | {"orgCode": "BETA", "orgName": "Beta"})
    world.settle()
    restored(world, instance="beta")
    world.settle()
    phase, reason, message = outcome(world)
    assert (phase, reason) == ("Failed", "BackupOfAnotherInstance")
    assert "is of Instance acme, not of beta" in message


@pytest.mark.parametrize(("edits", "word"), [({"phase": "Running"}, "running"), ({"phase": "Failed"}, "failed")])
def test_a_backup_that_is_not_complete_is_refused(edits: dict[str, str], word: str) -> None:
    world = changed()
    body = world.cluster.get("Backup", "tenants/monday")
    body["status"] |= edits
    world.store._objects["Backup"].clear()
    world.store.put(body)
    restored(world)
    world.run("Restore", KEY)
    phase, reason, message = outcome(world)
    assert (phase, reason) == ("Failed", "BackupNotCompleted")
    assert f"Backup monday is {word}" in message


def test_a_second_one_at_the_same_time_is_refused() -> None:
    world = changed()
    restored(world)

    def second(what: str) -> None:
        if "stop dotmac-acme-web" in what:
            world.engine.hook = None
            restored(world, name="second")

    world.engine.hook = second
    world.settle()
    assert outcome(world)[0] == "Completed"
    # In this world passes do not overlap, so the second one gets its pass once the first one has ended or waits.
    assert outcome(world, "tenants/second")[0] in ("Failed", "Completed")
    world.cluster.get("Restore", KEY)["status"] |= {"phase": "Running", "step": "Starting"}
    world.restart()
    restored(world, name="third")
    world.run("Restore", "tenants/third")
    assert outcome(world, "tenants/third")[:2] == ("Failed", "RestoreRunning")


def test_an_instance_that_is_archived_is_refused() -> None:
    world = changed()
    world.edit("Instance", "tenants/acme", state="Archived")
    world.settle()
    restored(world)
    world.settle()
    assert outcome(world)[:2] == ("Failed", "InstanceStopped")


def test_a_paused_instance_is_waited_for() -> None:
    world = changed()
    world.annotate("Instance", "tenants/acme", paused="true")
    restored(world)
    world.settle()
    assert outcome(world)[:2] == ("Pending", "Paused")
    assert data(world) == NEW
    world.annotate("Instance", "tenants/acme", paused="false")
    world.woken.add(("Restore", KEY))
    world.settle()
    assert (outcome(world)[0], data(world)) == ("Completed", OLD)


def test_a_volume_for_backups_that_is_gone_is_told() -> None:
    world = changed()
    for box in list(world.engine.containers_.values()):
        assert STORE not in {mount["Source"] for mount in box.body["HostConfig"]["Mounts"]}
    del world.engine.volumes_[STORE]
    world.touch()
    restored(world)
    world.run("Restore", KEY)
    assert outcome(world)[:2] == ("Failed", "ChecksumMismatch")
    assert data(world) == NEW


def test_a_tenant_that_was_created_anew_gets_the_data_of_the_former_one() -> None:
    world = changed(deletion={"policy": "Delete"})
    world.delete("Instance", "tenants/acme")
    world.settle()
    assert FILES not in world.engine.volumes_
    world.engine.rows, world.engine.data[FILES] = "", ""
    world.create("Instance", "acme", INSTANCE)
    world.settle()
    restored(world)
    world.settle()
    assert (outcome(world)[0], data(world)) == ("Completed", OLD)
    assert world.condition("Ready")[0] == "True"


def test_another_tenant_under_the_same_name_gets_nothing() -> None:
    world = changed(deletion={"policy": "Delete"})
    world.delete("Instance", "tenants/acme")
    world.settle()
    world.create("Instance", "acme", INSTANCE | {"orgCode": "OTHER"})
    world.settle()
    restored(world)
    world.settle()
    assert outcome(world)[:2] == ("Failed", "BackupOfAnotherInstance")
    assert "another orgCode" in outcome(world)[2]
    assert "lastBackup" not in world.status()


def test_an_old_list_does_not_restore_once_more() -> None:
    """A process that was told of the Restore as it was before, when it has ended long since."""
    world = changed()
    restored(world)
    world.settle()
    old = copy.deepcopy(world.cluster.get("Restore", KEY))
    old["status"] = {"observedGeneration": -1}
    old["metadata"]["resourceVersion"] = "1"
    world.engine.rows, world.engine.data[FILES] = "order 3", "new.pdf"
    world.restart()
    world.store._objects["Restore"].clear()
    world.store.put(old)
    world.settle()
    assert outcome(world)[0] == "Completed"
    assert data(world) == ("order 3", "new.pdf")
    assert leftovers(world) == []
