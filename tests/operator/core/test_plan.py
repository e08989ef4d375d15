"""The plan: which step is next, for a host in any state. Each case is one difference from a converged host."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.kits.tenant import (
    NOW,
    RELEASE,
    config_of,
    container_fact,
    desired_of,
    fresh_facts,
    healthy,
    instance_of,
    met_facts,
    met_record,
    met_view,
    next_desired,
    owner_labels,
    proxy_fact,
    release_of,
    server_of,
    view_of,
    with_container,
    without_container,
    without_volume,
)

from dotmac_crds.instance import BackupRecord, ComponentStatus, FailureRecord, InstanceStatus
from dotmac_operator.core import names, proxy
from dotmac_operator.core.actions import (
    Action,
    ConnectNetwork,
    CountConnections,
    CreateNetwork,
    CreateVolume,
    GenerateSecrets,
    ProbeContainer,
    ProbeInside,
    PullImage,
    RecordBackup,
    RemoveContainer,
    RunContainer,
    SetRoute,
    VerifyRoute,
    batches,
)
from dotmac_operator.core.connections import OpenRequests
from dotmac_operator.core.container import ExecCheck
from dotmac_operator.core.desired import Desired
from dotmac_operator.core.facts import HostFacts, NetworkFact, VolumeFact
from dotmac_operator.core.lifecycle import Policy
from dotmac_operator.core.plan import Plan, plan
from dotmac_operator.core.proxy import Route
from dotmac_operator.core.steps import STEPS, backup
from dotmac_operator.core.steps.base import Verdict
from dotmac_operator.core.steps.preflight import release_allowed
from dotmac_operator.core.view import Memory, Neighbour, Probe, ServerView, View

DESIRED = desired_of()
WEB, WORKER = DESIRED.apps
DATABASE, CACHE = DESIRED.infrastructure
assert DESIRED.migrate and DESIRED.bootstrap
MIGRATE, BOOTSTRAP = DESIRED.migrate, DESIRED.bootstrap
NEXT = next_desired()


DEPLOYING = InstanceStatus(server="host-1")
"""The record of a first deploy: nothing has been served yet."""


def current(view: View) -> tuple[str, Verdict]:
    found = plan(view).current
    assert found is not None, "nothing is to be done"
    return found


def shape(actions: tuple[Action, ...]) -> list[str]:
    return [f"{type(action).__name__} {getattr(action, 'name', '')}".strip() for action in actions]


def test_a_fresh_host_has_the_ten_steps_before_it() -> None:
    view = view_of(desired_of(credentials={}), fresh_facts(), credential_keys=None)
    made = plan(view)
    assert [name for name, _ in made.verdicts] == [step.name for step in STEPS]
    assert [step.name for step in STEPS] == [
        "preflight", "secrets", "backup", "images", "infra", "migrate", "start", "bootstrap", "route", "verify",
    ]  # fmt: skip
    assert made.current is not None
    assert made.current[0] == "secrets"
    assert isinstance(made.actions[0][1], GenerateSecrets)
    assert not made.converged
    text = " ".join(f"{action.text} {action.reason}" for _, action in made.actions)
    assert "CANARY" not in text


def test_a_converged_host_has_an_empty_plan() -> None:
    made = plan(met_view())
    assert made.converged
    assert made.actions == ()
    assert made.hash == plan(met_view()).hash


def test_the_steps_do_not_depend_on_what_this_process_remembers() -> None:
    """After a restart of the operator a healthy fleet is left alone: the record says what was healthy."""
    record = met_record(DESIRED)

    parts = [
        ComponentStatus(role=s.role, container=s.name, image="", image_id="", health="healthy") for s in (WEB, WORKER)
    ]
    assert plan(met_view(record=record.model_copy(update={"components": parts}), memory=Memory())).converged


Facts = Callable[[HostFacts], HostFacts]
ELSEWHERE = config_of(replace(DESIRED.route, upstreams=("x:1",)))
STRAY = container_fact(NEXT.apps[0])
DUMPS = "dotmac-acme-backups"
DRIFT: list[tuple[str, Facts, str, list[str]]] = [
    ("web is gone", lambda f: without_container(f, WEB), "start", ["RunContainer"]),
    ("web exited", lambda f: with_container(f, WEB, state="exited"), "start", [f"StartContainer {WEB.name}"]),
    ("worker new", lambda f: with_container(f, WORKER, state="created"), "start", [f"StartContainer {WORKER.name}"]),
    ("database is gone", lambda f: without_container(f, DATABASE), "infra", ["RunContainer"]),
    ("db off", lambda f: with_container(f, DATABASE, state="exited"), "infra", [f"StartContainer {DATABASE.name}"]),
    ("cache is gone", lambda f: without_container(f, CACHE), "infra", ["RunContainer"]),
    ("dumps are gone", lambda f: without_volume(f, DUMPS), "infra", [f"CreateVolume {DUMPS}"]),
    ("images are gone", lambda f: replace(f, images={}), "images", ["PullImage"] * 3),
    ("the network is gone", lambda f: replace(f, networks=f.networks[:1]), "infra", ["CreateNetwork dotmac-acme"]),
    ("the route is gone", lambda f: replace(f, proxy_config=config_of()), "route", ["SetRoute"]),
    ("the route points elsewhere", lambda f: replace(f, proxy_config=ELSEWHERE), "route", ["SetRoute"]),
    ("cut off", lambda f: replace(f, containers=(proxy_fact(), *f.containers[1:])), "route", ["ConnectNetwork"]),
    ("a stray", lambda f: replace(f, containers=(*f.containers, STRAY)), "start", [f"RemoveContainer {STRAY.name}"]),
]  # fmt: skip


@pytest.mark.parametrize(("why", "facts", "step", "actions"), DRIFT, ids=[row[0] for row in DRIFT])
def test_drift_is_repaired_by_the_right_step(why: str, facts: Facts, step: str, actions: list[str]) -> None:
    name, verdict = current(met_view(facts=facts(met_facts(DESIRED))))
    assert name == step
    assert verdict.state == "act"
    assert [
        a.split()[0] if len(w.split()) == 1 else a for a, w in zip(shape(verdict.actions), actions, strict=True)
    ] == actions


WAITS: list[tuple[str, Facts, str, str]] = [
    ("database restarts", lambda f: with_container(f, DATABASE, state="restarting"), "infra", "database is restarting"),
    ("database starts", lambda f: with_container(f, DATABASE, health="starting"), "infra", "database is starting"),
    ("migrate runs", lambda f: with_container(f, MIGRATE, state="running"), "migrate", "migrate runs"),
    ("no proxy", lambda f: without_container(f, proxy.container(server_of(), "u")), "route", "does not run"),
    ("no configuration", lambda f: replace(f, proxy_config=None), "route", "no configuration"),
]


def test_a_check_that_docker_has_not_made_yet_is_made_at_once() -> None:
    """Docker's first check comes an interval after the start, which would be most of a deploy."""
    facts = with_container(met_facts(DESIRED), DATABASE, health="starting")
    name, verdict = current(met_view(facts=facts))
    (probe,) = verdict.actions
    assert isinstance(probe, ProbeInside) and isinstance(DATABASE.check, ExecCheck)
    assert (name, probe.name, probe.check) == ("infra", DATABASE.name, DATABASE.check)
    assert probe.check.argv[:2] == ("/bin/sh", "-c") and "pg_isready" in probe.check.argv[2]
    for health, ok, met in (("starting", True, True), ("", True, True), ("unhealthy", True, False)):
        seen = replace(healthy(DESIRED), probes={f"id-{DATABASE.name}": Probe(ok, NOW), **healthy(DESIRED).probes})
        view = met_view(facts=with_container(met_facts(DESIRED), DATABASE, health=health), memory=seen)
        assert (plan(view).current is None) is met, "what Docker finds out goes before what was asked once"


