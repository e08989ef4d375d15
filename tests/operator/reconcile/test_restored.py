"""A control plane that was made again from an export: its Instances have new uids, and their containers run on."""

from collections.abc import Iterator

import pytest
from tests.kits.fakes import FakeEngine, World, deployed
from tests.kits.tenant import INSTANCE

from dotmac_operator.core import names

KEY = "tenants/acme"


def restored(world: World, **annotations: str) -> World:
    """The same hosts under an API that knows the specs only: as deploy/docs/backup-of-the-control-plane.md restores."""
    made = world.copy()
    for body in made.cluster.objects.values():
        meta = body["metadata"]
        body.pop("status", None)
        meta.pop("finalizers", None)
        if body["kind"] in ("Instance", "Server"):
            meta["uid"] = f"new-{meta['uid']}"
        if body["kind"] == "Instance":
            meta["annotations"] = {names.PREFIX + name.replace("_", "-"): value for name, value in annotations.items()}
    made.cluster.owners.clear()
    made.restart()
    return made


def ids(engine: FakeEngine) -> Iterator[tuple[str, str]]:
    for box in engine.containers_.values():
        if names.INSTANCE_UID in box.labels:
            yield box.name, box.id


def uid(world: World) -> str:
    return str(world.cluster.get("Instance", KEY)["metadata"]["uid"])


def test_the_containers_of_a_restored_instance_run_on() -> None:
    world = deployed()
    before = sorted(ids(world.engine))
    again = restored(world, restored_uid=uid(world))
    again.settle()
    assert again.condition("Ready")[0] == "True"
    assert sorted(ids(again.engine)) == before

    again.engine.of("web")[0].state = "exited"
    again.touch()
    again.settle()
    assert again.condition("Ready")[0] == "True" and again.engine.of("web")[0].state == "running"

    again.edit("Instance", KEY, deletion={"policy": "Delete"})
    again.delete("Instance", KEY)
    again.settle()
    assert list(ids(again.engine)) == []


def test_without_the_annotation_nothing_is_made_twice_and_the_remedy_is_told() -> None:
    """Regression: it was tried again twice a second, for ever."""
    world = deployed()
    before = sorted(ids(world.engine))
    again = restored(world)
    again.settle()
    status, reason, message = again.condition("Ready")
    assert (status, reason) == ("False", "NameTaken")
    assert f"{names.RESTORED_UID}={uid(world)}" in message
    assert sorted(ids(again.engine)) == before


@pytest.mark.parametrize("claim", ["of a living one", "twice"])
def test_nobody_takes_what_another_has(claim: str) -> None:
    world = deployed()
    theirs = uid(world)
    spec = {**INSTANCE, "orgCode": "EVIL", "domains": [{"host": "evil.example"}]}
    if claim == "twice":
        world.annotate("Instance", KEY, restored_uid="gone-1")
        theirs = "gone-1"
    world.create("Instance", "evil", spec, annotations={names.RESTORED_UID: theirs})
    evil = world.store.instance("tenants/evil")
    assert evil is not None
    assert world.store.uid_on_host(evil) == evil.ref.uid
