"""Suspended, Archived and back, Recreate, windows, approvals, trials and restarts, on fakes of the ports."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.kits.fakes import Crash, World, crashed_at_each_call, deployed, prepared, upgrade
from tests.kits.tenant import INSTANCE

from dotmac_operator.core import names
from dotmac_operator.core.conditions import rfc3339

KEY = "tenants/acme"
HOST = "tenants/host-1"
DOMAIN = "acme.erp.example"
SLEEPING = {"web": "exited", "worker": "exited", "database": "exited", "cache": "exited"}
RUNNING = dict.fromkeys(SLEEPING, "running")


def states(world: World) -> dict[str, str]:
    """Role -> state of its only container."""
    found = {box.role: box.state for role in RUNNING for box in world.engine.of(role)}
    assert len(found) == sum(len(world.engine.of(role)) for role in RUNNING), "a role is there twice"
    return found


def ids(world: World) -> dict[str, str]:
    return {name: box.id for name, box in world.engine.containers_.items()}


def edited(world: World, **spec: Any) -> World:
    world.edit("Instance", KEY, **spec)
    world.settle()
    return world


def later(world: World, seconds: float = 60) -> World:
    world.now += seconds
    world.touch()
    world.settle()
    return world


def summary(world: World) -> tuple[str, str, str, str]:
    """Phase, then Ready, Reconciling and Stalled."""
    told = (world.condition(type_)[0] for type_ in ("Ready", "Reconciling", "Stalled"))
    return (world.status()["phase"], *told)  # type: ignore[return-value]


def steady(world: World) -> None:
    """Nothing is written, changed or run; not by a new process either."""
    for again in (lambda: None, world.restart):
        again()
        world.settle()
        world.cluster.writes.clear()
        before = list(world.engine.mutations)
        later(world, 700)
        assert (world.cluster.writes, world.engine.mutations) == ([], before)


def page(world: World) -> dict[str, Any]:
    """What the proxy answers to the tenant's users."""
    routes = json.loads(world.engine.autosave or b"{}")["apps"]["http"]["servers"]["plain"]["routes"]
    handler: dict[str, Any] = next(
        route["handle"][0] for route in routes if DOMAIN in route.get("match", [{}])[0].get("host", ())
    )
    return handler


# -- Suspended -------------------------------------------------------------------------------------------------


def test_suspended_stops_everything_and_tells_users() -> None:
    world = deployed()
    before = ids(world)
    edited(world, state="Suspended")
    assert (states(world), ids(world)) == (SLEEPING, before)
    assert world.engine.served(DOMAIN) == 503
    handler = page(world)
    assert (handler["handler"], handler["status_code"]) == ("static_response", 503)
    assert handler["headers"]["Retry-After"] == ["3600"]
    assert handler["headers"]["Cache-Control"] == ["no-store"]
    assert "suspended" in handler["body"] and "{" not in handler["body"]
    assert "Acme" not in handler["body"], "no word of a tenant goes in"
    assert summary(world) == ("Suspended", "True", "False", "False")
    assert world.condition("Suspended")[:2] == ("True", "Suspended")
    assert world.condition("Ready")[1] == "Suspended"
    assert (world.condition("AppHealthy")[:2], world.condition("InSync")[0]) == (("False", "Suspended"), "True")
    assert (world.status()["state"], world.status()["step"]) == ("Suspended", "10/10")
    assert "drift" not in world.status()
    assert world.cluster.reasons()[-1] == "Suspended"
    steady(world)


def test_users_are_told_before_anything_stops_and_the_database_stops_last() -> None:
    world = deployed()
    before = len(world.engine.mutations)
    edited(world, state="Suspended")
    done = [call.split("-")[2] if " dotmac-acme" in call else call for call in world.engine.mutations[before:]]
    assert done == ["reload dotmac-proxy", "web", "worker", "cache", "database"]


def test_running_again_starts_the_same_containers_behind_the_gate() -> None:
    world = deployed()
    before = ids(world)
    edited(world, state="Suspended")
    world.engine.sick.add("example/app:1")
    edited(world, state="Running")
    assert states(world) == RUNNING
    assert world.engine.served(DOMAIN) == 503
    assert page(world)["handler"] == "static_response", "what is not healthy gets no requests"
    world.engine.sick.clear()
    later(world)
    assert (states(world), ids(world)) == (RUNNING, before)
    assert world.engine.served(DOMAIN) == 200
    assert summary(world) == ("Running", "True", "False", "False")
    assert world.condition("Suspended") == ("", "", "")
    assert "drift" not in world.status()
    assert not [call for call in world.engine.mutations if call.startswith("start") and "bootstrap" in call][1:]
    steady(world)


def test_a_long_suspension_does_not_count_against_the_health_gate() -> None:
    world = later(edited(deployed(), state="Suspended"), 86400)
    edited(world, state="Running")
    assert summary(world)[0] == "Running"


def test_a_container_that_somebody_starts_is_stopped_again_and_told() -> None:
    world = edited(deployed(), state="Suspended")
    world.engine.of("web")[0].state = "running"
    later(world)
    assert states(world) == SLEEPING
    assert "web" in world.status()["drift"]["what"]
    assert world.cluster.reasons().count("DriftRepaired") == 1