def test_only_actions_that_do_not_need_each_other_are_done_together() -> None:
    network, volume = CreateNetwork("", "n", "10.0.0.0/27", ()), CreateVolume("", "v", ())
    run, remove = RunContainer("", DATABASE), RemoveContainer("", "old")
    route = SetRoute("", DESIRED.route)
    assert list(batches([network, volume, run, RunContainer("", CACHE)])) == [
        [network, volume],
        [run, RunContainer("", CACHE)],
    ]
    assert list(batches([remove, run, remove, run])) == [[remove], [run], [remove], [run]]
    assert list(batches([route, route, remove])) == [[route], [route], [remove]]
    assert list(batches([])) == []


@pytest.mark.parametrize(("why", "facts", "step", "words"), WAITS, ids=[row[0] for row in WAITS])
def test_what_is_under_way_is_waited_for(why: str, facts: Facts, step: str, words: str) -> None:
    asked = replace(healthy(DESIRED), probes={f"id-{DATABASE.name}": Probe(False, NOW), **healthy(DESIRED).probes})
    name, verdict = current(met_view(facts=facts(met_facts(DESIRED)), record=DEPLOYING, memory=asked))
    assert (name, verdict.state) == (step, "wait")
    assert words in verdict.message
    assert verdict.after > 0
    assert not any(ch.isdigit() and "most" not in verdict.message for ch in verdict.message.replace("host-1", ""))


