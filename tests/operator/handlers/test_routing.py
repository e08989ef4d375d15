"""Which reconcilers a change concerns, and that no change is lost on its way from the watch."""

import copy
from dataclasses import replace
from typing import Any

import pytest
from tests.kits.fakes import World, deployed
from tests.kits.tenant import INSTANCE, RELEASE

from dotmac_operator.core import names
from dotmac_operator.core.facts import DockerEvent
from dotmac_operator.handlers.firstlists import FirstLists
from dotmac_operator.handlers.routing import Routing
from dotmac_operator.handlers.watch import Watch
from dotmac_operator.handlers.workers import Workers

ACME, BETA, HOST = ("Instance", "tenants/acme"), ("Instance", "tenants/beta"), ("Server", "tenants/host-1")


class Wakes(set[tuple[str, str]]):
    def __init__(self) -> None:
        super().__init__()
        self.urgent: set[tuple[str, str]] = set()

    def __call__(self, kind: str, key: str, *, urgent: bool = False) -> None:
        self.add((kind, key))
        if urgent:
            self.urgent.add((kind, key))

    def taken(self) -> set[tuple[str, str]]:
        found = set(self)
        self.clear()
        return found


@pytest.fixture
def world() -> World:
    made = deployed()
    made.create("Release", "erp-9", RELEASE)
    made.create("Instance", "beta", {**INSTANCE, "orgCode": "BETA", "releaseRef": {"name": "erp-9"}})
    made.settle()
    return made


@pytest.fixture
def wakes() -> Wakes:
    return Wakes()


def event(type_: str, action: str, actor: str = "", **attributes: str) -> DockerEvent:
    return DockerEvent(type_, action, actor, attributes)


def test_changes_of_objects(world: World, wakes: Wakes) -> None:
    routing = Routing(world.store, wakes)
    get: Any = {"Instance": world.store.instance, "Server": world.store.server, "Release": world.store.release}
    routing.changed(get["Instance"]("tenants/acme"))
    assert wakes.taken() == {ACME, HOST}
    assert wakes.urgent == {ACME}, "only what was changed itself is waited for"
    asked = replace(get["Instance"]("tenants/acme"), annotations={names.RECONCILE_REQUESTED_AT: "now"})
    routing.changed(asked, get["Instance"]("tenants/acme"))
    assert wakes.taken() == {ACME}, "what it takes of its Server is the same"
    routing.changed(replace(asked, generation=99), asked)
    assert wakes.taken() == {ACME, HOST}
    routing.changed(get["Server"]("tenants/host-1"))
    assert wakes.taken() == {HOST, ACME, BETA}
    host = get["Server"]("tenants/host-1")
    asked = replace(host, annotations={**host.annotations, names.RECONCILE_REQUESTED_AT: "now"})
    routing.changed(asked, host)
    assert wakes.taken() == {HOST}, "its own pass looks at all of its Instances"
    routing.changed(replace(asked, annotations={**asked.annotations, names.PAUSED: "true"}), asked)
    assert wakes.taken() == {HOST, ACME, BETA}
    both = {names.RECONCILE_REQUESTED_AT: "later", names.PAUSED: "true"}
    routing.changed(replace(host, annotations=both), asked)
    assert wakes.taken() == {HOST, ACME, BETA}
    routing.changed(get["Release"]("erp-9"))
    assert wakes.taken() == {("Release", "erp-9"), BETA}
    starter: Any = world.store.instance_class("starter")
    routing.changed(starter)
    assert wakes.taken() == {("InstanceClass", "starter"), ACME, BETA}
    routing.server_ready("elsewhere/host-1")
    assert wakes.taken() == set()


def test_events_of_hosts(world: World, wakes: Wakes) -> None:
    routing = Routing(world.store, wakes)
    mine = {names.INSTANCE_UID: "u", names.NAMESPACE: "tenants", names.INSTANCE: "acme"}
    routing.docker("tenants/host-1", DockerEvent("container", "die", "id", mine))
    assert wakes.taken() == {ACME}
    routing.docker("tenants/host-1", event("network", "destroy", name="dotmac-acme"))
    assert wakes.taken() == {ACME}
    routing.docker("tenants/host-1", event("volume", "destroy", actor="dotmac-beta-files"))
    assert wakes.taken() == {BETA}
    routing.docker("tenants/host-1", event("container", "die", name="dotmac-proxy"))
    assert wakes.taken() == {HOST, ACME, BETA}
    routing.docker("tenants/host-1", event("container", "die", name="somebody-elses"))
    assert wakes.taken() == set()
    routing.docker("tenants/host-1", None)
    assert wakes.taken() == {HOST}