def test_nothing_is_updated_before_it_runs_again() -> None:
    world = edited(deployed(), state="Suspended")
    before = ids(world)
    upgrade(world)
    world.settle()
    assert (states(world), ids(world)) == (SLEEPING, before)
    assert world.status()["release"] == {"current": "erp-1", "currentVersion": "1.0"}
    assert summary(world) == ("Suspended", "True", "False", "False")
    edited(world, state="Running")
    assert world.status()["release"] == {"current": "erp-2", "currentVersion": "2.0", "previous": "erp-1"}
    assert world.engine.served(DOMAIN) == 200
    assert world.status()["lastBackup"]["release"] == "erp-1"


def test_suspended_with_an_update_in_the_same_edit() -> None:
    world = deployed()
    before = ids(world)
    world.edit("Instance", KEY, state="Suspended")
    upgrade(world)
    world.settle()
    assert (states(world), ids(world)) == (SLEEPING, before)


def test_an_update_that_cannot_be_taken_back_while_suspended_waits_for_running() -> None:
    """Suspended in the middle of an update: what is half there is kept still, and goes on later."""
    world = deployed()
    world.engine.sick.add("example/app:2")
    upgrade(world)
    world.engine.hook = lambda what: (
        world.edit("Instance", KEY, state="Suspended") if what.startswith("start dotmac-acme-worker") else None
    )
    world.settle()
    world.engine.hook = None
    assert {box.state for role in RUNNING for box in world.engine.of(role)} == {"exited"}
    assert len(world.engine.of("web")) == 2
    world.engine.sick.clear()
    edited(world, state="Running")
    assert states(world) == RUNNING
    assert world.status()["release"]["current"] == "erp-2"


def test_a_migration_may_end_before_anything_stops() -> None:
    world = deployed()
    upgrade(world)
    world.engine.hook = lambda what: (
        world.edit("Instance", KEY, state="Suspended") if what.startswith("start dotmac-acme-migrate") else None
    )

    def hang() -> None:
        for box in world.engine.of("migrate"):
            box.state, box.exit_code = "running", None

    real = world.engine.start_container

    def start(container: str) -> None:
        real(container)
        if "migrate" in container:
            hang()

    world.engine.start_container = start  # type: ignore[method-assign]
    world.settle()
    world.engine.hook = None
    assert world.engine.of("database")[0].state == "running"
    assert "migrate still runs" in world.condition("Ready")[2]
    later(world, 120)
    assert world.engine.of("database")[0].state == "running"
    later(world, 600)
    assert states(world) == SLEEPING
    assert world.engine.of("migrate")[0].state == "exited", "its time was over"


@pytest.mark.parametrize("state", ["Suspended", "Archived"])
def test_a_new_instance_that_is_not_to_run(state: str) -> None:
    world = prepared(state=state)
    world.settle()
    assert set(world.engine.containers_) == {names.PROXY_CONTAINER}
    assert not [name for name in world.engine.volumes_ if "acme" in name]
    assert summary(world) == (state, "True", "False", "False")
    steady(world)
    edited(world, state="Running")
    assert (states(world), world.engine.served(DOMAIN)) == (RUNNING, 200)


def test_a_missing_secret_does_not_keep_a_tenant_from_being_suspended() -> None:
    world = prepared(env=[{"name": "TOKEN", "secretKeyRef": {"name": "own", "key": "token"}}])
    world.cluster.secrets["tenants/own"] = {"token": "x" * 20}
    world.settle()
    before = ids(world)
    del world.cluster.secrets["tenants/own"]
    edited(world, state="Suspended")
    assert (states(world), summary(world)[0]) == (SLEEPING, "Suspended")
    world.cluster.secrets["tenants/own"] = {"token": "x" * 20}
    edited(world, state="Running")
    assert ids(world) == before


def test_a_lost_password_does_not_keep_a_tenant_from_being_suspended() -> None:
    world = deployed()
    before, kept = ids(world), world.cluster.secrets.pop("tenants/acme-credentials")
    world.restart()
    edited(world, state="Suspended")
    assert (states(world), summary(world)) == (SLEEPING, ("Suspended", "True", "False", "False"))
    assert world.engine.served(DOMAIN) == 503
    steady(world)
    edited(world, state="Running")
    assert world.condition("Stalled")[:2] == ("True", "CredentialsMissing")
    assert states(world) == SLEEPING, "nothing starts that could make itself another password"
    world.cluster.secrets["tenants/acme-credentials"] = kept
    later(world)
    assert (states(world), ids(world), summary(world)[0]) == (RUNNING, before, "Running")


def open_request(world: World, role: str = "web") -> None:
    """The proxy has one connection to the container of a role, which lasts."""
    container = world.engine.of(role)[0]
    (address,) = (fact.networks["dotmac-acme"] for fact in world.engine.containers() if fact.name == container.name)
    hexed = bytes(int(part) for part in address.split("."))[::-1].hex().upper()
    world.engine.connections_ = f"  sl  local_address rem_address   st\n 0: 0100007F:9999 {hexed}:1F40 01 00\n"


def test_a_long_request_is_answered_before_its_tenant_is_suspended() -> None:
    world = deployed()
    open_request(world)
    world.edit("Instance", KEY, state="Suspended")
    for _ in range(20):  # seconds
        world.run("Instance", KEY)
        world.now += 1
    assert (states(world), world.engine.served(DOMAIN)) == (RUNNING, 503)
    assert summary(world)[1:] == ("Unknown", "True", "False")
    world.restart()
    for kind, key in (("Server", HOST), *[("Instance", KEY)] * 5):
        world.run(kind, key)
    assert states(world) == RUNNING, "a new process asks the host since when it drains"
    world.engine.connections_ = "  sl  local_address rem_address   st\n"
    later(world, 1)
    assert (states(world), summary(world)[0]) == (SLEEPING, "Suspended")


