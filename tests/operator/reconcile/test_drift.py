"""Somebody changes a host behind our back: every kind of it, for every kind of container, is repaired and told once."""

import queue
from collections.abc import Callable
from typing import Any

import pytest
from tests.kits.fakes import Box, FakeEngine, crashed_at_each_call, deployed
from tests.kits.tenant import INSTANCE

from dotmac_operator.core import names, proxy
from dotmac_operator.core.facts import DockerEvent, NetworkFact, VolumeFact
from dotmac_operator.hosts.inventory import STALE_AFTER
from dotmac_operator.hosts.port import EngineError
from dotmac_operator.reconcile.ports import ClusterError, ObjectRef

KEY, HOST = "tenants/acme", "tenants/host-1"
ROLES = ("web", "worker", "database", "cache")
Harm = Callable[[FakeEngine, Box], None]


def removed(engine: FakeEngine, box: Box) -> None:
    del engine.containers_[box.name]


def stopped(engine: FakeEngine, box: Box) -> None:
    box.state, box.exit_code = "exited", 137


def state(word: str) -> Harm:
    def harm(engine: FakeEngine, box: Box) -> None:
        box.state = word

    return harm


def renamed(engine: FakeEngine, box: Box) -> None:
    engine.rename_container(box.name, "somebody")


def limited(**limits: Any) -> Harm:
    def harm(engine: FakeEngine, box: Box) -> None:
        engine.update_container(box.name, limits)

    return harm


def cut_off(engine: FakeEngine, box: Box) -> None:
    box.networks.clear()


def elsewhere(engine: FakeEngine, box: Box) -> None:
    box.networks.clear()
    box.networks["bridge"] = "172.17.0.2"


