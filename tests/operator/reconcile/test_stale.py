"""An operator that knows an old version of an object: nothing is done by it, and nothing written over what is new."""

import copy
from typing import Any

import pytest
from tests.kits.fakes import Crash, World, deployed, upgrade

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