def test_a_request_that_never_ends_does_not_keep_a_tenant_from_being_suspended() -> None:
    world = deployed()
    open_request(world)
    edited(world, state="Suspended")
    later(world, 31)
    assert (states(world), summary(world)[0]) == (SLEEPING, "Suspended")


def test_called_back_while_it_drains_it_serves_on_untouched() -> None:
    world = deployed()
    before, started = ids(world), [call for call in world.engine.mutations if call.startswith("start")]
    open_request(world)
    world.edit("Instance", KEY, state="Suspended")
    for _ in range(3):
        world.run("Instance", KEY)
    edited(world, state="Running")
    assert (states(world), ids(world), world.engine.served(DOMAIN)) == (RUNNING, before, 200)
    assert [call for call in world.engine.mutations if call.startswith("start")] == started


def test_a_failed_update_can_be_suspended() -> None:
    world = deployed()
    world.engine.sick.add("example/app:2")
    upgrade(world)
    world.settle(200)
    assert world.condition("Stalled")[1] == "UpgradeRolledBack"
    edited(world, state="Suspended")
    assert (states(world), summary(world)) == (SLEEPING, ("Suspended", "True", "False", "False"))


def test_what_waits_between_two_tries_is_suspended_at_once() -> None:
    world = prepared()
    world.engine.exit_codes[("migrate", "example/app:1")] = 1
    world.settle()
    later(world)
    edited(world, state="Suspended")
    assert summary(world)[0] == "Suspended"


def test_a_domain_of_a_suspended_tenant_follows_the_spec() -> None:
    world = edited(deployed(), state="Suspended")
    edited(world, domains=[{"host": "erp.acme.example"}])
    assert (world.engine.served("erp.acme.example"), world.engine.served(DOMAIN)) == (503, 404)


def test_the_proxy_keeps_the_page_over_a_change_of_its_own() -> None:
    world = edited(deployed(), state="Suspended")
    world.create("Instance", "beta", {**INSTANCE, "orgCode": "BETA"})
    world.settle()
    del world.engine.containers_[names.PROXY_CONTAINER]
    later(world)
    assert (world.engine.served(DOMAIN), world.engine.served("beta.erp.example")) == (503, 200)
    world.engine.autosave = None
    later(world)
    assert (world.engine.served(DOMAIN), world.engine.served("beta.erp.example")) == (503, 200)


# -- Archived --------------------------------------------------------------------------------------------------


def test_archived_dumps_and_leaves_the_data_alone() -> None:
    world = deployed()
    volumes, secrets = set(world.engine.volumes_), dict(world.cluster.secrets["tenants/acme-credentials"])
    before = len(world.engine.mutations)
    edited(world, state="Archived")
    assert set(world.engine.containers_) == {names.PROXY_CONTAINER}
    assert set(world.engine.networks_) == {names.PROXY_NETWORK}
    assert set(world.engine.volumes_) == volumes
    assert world.cluster.secrets["tenants/acme-credentials"] == secrets
    assert world.status()["lastBackup"]["file"].startswith("1.0-final-")
    assert world.engine.served(DOMAIN) == 410
    assert "Retry-After" not in page(world)["headers"]
    assert summary(world) == ("Archived", "True", "False", "False")
    assert world.condition("Suspended")[:2] == ("True", "Archived")
    done = world.engine.mutations[before:]
    order = ["reload", "stop dotmac-acme-web", "start dotmac-acme-backup", "remove dotmac-acme-database"]
    found = [next(n for n, call in enumerate(done) if call.startswith(word)) for word in order]
    assert found == sorted(found), done
    steady(world)


def test_back_from_archived_the_same_data_is_served_without_a_bootstrap() -> None:
    world = deployed()
    volumes, secrets = set(world.engine.volumes_), dict(world.cluster.secrets["tenants/acme-credentials"])
    edited(world, state="Archived")
    before = len(world.engine.mutations)
    edited(world, state="Running")
    assert (states(world), world.engine.served(DOMAIN)) == (RUNNING, 200)
    assert set(world.engine.volumes_) == volumes
    assert world.cluster.secrets["tenants/acme-credentials"] == secrets
    assert not [call for call in world.engine.mutations[before:] if "bootstrap" in call or "migrate" in call]
    assert summary(world) == ("Running", "True", "False", "False")
    assert "drift" not in world.status()
    steady(world)


def test_each_archive_has_a_dump_of_its_own_and_only_one() -> None:
    world = edited(deployed(), state="Archived")
    first = world.status()["lastBackup"]["file"]
    edited(world, orgName="Another Name")
    edited(world, state="Suspended")
    assert (world.engine.served(DOMAIN), world.status()["phase"]) == (503, "Suspended")
    edited(world, state="Archived")
    assert world.status()["lastBackup"]["file"] == first, "nothing has run since"
    edited(edited(world, state="Running"), state="Archived")
    assert world.status()["lastBackup"]["file"] != first


def test_an_update_on_the_way_back_from_archived_is_dumped_and_migrated() -> None:
    world = edited(deployed(), state="Archived")
    upgrade(world)
    edited(world, state="Running")
    assert world.status()["release"]["current"] == "erp-2"
    assert (states(world), world.engine.served(DOMAIN)) == (RUNNING, 200)
    assert not world.status()["lastBackup"]["file"].startswith("1.0-final-")


