"""What goes wrong: migrations, health, hosts, keys, deletions; and what people are told and may do about it."""

from typing import Any

import pytest
from tests.kits.fakes import OFFERED, World, deployed, prepared, unreachable, upgrade
from tests.kits.tenant import FINGERPRINT, INSTANCE, RELEASE, SERVER

from dotmac_crds.base import FINALIZER
from dotmac_operator.core import names
from dotmac_operator.hosts import port
from dotmac_operator.reconcile.ports import GONE

KEY, HOST = "tenants/acme", "tenants/host-1"


def later(world: World, seconds: float) -> None:
    world.now += seconds
    world.touch()
    world.settle()


# -- a failing deploy ------------------------------------------------------------------------------------------


def test_a_failed_migration_of_a_fresh_deploy_is_retried_and_stalls_after_three() -> None:
    world = prepared()
    world.engine.exit_codes[("migrate", "example/app:1")] = 3
    world.engine.logs_["migrate"] = "no such column"
    world.settle()
    assert world.condition("Ready")[:2] == ("False", "MigrateFailed")
    assert "exit code 3; its log ends: no such column" in world.condition("Ready")[2]
    assert world.status()["phase"] == "Failing"
    assert world.condition("Stalled")[0] == "False"
    assert world.engine.of("web") == []
    for _ in range(3):
        later(world, 60)
    assert world.condition("Stalled")[:2] == ("True", "MigrateFailed")
    assert world.status()["phase"] == "Stalled"
    step = next(step for step in world.status()["steps"] if step["name"] == "migrate")
    assert step["state"] == "Failed"
    assert world.cluster.reasons().count("MigrateFailed") >= 3
    world.engine.exit_codes.clear()
    later(world, 400)
    assert world.condition("Ready")[0] == "True"
    assert world.condition("Stalled")[0] == "False"


def test_a_retry_waits_for_its_turn() -> None:
    world = prepared()
    world.engine.exit_codes[("migrate", "example/app:1")] = 1
    world.settle()
    runs = sum(call.startswith("start dotmac-acme-migrate") for call in world.engine.mutations)
    for _ in range(5):
        world.run("Instance", KEY)
    assert sum(call.startswith("start dotmac-acme-migrate") for call in world.engine.mutations) == runs


def test_somebody_may_ask_for_another_try_at_once() -> None:
    world = prepared()
    world.engine.exit_codes[("migrate", "example/app:1")] = 1
    world.settle()
    world.engine.exit_codes.clear()
    world.annotate("Instance", KEY, reconcile_requested_at="now")
    world.settle()
    assert world.condition("Ready")[0] == "True"
    assert world.status()["lastHandledReconcileAt"] == "now"


def test_an_absent_image_is_told() -> None:
    world = World()
    world.create("InstanceClass", "starter", {})
    world.create("Release", "erp-1", {**RELEASE, "images": {**RELEASE["images"], "app": "absent/app:1"}})
    world.create("Server", "host-1", SERVER)
    world.create("Instance", "acme", INSTANCE)
    world.settle()
    assert world.condition("Ready")[:2] == ("False", "NotFound")
    assert "absent/app:1" in world.condition("Ready")[2]


# -- a failing upgrade -----------------------------------------------------------------------------------------


def failed_upgrade(**faults: Any) -> World:
    world = deployed()
    for code in faults.get("codes", ()):
        world.engine.exit_codes[code] = 1
    world.engine.sick |= set(faults.get("sick", ()))
    upgrade(world)
    world.settle(200)
    return world


UPGRADES = [
    ({"codes": [("migrate", "example/app:2")]}, "migrate"),
    ({"sick": ["example/app:2"]}, "start"),
    ({"codes": [("backup", "example/postgres:15")]}, "backup"),
]


