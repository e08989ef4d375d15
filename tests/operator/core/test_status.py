"""Status and conditions: times move only when something flips, and a pass without news gives the same object."""

from dataclasses import replace
from typing import Any

import pytest
from tests.kits.tenant import NOW, desired_of, fresh_facts, met_facts, met_view, server_of, view_of, without_container

from dotmac_crds.instance import InstanceStatus
from dotmac_crds.server import ServerStatus
from dotmac_operator.core import server as core_server
from dotmac_operator.core.conditions import condition, find, is_true, merge, rfc3339
from dotmac_operator.core.facts import DiskFact, EngineInfo
from dotmac_operator.core.plan import plan
from dotmac_operator.core.server import HostProblem, ServerSituation
from dotmac_operator.core.status import Problem, Situation, compute
from dotmac_operator.core.view import View

DESIRED = desired_of()


def situation(view: View | None = None, **changes: Any) -> Situation:
    made = Situation(1, NOW, server="host-1", url="http://acme.erp.example/")
    if view is not None:
        made = replace(made, view=view, plan=plan(view))
    return replace(made, **changes)


def test_a_condition_keeps_its_time_until_its_status_flips() -> None:
    first = merge([], [condition("Ready", False, "Waiting", "a")], 1, NOW)
    same = merge(first, [condition("Ready", False, "StillWaiting", "b")], 2, NOW + 60)
    flipped = merge(same, [condition("Ready", True, "Converged")], 2, NOW + 120)
    assert first[0].last_transition_time == same[0].last_transition_time == rfc3339(NOW)
    assert (same[0].reason, same[0].message, same[0].observed_generation) == ("StillWaiting", "b", 2)
    assert flipped[0].last_transition_time == rfc3339(NOW + 120)
    unknown = merge(flipped, [condition("Ready", None, "NotObserved")], 2, NOW + 180)
    assert (unknown[0].status, unknown[0].last_transition_time) == ("Unknown", rfc3339(NOW + 180))


def test_conditions_are_sorted_bounded_and_found() -> None:
    made = merge([], [condition("Stalled", False, "X"), condition("Ready", True, "X", "m" * 5000)], 1, NOW)
    assert [c.type for c in made] == ["Ready", "Stalled"]
    assert len(made[0].message) == 2048
    assert is_true(made, "Ready")
    assert not is_true(made, "Stalled")
    assert not is_true(made, "Absent")
    assert find(made, "Absent") is None
    assert rfc3339(1_800_000_000.9) == "2027-01-15T08:00:00Z"


def test_nothing_new_gives_an_equal_status_at_any_later_time() -> None:
    first = compute(InstanceStatus(), situation(met_view()))
    again = compute(first, replace(situation(met_view()), now=NOW + 3600))
    assert again == first


@pytest.mark.parametrize("view", [met_view(), view_of(DESIRED, fresh_facts())])
def test_a_status_survives_the_wire(view: View) -> None:
    made = compute(InstanceStatus(), situation(view))
    assert InstanceStatus.model_validate(made.to_wire()) == made


def test_the_timeline_of_a_step() -> None:
    old = InstanceStatus()
    begun = compute(old, situation(view_of(DESIRED, fresh_facts())))
    steps = {step.name: step for step in begun.steps or []}
    assert (steps["preflight"].state, steps["images"].state, steps["infra"].state) == (
        "Succeeded",
        "Running",
        "Pending",
    )
    assert begun.step == "3/10"
    assert steps["images"].started_at == rfc3339(NOW)
    assert steps["infra"].started_at is None
    problem = Problem("NotFound", "manifest unknown")
    failing = compute(begun, replace(situation(view_of(DESIRED, fresh_facts()), problem=problem), now=NOW + 9))
    step = {step.name: step for step in failing.steps or []}["images"]
    assert (step.state, step.started_at, step.finished_at) == ("Failed", rfc3339(NOW), rfc3339(NOW + 9))
    assert step.message == "manifest unknown"
    done = compute(failing, replace(situation(met_view()), now=NOW + 20))
    step = {step.name: step for step in done.steps or []}["images"]
    assert (step.state, step.started_at, step.finished_at, step.message) == (
        "Succeeded", rfc3339(NOW), rfc3339(NOW + 20), None,
    )  # fmt: skip


def test_a_plan_is_told_with_its_reasons_and_a_stable_hash() -> None:
    made = compute(InstanceStatus(), situation(view_of(DESIRED, fresh_facts())))
    assert made.plan is not None
    assert made.plan.actions[0].action == "pull image example/app:1"
    assert made.plan.actions[0].reason == "the host does not have it"
    assert made.plan.hash == plan(view_of(DESIRED, fresh_facts(), now=NOW + 99)).hash
    assert compute(InstanceStatus(), situation(met_view())).plan.hash == ""  # type: ignore[union-attr]