FAILS: list[tuple[str, Facts, str, str]] = [
    ("migrate failed", lambda f: with_container(f, MIGRATE, exit_code=1), "migrate", "MigrateFailed"),
    ("migrate was killed", lambda f: with_container(f, MIGRATE, exit_code=137), "migrate", "MigrateFailed"),
    ("migrate hangs", lambda f: with_container(f, MIGRATE, state="running", created=1), "migrate", "MigrateFailed"),
    ("bootstrap failed", lambda f: with_container(f, BOOTSTRAP, exit_code=3), "bootstrap", "BootstrapFailed"),
    ("database is ill", lambda f: with_container(f, DATABASE, health="unhealthy"), "infra", "InfrastructureUnhealthy"),
]  # fmt: skip


@pytest.mark.parametrize(("why", "facts", "step", "reason"), FAILS, ids=[row[0] for row in FAILS])
def test_failures_name_the_container_with_the_log(why: str, facts: Facts, step: str, reason: str) -> None:
    name, verdict = current(met_view(facts=facts(met_facts(DESIRED)), record=DEPLOYING))
    assert (name, verdict.state, verdict.reason) == (step, "failed", reason)
    assert verdict.container.startswith("dotmac-acme-")


def test_a_pruned_one_shot_does_not_run_again() -> None:
    assert plan(met_view(facts=without_container(met_facts(DESIRED), MIGRATE, BOOTSTRAP))).converged


def test_a_created_one_shot_is_started() -> None:
    facts = with_container(met_facts(DESIRED), MIGRATE, state="created", exit_code=None)
    name, verdict = current(met_view(facts=facts, record=DEPLOYING))
    assert (name, shape(verdict.actions)) == ("migrate", [f"StartContainer {MIGRATE.name}"])


# -- health ----------------------------------------------------------------------------------------------------


def test_a_container_with_a_remote_check_is_probed_until_it_answers() -> None:
    view = met_view(memory=Memory())
    name, verdict = current(view)
    assert name == "start"
    (probe,) = verdict.actions
    assert isinstance(probe, ProbeContainer)
    assert (probe.name, probe.address, probe.check.path) == (WEB.name, "10.210.0.5", "/health")
    just_now = Memory(probes={f"id-{WEB.name}": Probe(False, NOW - 0.5, "refused")})
    assert current(met_view(memory=just_now))[1].state == "wait"


@pytest.mark.parametrize(("passed", "state"), [(30.0, "act"), (42.0, "failed")])
def test_a_container_may_take_as_long_as_its_check_allows(passed: float, state: str) -> None:
    """startPeriod 20 + 3 retries of 5 + 2 seconds."""
    memory = Memory(
        probes={f"id-{WEB.name}": Probe(False, NOW - 5, "/health answered 503")},
        unhealthy_since={f"id-{WEB.name}": NOW - passed},
    )
    name, verdict = current(met_view(memory=memory))
    assert (name, verdict.state) == ("start", state)
    if state == "failed":
        assert "/health answered 503" in verdict.message


def test_a_container_without_a_check_may_settle() -> None:
    facts = with_container(met_facts(DESIRED), WORKER, state="restarting")
    soon = Memory(healthy(DESIRED).probes, {f"id-{WORKER.name}": NOW - 5})
    late = Memory(healthy(DESIRED).probes, {f"id-{WORKER.name}": NOW - 31})
    assert current(met_view(facts=facts, memory=soon))[1].state == "wait"
    assert current(met_view(facts=facts, memory=late))[1].reason == "AppUnhealthy"


def test_a_database_that_never_gets_ready_fails() -> None:
    facts = with_container(met_facts(DESIRED), DATABASE, health="starting")
    late = Memory(unhealthy_since={f"id-{DATABASE.name}": NOW - 301})
    assert current(met_view(facts=facts, memory=late))[1].reason == "InfrastructureUnhealthy"