@pytest.mark.parametrize(("faults", "step"), UPGRADES, ids=["migrate", "health", "backup"])
def test_a_failed_upgrade_leaves_the_old_serving(faults: dict[str, Any], step: str) -> None:
    world = failed_upgrade(**faults)
    assert world.condition("Stalled")[:2] == ("True", "UpgradeRolledBack")
    assert f"step {step}:" in world.condition("Stalled")[2]
    assert world.status()["release"]["current"] == "erp-1"
    assert world.engine.served("acme.erp.example") == 200
    assert {box.body["Image"] for box in world.engine.of("web")} == {"example/app:1"}
    assert world.cluster.reasons().count("UpgradeRolledBack") == 1
    assert world.status()["failure"]["step"] == step
    before = list(world.engine.mutations)
    for _ in range(3):
        later(world, 600)
    world.restart()
    world.settle()
    assert world.engine.mutations == before, "it was tried again by itself"


@pytest.mark.parametrize(("faults", "step"), UPGRADES, ids=["migrate", "health", "backup"])
def test_a_failed_upgrade_is_tried_again_when_somebody_asks(faults: dict[str, Any], step: str) -> None:
    world = failed_upgrade(**faults)
    world.engine.exit_codes.clear()
    world.engine.sick.clear()
    world.annotate("Instance", KEY, reconcile_requested_at="again")
    world.settle()
    assert world.status()["release"] == {"current": "erp-2", "currentVersion": "2.0", "previous": "erp-1"}
    assert world.condition("Stalled")[0] == "False"
    assert "failure" not in world.status()


def test_a_failed_upgrade_is_left_by_going_back() -> None:
    world = failed_upgrade(sick=["example/app:2"])
    world.edit("Instance", KEY, releaseRef={"name": "erp-1"})
    world.settle()
    assert world.condition("Ready")[0] == "True"
    assert world.status()["release"]["current"] == "erp-1"
    assert world.engine.served("acme.erp.example") == 200


def test_an_upgrade_that_is_not_allowed_touches_nothing() -> None:
    world = deployed()
    before = len(world.engine.mutations)
    upgrade(world, upgradeFrom=["<1.0"])
    world.settle()
    assert world.condition("Stalled")[:2] == ("True", "UpgradeNotAllowed")
    assert len(world.engine.mutations) == before
    assert world.engine.served("acme.erp.example") == 200


def test_a_bad_edit_of_one_role_leaves_the_others_alone() -> None:
    """Regression: the rollback took away containers that the change had not touched."""
    world = deployed()
    web = world.engine.of("web")[0].id
    body = world.cluster.get("Release", "erp-1")
    roles = [body["spec"]["roles"][0], {**body["spec"]["roles"][1], "image": "bad"}]
    world.engine.sick.add("example/bad:1")
    roles[1]["port"], roles[1]["health"] = 9000, roles[0]["health"]
    world.edit("Release", "erp-1", roles=roles, images={**body["spec"]["images"], "bad": "example/bad:1"})
    world.settle(200)
    assert world.condition("Stalled")[:2] == ("True", "UpgradeRolledBack")
    assert [box.id for box in world.engine.of("web")] == [web]
    assert world.engine.served("acme.erp.example") == 200
    assert {box.body["Image"] for box in world.engine.of("worker")} == {"example/app:1"}


# -- mistakes --------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"releaseRef": {"name": "typo"}}, "ReleaseNotFound", "typo"),
    ({"classRef": {"name": "typo"}}, "ClassNotFound", "typo"),
    ({"serverRef": {"name": "typo"}}, "ServerNotFound", "typo"),
    ({"env": [{"name": "A", "secretKeyRef": {"name": "typo", "key": "k"}}]}, "SecretMissing", "spec.env[A]"),
    ({"modules": ["crm"]}, "ModulesNotSupported", "remove spec.modules"),
]


@pytest.mark.parametrize(("spec", "reason", "words"), MISTAKES, ids=[row[1] for row in MISTAKES])
def test_a_mistake_is_told_and_touches_nothing(spec: dict[str, Any], reason: str, words: str) -> None:
    world = prepared(**spec)
    world.settle()
    assert world.condition("Ready")[:2] == ("False", reason)
    assert words in world.condition("Ready")[2]
    assert set(world.engine.containers_) == {names.PROXY_CONTAINER}