def test_suspended_then_archived_starts_the_database_for_its_dump() -> None:
    world = edited(edited(deployed(), state="Suspended"), state="Archived")
    assert "final" in world.status()["lastBackup"]["file"]
    assert set(world.engine.containers_) == {names.PROXY_CONTAINER}


def test_a_lost_database_container_is_made_again_for_the_dump() -> None:
    world = deployed()
    for box in world.engine.of("database") + world.engine.of("cache") + world.engine.of("web"):
        del world.engine.containers_[box.name]
    edited(world, state="Archived")
    assert "final" in world.status()["lastBackup"]["file"]
    assert summary(world)[0] == "Archived"


def test_a_dump_that_fails_takes_nothing_away() -> None:
    world = deployed()
    world.engine.exit_codes[("backup", "example/postgres:15")] = 1
    edited(world, state="Archived")
    for _ in range(3):
        later(world, 60)
    assert world.condition("Stalled")[:2] == ("True", "BackupFailed")
    assert len(world.engine.of("database")) == len(world.engine.of("web")) == 1
    assert "failure" not in world.status(), "there is nothing to go back to"
    world.engine.exit_codes.clear()
    later(world, 300)
    assert summary(world) == ("Archived", "True", "False", "False")


def test_an_archived_tenant_takes_no_room_and_keeps_its_names() -> None:
    world = edited(deployed(), state="Archived")
    assert world.status(HOST, "Server")["allocated"]["memory"] == "0Mi"
    world.create("Instance", "aaa", {**INSTANCE, "orgCode": "OTHER", "domains": [{"host": DOMAIN}]})
    world.settle()
    later(world)
    assert world.condition("Stalled", "tenants/aaa")[:2] == ("True", "DomainTaken")
    assert summary(world)[0] == "Archived", "of two that claim a name, the one that had it keeps it"
    world.edit("Server", HOST, capacity={"maxInstances": 1})
    world.edit("Instance", "tenants/aaa", domains=None)
    world.settle()
    later(world)
    assert world.condition("Ready", "tenants/aaa")[0] == "True"
    edited(world, state="Running")
    assert world.condition("Stalled")[:2] == ("True", "ServerFull")


def test_archived_without_its_volume_is_told() -> None:
    world = edited(deployed(), state="Archived")
    del world.engine.volumes_["dotmac-acme-database"]
    world.touch()
    edited(world, state="Running")
    assert world.condition("Stalled")[:2] == ("True", "DataVolumeMissing")


# -- deletion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
@pytest.mark.parametrize("state", ["Running", "Suspended", "Archived"])
def test_the_last_dump_outlives_the_instance(state: str, policy: str) -> None:
    world = deployed(deletion={"policy": policy, "finalBackup": True})
    if state != "Running":
        edited(world, state=state)
    world.delete("Instance", KEY)
    world.settle()
    assert ("Instance", KEY) not in world.cluster.objects
    assert set(world.engine.containers_) == {names.PROXY_CONTAINER}
    assert "dotmac-acme-backups" in world.engine.volumes_
    assert ("dotmac-acme-database" in world.engine.volumes_) == (policy == "Retain")
    dumps = [call for call in world.engine.mutations if call.startswith("start dotmac-acme-backup")]
    assert len(dumps) == 1


def test_a_last_dump_that_fails_stops_the_deletion_until_somebody_gives_it_up() -> None:
    world = deployed(deletion={"finalBackup": True})
    world.engine.exit_codes[("backup", "example/postgres:15")] = 1
    world.delete("Instance", KEY)
    world.settle()
    later(world)
    assert world.condition("DeletionBlocked")[0] == "True"
    assert "set spec.deletion.finalBackup to false" in world.condition("DeletionBlocked")[2]
    assert len(world.engine.of("database")) == 1
    edited(world, deletion={"finalBackup": False})
    later(world)
    assert ("Instance", KEY) not in world.cluster.objects


def test_a_last_dump_of_what_was_never_served_is_none() -> None:
    world = prepared(deletion={"finalBackup": True})
    world.engine.exit_codes[("migrate", "example/app:1")] = 1
    world.settle()
    world.delete("Instance", KEY)
    world.settle()
    later(world)
    assert ("Instance", KEY) not in world.cluster.objects


def test_a_last_dump_that_cannot_be_planned_is_told() -> None:
    world = deployed(deletion={"finalBackup": True})
    world.cluster.remove("Release", "erp-1")
    world.store.drop("Release", "erp-1", "uid-erp-1-2")
    world.delete("Instance", KEY)
    world.settle()
    assert "Release erp-1 does not exist" in world.condition("DeletionBlocked")[2]


# -- Recreate --------------------------------------------------------------------------------------------------


def overlaps(world: World) -> set[str]:
    """Watches the host: roles of which two versions ran at once."""
    seen: set[str] = set()

    def look(_: str) -> None:
        for role in ("web", "worker"):
            if len([box for box in world.engine.of(role) if box.state == "running"]) > 1:
                seen.add(role)

    world.engine.hook = look
    return seen