def test_verify_asks_as_a_user_would_and_gives_up_in_time() -> None:
    record = met_record(DESIRED).model_copy(update={"one_shots": met_record(DESIRED).one_shots[:2]})  # type: ignore[index]
    name, verdict = current(met_view(record=record))
    assert name == "verify"
    assert verdict.actions == (
        VerifyRoute("what is served now was not asked for yet", "acme.erp.example", False, "/health"),
    )
    told = Memory(healthy(DESIRED).probes, verify_since=NOW - 91, verify_message="the proxy answered 502")
    name, verdict = current(met_view(record=record, memory=told))
    assert (verdict.state, verdict.reason) == ("failed", "VerifyFailed")
    assert "502" in verdict.message


# -- upgrades --------------------------------------------------------------------------------------------------


def upgrade_view(facts: HostFacts | None = None, **changes: Any) -> View:
    """The next version is asked for on a host that serves the present one."""
    old = met_facts(DESIRED)
    images = {**old.images, **met_facts(NEXT).images}
    return met_view(
        NEXT, facts=facts or replace(old, images=images), record=changes.pop("record", met_record(DESIRED)), **changes
    )


def with_shots(facts: HostFacts, *specs: Any, **changes: Any) -> HostFacts:
    return replace(facts, containers=(*facts.containers, *(container_fact(spec, **changes) for spec in specs)))


def backed_up() -> BackupRecord:
    return BackupRecord(
        file=backup.file_name(upgrade_view()),
        sha256="0" * 64,
        size=1,
        release="erp-1",
        finished_at="2026-11-22T10:00:00Z",
    )


def test_an_upgrade_backs_up_before_anything_else() -> None:
    view = upgrade_view()
    name, verdict = current(view)
    assert name == "backup"
    (run,) = verdict.actions
    assert isinstance(run, RunContainer)
    spec = run.container
    body = spec.body()
    assert body["HostConfig"]["Mounts"] == [
        {"Type": "volume", "Source": "dotmac-acme-backups", "Target": "/var/lib/postgresql/data"}
    ]
    assert "CANARY" not in str(body.get("Cmd")) + str(body["Entrypoint"])
    env = dict(item.split("=", 1) for item in body["Env"])
    assert env["PGPASSWORD"] == "CANARYdatabasepassword"
    assert env["BACKUP_FILE"] == backup.file_name(view)
    assert env["BACKUP_FILE"].startswith("1.0-")


def test_an_upgrade_goes_on_step_by_step_and_keeps_the_old_until_it_is_verified() -> None:
    assert NEXT.migrate
    view = upgrade_view()
    spec = backup.container(view)
    facts = with_shots(view.facts, spec)
    name, verdict = current(upgrade_view(facts))
    assert name == "backup"
    assert verdict.actions == (RecordBackup("the dump has ended", spec.name, backup.file_name(view), "erp-1"),)

    record = met_record(DESIRED).model_copy(update={"last_backup": backed_up()})
    name, verdict = current(upgrade_view(facts, record=record))
    assert DESIRED.migrate
    assert (name, shape(verdict.actions)) == ("migrate", [f"RemoveContainer {DESIRED.migrate.name}", "RunContainer"])

    facts = with_shots(facts, NEXT.migrate)
    name, verdict = current(upgrade_view(facts, record=record))
    assert (name, shape(verdict.actions)) == ("start", ["RunContainer", "RunContainer"])

    facts = with_shots(facts, *NEXT.apps)
    name, verdict = current(upgrade_view(facts, record=record))
    assert name == "route"
    assert isinstance(verdict.actions[0], SetRoute)

    facts = replace(facts, proxy_config=config_of(NEXT.route))
    name, verdict = current(upgrade_view(facts, record=record))
    assert name == "verify"
    assert isinstance(verdict.actions[0], VerifyRoute)

    verified = replace(healthy(NEXT), verified=NEXT.serving_hash)
    name, verdict = current(upgrade_view(facts, record=record, memory=verified))
    assert name == "verify"
    removed = {a.name for a in verdict.actions if isinstance(a, RemoveContainer)}
    assert removed == {WEB.name, WORKER.name, MIGRATE.name, spec.name}


def draining(spent: float, seen: OpenRequests | None = None, **changes: Any) -> list[str]:
    """What step verify does `spent` seconds after the switch, with the old containers still there."""
    edited = desired_of(instance_of(env=[{"name": "A", "value": "b"}]), generation=2)
    old = with_container(met_facts(DESIRED), WEB, **changes)
    facts = replace(
        with_shots(old, *edited.apps), proxy_config=config_of(replace(edited.route, since=int(NOW - spent)))
    )
    requests = {} if seen is None else {f"id-{WEB.name}": seen}
    memory = replace(healthy(edited), verified=edited.serving_hash, open_requests=requests)
    name, verdict = current(met_view(edited, facts=facts, record=met_record(DESIRED), memory=memory))
    assert name == "verify"
    return shape(verdict.actions)