@pytest.mark.parametrize(("spec", "reason", "words"), MISTAKES, ids=[row[1] for row in MISTAKES])
def test_a_mistake_can_be_deleted(spec: dict[str, Any], reason: str, words: str) -> None:
    """Regression: an Instance with a mistyped serverRef, which cannot be edited, could not be deleted either."""
    world = prepared(**spec)
    world.settle()
    world.delete("Instance", KEY)
    world.settle()
    assert ("Instance", KEY) not in world.cluster.objects


def test_an_unreadable_spec_is_told_and_can_be_deleted() -> None:
    world = deployed(deletion={"policy": "Delete"})
    world.cluster.get("Instance", KEY)["spec"]["orgName"] = 5
    world.edit("Instance", KEY)
    world.settle()
    assert world.condition("Stalled")[:2] == ("True", "InvalidSpec")
    assert "spec.orgName" in world.condition("Stalled")[2]
    world.delete("Instance", KEY)
    world.settle()
    assert set(world.engine.containers_) == {names.PROXY_CONTAINER}
    assert not [name for name in world.engine.volumes_ if "acme" in name]


# -- hosts -----------------------------------------------------------------------------------------------------


def test_a_host_that_is_away_is_told_and_taken_up_again() -> None:
    world = deployed()
    world.engine.down = unreachable()
    later(world, 10)
    assert world.condition("Ready")[:2] == ("Unknown", "ServerNotReady")
    assert world.status()["phase"] == "Unreachable"
    assert world.condition("Reachable", HOST, "Server")[:2] == ("False", "Unreachable")
    assert world.condition("DockerReady", HOST, "Server")[0] == "Unknown"
    world.engine.down = None
    later(world, 60)
    assert world.condition("Ready")[0] == "True"
    assert world.condition("Ready", HOST, "Server")[0] == "True"


ERRORS = [
    (port.HostUnreachable("no route"), "Reachable", "Unreachable", False),
    (port.CircuitOpen("left alone", 30.0), "Reachable", "CircuitOpen", False),
    (port.DeadlineExceeded("too slow"), "Reachable", "DeadlineExceeded", False),
    (port.HostKeyChanged("another key"), "HostKeyVerified", "HostKeyChanged", True),
    (port.HostKeyUnknown("no key"), "HostKeyVerified", "HostKeyUnknown", True),
    (port.AuthenticationFailed("refused"), "DockerReady", "AuthenticationFailed", True),
    (port.DockerNotPermitted("group docker"), "DockerReady", "DockerNotPermitted", True),
    (port.DockerAbsent("install it"), "DockerReady", "DockerAbsent", False),
    (port.DockerTooOld("17.03"), "DockerReady", "DockerTooOld", True),
    (port.EngineError("driver failed", 500), "ProxyReady", "EngineError", False),
]


@pytest.mark.parametrize(("error", "denied", "reason", "stalled"), ERRORS, ids=[row[2] for row in ERRORS])
def test_each_error_of_a_host_denies_one_condition(
    error: port.HostError, denied: str, reason: str, stalled: bool
) -> None:
    world = World()
    world.create("Server", "host-1", SERVER)
    world.engine.down = error
    world.settle()
    chain = ["Reachable", "HostKeyVerified", "DockerReady", "ProxyReady"]
    states = [world.condition(type_, HOST, "Server")[0] for type_ in chain]
    place = chain.index(denied)
    assert states == ["True"] * place + ["False"] + ["Unknown"] * (3 - place)
    assert world.condition("Ready", HOST, "Server") == ("False", reason, str(error))
    assert world.condition("Stalled", HOST, "Server")[0] == str(stalled)


def test_a_missing_key_is_told_with_the_field() -> None:
    world = World()
    del world.cluster.secrets["tenants/ssh-key"]
    world.create("Server", "host-1", SERVER)
    world.settle()
    assert world.condition("Ready", HOST, "Server")[1:] == (
        "SecretMissing", "spec.credentialsRef: Secret ssh-key does not exist: create it",
    )  # fmt: skip
    world.cluster.secrets["tenants/ssh-key"] = {"password": "x"}
    later(world, 40)
    assert "has no key ssh-privatekey" in world.condition("Ready", HOST, "Server")[2]