def test_recreate_never_runs_two_versions_and_shows_a_page() -> None:
    world = deployed(update={"strategy": "Recreate"})
    seen = overlaps(world)
    answers: list[int] = []
    look = world.engine.hook
    assert look is not None
    world.engine.hook = lambda what: (look(what), answers.append(world.engine.served(DOMAIN)))  # type: ignore[func-returns-value]
    upgrade(world)
    world.settle()
    assert seen == set()
    assert set(answers) == {200, 503}, "never a request to a container that is stopped"
    assert world.status()["release"]["current"] == "erp-2"
    assert (states(world), world.engine.served(DOMAIN)) == (RUNNING, 200)
    done = world.engine.mutations
    stop, migrate = (
        max(n for n, call in enumerate(done) if call.startswith(word))
        for word in ("stop dotmac-acme-worker", "start dotmac-acme-migrate")
    )
    first_stop = next(n for n, call in enumerate(done) if call.startswith("stop dotmac-acme-web"))
    assert first_stop < migrate < stop, "the old version does not see what migrate does"


def test_the_default_runs_new_beside_old() -> None:
    world = deployed()
    seen = overlaps(world)
    upgrade(world)
    world.settle()
    assert seen == {"web", "worker"}


@pytest.mark.parametrize("fault", ["health", "migrate"])
def test_recreate_rolls_back(fault: str) -> None:
    world = deployed(update={"strategy": "Recreate"})
    if fault == "health":
        world.engine.sick.add("example/app:2")
    else:
        world.engine.exit_codes[("migrate", "example/app:2")] = 1
    before = {name: box.id for name, box in world.engine.containers_.items() if box.role in RUNNING}
    seen = overlaps(world)
    upgrade(world)
    world.settle(200)
    assert seen == set()
    assert world.condition("Stalled")[:2] == ("True", "UpgradeRolledBack")
    assert (states(world), world.engine.served(DOMAIN)) == (RUNNING, 200)
    assert {name: box.id for name, box in world.engine.containers_.items() if box.role in RUNNING} == before


def test_recreate_leaves_alone_what_does_not_change() -> None:
    world = deployed(update={"strategy": "Recreate"})
    web = world.engine.of("web")[0].id
    body = world.cluster.get("Release", "erp-1")
    roles = [body["spec"]["roles"][0], {**body["spec"]["roles"][1], "args": ["worker", "--quick"]}]
    answers: set[int] = set()
    world.engine.hook = lambda what: answers.add(world.engine.served(DOMAIN))
    world.edit("Release", "erp-1", roles=roles)
    world.settle()
    assert world.engine.of("web")[0].id == web
    assert answers == {200}
    assert states(world) == RUNNING


# -- update.* --------------------------------------------------------------------------------------------------


def test_without_pre_backup_no_dump_is_made() -> None:
    world = deployed(update={"preBackup": False})
    upgrade(world)
    world.settle()
    assert world.status()["release"]["current"] == "erp-2"
    assert "lastBackup" not in world.status()
    step = {step["name"]: step for step in world.status()["steps"]}["backup"]
    assert step["state"] == "Skipped"


def test_without_rollback_the_failed_version_stays_and_is_not_tried_again() -> None:
    world = deployed(update={"rollback": False})
    world.engine.sick.add("example/app:2")
    upgrade(world)
    world.settle(200)
    assert world.condition("Stalled")[:2] == ("True", "UpgradeFailed")
    assert "update.rollback: false" in world.condition("Stalled")[2]
    assert {box.body["Image"] for box in world.engine.of("web")} == {"example/app:1", "example/app:2"}
    assert world.engine.served(DOMAIN) == 200, "the route had not been switched yet"
    steady(world)
    world.engine.sick.clear()
    world.annotate("Instance", KEY, reconcile_requested_at="again")
    world.settle()
    assert (states(world), world.status()["release"]["current"]) == (RUNNING, "erp-2")


@pytest.mark.parametrize(("timeout", "ends"), [(300, "Running"), (None, "Stalled")])
def test_the_health_timeout_takes_the_place_of_the_containers_own(timeout: int | None, ends: str) -> None:
    """The Release's own check gives up after 3 seconds; the new version needs 100."""
    world = deployed(**({"update": {"healthTimeout": timeout}} if timeout else {}))
    world.engine.sick.add("example/app:2")
    upgrade(world)
    began = world.now
    for _ in range(400):
        if world.now - began > 100:
            world.engine.sick.clear()
        if world.condition("Stalled")[0] == "True" or summary(world)[0] == "Running" and world.now > began + 101:
            break
        outcome = world.run("Instance", KEY)
        world.now += min(outcome.after or 1.0, 5.0)
    assert summary(world)[0] == ends


# -- maintenance windows ---------------------------------------------------------------------------------------

# The World begins on 2027-01-15, a Friday, at 08:00 UTC.
NIGHT = [{"start": "22:00", "duration": 60}]
TONIGHT = "2027-01-15T22:00:00Z"
TEN = 1_800_000_000.0 + 14 * 3600


def test_an_update_waits_for_its_window_and_wakes_for_it() -> None:
    world = deployed(maintenanceWindows=NIGHT)
    before = ids(world)
    upgrade(world)
    world.settle()
    assert ids(world) == before
    assert world.status()["nextWindow"] == TONIGHT
    assert summary(world) == ("Waiting", "Unknown", "True", "False")
    assert world.condition("Ready")[1] == "WaitingForWindow"
    assert TONIGHT in world.condition("Ready")[2] and "force-window" in world.condition("Ready")[2]
    assert world.condition("AppHealthy")[0] == world.condition("DatabaseReady")[0] == "True"
    assert world.cluster.reasons()[-1] == "WaitingForWindow"
    assert (world.engine.served(DOMAIN), world.status()["release"]["current"]) == (200, "erp-1")
    outcome = world.run("Instance", KEY)
    assert outcome.after is not None
    assert world.now + outcome.after == pytest.approx(TEN)
    steady(world)
    world.now = TEN
    world.run("Instance", KEY)
    world.settle()
    assert summary(world) == ("Running", "True", "False", "False")
    assert "nextWindow" not in world.status()
    assert world.status()["release"]["current"] == "erp-2"