CASES: list[tuple[dict[str, Any], str, tuple[str, str, str]]] = [
    ({}, "Pending", ("False", "True", "False")),
    ({"problem": Problem("ServerNotReady", "x")}, "Pending", ("Unknown", "True", "False")),
    ({"problem": Problem("MigrateFailed", "x")}, "Failing", ("False", "True", "False")),
    ({"problem": Problem("OrgCodeTaken", "x", stalled=True)}, "Stalled", ("False", "False", "True")),
    ({"paused": True}, "Paused", ("Unknown", "False", "False")),
    ({"deleting": "going"}, "Deleting", ("False", "True", "False")),
    ({"deleting": "no", "deletion_blocked": True}, "Deleting", ("False", "True", "False")),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "phase", "summary"), CASES)
def test_phases_and_the_three_conditions_of_kstatus(
    changes: dict[str, Any], phase: str, summary: tuple[str, str, str]
) -> None:
    made = compute(InstanceStatus(), situation(**changes))
    assert made.phase == phase
    states = {c.type: c.status for c in made.conditions}
    assert (states["Ready"], states["Reconciling"], states["Stalled"]) == summary
    assert ("DeletionBlocked" in states) == bool(changes.get("deletion_blocked"))


def test_what_served_is_unreachable_not_lost() -> None:
    served = compute(InstanceStatus(), situation(met_view()))
    away = compute(served, situation(problem=Problem("ServerNotReady", "no route")))
    assert away.phase == "Unreachable"
    states = {c.type: (c.status, c.message) for c in away.conditions}
    assert states["DatabaseReady"] == ("Unknown", "was last seen true")
    assert away.components == served.components
    again = compute(away, replace(situation(problem=Problem("ServerNotReady", "no route")), now=NOW + 60))
    assert again.phase == "Unreachable"


def test_drift_shows_in_the_conditions_while_it_lasts() -> None:
    facts = without_container(met_facts(DESIRED), DESIRED.apps[1])
    made = compute(InstanceStatus(), situation(met_view(facts=facts)))
    states = {c.type: (c.status, c.reason, c.message) for c in made.conditions}
    assert states["AppHealthy"] == ("False", "NotHealthy", "worker is absent")
    assert states["InSync"][:2] == ("False", "Differs")
    repaired = compute(made, situation(met_view(), drift="run container x: worker is gone"))
    assert repaired.drift is not None
    assert repaired.drift.repaired_at == rfc3339(NOW)


# -- Servers ---------------------------------------------------------------------------------------------------

INFO = EngineInfo("20.10", "1.41", "Debian", "6.1", "x86_64", 4, 8 * 2**30, "/var/lib/docker")


def host(**changes: Any) -> ServerSituation:
    made = ServerSituation(1, NOW, info=INFO, disk=DiskFact(100 * 2**30, 50 * 2**30), proxy_ready=True)
    return replace(made, **changes)


def test_a_steady_server_gives_an_equal_status() -> None:
    spec = server_of()
    first = core_server.compute(ServerStatus(), spec, host())
    # Less than a GiB more on the disk is no news.
    again = core_server.compute(first, spec, host(now=NOW + 999, disk=DiskFact(100 * 2**30, 50 * 2**30 + 4096)))
    assert again is first
    assert first.facts is not None
    assert (first.facts.memory, first.facts.disk_free, first.facts.docker_version) == ("8192Mi", "50Gi", "20.10")
    assert first.allocated is not None
    assert first.allocated.memory_capacity == "7680Mi"
    assert ServerStatus.model_validate(first.to_wire()) == first


def test_disk_pressure() -> None:
    made = core_server.compute(ServerStatus(), server_of(), host(disk=DiskFact(100 * 2**30, 9 * 2**30)))
    found = find(made.conditions, "DiskPressure")
    assert found is not None
    assert (found.status, found.message) == ("True", "9Gi of 100Gi are free")
    empty = core_server.compute(ServerStatus(), server_of(), host(disk=DiskFact(0, 0)))
    assert find(empty.conditions, "DiskPressure") is None


def test_facts_outlive_an_unreachable_host() -> None:
    spec = server_of()
    first = core_server.compute(ServerStatus(), spec, host())
    away = core_server.compute(first, spec, host(info=None, disk=None, problem=HostProblem("Unreachable", "x", True)))
    assert away.facts == first.facts
    assert not is_true(away.conditions, "Ready")


def test_a_server_with_an_unreadable_spec() -> None:
    made = core_server.compute(
        ServerStatus(), None, host(info=None, disk=None, problem=HostProblem("InvalidSpec", "x", False))
    )
    assert is_true(made.conditions, "Stalled")
    assert made.host_keys is None


def test_a_proxy_that_does_not_run_yet() -> None:
    made = core_server.compute(ServerStatus(), server_of(), host(proxy_ready=False, proxy_message="the proxy exited"))
    found = find(made.conditions, "Ready")
    assert found is not None
    assert (found.status, found.reason, found.message) == ("False", "Progressing", "the proxy exited")
    assert is_true(made.conditions, "DockerReady")
    assert not is_true(made.conditions, "ProxyReady")