def test_trust_on_first_use_pins_for_good() -> None:
    world = World()
    world.create("Server", "host-1", {**SERVER, "hostKeys": [], "hostKeyPolicy": "TrustOnFirstUse"})
    world.settle()
    assert world.pool.addresses[0].trust_on_first_use
    assert world.status(HOST, "Server")["hostKeys"] == [OFFERED]
    later(world, 600)
    last = world.pool.addresses[-1]
    assert (last.trust_on_first_use, last.host_keys) == (False, (OFFERED,))
    world.edit("Server", HOST, hostKeys=[FINGERPRINT])
    world.settle()
    assert world.pool.addresses[-1].host_keys == (FINGERPRINT,)
    assert "hostKeys" not in world.status(HOST, "Server")


def test_trust_on_first_use_pins_although_docker_is_in_trouble() -> None:
    """Regression: the key was recorded only once the engine had answered, so that each process trusted anew."""
    world = World()
    world.engine.down = port.DockerAbsent("no engine")
    world.create("Server", "host-1", {**SERVER, "hostKeys": [], "hostKeyPolicy": "TrustOnFirstUse"})
    world.run("Server", HOST)
    assert world.condition("DockerReady", HOST, "Server")[1] == "DockerAbsent"
    assert world.status(HOST, "Server")["hostKeys"] == [OFFERED]
    world.restart()
    world.run("Server", HOST)
    last = world.pool.addresses[-1]
    assert (last.trust_on_first_use, last.host_keys) == (False, (OFFERED,))


def test_a_paused_server_is_left_alone() -> None:
    world = deployed()
    world.annotate("Server", HOST, paused="true")
    world.settle()
    assert world.condition("Ready", HOST, "Server")[:2] == ("Unknown", "Paused")
    reads = world.engine.reads
    later(world, 600)
    assert world.engine.reads == reads


# -- deletion --------------------------------------------------------------------------------------------------


def test_retain_keeps_data_and_secrets_for_a_namesake() -> None:
    world = deployed()
    secrets = dict(world.cluster.secrets["tenants/acme-credentials"])
    volumes = set(world.engine.volumes_)
    world.delete("Instance", KEY)
    world.settle()
    assert ("Instance", KEY) not in world.cluster.objects
    assert set(world.engine.containers_) == {names.PROXY_CONTAINER}
    assert set(world.engine.volumes_) == volumes
    assert world.cluster.secrets["tenants/acme-credentials"] == secrets
    assert world.engine.served("acme.erp.example") != 200
    world.create("Instance", "acme", INSTANCE)
    world.settle()
    assert world.condition("Ready")[0] == "True"
    assert world.cluster.secrets["tenants/acme-credentials"] == secrets


def test_a_protected_instance_stays_until_somebody_lets_go() -> None:
    world = deployed(deletion={"protected": True})
    world.delete("Instance", KEY)
    world.settle()
    assert world.condition("DeletionBlocked")[0] == "True"
    assert "spec.deletion.protected" in world.condition("DeletionBlocked")[2]
    assert world.engine.served("acme.erp.example") == 200
    world.edit("Instance", KEY, deletion={"protected": False})
    world.settle()
    assert ("Instance", KEY) not in world.cluster.objects


def test_a_deletion_waits_for_its_host_and_may_be_let_go() -> None:
    world = deployed()
    world.engine.down = unreachable()
    later(world, 10)
    world.delete("Instance", KEY)
    world.settle()
    assert world.condition("DeletionBlocked")[0] == "True"
    assert "platform.dotmac.io/orphan=true" in world.condition("DeletionBlocked")[2]
    world.annotate("Instance", KEY, orphan="true")
    world.settle()
    assert ("Instance", KEY) not in world.cluster.objects
    assert "Orphaned" in world.cluster.reasons()