def test_the_classs_windows_count_until_the_instance_has_its_own() -> None:
    world = deployed()
    world.edit("InstanceClass", "starter", defaults={"maintenanceWindows": NIGHT})
    upgrade(world)
    world.settle()
    assert world.status()["nextWindow"] == TONIGHT
    edited(world, maintenanceWindows=[])
    assert world.status()["release"]["current"] == "erp-2"


def test_somebody_may_force_the_window() -> None:
    world = deployed(maintenanceWindows=NIGHT)
    upgrade(world)
    world.settle()
    world.annotate("Instance", KEY, force_window="true")
    world.settle()
    assert world.status()["release"]["current"] == "erp-2"


def test_what_began_in_the_window_ends_after_it() -> None:
    world = deployed(maintenanceWindows=NIGHT)
    upgrade(world)
    world.settle()
    world.now = TEN + 3590
    world.engine.hook = lambda what: (
        setattr(world, "now", TEN + 7200) if what.startswith("start dotmac-acme-migrate") else None
    )
    world.touch()
    world.settle()
    assert world.status()["release"]["current"] == "erp-2"


def test_an_edit_after_the_window_of_an_update_under_way_goes_back_to_what_served() -> None:
    world = deployed(maintenanceWindows=NIGHT)
    before = ids(world)
    upgrade(world)
    world.settle()
    world.now = TEN + 3590

    def edit(what: str) -> None:
        if what.startswith("start dotmac-acme-worker"):
            world.engine.hook = None
            world.now = TEN + 7200
            world.edit("Instance", KEY, env=[{"name": "A", "value": "b"}])

    world.engine.hook = edit
    world.touch()
    world.settle()
    assert world.condition("Ready")[1] == "WaitingForWindow"
    assert (states(world), world.engine.served(DOMAIN)) == (RUNNING, 200)
    assert {name: id_ for name, id_ in ids(world).items() if name in before and "migrate" not in name} == {
        name: id_ for name, id_ in before.items() if "migrate" not in name
    }
    world.now = TEN + 86400
    later(world)
    assert (states(world), world.status()["release"]["current"]) == (RUNNING, "erp-2")


def test_a_process_that_dies_in_the_window_goes_on_after_it() -> None:
    world = deployed(maintenanceWindows=NIGHT)
    upgrade(world)
    world.settle()
    world.now = TEN + 10
    world.touch()
    world.engine.fault = (len(world.engine.mutations) + 3, "after")
    with pytest.raises(Crash):
        world.settle()
    world.engine.fault = None
    world.now = TEN + 7200
    world.restart()
    world.settle()
    assert world.status()["release"]["current"] == "erp-2"


def test_what_disturbs_nobody_does_not_wait() -> None:
    world = deployed(maintenanceWindows=NIGHT)
    before = ids(world)
    edited(world, domains=[{"host": "erp.acme.example"}])
    assert world.engine.served("erp.acme.example") == 200
    assert (ids(world), summary(world)[0]) == (before, "Running")


def test_a_first_deploy_and_drift_do_not_wait() -> None:
    world = deployed(maintenanceWindows=NIGHT)
    del world.engine.containers_[world.engine.of("web")[0].name]
    later(world)
    assert (states(world), world.engine.served(DOMAIN)) == (RUNNING, 200)


@pytest.mark.parametrize("how", ["exited", "no route"])
def test_drift_is_repaired_while_a_change_waits(how: str) -> None:
    world = deployed(maintenanceWindows=NIGHT)
    before = ids(world)
    upgrade(world)
    world.settle()
    if how == "exited":
        for role in RUNNING:
            world.engine.of(role)[0].state = "exited"
    else:
        world.engine.autosave = None
    later(world)
    assert (states(world), ids(world), world.engine.served(DOMAIN)) == (RUNNING, before, 200)
    assert world.status()["nextWindow"] == TONIGHT
    told = [reason for about, _, reason, _ in world.cluster.events if about == f"Instance {KEY}"]
    assert told.count("DriftRepaired") == 1
    assert world.status()["release"]["current"] == "erp-1"


@pytest.mark.parametrize("role", ["web", "database"])
def test_what_serves_is_made_again_from_its_release_while_another_waits(role: str) -> None:
    world = deployed(maintenanceWindows=NIGHT)
    before = set(ids(world))
    upgrade(world)
    world.settle()
    del world.engine.containers_[world.engine.of(role)[0].name]
    later(world)
    assert (set(ids(world)), states(world), world.engine.served(DOMAIN)) == (before, RUNNING, 200)
    assert (world.status()["release"]["current"], world.status()["nextWindow"]) == ("erp-1", TONIGHT)


def test_a_change_is_the_repair_of_what_cannot_be_made_again() -> None:
    """The old container is gone, and so is the spec that it was made from: waiting would keep the tenant down."""
    world = deployed(maintenanceWindows=NIGHT)
    edited(world, env=[{"name": "A", "value": "b"}])
    assert world.condition("Ready")[1] == "WaitingForWindow"
    del world.engine.containers_[world.engine.of("web")[0].name]
    later(world)
    assert (world.engine.of("web")[0].env["A"], world.engine.served(DOMAIN)) == ("b", 200)
    assert summary(world)[0] == "Running"


