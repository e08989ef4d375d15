"""Instances from nothing to served, on fakes of the ports: what is done, what is written, and that it is done once."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from tests.kits.fakes import SSH_KEY, World, crashed_at_each_call, deployed, prepared, unreachable, upgrade
from tests.kits.tenant import INSTANCE, RELEASE, SERVER

from dotmac_operator.core import names
from dotmac_operator.hosts.port import Conflict

KEY = "tenants/acme"


def test_a_fresh_deploy_ends_served() -> None:
    world = deployed()
    status = world.status()
    assert (status["phase"], status["step"], status["url"]) == ("Running", "10/10", "http://acme.erp.example/")
    assert status["release"] == {"current": "erp-1", "currentVersion": "1.0"}
    assert [step["state"] for step in status["steps"]] == ["Succeeded"] * 2 + ["Skipped"] + ["Succeeded"] * 7
    assert {part["role"]: part["health"] for part in status["components"]} == dict.fromkeys(
        ("web", "worker", "database", "cache"), "healthy"
    )
    assert world.condition("Stalled")[0] == world.condition("Reconciling")[0] == "False"
    assert world.condition("InSync")[0] == "True"
    assert world.engine.served("acme.erp.example") == 200
    assert world.cluster.reasons() == ["Ready", "Placed", "Deploying", "Ready"]
    server = world.status("tenants/host-1", "Server")
    assert server["allocated"] == {"instances": 1, "memory": "1664Mi", "memoryCapacity": "7680Mi"}


def test_a_second_pass_writes_nothing_and_changes_nothing() -> None:
    world = deployed()
    world.cluster.writes.clear()
    before = len(world.engine.mutations)
    reads = world.engine.reads
    for _ in range(3):
        world.touch()
        world.settle()
        world.now += 600
    assert world.cluster.writes == []
    assert len(world.engine.mutations) == before
    # probe, info, disk; containers, networks, volumes and the proxy's configuration once for both passes.
    assert (world.engine.reads - reads) / 3 <= 7


def test_a_restart_of_the_operator_writes_nothing() -> None:
    world = deployed()
    world.cluster.writes.clear()
    before = len(world.engine.mutations)
    world.restart()
    world.settle()
    assert world.cluster.writes == []
    assert len(world.engine.mutations) == before


def test_one_host_read_serves_all_instances() -> None:
    world = prepared()
    for number in range(3):
        world.create("Instance", f"t{number}", {**INSTANCE, "orgCode": f"T{number}"})
    world.settle(400)
    world.touch()
    world.settle()
    reads = world.engine.reads
    for _ in range(3):
        world.woken.update(key for key in world.cluster.objects if key[0] == "Instance")
        world.settle()
    assert world.engine.reads - reads == 0


def test_canary_secrets_are_nowhere_but_in_their_places(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    spec: dict[str, Any] = {"env": [{"name": "TOKEN", "secretKeyRef": {"name": "own", "key": "token"}}]}
    world = prepared(**spec)
    world.cluster.secrets["tenants/own"] = {"token": "CANARY-own-token"}
    world.engine.exit_codes[("migrate", "example/app:1")] = 1
    world.engine.logs_["migrate"] = "cannot log in with CANARY-own-token"
    world.settle()
    generated = dict(world.cluster.secrets["tenants/acme-credentials"])
    assert set(generated) == {"hash-key", "database-password", "cache-password", "admin-password", "session"}
    assert all(len(value) >= 24 for value in generated.values())
    world.engine.logs_["migrate"] = f"using {generated['database-password']} of {generated['admin-password']}"
    world.now += 60
    world.touch()
    world.settle()
    assert "its log ends: using *** of ***" in world.condition("Ready")[2]
    told = repr([world.cluster.statuses, world.cluster.events, world.engine.mutations]) + caplog.text
    for canary in ("CANARY-own-token", SSH_KEY, *generated.values()):
        assert canary not in told
    argv = repr([(box.body.get("Cmd"), box.body.get("Entrypoint")) for box in world.engine.containers_.values()])
    labels = repr([box.labels for box in world.engine.containers_.values()])
    for canary in generated.values():
        assert canary not in argv + labels


# -- crashes ---------------------------------------------------------------------------------------------------


def fixed(world: World) -> World:
    """Secrets are random: the same ones in every World, so that hashes can be compared."""
    keys = ("hash-key", "database-password", "cache-password", "admin-password", "session")
    world.cluster.plant("acme-credentials", {key: f"CANARY-{key}" * 2 for key in keys})
    return world


def fresh() -> World:
    return fixed(prepared())


def upgrading() -> World:
    world = fixed(deployed())
    world.touch()
    world.settle()
    upgrade(world)
    return world


def failing() -> World:
    world = upgrading()
    world.engine.sick.add("example/app:2")
    return world


def leaving(policy: str) -> World:
    world = fixed(deployed(deletion={"policy": policy}))
    world.delete("Instance", KEY)
    return world


JOURNEYS: dict[str, Callable[[], World]] = {
    "deploy": fresh,
    "upgrade": upgrading,
    "rollback": failing,
    "delete, retain": lambda: leaving("Retain"),
    "delete": lambda: leaving("Delete"),
}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("journey", JOURNEYS)
def test_a_crash_at_any_call_ends_the_same(journey: str, when: str) -> None:
    """Every call that changes the host in turn: the process ends there, and a new one comes to the same end."""
    start = JOURNEYS[journey]()
    straight = start.copy()
    straight.settle(200)
    assert len(straight.engine.mutations) - len(start.engine.mutations) >= 6
    for where, world in crashed_at_each_call(start, straight, when):
        assert world.engine.shape() == straight.engine.shape(), where
        assert phases(world) == phases(straight), where
        created = [call for call in world.engine.mutations if call.startswith("create ")]
        assert len(created) == len(set(created)), "something was made twice"


def phases(world: World) -> Any:
    if ("Instance", KEY) not in world.cluster.objects:
        return "gone", sorted(world.cluster.secrets)
    status = world.status()
    return status["phase"], status["release"], world.condition("Ready")[:2], world.condition("Stalled")[:2]


@pytest.mark.slow
def test_a_lost_connection_at_any_call_ends_served() -> None:
    """The host goes away for a while, after every call in turn; the operator lives on."""
    total = len(deployed().engine.mutations)
    for number in range(0, total, 2):
        world = prepared()

        def cut(_: str, world: World = world, number: int = number) -> None:
            if len(world.engine.mutations) == number + 1:
                world.engine.down = unreachable()

        world.engine.hook = cut
        world.settle()
        if ("Ready", "True") != ("Ready", world.condition("Ready")[0]):
            assert world.status("tenants/host-1", "Server")["conditions"]
        world.engine.down = None
        world.now += 60
        world.touch()
        world.settle()
        assert world.condition("Ready")[0] == "True", number


# -- edits while it works --------------------------------------------------------------------------------------


def on_call(world: World, start: str, act: Any) -> None:
    """Calls `act` once, after the first change of the host whose name starts so."""
    done: list[str] = []

    def hook(what: str) -> None:
        if what.startswith(start) and not done:
            done.append(what)
            act()

    world.engine.hook = hook


@pytest.mark.parametrize("moment", ["pull example/app", "network dotmac-acme", "start dotmac-acme-web", "reload"])
def test_an_edit_mid_deploy_is_taken_up(moment: str) -> None:
    world = prepared()
    on_call(
        world, moment, lambda: world.edit("Instance", KEY, orgName="Another Name", env=[{"name": "A", "value": "b"}])
    )
    world.settle()
    assert world.condition("Ready")[0] == "True"
    assert world.status()["observedGeneration"] == 2
    assert {box.env["ORG_NAME"] for box in world.engine.of("web")} == {"Another Name"}
    assert len(world.engine.of("web")) == len(world.engine.of("worker")) == 1


@pytest.mark.parametrize(
    "moment", ["pull example/app", "create dotmac-acme-database", "start dotmac-acme-web", "reload"]
)
def test_a_deletion_mid_deploy_takes_everything_away(moment: str) -> None:
    world = prepared(deletion={"policy": "Delete"})
    on_call(world, moment, lambda: world.delete("Instance", KEY))
    world.settle()
    assert ("Instance", KEY) not in world.cluster.objects
    assert set(world.engine.containers_) == {names.PROXY_CONTAINER}
    assert set(world.engine.networks_) == {names.PROXY_NETWORK}
    assert set(world.engine.volumes_) == {"dotmac-proxy-config", "dotmac-proxy-data"}
    assert "tenants/acme-credentials" not in world.cluster.secrets


def test_a_pause_mid_deploy_stops_it_and_the_end_of_the_pause_goes_on() -> None:
    world = prepared()
    on_call(world, "pull example/app", lambda: world.annotate("Instance", KEY, paused="true"))
    world.settle()
    assert world.condition("Paused")[0] == "True"
    assert world.status()["phase"] == "Paused"
    before = len(world.engine.mutations)
    world.touch()
    world.settle()
    assert len(world.engine.mutations) == before
    world.annotate("Instance", KEY, paused="false")
    world.settle()
    assert world.condition("Ready")[0] == "True"
    assert world.condition("Paused")[0] == ""


def test_a_domain_edit_moves_the_route_and_is_no_drift() -> None:
    world = deployed()
    containers = set(world.engine.containers_)
    world.edit("Instance", KEY, domains=[{"host": "erp.acme.example"}])
    world.settle()
    assert world.engine.served("erp.acme.example") == 200
    assert world.engine.served("acme.erp.example") == 404
    assert set(world.engine.containers_) == containers
    assert "DriftRepaired" not in world.cluster.reasons()
    assert world.status()["url"] == "http://erp.acme.example/"


# -- drift -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["web", "worker", "database", "cache"])
@pytest.mark.parametrize("how", ["gone", "exited"])
def test_drift_is_repaired_and_told_once(role: str, how: str) -> None:
    world = deployed()
    (box,) = world.engine.of(role)
    if how == "gone":
        del world.engine.containers_[box.name]
    else:
        box.state, box.exit_code = "exited", 137
    world.touch()
    world.settle()
    assert world.engine.of(role)[0].state == "running"
    assert world.cluster.reasons().count("DriftRepaired") == 1
    assert role in world.status()["drift"]["what"]
    assert world.condition("Ready")[0] == "True"


def test_a_proxy_that_lost_everything_serves_again() -> None:
    world = deployed()
    world.engine.autosave = None
    del world.engine.containers_[names.PROXY_CONTAINER]
    world.touch()
    world.settle()
    assert world.engine.served("acme.erp.example") == 200


def test_two_instances_share_a_host_and_keep_their_routes() -> None:
    world = deployed()
    world.create("Instance", "beta", {**INSTANCE, "orgCode": "BETA"})
    world.settle()
    assert world.engine.served("acme.erp.example") == world.engine.served("beta.erp.example") == 200
    world.edit("Instance", "tenants/beta", domains=[{"host": "b.example"}])
    world.edit("Instance", KEY, domains=[{"host": "a.example"}])
    world.settle()
    assert world.engine.served("a.example") == world.engine.served("b.example") == 200
    world.delete("Instance", KEY)
    world.settle()
    assert (world.engine.served("a.example"), world.engine.served("b.example")) == (404, 200)
    assert not set(world.engine.containers_[names.PROXY_CONTAINER].networks) & {"dotmac-acme"}


def test_a_twin_waits_and_the_tenant_keeps_serving() -> None:
    world = deployed()
    world.create("Instance", "twin", {**INSTANCE, "orgCode": "acme"})
    world.settle()
    world.touch()
    world.settle()
    assert world.condition("Stalled", "tenants/twin")[:2] == ("True", "OrgCodeTaken")
    assert world.condition("Ready")[0] == "True"
    world.delete("Instance", "tenants/twin")
    world.settle()
    assert ("Instance", "tenants/twin") not in world.cluster.objects
    assert world.engine.served("acme.erp.example") == 200


def test_a_race_for_a_subnet_is_settled_by_looking_again() -> None:
    world = prepared()
    world.run("Server", "tenants/host-1")
    engine = world.engine
    real = engine.create_network

    def taken(name: str, subnet: str, labels: Any, *, internal: bool = False) -> str:
        engine.create_network = real  # type: ignore[method-assign]
        real("dotmac-other", subnet, {})
        return real(name, subnet, labels)

    engine.create_network = taken  # type: ignore[method-assign]
    world.settle()
    world.now += 20
    world.touch()
    world.settle()
    assert world.condition("Ready")[0] == "True"
    assert engine.networks_["dotmac-acme"].subnets != engine.networks_["dotmac-other"].subnets


def test_an_engine_that_refuses_is_told_and_tried_again() -> None:
    world = prepared()
    world.run("Server", "tenants/host-1")
    world.engine.hook = None
    world.engine.down = Conflict("container is marked for removal", 409)
    world.run("Instance", KEY)
    assert world.condition("Ready")[:2] == ("False", "Conflict")
    world.engine.down = None
    world.settle()
    assert world.condition("Ready")[0] == "True"


def test_a_full_host_takes_as_many_as_fit() -> None:
    """Regression: each newcomer counted all others, so that of too many none was ever deployed."""
    world = prepared()
    for number in range(5):
        world.create("Instance", f"t{number}", {**INSTANCE, "orgCode": f"T{number}"})
    world.settle(400)
    keys = [KEY, *(f"tenants/t{number}" for number in range(5))]
    ready = [world.condition("Ready", key)[:2] for key in keys]
    assert sorted(ready) == [("False", "InsufficientMemory")] * 2 + [("True", "Converged")] * 4
    assert "choose a smaller class" in world.condition("Stalled", keys[-1])[2]


def test_placement_chooses_and_remembers() -> None:
    world = World()
    world.create("InstanceClass", "starter", {})
    world.create("Release", "erp-1", RELEASE)
    spec = {**INSTANCE, "placement": {"selector": {"matchLabels": {"zone": "a"}}}}
    del spec["serverRef"]
    world.create("Instance", "acme", spec)
    world.settle()
    assert world.condition("Ready")[:2] == ("False", "NoServerFits")
    world.create("Server", "host-1", SERVER, labels={"zone": "a"})
    world.create("Server", "host-2", {**SERVER, "address": "192.0.2.2"}, labels={"zone": "a"})
    world.settle()
    assert world.status()["server"] == "host-1"
    world.create("Instance", "beta", {**spec, "orgCode": "BETA"})
    world.settle()
    assert world.status("tenants/beta")["server"] == "host-2"
    assert world.engines["192.0.2.2"].served("beta.erp.example") == 200


# -- an operator that was told old news ----------------------------------------------------------------------------


def test_an_operator_with_an_old_list_touches_nothing_and_takes_nothing_back() -> None:
    """Regression: restarted with a list from before an upgrade, it began to undo that as drift, and the status that it
    wrote took the record of the dump back."""
    world = deployed()
    old = copy.deepcopy(world.cluster.get("Instance", KEY))
    upgrade(world)
    world.settle()
    status, before = copy.deepcopy(world.status()), list(world.engine.mutations)
    now = world.cluster.objects[("Instance", KEY)]
    world.cluster.objects[("Instance", KEY)] = old
    world.restart()
    world.cluster.objects[("Instance", KEY)] = now
    world.settle()
    assert world.engine.mutations == before
    assert world.status() == status


def test_a_status_is_written_again_over_a_change_that_concerns_nobody() -> None:
    world = deployed()
    body = world.cluster.get("Instance", "tenants/acme")
    body["metadata"]["managedFields"] = []
    world.cluster._bump(body)  # the watch has not told it yet
    (box,) = world.engine.of("web")
    box.state = "paused"
    world.touch(box)
    outcome = world.run("Instance", "tenants/acme")
    assert outcome.after is None, "the pass went on to its end"
    assert "web is paused" in world.status()["drift"]["what"]