HARMS: dict[str, tuple[Harm, str, str]] = {
    "removed": (removed, "ContainerMissing", "does not exist"),
    "stopped": (stopped, "ContainerStopped", "exited"),
    "paused": (state("paused"), "ContainerPaused", "paused"),
    "dead": (state("dead"), "ContainerDead", "dead"),
    "created": (state("created"), "ContainerStopped", "created"),
    "renamed": (renamed, "ContainerRenamed", "was renamed"),
    "less memory": (limited(Memory=6 << 20), "LimitsChanged", "limits"),
    "more memory": (limited(Memory=64 << 30), "LimitsChanged", "limits"),
    "no limit of processes": (limited(PidsLimit=-1), "LimitsChanged", "limits"),
    "fewer CPUs": (limited(NanoCpus=10**7), "LimitsChanged", "limits"),
    "another restart policy": (limited(RestartPolicy={"Name": "no"}), "LimitsChanged", "limits"),
    "cut off": (cut_off, "NetworkDisconnected", "not on its network"),
    "elsewhere": (elsewhere, "NetworkDisconnected", "not on its network"),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("harm", HARMS)
def test_every_drift_is_repaired_and_told_once(role: str, harm: str) -> None:
    world = deployed()
    world.engine.networks_["bridge"] = NetworkFact("n-bridge", "bridge", {}, ("172.17.0.0/16",))
    shape = world.engine.shape()
    limits = {b.name: b.body["HostConfig"] for b in world.engine.containers_.values()}
    (box,) = world.engine.of(role)
    act, kind, words = HARMS[harm]
    act(world.engine, box)
    world.touch(box)
    world.settle()
    assert world.engine.shape() == shape
    assert {b.name: b.body["HostConfig"] for b in world.engine.containers_.values()} == limits
    assert world.counts.drift[0] == kind
    assert world.cluster.reasons().count("DriftRepaired") == 1
    assert role in world.status()["drift"]["what"]
    assert words in world.status()["drift"]["what"]
    assert world.condition("Ready")[0] == "True"
    assert world.engine.served("acme.erp.example") == 200
    before = list(world.engine.mutations)
    world.touch()
    world.settle()
    assert world.engine.mutations == before


@pytest.mark.parametrize("harm", ["paused", "renamed", "less memory", "cut off", "elsewhere"])
@pytest.mark.parametrize("role", ROLES)
def test_what_can_be_mended_in_place_is_not_restarted(role: str, harm: str) -> None:
    world = deployed()
    (box,) = world.engine.of(role)
    HARMS[harm][0](world.engine, box)
    before = len(world.engine.mutations)
    world.touch(box)
    world.settle()
    assert world.engine.of(role)[0].id == box.id
    calls = [call.split()[0] for call in world.engine.mutations[before:]]
    assert not {"start", "create", "remove", "stop"} & set(calls), calls


@pytest.mark.parametrize("harm", ["removed", "stopped", "paused", "dead", "renamed", "less memory", "cut off"])
def test_the_proxy_is_repaired_too(harm: str) -> None:
    world = deployed()
    box = world.engine.containers_[names.PROXY_CONTAINER]
    act, kind, _ = HARMS[harm]
    act(world.engine, box)
    world.touch(box)
    world.settle()
    assert world.engine.served("acme.erp.example") == 200
    repaired = world.engine.containers_[names.PROXY_CONTAINER]
    assert repaired.networks.keys() >= {names.PROXY_NETWORK, "dotmac-acme"}
    assert kind in world.counts.drift
    assert names.PROXY_CONTAINER in world.status(HOST, "Server")["drift"]["what"]
    events = [(about, reason) for about, _, reason, _ in world.cluster.events]
    assert events.count((f"Server {HOST}", "DriftRepaired")) == 1


def test_a_network_that_is_removed_comes_back_with_everybody_on_it() -> None:
    world = deployed()
    shape = world.engine.shape()
    for box in world.engine.containers_.values():
        if box.state == "running":
            box.networks.pop("dotmac-acme")
    del world.engine.networks_["dotmac-acme"]
    world.touch()
    world.settle()
    assert world.engine.shape() == shape
    assert world.counts.drift[0] == "NetworkMissing"
    assert world.engine.served("acme.erp.example") == 200


def test_a_route_that_is_deleted_comes_back() -> None:
    world = deployed()
    kept = world.engine.autosave
    world.engine.autosave = b'{"apps":{"http":{"servers":{"plain":{"routes":[]}}}}}'
    world.touch()
    world.settle()
    assert world.engine.served("acme.erp.example") == 200
    assert "RouteChanged" in world.counts.drift
    assert kept is not None


def test_a_program_in_the_proxy_is_looked_after_when_it_has_ended() -> None:
    """Regression: nothing else tells that somebody has changed the routes, so an idle host was read minutes later."""
    world = deployed()
    inventory = world.hosts.inventory(HOST)
    assert inventory is not None
    told: queue.Queue[DockerEvent | None] = queue.Queue()
    inventory._on_event = told.put
    inventory.facts()
    labels = {"name": names.PROXY_CONTAINER, "execID": "abc"}
    running = iter([True, True, False])
    world.engine.exec_runs = lambda exec_id: next(running)  # type: ignore[method-assign]
    inventory._take(DockerEvent("container", "exec_start: caddy reload --config /tmp/x ", "id", labels))
    event = told.get(timeout=5)
    assert event is not None
    assert next(running, "ended") == "ended"
    reads = world.engine.reads
    inventory.facts()
    assert world.engine.reads > reads
    ours = f"exec_start: {' '.join(proxy.RELOAD_ARGV)}"
    for action, name in ((ours, names.PROXY_CONTAINER), ("exec_start: caddy version", "somebody")):
        inventory._take(DockerEvent("container", action, "id", {**labels, "name": name}))
    reads = world.engine.reads
    inventory.facts()
    assert (world.engine.reads, told.empty()) == (reads, True)


def test_several_differences_are_told_together() -> None:
    world = deployed()
    (web,), (database,) = world.engine.of("web"), world.engine.of("database")
    stopped(world.engine, web)
    database.state = "paused"
    world.touch()
    world.settle()
    world.touch()
    world.settle()
    assert sorted(world.counts.drift) == ["ContainerPaused", "ContainerStopped"]
    assert "web" in world.status()["drift"]["what"]
    assert "database" in world.status()["drift"]["what"]


def test_a_change_of_the_spec_is_no_drift() -> None:
    world = deployed()
    world.edit("Instance", KEY, env=[{"name": "A", "value": "b"}])
    world.settle()
    assert world.counts.drift == []


# -- limits ----------------------------------------------------------------------------------------------------


def test_other_limits_of_the_database_are_given_to_the_one_that_runs() -> None:
    world = deployed()
    (database,), (cache,), (web,) = (world.engine.of(role) for role in ("database", "cache", "web"))
    more = {"cpu": "1", "memory": "1536Mi", "pids": 77}
    world.edit("InstanceClass", "starter", resources={"database": more, "cache": more})
    world.settle()
    for before, role in ((database, "database"), (cache, "cache"), (web, "web")):
        (after,) = world.engine.of(role)
        assert (after.id, after.body["HostConfig"]["PidsLimit"] == 77) == (before.id, role != "web")
    assert database.body["HostConfig"]["Memory"] == 1536 << 20
    assert world.counts.drift == [], "the class has changed, not the host"
    assert world.condition("Ready")[0] == "True"


def test_limits_that_the_kernel_cannot_enforce_are_no_drift() -> None:
    world = deployed()
    (box,) = world.engine.of("web")
    world.engine.update_container(box.name, {"Memory": 0, "NanoCpus": 0, "PidsLimit": None, "MemorySwap": -1})
    before = list(world.engine.mutations)
    world.touch(box)
    world.settle()
    assert world.engine.mutations == before


def test_limits_changed_while_nobody_watched_are_found_by_the_slow_look(monkeypatch: pytest.MonkeyPatch) -> None:
    world = deployed()
    (box,) = world.engine.of("web")
    HARMS["less memory"][0](world.engine, box)
    world.restart()
    world.settle()
    assert box.body["HostConfig"]["Memory"] == 6 << 20, "a start of the operator reads no container one by one"
    import time

    passed = time.monotonic() + 2 * STALE_AFTER
    monkeypatch.setattr("dotmac_operator.hosts.inventory.time.monotonic", lambda: passed)
    world.woken.add(("Instance", KEY))
    world.settle()
    assert box.body["HostConfig"]["Memory"] > 6 << 20
    reads = world.engine.reads
    world.touch()
    world.settle()
    assert world.engine.reads - reads <= 8, "each container is looked at once"


# -- networks --------------------------------------------------------------------------------------------------


def test_an_event_of_a_network_is_known_to_be_about_its_container() -> None:
    """A container is connected to a foreign network: the event names neither the Instance nor a network of ours."""
    world = deployed()
    inventory = world.hosts.inventory(HOST)
    assert inventory is not None
    told: list[DockerEvent | None] = []
    inventory._on_event = told.append
    (box,) = world.engine.of("database")
    inventory._take(DockerEvent("network", "connect", "n-bridge", {"container": box.id, "name": "bridge"}))
    (event,) = told
    assert event is not None
    assert event.attributes[names.INSTANCE] == "acme"
    assert event.attributes["name"] == "bridge"


# -- volumes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("volume", ["database", "files"])
def test_a_data_volume_is_never_made_again(volume: str) -> None:
    world = deployed()
    name = f"dotmac-acme-{volume}"
    for role in ("web", "worker", "database"):
        removed(world.engine, world.engine.of(role)[0])
    del world.engine.volumes_[name]
    for _ in range(3):
        world.touch()
        world.settle()
        world.now += 600
    assert name not in world.engine.volumes_
    assert world.engine.of("database") == [] == world.engine.of("web")
    assert world.condition("Stalled")[:2] == ("True", "DataVolumeMissing")
    assert name in world.condition("Stalled")[2]
    assert "platform.dotmac.io/org=ACME" in world.condition("Stalled")[2]
    labels = {names.MANAGED_BY: names.OPERATOR, names.NAMESPACE: "tenants", names.ORG: "ACME"}
    world.engine.volumes_[name] = VolumeFact(name, labels)
    world.touch()
    world.settle()
    assert world.condition("Ready")[0] == "True"


def test_a_data_volume_without_our_labels_is_not_taken_for_the_lost_one() -> None:
    world = deployed()
    removed(world.engine, world.engine.of("database")[0])
    world.engine.volumes_["dotmac-acme-database"] = VolumeFact("dotmac-acme-database", {})
    world.touch()
    world.settle()
    assert world.condition("Stalled")[:2] == ("True", "DataVolumeMissing")
    assert "lost its labels" in world.condition("Stalled")[2]
    assert world.engine.of("database") == []


def test_a_volume_that_goes_at_the_last_moment_is_not_replaced_by_docker() -> None:
    """Between our look and the creation of the container: Docker then makes an empty volume by itself."""
    world = deployed()
    removed(world.engine, world.engine.of("database")[0])
    engine, real = world.engine, world.engine.create_container

    def create(name: str, body: Any) -> str:
        if "database" in name:
            engine.volumes_["dotmac-acme-database"] = VolumeFact("dotmac-acme-database", {})
        return real(name, body)

    engine.create_container = create  # type: ignore[method-assign]
    world.touch()
    world.settle()
    world.now += 20
    world.touch()
    world.settle()
    assert world.engine.of("database") == []
    assert not [call for call in engine.mutations[-6:] if call.startswith("start dotmac-acme-database")]
    assert world.condition("Stalled")[:2] == ("True", "DataVolumeMissing")


def test_lost_dumps_are_told_and_the_tenant_is_served_on() -> None:
    world = deployed()
    del world.engine.volumes_["dotmac-acme-backups"]
    world.touch()
    world.settle()
    assert world.condition("Ready")[0] == "True"
    assert "it is gone, and what was in it" in world.status()["drift"]["what"]
    assert world.counts.drift == ["VolumeMissing"]


def test_a_new_release_may_bring_a_new_volume() -> None:
    world = deployed()
    spec = world.cluster.get("Release", "erp-1")["spec"]
    volumes = [*spec["volumes"], {"name": "more", "mountPath": "/more", "roles": ["web"]}]
    world.edit("Release", "erp-1", volumes=volumes)
    world.settle()
    assert world.condition("Ready")[0] == "True"
    assert "dotmac-acme-more" in world.engine.volumes_
    assert "dotmac-acme-more" in world.status()["volumes"]


# -- images ----------------------------------------------------------------------------------------------------

OTHER = "sha256:" + "2" * 64


def test_a_tag_that_moves_changes_nothing_and_is_told_once() -> None:
    world = deployed()
    (web,) = world.engine.of("web")
    before = list(world.engine.mutations)
    world.engine.ids_["example/app:1"] = OTHER
    for _ in range(2):
        world.restart()
        world.settle()
    assert world.engine.mutations == before
    assert world.condition("InSync")[:2] == ("True", "ImageMoved")
    assert OTHER in world.condition("InSync")[2]
    assert world.cluster.reasons().count("ImageMoved") == 1
    assert OTHER in world.status()["drift"]["what"]
    assert world.counts.drift == ["ImageMoved"]
    assert world.condition("Ready")[0] == "True"
    removed(world.engine, web)
    world.touch()
    world.settle()
    assert world.engine.of("web")[0].image_id == web.image_id != OTHER, "it is made from what it was"
    assert world.engine.of("web")[0].name == web.name


def test_a_tag_that_was_only_removed_needs_no_pull() -> None:
    world = deployed()
    (web,) = world.engine.of("web")
    world.engine.images_.discard("example/app:1")
    world.restart()
    removed(world.engine, web)
    world.settle()
    assert world.engine.of("web")[0].image_id == web.image_id
    assert not [call for call in world.engine.mutations[-8:] if call.startswith("pull")]


def test_a_moved_tag_whose_old_image_is_gone_stalls_with_the_remedy() -> None:
    world = deployed()
    world.engine.ids_["example/app:1"] = OTHER
    for role in ("web", "worker", "migrate", "bootstrap"):
        removed(world.engine, world.engine.of(role)[0])
    world.restart()
    world.settle()
    assert world.engine.of("web") == []
    assert world.condition("Stalled")[:2] == ("True", "ImageMoved")
    assert "give the Release a digest" in world.condition("Stalled")[2]
    del world.engine.ids_["example/app:1"]
    world.now += 60
    world.restart()
    world.settle()
    assert world.condition("Ready")[0] == "True"


def test_another_tag_moves_on() -> None:
    world = deployed()
    world.engine.ids_["example/app:1"] = OTHER
    images = {**world.cluster.get("Release", "erp-1")["spec"]["images"], "app": "example/app:1.1"}
    world.edit("Release", "erp-1", images=images)
    world.settle()
    assert world.condition("InSync")[:2] == ("True", "Converged")
    assert {pin["reference"] for pin in world.status()["images"]} >= {"example/app:1.1"}
    assert "example/app:1" not in {pin["reference"] for pin in world.status()["images"]}


# -- names -----------------------------------------------------------------------------------------------------


def test_a_stranger_under_our_name_is_left_alone_and_told() -> None:
    world = deployed()
    (web,) = world.engine.of("web")
    web.body = {**web.body, "Labels": {"com.example": "mine"}}
    web.state = "exited"
    world.touch()
    world.settle()
    assert world.condition("Ready")[:2] == ("False", "NameTaken")
    assert web.name in world.condition("Ready")[2]
    assert web.state == "exited"


def test_a_race_for_a_subnet_costs_no_failed_pass() -> None:
    world = deployed()
    world.create("Instance", "beta", {**INSTANCE, "orgCode": "BETA"})
    engine, real = world.engine, world.engine.create_network

    def taken(name: str, subnet: str, labels: Any, *, internal: bool = False) -> str:
        engine.create_network = real  # type: ignore[method-assign]
        real("somebody", subnet, {})
        return real(name, subnet, labels)

    engine.create_network = taken  # type: ignore[method-assign]
    assert not world.run("Instance", "tenants/beta").failed
    assert "dotmac-beta" in engine.networks_


def test_steps_are_counted() -> None:
    world = deployed()
    finished = dict(world.counts.steps)
    assert finished == dict.fromkeys(
        ("secrets", "images", "infra", "migrate", "start", "bootstrap", "route", "verify"), "succeeded"
    )


# -- an operator that ends in the middle of a repair -------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("harm", ["paused", "renamed", "less memory"])
def test_a_repair_is_told_by_whoever_finds_it_done(harm: str, when: str) -> None:
    """Regression: what was noted was lost with the process, and the next one found the host in order."""
    start = deployed()
    (box,) = start.engine.of("web")
    act, kind, words = HARMS[harm]
    act(start.engine, box)
    straight = start.copy()
    straight.settle()
    for where, world in crashed_at_each_call(start, straight, when):
        assert words in world.status()["drift"]["what"], where
        assert world.cluster.reasons().count("DriftRepaired") == 1, where
        assert kind in world.counts.drift, where
        assert "repairing" not in world.status(), where


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("harm", ["removed", "paused"])
def test_a_repair_of_the_proxy_is_told_by_whoever_finds_it_done(harm: str, when: str) -> None:
    start = deployed()
    act, kind, _ = HARMS[harm]
    box = start.engine.containers_[names.PROXY_CONTAINER]
    act(start.engine, box)
    start.touch(box)
    straight = start.copy()
    straight.settle()
    for where, world in crashed_at_each_call(start, straight, when):
        status = world.status(HOST, "Server")
        assert names.PROXY_CONTAINER in status["drift"]["what"], where
        assert "repairing" not in status, where
        assert kind in world.counts.drift, where


def test_a_repair_of_the_proxy_that_takes_two_passes_is_told() -> None:
    """Regression: the first pass wrote that the proxy is not ready, so the second one saw no drift."""
    world = deployed()
    box = world.engine.containers_[names.PROXY_CONTAINER]
    box.state = "paused"
    world.touch(box)

    def answer_lost(what: str) -> None:
        world.engine.hook = None
        raise EngineError(f"the answer to {what} was lost", 500)

    world.engine.hook = answer_lost
    world.settle()
    world.touch(box)
    world.settle()
    assert "paused" in world.status(HOST, "Server")["drift"]["what"]
    assert world.counts.drift == ["ContainerPaused"]
    assert world.condition("ProxyReady", HOST, "Server")[0] == "True"


def test_a_proxy_that_falls_while_it_is_repaired_is_told_whole() -> None:
    """Regression: it was removed while its configuration was being set right; the pass that made it anew began with a
    proxy that was not ready, and took that for no drift."""
    world = deployed()
    box = world.engine.containers_[names.PROXY_CONTAINER]
    box.state = "paused"
    world.touch(box)

    def removed_meanwhile(what: str) -> None:
        world.engine.hook = None
        removed(world.engine, box)
        raise EngineError(f"the answer to {what} was lost", 500)

    world.engine.hook = removed_meanwhile
    world.settle()
    world.touch()
    world.settle()
    assert {"ContainerMissing", "ContainerPaused"} <= set(world.counts.drift)
    assert "run container" in world.status(HOST, "Server")["drift"]["what"]


def test_what_is_being_repaired_is_told_before_it_is_touched() -> None:
    world = deployed()
    (box,) = world.engine.of("web")
    box.state = "paused"
    world.touch(box)
    seen: list[Any] = []
    world.engine.hook = lambda *_: seen.append(world.status().get("repairing"))
    world.settle()
    assert seen[0] == [{"kind": "ContainerPaused", "what": seen[0][0]["what"]}]
    assert "web is paused" in seen[0][0]["what"]


def test_a_record_that_the_api_refuses_is_written_with_the_next_pass() -> None:
    """Regression: what was repaired was forgotten when the write of it failed."""
    world = deployed()
    (box,) = world.engine.of("web")
    box.state = "paused"
    world.touch(box)
    real = world.cluster.apply_status

    def refuse(ref: ObjectRef, status: dict[str, Any], exactly: bool = False) -> dict[str, Any]:
        if "drift" not in status:
            return real(ref, status, exactly)
        world.cluster.apply_status = real  # type: ignore[method-assign]
        raise ClusterError("the Kubernetes API answered 500 Internal Server Error")

    world.cluster.apply_status = refuse  # type: ignore[method-assign]
    with pytest.raises(ClusterError):
        world.settle()
    world.woken.add(("Instance", KEY))
    world.settle()
    assert "web is paused" in world.status()["drift"]["what"]
    assert world.counts.drift == ["ContainerPaused"]


def test_what_an_edit_there_and_back_has_left_is_no_drift() -> None:
    """Regression: the containers that were begun for the edit were told as surplus that somebody had made."""
    world = deployed()
    world.edit("Instance", KEY, env=[{"name": "MODE", "value": "B"}])

    def back(what: str) -> None:
        if what.startswith("run dotmac-acme-web") or what.startswith("create dotmac-acme-web"):
            world.engine.hook = None
            world.edit("Instance", KEY, env=None)

    world.engine.hook = back
    world.settle()
    assert world.engine.hook is None, "the edit was begun"
    assert world.condition("Ready")[0] == "True"
    assert len(world.engine.of("web")) == 1
    assert world.counts.drift == []
    assert "drift" not in world.status()