def test_an_approval_does_not_yield_to_a_loss() -> None:
    world = deployed(approval="Required")
    edited(world, env=[{"name": "A", "value": "b"}])
    del world.engine.containers_[world.engine.of("web")[0].name]
    later(world)
    assert world.condition("ApprovalNeeded")[0] == "True"
    assert (world.engine.of("web"), world.condition("AppHealthy")[0]) == ([], "False")


def test_the_domain_stays_with_the_old_version_while_the_change_waits() -> None:
    world = deployed(maintenanceWindows=NIGHT)
    upgrade(world)
    edited(world, domains=[{"host": "erp.acme.example"}])
    assert (world.engine.served(DOMAIN), world.engine.served("erp.acme.example")) == (200, 404)
    world.now = TEN
    later(world)
    assert (world.engine.served(DOMAIN), world.engine.served("erp.acme.example")) == (404, 200)


def test_taken_back_before_the_window_nothing_was_ever_done() -> None:
    world = deployed(maintenanceWindows=NIGHT)
    before = list(world.engine.mutations)
    upgrade(world)
    world.settle()
    edited(world, releaseRef={"name": "erp-1"})
    assert world.engine.mutations == before
    assert (summary(world)[0], world.status()["release"]["current"]) == ("Running", "erp-1")
    assert "nextWindow" not in world.status()


@pytest.mark.parametrize("state", ["Suspended", "Archived"])
def test_a_stop_waits_for_the_window_and_the_way_back_does_not(state: str) -> None:
    world = deployed(maintenanceWindows=NIGHT)
    edited(world, state=state)
    assert (states(world), world.status()["nextWindow"]) == (RUNNING, TONIGHT)
    assert world.condition("Suspended") == ("", "", "")
    world.now = TEN
    later(world)
    assert summary(world)[0] == state
    world.now += 7200
    edited(world, state="Running")
    assert summary(world)[0] == "Running"


# -- approval --------------------------------------------------------------------------------------------------


def test_a_change_waits_for_the_approval_of_its_own_hash() -> None:
    world = deployed(approval="Required")
    before = ids(world)
    upgrade(world)
    world.settle()
    name = world.status()["plan"]["hash"]
    assert world.condition("ApprovalNeeded")[:2] == ("True", "ApprovalNeeded")
    assert f"platform.dotmac.io/approve={name}" in world.condition("ApprovalNeeded")[2]
    assert summary(world) == ("Waiting", "Unknown", "True", "False")
    assert any("example/app:2" in action["action"] for action in world.status()["plan"]["actions"])
    world.annotate("Instance", KEY, approve="0123456789ab")
    world.settle()
    assert "another plan" in world.condition("ApprovalNeeded")[2]
    assert (ids(world), world.status()["plan"]["hash"]) == (before, name)
    steady(world)
    assert world.status()["plan"]["hash"] == name, "the same over passes and processes"
    world.annotate("Instance", KEY, approve=name)
    world.settle()
    assert world.status()["release"]["current"] == "erp-2"
    assert world.condition("ApprovalNeeded") == ("", "", "")
    assert summary(world)[0] == "Running"


def test_the_first_deploy_needs_no_approval_and_a_new_secret_does_not_change_the_hash() -> None:
    world = deployed(approval="Required")
    secrets = [{"name": "session"}, {"name": "extra"}]
    env = [*world.cluster.get("Release", "erp-1")["spec"]["env"], {"name": "EXTRA", "from": "secret.extra"}]
    upgrade(world, secrets=secrets, env=env)
    world.settle()
    name = world.status()["plan"]["hash"]
    assert "extra" in world.cluster.secrets["tenants/acme-credentials"]
    world.annotate("Instance", KEY, approve=name)
    world.settle()
    assert world.status()["release"]["current"] == "erp-2"


def test_another_edit_is_another_plan_and_an_unrelated_one_is_not() -> None:
    world = deployed(approval="Required")
    upgrade(world)
    world.settle()
    name = world.status()["plan"]["hash"]
    edited(world, deletion={"policy": "Retain", "protected": True})
    assert world.status()["plan"]["hash"] == name
    edited(world, env=[{"name": "A", "value": "b"}])
    assert world.status()["plan"]["hash"] != name


def test_an_approval_is_good_for_one_change() -> None:
    world = deployed(approval="Required")
    edited(world, state="Suspended")
    world.annotate("Instance", KEY, approve=world.status()["plan"]["hash"])
    world.settle()
    assert summary(world)[0] == "Suspended"
    edited(world, state="Running")
    assert summary(world)[0] == "Running"
    edited(world, state="Suspended")
    assert world.condition("ApprovalNeeded")[0] == "True"


def test_an_approved_change_still_waits_for_its_window() -> None:
    world = deployed(approval="Required", maintenanceWindows=NIGHT)
    upgrade(world)
    world.settle()
    assert (world.condition("Ready")[1], world.status()["nextWindow"]) == ("ApprovalNeeded", TONIGHT)
    world.annotate("Instance", KEY, approve=world.status()["plan"]["hash"])
    world.settle()
    assert world.condition("Ready")[1] == "WaitingForWindow"
    world.now = TEN
    later(world)
    assert world.status()["release"]["current"] == "erp-2"


# -- trial -----------------------------------------------------------------------------------------------------


