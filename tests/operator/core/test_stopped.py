"""The steps of an Instance that is not to run, and what a change waits for: one difference each from a host at rest."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.kits.tenant import (
    NOW,
    config_of,
    container_fact,
    desired_of,
    fresh_facts,
    instance_of,
    met_facts,
    met_record,
    met_view,
    next_desired,
    proxy_fact,
    with_container,
    without_container,
    without_volume,
)

from dotmac_crds.base import Condition
from dotmac_crds.instance import BackupRecord, InstanceStatus, OneShotRecord, PlanStatus
from dotmac_crds.lifecycle import MaintenanceWindow
from dotmac_operator.core import gate, pages, stopped
from dotmac_operator.core.actions import Action, RemoveContainer, RunContainer, SetRoute, StopContainer
from dotmac_operator.core.conditions import rfc3339
from dotmac_operator.core.connections import OpenRequests
from dotmac_operator.core.facts import HostFacts
from dotmac_operator.core.lifecycle import Policy
from dotmac_operator.core.plan import Plan, plan
from dotmac_operator.core.status import Situation, compute
from dotmac_operator.core.steps import STEPS, backup
from dotmac_operator.core.view import View
from dotmac_operator.reconcile.kept import Kept

DESIRED = desired_of()
WEB, WORKER = DESIRED.apps
DATABASE, CACHE = DESIRED.infrastructure
assert DESIRED.migrate
MIGRATE = DESIRED.migrate
NEXT = next_desired()
SUSPENDED, ARCHIVED = Policy(state="Suspended"), Policy(state="Archived")

Facts = Callable[[HostFacts], HostFacts]


def page_of(name: str) -> str:
    return config_of(replace(DESIRED.route, upstreams=(), page=name))


def asleep() -> HostFacts:
    """A host on which the tenant is suspended as asked."""
    facts = replace(met_facts(DESIRED), proxy_config=page_of("Suspended"))
    for spec in (WEB, WORKER, DATABASE, CACHE):
        facts = with_container(facts, spec, state="exited", exit_code=0, health="")
    return facts


def emptied() -> HostFacts:
    """A host on which the tenant is archived as asked: its volumes, and nothing else."""
    volumes = met_facts(DESIRED).volumes
    return replace(fresh_facts(), proxy_config=page_of("Archived"), volumes=volumes)


def dumped(**changes: Any) -> InstanceStatus:
    """The record after the last dump."""
    record = met_record(DESIRED)
    final = OneShotRecord(name=backup.FINAL, hash=backup.FINAL, finished_at="2027-01-15T08:00:00Z")
    return record.model_copy(update={"one_shots": [*(record.one_shots or ()), final], **changes})


def view_of(policy: Policy, facts: HostFacts, **changes: Any) -> View:
    return met_view(facts=facts, policy=policy, **changes)


def told(made: Plan) -> tuple[str, str, list[str]]:
    """(step, state, actions) of what is to be done first."""
    assert made.current is not None, "nothing is to be done"
    name, verdict = made.current
    return name, verdict.state, [shape(action) for action in verdict.actions]


def shape(action: Action) -> str:
    if isinstance(action, SetRoute):
        return f"SetRoute {action.route.page or action.route.upstreams}"
    part = action.container.role if isinstance(action, RunContainer) else getattr(action, "name", "")
    return f"{type(action).__name__} {part}"


def test_at_rest_nothing_is_to_be_done() -> None:
    for policy, facts, record in ((SUSPENDED, asleep(), met_record(DESIRED)), (ARCHIVED, emptied(), dumped())):
        made = plan(view_of(policy, facts, record=record))
        assert (made.converged, made.actions, made.state) == (True, (), policy.state)
        assert sorted(name for name, _ in made.verdicts) == sorted(step.name for step in STEPS)


SUSPENDING: list[tuple[str, Facts, str, list[str]]] = [
    ("it serves", lambda f: met_facts(DESIRED), "route", ["SetRoute Suspended"]),
    ("another page", lambda f: replace(f, proxy_config=page_of("Archived")), "route", ["SetRoute Suspended"]),
    ("no route", lambda f: replace(f, proxy_config=config_of()), "route", ["SetRoute Suspended"]),
    ("web runs", lambda f: with_container(f, WEB, state="running"), "start", [f"StopContainer {WEB.name}"]),
    ("web restarts", lambda f: with_container(f, WEB, state="restarting"), "start", [f"StopContainer {WEB.name}"]),
    ("web is paused", lambda f: with_container(f, WEB, state="paused"), "start", [f"StopContainer {WEB.name}"]),
    ("db runs", lambda f: with_container(f, DATABASE, state="running"), "infra", [f"StopContainer {DATABASE.name}"]),
    ("cache runs", lambda f: with_container(f, CACHE, state="running"), "infra", [f"StopContainer {CACHE.name}"]),
    (
        "a new version was under way",
        lambda f: replace(f, containers=(*f.containers, container_fact(next_desired().apps[0]))),
        "start",
        [f"StopContainer {next_desired().apps[0].name}"],
    ),
    (
        "migrate hangs",
        lambda f: with_container(f, MIGRATE, state="running", created=int(NOW) - 601),
        "migrate",
        [f"StopContainer {MIGRATE.name}"],
    ),
]


@pytest.mark.parametrize(("why", "facts", "step", "actions"), SUSPENDING, ids=[row[0] for row in SUSPENDING])
def test_suspending(why: str, facts: Facts, step: str, actions: list[str]) -> None:
    made = plan(
        view_of(SUSPENDED, facts(asleep()), record=met_record(DESIRED).model_copy(update={"state": "Suspended"}))
    )
    assert told(made) == (step, "act", actions)


def just_paged(policy: Policy, spent: float, seen: OpenRequests | None = None) -> list[str]:
    """What is done next, `spent` seconds after users have got the page, while everything still runs."""
    route = replace(DESIRED.route, upstreams=(), page=policy.state, since=int(NOW - spent))
    facts = replace(met_facts(DESIRED), proxy_config=config_of(route))
    requests = {} if seen is None else {f"id-{WEB.name}": seen}
    memory = replace(met_view().memory, open_requests=requests)
    step, state, actions = told(plan(view_of(policy, facts, memory=memory)))
    assert (step, state) == ("start", "act")
    return actions


COUNT = [f"CountConnections {WEB.name}"]
STOP = [f"StopContainer {WEB.name}", f"StopContainer {WORKER.name}"]


@pytest.mark.parametrize("policy", [SUSPENDED, ARCHIVED], ids=["suspended", "archived"])
@pytest.mark.parametrize(
    ("spent", "seen", "does"),
    [
        (1, None, COUNT),
        (9, OpenRequests(2, 2), COUNT),
        (29, OpenRequests(1, 0), COUNT),
        (1, OpenRequests(0, 1), COUNT),
        (1, OpenRequests(0, 0), STOP),
        (31, OpenRequests(2, 5), STOP),
    ],
    ids=["not asked", "open", "open for long", "a client may still come by the old way", "none", "too late"],
)
def test_requests_are_answered_before_the_application_stops(
    policy: Policy, spent: float, seen: OpenRequests | None, does: list[str]
) -> None:
    """The worker waits with it: a request may need it."""
    assert just_paged(policy, spent, seen) == does


def test_recreate_drains_behind_the_page() -> None:
    recreate = Policy(recreate=True)
    old = replace(met_facts(DESIRED), images={**met_facts(DESIRED).images, **met_facts(NEXT).images})
    backed = met_record(DESIRED).model_copy(update={"one_shots": met_record(NEXT).one_shots})
    for spent, seen, does in (
        (None, None, ["SetRoute Updating"]),
        (1, None, COUNT),
        (1, OpenRequests(1, 1), COUNT),
        (9, OpenRequests(0, 3), STOP),
        (31, OpenRequests(1, 3), STOP),
    ):
        route = DESIRED.route
        if spent is not None:
            route = replace(route, upstreams=(), page="Updating", since=int(NOW - spent))
        memory = replace(met_view().memory, open_requests={} if seen is None else {f"id-{WEB.name}": seen})
        view = met_view(
            NEXT, facts=replace(old, proxy_config=config_of(route)), record=backed, policy=recreate, memory=memory
        )
        assert told(plan(view))[2] == does


def test_what_was_counted_on_one_way_out_does_not_count_on_the_next() -> None:
    kept = Kept(open_requests={f"id-{WEB.name}": OpenRequests(0, 0)})
    assert kept.observe(view_of(SUSPENDED, met_facts(DESIRED))).open_requests == {}
    kept.open_requests[f"id-{WEB.name}"] = OpenRequests(0, 0)
    paged = replace(met_facts(DESIRED), proxy_config=page_of("Suspended"))
    assert kept.observe(view_of(SUSPENDED, paged)).open_requests == {f"id-{WEB.name}": OpenRequests(0, 0)}


def test_suspending_needs_no_password_and_archiving_does() -> None:
    assert told(plan(view_of(SUSPENDED, met_facts(DESIRED), credential_keys=None)))[0] == "route"
    blocked = plan(view_of(ARCHIVED, met_facts(DESIRED), credential_keys=None)).current
    assert blocked is not None and blocked[0] == "preflight"
    assert blocked[1].reason == "CredentialsMissing"


@pytest.mark.parametrize(
    ("why", "facts"),
    [
        ("web is gone", lambda f: without_container(f, WEB)),
        ("all are gone", lambda f: without_container(f, WEB, WORKER, DATABASE, CACHE)),
        ("web was created", lambda f: with_container(f, WEB, state="created")),
        ("files are gone", lambda f: without_volume(f, "dotmac-acme-backups")),
    ],
)
def test_what_is_not_there_need_not_be_stopped(why: str, facts: Facts) -> None:
    assert plan(view_of(SUSPENDED, facts(asleep()))).converged


WAITS: list[tuple[str, Facts, str, str]] = [
    ("migrate runs", lambda f: with_container(f, MIGRATE, state="running", created=int(NOW)), "migrate", "may end"),
    ("proxy is down", lambda f: replace(f, containers=(proxy_fact(state="exited"), *f.containers[1:])), "route", "run"),
    ("no configuration", lambda f: replace(f, proxy_config=None), "route", "no configuration"),
]


@pytest.mark.parametrize(("why", "facts", "step", "words"), WAITS, ids=[row[0] for row in WAITS])
def test_what_a_stop_waits_for(why: str, facts: Facts, step: str, words: str) -> None:
    made = plan(view_of(SUSPENDED, facts(met_facts(DESIRED)) if step == "route" else facts(asleep())))
    assert told(made) == (step, "wait", [])
    assert made.current and words in made.current[1].message


def test_a_page_has_no_place_for_hostile_words() -> None:
    hostile = desired_of(instance_of(orgName="{env.SECRET} <script>", domains=[{"host": "a.example"}]))
    view = met_view(hostile, facts=replace(met_facts(hostile), proxy_config=config_of(hostile.route)), policy=SUSPENDED)
    config = config_of(stopped.page_route(view, "Suspended"))
    assert "script" not in config and "{" not in pages.SUSPENDED.body + pages.ARCHIVED.body + pages.UPDATING.body


def test_an_unknown_page_is_none_of_ours() -> None:
    """A later version of the operator may know more pages; an earlier one puts its own in their place."""
    facts = replace(asleep(), proxy_config=page_of("Suspended").replace('["Suspended"]', '["Holiday"]'))
    view = view_of(SUSPENDED, facts)
    assert view.route is not None and view.route.page == "Holiday"
    assert told(plan(view))[0] == "route"


def test_archiving_goes_on_where_it_was() -> None:
    paged = replace(asleep(), proxy_config=page_of("Archived"))
    up = with_container(paged, DATABASE, state="running", health="healthy")
    view = view_of(ARCHIVED, paged)
    spec = backup.dump(view, backup.final_name(view, stopped.occasion(view)))
    ended = replace(up, containers=(*up.containers, container_fact(spec)))
    steps = [
        (paged, ("backup", "act", [f"StartContainer {DATABASE.name}"])),
        (with_container(up, DATABASE, health="starting"), ("backup", "wait", [])),
        (up, ("backup", "act", ["RunContainer backup"])),
        (ended, ("backup", "act", ["RecordBackup "])),
    ]
    for facts, expected in steps:
        assert told(plan(view_of(ARCHIVED, facts))) == expected
    file = backup.final_name(view, stopped.occasion(view))
    last = BackupRecord(file=file, sha256="0" * 64, size=1, release="erp-1", finished_at="2027-01-15T08:00:00Z")
    made = plan(view_of(ARCHIVED, ended, record=met_record(DESIRED).model_copy(update={"last_backup": last})))
    name, state, actions = told(made)
    assert (name, state) == ("infra", "act")
    assert actions[-2:] == ["DisconnectNetwork ", "RemoveNetwork dotmac-acme"]
    removed = [a.name for a in made.current[1].actions if isinstance(a, RemoveContainer)]  # type: ignore[index]
    assert removed[-2:] == [CACHE.name, DATABASE.name]
    assert not [action for action in actions if "Volume" in action]


def test_a_dump_that_fails_is_told_with_its_container() -> None:
    up = with_container(
        replace(asleep(), proxy_config=page_of("Archived")), DATABASE, state="running", health="healthy"
    )
    view = view_of(ARCHIVED, up)
    spec = backup.dump(view, backup.final_name(view, stopped.occasion(view)))
    made = plan(view_of(ARCHIVED, replace(up, containers=(*up.containers, container_fact(spec, exit_code=1)))))
    assert made.current is not None
    assert (made.current[0], made.current[1].reason, made.current[1].container) == ("backup", "BackupFailed", spec.name)


# -- the gate --------------------------------------------------------------------------------------------------

CLOSED = (MaintenanceWindow.model_validate({"start": "22:00", "duration": 60}),)


def upgrading(policy: Policy, record: InstanceStatus | None = None, **changes: Any) -> View:
    """The next version is asked for on a host that serves the present one."""
    old = met_facts(DESIRED)
    facts = replace(old, images={**old.images, **met_facts(NEXT).images})
    return met_view(NEXT, facts=facts, record=record or met_record(DESIRED), policy=policy, **changes)


def test_a_hash_is_the_same_from_its_first_mention_to_its_end() -> None:
    first = plan(upgrading(Policy()))
    assert first.change == first.hash != ""
    halfway = replace(
        upgrading(Policy()), facts=replace(upgrading(Policy()).facts, proxy_config=config_of(NEXT.route)), now=NOW + 99
    )
    assert plan(halfway).change == first.change
    generation = met_view(
        replace(NEXT, tenant=replace(NEXT.tenant, generation=9)), facts=halfway.facts, record=met_record(DESIRED)
    )
    assert plan(generation).change == first.change, "an unrelated edit"
    other = met_record(DESIRED).model_copy(update={"applied_generation": 7})
    assert plan(upgrading(Policy(), other)).change != first.change, "the same change at another time"


def test_what_has_begun_is_not_held() -> None:
    closed = Policy(windows=CLOSED, approval=True)
    name = plan(upgrading(closed)).change
    for started, held in ((None, True), (rfc3339(NOW - 60), False)):
        record = met_record(DESIRED).model_copy(update={"plan": PlanStatus(hash=name, started_at=started)})
        assert (plan(upgrading(closed, record)).held is not None) == held
    other = met_record(DESIRED).model_copy(update={"plan": PlanStatus(hash="0" * 12, started_at=rfc3339(NOW))})
    assert plan(upgrading(closed, other)).held is not None


HOLDS: list[tuple[str, Policy, str]] = [
    ("nothing to wait for", Policy(), ""),
    ("outside the window", Policy(windows=CLOSED), "WaitingForWindow"),
    ("forced", Policy(windows=CLOSED, forced=True), ""),
    ("not approved", Policy(approval=True), "ApprovalNeeded"),
    ("force is no approval", Policy(approval=True, windows=CLOSED, forced=True), "ApprovalNeeded"),
    ("another plan approved", Policy(approval=True, approved="0123456789ab"), "ApprovalNeeded"),
    ("hostile approval", Policy(approval=True, approved="x" * 9999), "ApprovalNeeded"),
]


@pytest.mark.parametrize(("why", "policy", "reason"), HOLDS, ids=[row[0] for row in HOLDS])
def test_what_a_change_waits_for(why: str, policy: Policy, reason: str) -> None:
    held = plan(upgrading(policy)).held
    assert (held.reason if held else "") == reason
    assert held is None or len(held.message) < 512


def test_what_is_not_disruptive_has_no_name() -> None:
    strict = Policy(windows=CLOSED, approval=True)
    fresh = replace(upgrading(strict), record=InstanceStatus(server="host-1"))
    resumed = upgrading(strict, met_record(DESIRED).model_copy(update={"state": "Suspended"}))
    drifted = met_view(facts=without_container(met_facts(DESIRED), WEB), policy=strict)
    moved = desired_of(instance_of(domains=[{"host": "other.example"}]))
    routed = met_view(moved, facts=met_facts(DESIRED), record=met_record(DESIRED), policy=strict)
    over = met_view(policy=replace(strict, expires=NOW))
    for view in (fresh, resumed, drifted, routed, over):
        assert (gate.change(view), plan(view).held) == ("", None)


def test_the_status_of_a_held_change_does_not_move_with_time() -> None:
    view = upgrading(Policy(windows=CLOSED))
    first = compute(met_record(DESIRED), Situation(2, NOW, view=view, plan=plan(view)))
    later = replace(view, now=NOW + 600, record=first)
    assert compute(first, Situation(2, NOW + 600, view=later, plan=plan(later))) == first
    assert first.next_window == "2027-01-15T22:00:00Z"
    assert first.plan is not None and first.plan.started_at is None and first.plan.actions
    assert {step.state for step in first.steps or ()} <= {"Pending", "Skipped", "Succeeded"}


def test_a_stop_names_itself_in_every_condition() -> None:
    view = view_of(SUSPENDED, asleep())
    made = compute(met_record(DESIRED), Situation(2, NOW, view=view, plan=plan(view)))
    found: dict[str, Condition] = {condition.type: condition for condition in made.conditions}
    assert {type_: found[type_].status for type_ in ("Ready", "Reconciling", "Stalled", "Suspended", "InSync")} == {
        "Ready": "True", "Reconciling": "False", "Stalled": "False", "Suspended": "True", "InSync": "True",
    }  # fmt: skip
    assert found["Ready"].reason == found["Suspended"].reason == "Suspended"
    assert "CertificateReady" not in found
    assert not [shot for shot in made.one_shots or () if shot.name == "verify"], "it is asked again when it runs again"
    stopping = view_of(SUSPENDED, met_facts(DESIRED))
    made = compute(met_record(DESIRED), Situation(2, NOW, view=stopping, plan=plan(stopping)))
    states = {condition.type: (condition.status, condition.reason) for condition in made.conditions}
    assert (states["Suspended"], states["Ready"][0], made.phase) == (("False", "Stopping"), "Unknown", "Suspending")


def test_a_stop_action_says_what_it_does() -> None:
    action = StopContainer("the Instance is to be suspended", "dotmac-acme-web")
    assert action.text == "stop container dotmac-acme-web"
