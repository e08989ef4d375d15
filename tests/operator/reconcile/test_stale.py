"""An operator that knows an old version of an object: nothing is done by it, and nothing written over what is new."""

import copy
from typing import Any

import pytest
from tests.kits.backups import BACKUP, RESTORE, asked, backed_up, served
from tests.kits.fakes import Crash, World, deployed, upgrade

from dotmac_operator.core import names
from dotmac_operator.reconcile.ports import AGAIN

KEY = "tenants/acme"


def restarted_with(world: World, old: dict[str, Any]) -> None:
    """A new process, to which an API server that lags has listed an old version of an object."""
    place = (old["kind"], f"{old['metadata']['namespace']}/{old['metadata']['name']}")
    now = world.cluster.objects[place]
    world.cluster.objects[place] = old
    world.restart()
    world.cluster.objects[place] = now
    world.run("Server", "tenants/host-1")


def test_what_was_planned_from_an_old_version_is_not_done_when_the_new_one_comes_by_the_watch_meanwhile() -> None:
    world = deployed()
    old = copy.deepcopy(world.cluster.get("Instance", KEY))
    upgrade(world)
    world.settle()
    restarted_with(world, old)
    contexts = world.instances.services.contexts
    real = contexts.load

    def load(*args: Any) -> Any:
        world.store.put(copy.deepcopy(world.cluster.get("Instance", KEY)))
        return real(*args)

    contexts.load = load  # type: ignore[method-assign]
    done, told = list(world.engine.mutations), copy.deepcopy(world.status())
    assert world.run("Instance", KEY) == AGAIN
    assert world.engine.mutations == done
    assert world.status() == told, "the old status was written over the new one"


def test_nothing_is_done_by_an_old_version_of_which_there_was_nothing_to_tell() -> None:
    """The process ends between telling what it will do and doing it; the user takes the change back meanwhile."""
    world = deployed()
    upgrade(world)
    begun = len(world.engine.mutations)
    world.engine.fault = (begun, "before")
    with pytest.raises(Crash):
        world.settle()
    world.engine.fault = None
    old = copy.deepcopy(world.cluster.get("Instance", KEY))
    world.edit("Instance", KEY, releaseRef={"name": "erp-1"})
    restarted_with(world, old)
    told = copy.deepcopy(world.status())
    assert world.run("Instance", KEY) == AGAIN
    assert len(world.engine.mutations) == begun, "the change that was taken back went on"
    assert world.status() == told
    world.woken.add(("Instance", KEY))
    world.settle()
    assert world.status()["release"]["current"] == "erp-1"
    assert world.condition("Ready")[0] == "True"


def test_a_version_that_is_proven_once_is_not_proven_again() -> None:
    world = deployed()
    world.restart()
    world.run("Server", "tenants/host-1")
    world.run("Instance", KEY)
    assert not world.store.proven(world.cluster.get("Instance", KEY)["metadata"]["uid"]), "in sync: no write at all"
    box = next(box for box in world.engine.containers_.values() if box.role == "web")
    box.state = "exited"
    world.touch(box)
    world.settle()
    assert world.store.proven(world.cluster.get("Instance", KEY)["metadata"]["uid"])
    assert box.state == "running"


def in_the_exchange() -> tuple[World, dict[str, Any]]:
    """A Restore whose operator was killed in the middle of the exchange, and the Restore as it was when it was made."""
    world = backed_up()
    world.create("Restore", "back", {"instanceRef": {"name": "acme"}, "backupRef": {"name": "monday"}})
    old = copy.deepcopy(world.cluster.get("Restore", RESTORE))
    world.engine.hook = lambda what: _crash_at(what, "" if _step(world) == "Replacing" else "-")
    with pytest.raises(Crash):
        world.settle()
    world.engine.hook = None
    assert world.status(RESTORE, "Restore")["step"] == "Replacing"
    return world, old


def _step(world: World) -> str:
    return str(world.status(RESTORE, "Restore").get("step"))


def _crash_at(what: str, name: str) -> None:
    if name != "-" and name in what:
        raise Crash(what)


@pytest.mark.parametrize("listed", ["before it was made", "before it began"])
def test_an_application_is_not_started_in_an_exchange_of_which_the_list_of_restores_does_not_tell(listed: str) -> None:
    world, old = in_the_exchange()
    if listed == "before it was made":
        now = world.cluster.objects.pop(("Restore", RESTORE))
        world.restart()
        world.cluster.objects[("Restore", RESTORE)] = now
        world.run("Server", "tenants/host-1")
    else:
        restarted_with(world, old)
    done = list(world.engine.mutations)
    world.run("Instance", KEY)
    world.run("Instance", KEY)
    assert world.engine.mutations == done, "something of the Instance was begun"
    assert world.condition("Ready")[:2] == ("False", "Restoring")
    world.restart()
    world.settle()
    assert world.status(RESTORE, "Restore")["phase"] == "Completed"
    assert world.condition("Ready")[0] == "True"


def test_a_change_waits_for_a_backup_that_only_the_host_tells_of() -> None:
    world = served()
    world.engine.hook = lambda what: _crash_at(what, "dotmac-acme-backup")
    asked(world)
    with pytest.raises(Crash):
        world.settle()
    world.engine.hook = None
    box = next(box for box in world.engine.containers_.values() if names.JOB in box.labels)
    box.state = "running"
    now = world.cluster.objects.pop(("Backup", BACKUP))
    upgrade(world)
    world.restart()
    world.cluster.objects[("Backup", BACKUP)] = now
    world.run("Server", "tenants/host-1")
    done = list(world.engine.mutations)
    world.run("Instance", KEY)
    assert world.engine.mutations == done
    assert "Backup monday" in world.condition("Ready")[2]


def test_a_restore_does_not_begin_while_the_host_tells_of_a_backup_that_is_not_listed() -> None:
    world = backed_up()
    world.create("Backup", "tuesday", {"instanceRef": {"name": "acme"}, "type": "Full"})
    world.engine.hook = lambda what: _crash_at(what, "dotmac-acme-backup")
    with pytest.raises(Crash):
        world.settle()
    world.engine.hook = None
    world.create("Restore", "back", {"instanceRef": {"name": "acme"}, "backupRef": {"name": "monday"}})
    now = world.cluster.objects.pop(("Backup", "tenants/tuesday"))
    world.restart()
    world.cluster.objects[("Backup", "tenants/tuesday")] = now
    world.run("Server", "tenants/host-1")
    world.run("Restore", RESTORE)
    world.run("Restore", RESTORE)
    assert world.status(RESTORE, "Restore").get("step") is None
    assert world.condition("Ready", RESTORE, "Restore")[1] == "BackupRunning"


def test_containers_of_a_restore_go_with_its_instance() -> None:
    world, _ = in_the_exchange()
    world.delete("Instance", KEY)
    world.restart()
    world.settle()
    assert ("Instance", KEY) not in world.cluster.objects
    assert [box.name for box in world.engine.containers_.values() if names.JOB in box.labels] == []