REMOVE = f"RemoveContainer {WEB.name}"
REST = f"RemoveContainer {WORKER.name}"


@pytest.mark.parametrize(
    ("spent", "seen"),
    [(1, None), (1, OpenRequests(None)), (9, OpenRequests(2, 5)), (29, OpenRequests(1, 0)), (1, OpenRequests(0, 1))],
    ids=["not asked", "no program tells", "open", "open for long", "a client may still come by the old way"],
)
def test_what_was_replaced_stays_while_requests_to_it_may_be_open(spent: float, seen: OpenRequests | None) -> None:
    assert draining(spent, seen) == [REST], "a worker gets no requests"


def test_the_proxy_is_asked_again_and_again_once_nothing_else_is_to_go() -> None:
    edited = desired_of(instance_of(env=[{"name": "A", "value": "b"}]), generation=2)
    old = without_container(met_facts(DESIRED), WORKER)
    facts = replace(with_shots(old, *edited.apps), proxy_config=config_of(replace(edited.route, since=int(NOW) - 9)))
    for requests in ({}, {f"id-{WEB.name}": OpenRequests(1, 1)}):
        memory = replace(healthy(edited), verified=edited.serving_hash, open_requests=requests)
        _, verdict = current(met_view(edited, facts=facts, record=met_record(DESIRED), memory=memory))
        (asked,) = verdict.actions
        assert isinstance(asked, CountConnections)
        assert (asked.name, asked.address, asked.port) == (WEB.name, "10.210.0.5", 8000)


@pytest.mark.parametrize(
    ("spent", "seen"),
    [(1, OpenRequests(0, 0)), (9, OpenRequests(0, 5)), (31, OpenRequests(2, 5)), (31, None)],
    ids=["nobody is there", "all have left", "too late", "too late to ask"],
)
def test_it_goes_when_they_have_ended_or_had_their_time(spent: float, seen: OpenRequests | None) -> None:
    assert draining(spent, seen) == [REMOVE, REST]


def test_it_says_itself_how_long_its_requests_and_its_end_may_take() -> None:
    labels = {**WEB.labels, names.ROLE: "web", names.DRAIN: "300", names.STOP_GRACE: "7"}
    assert draining(31, OpenRequests(1, 0), labels=labels) == [REST]
    for hostile in ("-1", "soon", "1e9", "", "\u0663"):
        assert draining(31, labels={**labels, names.DRAIN: hostile}) in ([REST], [REMOVE, REST])


@pytest.mark.parametrize("changes", [{"state": "exited"}, {"networks": {}}], ids=["stopped", "cut off"])
def test_nothing_is_awaited_of_one_that_cannot_answer(changes: dict[str, Any]) -> None:
    assert draining(1, **changes) == [REMOVE, REST]


def test_a_backup_needs_a_database_that_runs() -> None:
    view = upgrade_view()
    stopped = with_container(view.facts, DATABASE, state="exited")
    assert shape(current(upgrade_view(stopped))[1].actions) == [f"StartContainer {DATABASE.name}"]
    restarting = with_container(view.facts, DATABASE, state="restarting")
    assert current(upgrade_view(restarting))[1].state == "wait"
    gone = without_container(view.facts, DATABASE)
    assert shape(current(upgrade_view(gone))[1].actions) == ["RunContainer"]


def test_a_failed_backup_stops_the_upgrade() -> None:
    view = upgrade_view()
    facts = with_shots(view.facts, backup.container(view), exit_code=1)
    name, verdict = current(upgrade_view(facts))
    assert (name, verdict.state, verdict.reason) == ("backup", "failed", "BackupFailed")


def test_a_change_of_the_environment_needs_no_backup_and_no_migration() -> None:
    edited = desired_of(instance_of(env=[{"name": "A", "value": "b"}]), generation=2)
    name, verdict = current(met_view(edited, facts=met_facts(DESIRED), record=met_record(DESIRED)))
    assert (name, shape(verdict.actions)) == ("start", ["RunContainer", "RunContainer"])


def test_a_database_is_replaced_only_after_the_old_one_has_stopped() -> None:
    images = {**RELEASE["images"], "db": "example/postgres:15.1"}
    changed = desired_of(release=release_of(images=images))
    facts = replace(met_facts(DESIRED), images=met_facts(changed).images)
    name, verdict = current(met_view(changed, facts=facts, record=met_record(DESIRED)))
    assert name == "infra"
    assert shape(verdict.actions)[0] == f"StopContainer {DATABASE.name}"
    assert isinstance(verdict.actions[1], RunContainer)