def test_an_orphan_annotation_does_not_leave_a_reachable_host_behind() -> None:
    world = deployed()
    world.annotate("Instance", KEY, orphan="true")
    world.delete("Instance", KEY)
    world.settle()
    assert ("Instance", KEY) not in world.cluster.objects
    assert set(world.engine.containers_) == {names.PROXY_CONTAINER}


def test_a_server_is_kept_while_instances_live_on_it() -> None:
    world = deployed()
    world.delete("Server", HOST)
    world.settle()
    assert world.condition("DeletionBlocked", HOST, "Server")[0] == "True"
    assert "acme" in world.condition("DeletionBlocked", HOST, "Server")[2]
    assert world.engine.served("acme.erp.example") == 200


@pytest.mark.parametrize("restart", [False, True])
def test_a_namespace_with_everything_in_it_can_be_deleted(restart: bool) -> None:
    """Regression: a Server that was being deleted was not ready, so its Instances waited for it, and it for them."""
    world = deployed(deletion={"policy": "Delete"})
    world.delete("Server", HOST)
    world.delete("Instance", KEY)
    if restart:
        world.restart()
    for _ in range(3):
        later(world, 20)
    assert ("Instance", KEY) not in world.cluster.objects
    assert ("Server", HOST) not in world.cluster.objects
    assert world.engine.containers_ == {}
    assert world.engine.networks_ == {}
    assert set(world.engine.volumes_) == {"dotmac-proxy-data"}, "certificates are kept"


def test_a_server_that_is_gone_for_good_can_be_deleted() -> None:
    world = World()
    world.create("Server", "host-1", SERVER)
    world.settle()
    world.engine.down = unreachable()
    world.delete("Server", HOST)
    world.settle()
    assert ("Server", HOST) not in world.cluster.objects
    assert "ProxyLeft" in world.cluster.reasons()


def test_what_is_gone_needs_no_pass() -> None:
    world = World()
    assert world.instances.reconcile(KEY) == GONE
    assert world.servers.reconcile(HOST) == GONE


def test_a_foreign_finalizer_is_not_lost() -> None:
    world = prepared()
    world.cluster.get("Instance", KEY)["metadata"]["finalizers"] = ["example.com/other"]
    world.edit("Instance", KEY)
    world.settle()
    assert world.cluster.get("Instance", KEY)["metadata"]["finalizers"] == ["example.com/other", FINALIZER]
    world.delete("Instance", KEY)
    world.settle()
    assert world.cluster.get("Instance", KEY)["metadata"]["finalizers"] == ["example.com/other"]


# -- the store -------------------------------------------------------------------------------------------------


def test_an_older_version_does_not_replace_a_newer_one() -> None:
    world = deployed()
    body = world.cluster.get("Instance", KEY)
    stale = {**body, "metadata": {**body["metadata"], "resourceVersion": "1", "generation": 99}}
    world.store.put(stale)
    kept = world.store.instance(KEY)
    assert kept is not None
    assert kept.generation == 1
    # Another object of the same name is another story, whatever its version.
    world.store.put({**stale, "metadata": {**stale["metadata"], "uid": "uid-new"}})
    found = world.store.instance(KEY)
    assert found is not None
    assert found.ref.uid == "uid-new"
    world.store.drop("Instance", KEY, "uid-old")
    assert world.store.instance(KEY) is not None


def test_an_unreadable_status_is_as_none() -> None:
    world = deployed()
    world.cluster.get("Instance", KEY)["status"]["phase"] = 5
    world.restart()
    world.settle()
    assert world.condition("Ready")[0] == "True"


def test_catalog() -> None:
    world = prepared()
    world.create("Release", "bad", {**RELEASE, "upgradeFrom": ["~~1"]})
    world.settle()
    assert world.condition("Ready", "erp-1", "Release")[:2] == ("True", "Valid")
    assert world.condition("Ready", "starter", "InstanceClass")[:2] == ("True", "Valid")
    assert world.condition("Stalled", "bad", "Release")[:2] == ("True", "Invalid")
    assert "'~~1' is no version range" in world.condition("Ready", "bad", "Release")[2]
    assert world.catalog.release("nobody").gone
    assert world.catalog.instance_class("nobody").gone