def test_backups_and_restores(world: World, wakes: Wakes) -> None:
    monday, back = ("Backup", "tenants/monday"), ("Restore", "tenants/back")
    world.create("Backup", "monday", {"instanceRef": {"name": "acme"}})
    world.create("Restore", "back", {"instanceRef": {"name": "acme"}, "backupRef": {"name": "monday"}})
    routing = Routing(world.store, wakes)
    found = world.store.backup("tenants/monday")
    assert found is not None
    routing.changed(found)
    assert wakes.taken() == {monday, back, ACME}
    acme: Any = world.store.instance("tenants/acme")
    routing.changed(acme)
    assert wakes.taken() == {ACME, HOST, monday, back}
    routing.server_ready("tenants/host-1")
    assert wakes.taken() == {ACME, BETA, monday, back}
    shot = {names.JOB: "Backup/monday", names.NAMESPACE: "tenants"}
    routing.docker("tenants/host-1", DockerEvent("container", "die", "id", shot))
    assert wakes.taken() == {monday}
    routing.docker("tenants/host-1", DockerEvent("container", "die", "id", shot | {names.JOB: "Server/host-1"}))
    assert wakes.taken() == set()
    world.settle()
    routing.server_ready("tenants/host-1")
    assert wakes.taken() == {ACME, BETA}, "what has ended waits for nothing"


def all_there() -> FirstLists:
    made = FirstLists()
    made.expect(0)
    return made


async def see(watch: Watch, body: dict[str, Any], type_: Any = "MODIFIED") -> None:
    """One event, as Kopf delivers it."""
    await watch._event(event={"type": type_, "object": body}, body=body)  # type: ignore[arg-type,typeddict-item]


async def test_only_changes_that_matter_wake(world: World, wakes: Wakes) -> None:
    watch = Watch(world.store, Routing(world.store, wakes), Workers({}, None, 1.0), all_there())  # type: ignore[arg-type]
    body = copy.deepcopy(world.cluster.get(*ACME))
    await see(watch, body, "ADDED")
    assert ACME in wakes.taken()
    await see(watch, body)
    body["status"]["phase"] = "Elsewhere"
    await see(watch, body)
    assert wakes.taken() == set()
    body["metadata"]["annotations"] = {names.RECONCILE_REQUESTED_AT: "now"}
    await see(watch, body)
    assert ACME in wakes.taken()
    await see(watch, body, "DELETED")
    assert ACME in wakes.taken()
    assert world.store.instance(ACME[1]) is None


async def test_an_edit_that_came_with_the_answer_to_a_write_still_wakes(world: World, wakes: Wakes) -> None:
    """Regression: the store knew the edit already when the watch told of it, so nobody took it up until the resync."""
    watch = Watch(world.store, Routing(world.store, wakes), Workers({}, None, 1.0), all_there())  # type: ignore[arg-type]
    await see(watch, copy.deepcopy(world.cluster.get(*ACME)), "ADDED")
    wakes.clear()
    world.edit(*ACME, orgName="Edited")
    edited = copy.deepcopy(world.cluster.get(*ACME))
    found = world.store.instance(ACME[1])
    assert found is not None
    status = {**edited["status"], "phase": "Written"}
    world.store.put(world.cluster.apply_status(found.ref, status))  # our write, after the user's
    await see(watch, edited)
    assert ACME in wakes.taken()


async def test_a_status_that_another_wrote_wakes(world: World, wakes: Wakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that was given an old list finds all in order, and then hears what its predecessor recorded."""
    monkeypatch.setattr(Workers, "wake", lambda _, kind, key: wakes.add((kind, key)))
    watch = Watch(world.store, Routing(world.store, Wakes()), Workers({}, None, 1.0), all_there())  # type: ignore[arg-type]
    await see(watch, copy.deepcopy(world.cluster.get(*ACME)), "ADDED")
    assert wakes.taken() == set()
    found = world.store.instance(ACME[1])
    assert found is not None
    ours = world.cluster.apply_status(found.ref, {**world.status(), "phase": "Ours"})
    world.store.put(copy.deepcopy(ours))
    await see(watch, ours)
    assert wakes.taken() == set()
    now = world.store.instance(ACME[1])
    assert now is not None
    await see(watch, world.cluster.apply_status(now.ref, {**world.status(), "phase": "Theirs"}))
    assert wakes.taken() == {ACME}