# -- rollback --------------------------------------------------------------------------------------------------


def failed_record(desired: Desired, before: Desired = DESIRED, **changes: Any) -> Any:
    failure = FailureRecord(generation=desired.tenant.generation, hash=desired.hash, step="start", message="it broke")
    return met_record(before).model_copy(update={"failure": failure, **changes})


def test_a_failed_upgrade_is_rolled_back() -> None:
    assert NEXT.migrate
    facts = with_shots(upgrade_view().facts, NEXT.migrate, *NEXT.apps)
    facts = with_container(replace(facts, proxy_config=config_of(NEXT.route)), WEB, state="exited")
    made = plan(upgrade_view(facts, record=failed_record(NEXT)))
    assert made.rolled_back
    assert not made.converged
    assert shape(made.undo) == [
        f"StartContainer {WEB.name}",
        "SetRoute",
        f"RemoveContainer {NEXT.apps[1].name}",
    ], "its worker goes; its web container has requests until the route has moved"
    assert [step for step, _ in made.actions] == ["rollback"] * 3
    assert isinstance(made.undo[1], SetRoute)
    assert made.undo[1].route.upstreams == (f"{WEB.name}:8000",)


def leaving(spent: float, seen: OpenRequests | None = None, *, recreate: bool = False, **route: Any) -> list[str]:
    """What a rollback does `spent` seconds after the way back to the previous version, with the failed one there."""
    policy = Policy(recreate=recreate)
    old, new = met_facts(DESIRED), NEXT.apps[0]
    moved = replace(DESIRED.route, since=int(NOW - spent), **route)
    facts = replace(with_shots(old, new), proxy_config=config_of(moved))
    requests = {} if seen is None else {f"id-{new.name}": seen}
    memory = replace(healthy(NEXT), open_requests=requests)
    made = plan(upgrade_view(facts, record=failed_record(NEXT), memory=memory, policy=policy))
    return shape(made.undo)


COUNT, GONE = f"CountConnections {NEXT.apps[0].name}", f"RemoveContainer {NEXT.apps[0].name}"


@pytest.mark.parametrize(
    ("spent", "seen", "does"),
    [
        (1, None, COUNT),
        (1, OpenRequests(1, 1), COUNT),
        (29, OpenRequests(1, 0), COUNT),
        (1, OpenRequests(0, 1), COUNT),
        (1, OpenRequests(0, 0), GONE),
        (9, OpenRequests(0, 5), GONE),
        (31, OpenRequests(2, 5), GONE),
    ],
)
def test_a_failed_version_is_drained_too(spent: float, seen: OpenRequests | None, does: str) -> None:
    assert leaving(spent, seen) == [does]


def test_a_failed_version_is_drained_behind_the_page_before_the_old_one_starts() -> None:
    updating: dict[str, Any] = {"upstreams": (), "page": "Updating"}
    switched = {"upstreams": NEXT.route.upstreams}
    assert leaving(90, recreate=True, **switched) == ["SetRoute"], "the page first"
    assert leaving(1, OpenRequests(1, 1), recreate=True, **updating) == [COUNT]
    assert leaving(1, OpenRequests(0, 0), recreate=True, **updating) == [GONE, "SetRoute"]


def test_a_rolled_back_host_has_nothing_left_to_undo() -> None:
    made = plan(upgrade_view(record=failed_record(NEXT)))
    assert made.rolled_back
    assert made.undo == ()


def test_what_the_failed_change_left_as_it_was_keeps_serving() -> None:
    """Regression: a bad worker took the web containers with it, which the change had not touched."""
    roles = [RELEASE["roles"][0], {**RELEASE["roles"][1], "args": ["worker", "--broken"]}]
    changed = desired_of(release=release_of(roles=roles), generation=2)
    assert changed.apps[0].name == WEB.name
    facts = with_shots(met_facts(DESIRED), changed.apps[1], state="restarting")
    made = plan(met_view(changed, facts=facts, record=failed_record(changed)))
    assert shape(made.undo) == [f"RemoveContainer {changed.apps[1].name}"]