def test_a_trial_ends_on_time_and_a_longer_one_brings_the_tenant_back() -> None:
    world = prepared(maintenanceWindows=NIGHT, approval="Required")
    end = world.now + 86400
    world.edit("Instance", KEY, trial={"expiresAt": rfc3339(end)})
    world.settle()
    before = ids(world)
    outcome = world.run("Instance", KEY)
    assert outcome.after == pytest.approx(end - world.now)
    world.now = end - 20
    later(world, 0)
    assert summary(world)[0] == "Running"
    world.now = end
    world.run("Instance", KEY)
    world.settle()
    assert (states(world), ids(world)) == (SLEEPING, before)
    assert summary(world) == ("Suspended", "True", "False", "False")
    assert world.condition("Suspended")[:2] == ("True", "TrialExpired")
    assert "spec.trial.expiresAt" in world.condition("Ready")[2]
    steady(world)
    edited(world, trial={"expiresAt": rfc3339(world.now + 86400)})
    assert (states(world), summary(world)[0]) == (RUNNING, "Running")
    edited(world, trial=None)
    assert world.run("Instance", KEY).after is None


def test_a_trial_that_is_over_before_it_begins() -> None:
    world = prepared(trial={"expiresAt": "2020-01-01T00:00:00Z"})
    world.settle()
    assert set(world.engine.containers_) == {names.PROXY_CONTAINER}
    assert world.condition("Suspended")[:2] == ("True", "TrialExpired")


# -- restart ---------------------------------------------------------------------------------------------------


def test_a_restart_replaces_the_application_without_a_failed_request() -> None:
    world = deployed()
    before = {role: world.engine.of(role)[0].id for role in RUNNING}
    answers: set[int] = set()
    world.engine.hook = lambda what: answers.add(world.engine.served(DOMAIN))
    world.annotate("Instance", KEY, restart_requested_at="2027-01-15T08:00:00Z")
    world.settle()
    after = {role: world.engine.of(role)[0].id for role in RUNNING}
    assert {role for role in RUNNING if after[role] != before[role]} == {"web", "worker"}
    assert (states(world), answers) == (RUNNING, {200})
    assert world.status()["lastHandledRestartAt"] == "2027-01-15T08:00:00Z"
    assert not [call for call in world.engine.mutations if "migrate" in call and call.startswith("create")][1:]
    steady(world)
    del world.cluster.get("Instance", KEY)["metadata"]["annotations"]["platform.dotmac.io/restart-requested-at"]
    world.annotate("Instance", KEY)
    world.settle()
    assert {role: world.engine.of(role)[0].id for role in RUNNING} == after, "taking it away is no request"
    world.annotate("Instance", KEY, restart_requested_at="x" * 5000)
    world.settle()
    assert world.engine.of("web")[0].id != after["web"]


# -- crashes ---------------------------------------------------------------------------------------------------


def journey(first: dict[str, Any], then: Callable[[World], object], **instance: Any) -> Callable[[], World]:
    """A World in which `first` was reached and `then` is asked for."""

    def start() -> World:
        world = prepared(**instance)
        keys = ("hash-key", "database-password", "cache-password", "admin-password", "session")
        world.cluster.plant("acme-credentials", {key: f"CANARY-{key}" * 2 for key in keys})
        world.settle()
        if first:
            edited(world, **first)
        then(world)
        return world

    return start


def asks(**spec: Any) -> Callable[[World], object]:
    return lambda world: world.edit("Instance", KEY, **spec)


def upgrades(sick: bool = False, **spec: Any) -> Callable[[World], object]:
    def then(world: World) -> None:
        if sick:
            world.engine.sick.add("example/app:2")
        upgrade(world)
        if spec:
            world.edit("Instance", KEY, **spec)

    return then


RECREATE: dict[str, Any] = {"update": {"strategy": "Recreate"}}
SUSPENDED, ARCHIVED = {"state": "Suspended"}, {"state": "Archived"}
JOURNEYS: dict[str, Callable[[], World]] = {
    "suspend": journey({}, asks(state="Suspended")),
    "resume": journey(SUSPENDED, asks(state="Running")),
    "resume with an update": journey(SUSPENDED, upgrades(state="Running")),
    "archive": journey({}, asks(state="Archived")),
    "archive what is suspended": journey(SUSPENDED, asks(state="Archived")),
    "back from archived": journey(ARCHIVED, asks(state="Running")),
    "back from archived with an update": journey(ARCHIVED, upgrades(state="Running")),
    "recreate": journey({}, upgrades(), **RECREATE),
    "recreate, failed": journey({}, upgrades(sick=True), **RECREATE),
    "restart": journey({}, lambda world: world.annotate("Instance", KEY, restart_requested_at="now")),
    "delete with a last dump": journey(
        {}, lambda world: world.delete("Instance", KEY), deletion={"policy": "Delete", "finalBackup": True}
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", JOURNEYS)
def test_a_crash_at_any_call_ends_the_same(name: str, when: str) -> None:
    """Every call that changes the host in turn: the process ends there, and a new one comes to the same end."""
    start = JOURNEYS[name]()
    straight = start.copy()
    straight.settle(200)
    assert len(straight.engine.mutations) - len(start.engine.mutations) >= 4
    for where, world in crashed_at_each_call(start, straight, when):
        assert world.engine.shape() == straight.engine.shape(), where
        assert ending(world) == ending(straight), where


def ending(world: World) -> Any:
    if ("Instance", KEY) not in world.cluster.objects:
        return "gone", sorted(world.cluster.secrets)
    status = world.status()
    backup = status.get("lastBackup", {}).get("file")
    return summary(world), status["release"], status["state"], backup, world.condition("Stalled")[1]