def test_added_replicas_leave_the_route_again() -> None:
    two = desired_of(release=release_of(roles=[{**RELEASE["roles"][0], "replicas": 2}, RELEASE["roles"][1]]))
    roles = [{**RELEASE["roles"][0], "replicas": 3}, {**RELEASE["roles"][1], "args": ["other"]}]
    three = desired_of(release=release_of(roles=roles), generation=2)
    facts = with_shots(met_facts(two), three.apps[2], three.apps[3])
    facts = replace(facts, proxy_config=config_of(three.route))
    made = plan(met_view(three, facts=facts, record=failed_record(three, two)))
    (back,) = (action for action in made.undo if isinstance(action, SetRoute))
    assert set(back.route.upstreams) == set(two.route.upstreams)
    assert {a.name for a in made.undo if isinstance(a, RemoveContainer)} == {three.apps[3].name}, "not while it serves"
    facts = replace(facts, proxy_config=config_of(replace(two.route, since=int(NOW) - 31)))
    made = plan(met_view(three, facts=facts, record=failed_record(three, two)))
    assert {a.name for a in made.undo if isinstance(a, RemoveContainer)} == {three.apps[2].name, three.apps[3].name}


@pytest.mark.parametrize("role", ["backup", "migrate"])
def test_a_failed_one_shot_goes_so_that_the_next_try_runs_anew(role: str) -> None:
    """Regression: a failed dump was found again by every later try, which failed with it for good."""
    spec = backup.container(upgrade_view()) if role == "backup" else NEXT.migrate
    assert spec
    facts = with_shots(upgrade_view().facts, spec, exit_code=1)
    made = plan(upgrade_view(facts, record=failed_record(NEXT)))
    assert made.undo == ()
    assert shape(made.database.actions) == [f"RemoveContainer {spec.name}"]


def test_a_failure_counts_for_its_own_state_only() -> None:
    record = failed_record(NEXT)
    later = replace(NEXT, tenant=replace(NEXT.tenant, generation=3))
    assert not plan(met_view(later, facts=upgrade_view().facts, record=record)).rolled_back
    assert not plan(met_view(DESIRED, record=record)).rolled_back


def test_without_anything_that_served_before_nothing_is_taken_away() -> None:
    facts = met_facts(NEXT)
    made = plan(met_view(NEXT, facts=facts, record=failed_record(NEXT, NEXT)))
    assert (made.rolled_back, made.undo) == (True, ())


# -- preflight -------------------------------------------------------------------------------------------------


def neighbour(**changes: Any) -> Neighbour:
    made = Neighbour("tenants/other", "uid-other", "OTHER", ("other.example",), 2**30)
    return replace(made, **changes)


@pytest.mark.parametrize("claim", [{"org_code": "acme"}, {"hosts": ("acme.erp.example",)}], ids=["orgCode", "domain"])
def test_of_two_newcomers_with_the_same_claim_the_first_by_name_goes_on(claim: dict[str, Any]) -> None:
    """Regression: each waited for the other for ever."""
    first = neighbour(key="tenants/aaa", **claim)
    last = neighbour(key="tenants/zzz", **claim)
    assert plan(view_of(DESIRED, fresh_facts(), neighbours=(first,))).current[1].state == "blocked"  # type: ignore[index]
    assert plan(view_of(DESIRED, fresh_facts(), neighbours=(last,))).current[0] != "preflight"  # type: ignore[index]


def small(**capacity: Any) -> ServerView:
    return ServerView("host-1", server_of(capacity=capacity), True, memory=8 * 2**30)


FOREIGN = VolumeFact("dotmac-acme-database", {names.NAMESPACE: "elsewhere", names.ORG: "ACME"})
RETAINED = VolumeFact("dotmac-acme-database", {**owner_labels(DESIRED), names.INSTANCE_UID: "uid-earlier"})

REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("OrgCodeTaken", {"neighbours": (neighbour(org_code="acme", serving=True),)}, "choose another"),
    ("DomainTaken", {"neighbours": (neighbour(hosts=("acme.erp.example",), serving=True),)}, "tenants/other"),
    ("Unschedulable", {"server": replace(small(), spec=server_of(schedulable=False))}, "schedulable"),
    ("ServerFull", {"server": small(maxInstances=1), "neighbours": (neighbour(serving=True),)}, "1 of 1"),
    ("InsufficientMemory", {"server": small(reservedMemory="7Gi")}, "1024Mi are left"),
    ("VolumeTaken", {"facts": replace(fresh_facts(), volumes=(FOREIGN,))}, "somebody else"),
    ("CredentialsMissing", {"facts": replace(fresh_facts(), volumes=(RETAINED,)), "credential_keys": None}, "restore"),
    ("DataVolumeMissing", {"record": met_record(DESIRED)}, "restore it"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "changes", "words"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_preflight_refuses_with_the_remedy(reason: str, changes: dict[str, Any], words: str) -> None:
    facts = changes.pop("facts", fresh_facts())
    made = plan(view_of(DESIRED, facts, **changes))
    changes["facts"] = facts
    assert made.current is not None
    name, verdict = made.current
    assert (name, verdict.state, verdict.reason) == ("preflight", "blocked", reason)
    assert words in verdict.message
    assert verdict.after > 0


def test_preflight_waits_for_its_server() -> None:
    server = ServerView("host-1", server_of(), ready=False, message="no route to host")
    name, verdict = current(met_view(server=server))
    assert (name, verdict.state) == ("preflight", "wait")
    assert "no route to host" in verdict.message


def test_retained_volumes_are_taken_over_by_a_namesake() -> None:
    facts = replace(fresh_facts(), volumes=(RETAINED,))
    assert current(view_of(DESIRED, facts))[0] == "images"


@pytest.mark.parametrize("claim", [{"org_code": "acme"}, {"hosts": ("acme.erp.example",)}])
def test_a_newcomer_cannot_stall_a_tenant_that_is_served(claim: dict[str, Any]) -> None:
    """Regression: another Instance with the same orgCode or domain blocked the one that had it, too."""
    assert plan(met_view(neighbours=(neighbour(**claim),))).converged
    lost = replace(met_facts(DESIRED), proxy_config=config_of())
    assert current(met_view(facts=lost, neighbours=(neighbour(**claim),)))[0] == "route"


def test_a_domain_is_not_taken_from_whom_the_proxy_serves() -> None:
    other = Route("uid-other", (("acme.erp.example", "Off"),), ("x:1",))
    facts = replace(met_facts(DESIRED), proxy_config=config_of(other))
    for claim in (neighbour(hosts=("acme.erp.example",), serving=True), neighbour()):
        name, verdict = current(met_view(facts=facts, neighbours=(claim,)))
        assert (name, verdict.reason) == ("preflight", "DomainTaken")
    # The route of an Instance that is gone is nobody's.
    assert current(met_view(facts=facts))[0] == "route"


def test_a_used_up_pool_is_told() -> None:
    full = (*fresh_facts().networks, NetworkFact("x", "other", subnets=("10.208.0.0/12",)))
    facts = replace(fresh_facts(), networks=full, images=met_facts(DESIRED).images)
    name, verdict = current(view_of(DESIRED, facts))
    assert (name, verdict.reason) == ("infra", "NetworkPoolExhausted")


@pytest.mark.parametrize(
    ("ranges", "yanked", "current_name", "version", "reason"),
    [
        ([], False, "erp-1", "1.0", None),
        ([], False, None, None, None),
        ([">=1,<2"], False, "erp-1", "1.5", None),
        (["==1.5", ">=2"], False, "erp-1", "2.1", None),
        ([">=1,<2"], False, "erp-1", "0.9", "UpgradeNotAllowed"),
        ([">=1,<2"], False, None, None, None),
        (["~~1"], False, "erp-1", "1.0", "InvalidRelease"),
        ([">=1"], False, "erp-1", "not.a-version!", "InvalidRelease"),
        ([], True, "erp-1", "1.0", "ReleaseYanked"),
        ([], True, None, None, "ReleaseYanked"),
        ([], True, "erp-2", "2.0", None),
    ],
)
def test_which_release_may_follow_which(
    ranges: list[str], yanked: bool, current_name: str | None, version: str | None, reason: str | None
) -> None:
    release = release_of(version="2.0", upgradeFrom=ranges, yanked=yanked)
    verdict = release_allowed("erp-2", release, current_name, version)
    assert (verdict.reason if verdict else None) == reason


def test_every_action_says_what_and_why_without_a_secret() -> None:
    views = [
        view_of(desired_of(credentials={}), fresh_facts(), credential_keys=None),
        view_of(DESIRED, fresh_facts()),
        upgrade_view(),
        *(met_view(facts=facts(met_facts(DESIRED))) for _, facts, _, _ in DRIFT),
    ]
    seen: set[type] = set()
    for made in map(plan, views):
        assert isinstance(made, Plan)
        for step, action in made.actions:
            assert action.reason and action.text and step
            assert "CANARY" not in action.text + action.reason + repr(action)
            seen.add(type(action))
    assert seen >= {GenerateSecrets, PullImage, CreateNetwork, CreateVolume, RunContainer, ConnectNetwork, SetRoute}
