"""What Argo CD and Flux make of the statuses that the operator computes: never well too early, never silently stuck."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lupa.lua51
import pytest
import yaml
from tests.kits.backups import BACKUP, FILES, asked, served
from tests.kits.fakes import World, prepared, upgrade
from tests.kits.tenant import (
    NOW,
    config_of,
    desired_of,
    fresh_facts,
    met_facts,
    met_record,
    met_view,
    next_desired,
    server_of,
    view_of,
    with_container,
    without_container,
)

from dotmac_crds.backup import BackupStatus
from dotmac_crds.instance import InstanceStatus, OneShotRecord
from dotmac_crds.instanceclass import InstanceClassStatus
from dotmac_crds.lifecycle import MaintenanceWindow
from dotmac_crds.release import ReleaseStatus
from dotmac_crds.server import ServerStatus
from dotmac_operator.core import server as core_server
from dotmac_operator.core.conditions import condition, merge, rfc3339
from dotmac_operator.core.facts import DiskFact, EngineInfo
from dotmac_operator.core.jobs import Report, status_of
from dotmac_operator.core.lifecycle import Policy
from dotmac_operator.core.plan import plan
from dotmac_operator.core.server import HostProblem, ServerSituation
from dotmac_operator.core.status import Problem, Situation, compute
from dotmac_operator.core.steps.backup import FINAL
from dotmac_operator.core.view import View

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ARGOCD = DEPLOY / "argocd"
KINDS = ("Backup", "Instance", "InstanceClass", "Release", "Restore", "Server")
GENERATION = 3
DESIRED = desired_of(generation=GENERATION)
NEXT = next_desired()
OLD = ("order 1", "invoice.pdf")
LATER = [MaintenanceWindow.model_validate({"start": "03:00", "duration": 60})]

# Argo CD's words that end a wait, and what kstatus must say beside each of them.
HEALTHY, PROGRESSING, DEGRADED, SUSPENDED = "Healthy", "Progressing", "Degraded", "Suspended"

type Object = dict[str, Any]


def kstatus(obj: Object) -> str:
    """The published rules of kstatus for custom resources (sigs.k8s.io/cli-utils, pkg/kstatus), in their order."""
    metadata, status = obj["metadata"], obj.get("status", {})
    if "deletionTimestamp" in metadata:
        return "Terminating"
    observed = status.get("observedGeneration")
    if observed is not None and observed != metadata["generation"]:
        return "InProgress"
    for found in status.get("conditions", []):
        if found["type"] == "Reconciling" and found["status"] == "True":
            return "InProgress"
        if found["type"] == "Stalled" and found["status"] == "True":
            return "Failed"
    ready = next((found for found in status.get("conditions", []) if found["type"] == "Ready"), None)
    return "Current" if ready is None or ready["status"] == "True" else "InProgress"


@cache
def written_scripts() -> dict[str, str]:
    """Kind -> the health script in the patch that people apply."""
    data = yaml.safe_load((ARGOCD / "argocd-cm.yaml").read_text())["data"]
    return {kind: data[f"resource.customizations.health.platform.dotmac.io_{kind}"] for kind in KINDS}


def argo(kind: str, obj: Object) -> tuple[str, str]:
    """(health, message) as Argo CD computes them: Lua 5.1, `obj` as a table, JSON's null left out."""
    lua = lupa.lua51.LuaRuntime(unpack_returned_tuples=True, register_eval=False, register_builtins=False)
    lua.globals().obj = lua.table_from(obj, recursive=True)
    made = lua.execute(written_scripts()[kind])
    return made.status, made.message


def wrap(status: Object | None, generation: int = GENERATION, **metadata: Any) -> Object:
    made: Object = {"metadata": {"name": "acme", "generation": generation, **metadata}}
    return made if status is None else made | {"status": status}


def instance(old: InstanceStatus | None = None, view: View | None = None, **changes: Any) -> InstanceStatus:
    made = Situation(GENERATION, NOW, server="host-1", url="http://acme.erp.example/")
    if view is not None:
        made = replace(made, view=view, plan=plan(view))
    return compute(old or InstanceStatus(), replace(made, **changes))


def stopped(policy: Policy) -> InstanceStatus:
    """Of an Instance that is suspended or archived as asked."""
    page = config_of(replace(DESIRED.route, upstreams=(), page=policy.wanted(NOW)))
    record = met_record(DESIRED)
    if policy.wanted(NOW) == "Archived":
        facts = replace(fresh_facts(), proxy_config=page, volumes=met_facts(DESIRED).volumes)
        final = OneShotRecord(name=FINAL, hash=FINAL, finished_at=rfc3339(NOW))
        record = record.model_copy(update={"one_shots": [*(record.one_shots or ()), final]})
    else:
        facts = replace(met_facts(DESIRED), proxy_config=page)
        for spec in (*DESIRED.apps, *DESIRED.infrastructure):
            facts = with_container(facts, spec, state="exited", exit_code=0, health="")
    return instance(view=met_view(DESIRED, facts=facts, record=record, policy=policy))


def upgrading(policy: Policy) -> View:
    return met_view(NEXT, facts=met_facts(DESIRED), record=met_record(DESIRED), policy=policy)


SERVED = instance(view=met_view(DESIRED))
INSTANCES: dict[str, tuple[InstanceStatus, str, str]] = {
    "served": (SERVED, "Current", HEALTHY),
    "still served": (instance(SERVED, met_view(DESIRED), now=NOW + 3600), "Current", HEALTHY),
    "first look": (instance(), "InProgress", PROGRESSING),
    "deploying": (instance(view=view_of(DESIRED, fresh_facts())), "InProgress", PROGRESSING),
    "all made but the request": (
        instance(view=met_view(DESIRED, record=met_record(DESIRED).model_copy(update={"one_shots": []}))),
        "InProgress",
        PROGRESSING,
    ),
    "a step fails": (instance(SERVED, problem=Problem("NotFound", "manifest unknown")), "InProgress", PROGRESSING),
    "drift": (
        instance(SERVED, met_view(DESIRED, facts=without_container(met_facts(DESIRED), DESIRED.apps[1]))),
        "InProgress",
        PROGRESSING,
    ),
    "upgrading": (instance(SERVED, upgrading(Policy())), "InProgress", PROGRESSING),
    "host away": (instance(SERVED, problem=Problem("ServerNotReady", "no route")), "InProgress", PROGRESSING),
    "stalled": (instance(problem=Problem("OrgCodeTaken", "choose another", stalled=True)), "Failed", DEGRADED),
    "rolled back": (
        instance(SERVED, met_view(DESIRED), problem=Problem("UpgradeRolledBack", "exit 1", stalled=True)),
        "Failed",
        DEGRADED,
    ),
    "paused": (instance(SERVED, paused=True), "InProgress", SUSPENDED),
    "not approved": (instance(SERVED, upgrading(Policy(approval=True))), "InProgress", SUSPENDED),
    "before its window": (instance(SERVED, upgrading(Policy(windows=tuple(LATER)))), "InProgress", SUSPENDED),
    "suspended": (stopped(Policy(state="Suspended")), "Current", HEALTHY),
    "archived": (stopped(Policy(state="Archived")), "Current", HEALTHY),
    "trial over": (stopped(Policy(expires=NOW - 1)), "Current", HEALTHY),
    "deleting unmarked": (instance(SERVED, deleting="stopping containers"), "InProgress", PROGRESSING),
}


@pytest.mark.parametrize("name", INSTANCES)
def test_an_instance(name: str) -> None:
    status, current, health = INSTANCES[name]
    obj = wrap(status.to_wire())
    assert (kstatus(obj), argo("Instance", obj)[0]) == (current, health)


def test_the_cases_are_what_their_names_say() -> None:
    phases = {name: status.phase for name, (status, _, _) in INSTANCES.items()}
    assert phases["suspended"] == "Suspended"
    assert phases["archived"] == "Archived"
    assert phases["upgrading"] == "Updating"
    assert phases["not approved"] == phases["before its window"] == "Waiting"
    assert phases["host away"] == "Unreachable"
    assert phases["deploying"] == phases["first look"].replace("Pending", "Deploying") == "Deploying"
    assert INSTANCES["not approved"][0].conditions != INSTANCES["before its window"][0].conditions


INFO = EngineInfo("20.10", "1.41", "Debian", "6.1", "x86_64", 4, 8 * 2**30, "/var/lib/docker")


def host(old: ServerStatus | None = None, **changes: Any) -> ServerStatus:
    made = ServerSituation(GENERATION, NOW, info=INFO, disk=DiskFact(100 * 2**30, 50 * 2**30), proxy_ready=True)
    return core_server.compute(old or ServerStatus(), server_of(), replace(made, **changes))


def lost(reason: str, retryable: bool) -> ServerStatus:
    return host(host(), info=None, disk=None, problem=HostProblem(reason, "told why", retryable))


SERVERS: dict[str, tuple[ServerStatus, str, str]] = {
    "ready": (host(), "Current", HEALTHY),
    "little disk": (host(disk=DiskFact(100 * 2**30, 2**30)), "Current", HEALTHY),
    "proxy starts": (host(proxy_ready=False, proxy_message="it exited"), "InProgress", PROGRESSING),
    "away": (lost("Unreachable", True), "InProgress", PROGRESSING),
    "its key changed": (lost("HostKeyChanged", False), "Failed", DEGRADED),
    "paused": (host(host(), paused=True), "InProgress", SUSPENDED),
    "blocked": (host(host(), deleting="2 Instances live on it"), "InProgress", PROGRESSING),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server(name: str) -> None:
    status, current, health = SERVERS[name]
    obj = wrap(status.to_wire())
    assert (kstatus(obj), argo("Server", obj)[0]) == (current, health)


def job(report: Report) -> Object:
    return status_of(BackupStatus(), report, GENERATION, NOW).to_wire()


JOBS: dict[str, tuple[Object, str, str]] = {
    "waits": (job(Report("Pending", "InstanceChanging", "it waits")), "InProgress", PROGRESSING),
    "runs": (job(Report("Running", "Copying", "the database is being dumped")), "InProgress", PROGRESSING),
    "paused": (job(Report("Pending", "Paused", "take the annotation away")), "InProgress", SUSPENDED),
    "complete": (job(Report("Completed", "BackedUp", "2 files")), "Current", HEALTHY),
    "failed": (job(Report("Failed", "DiskFull", "free space")), "Failed", DEGRADED),
}


@pytest.mark.parametrize("kind", ["Backup", "Restore"])
@pytest.mark.parametrize("name", JOBS)
def test_a_backup_and_a_restore(kind: str, name: str) -> None:
    status, current, health = JOBS[name]
    assert (kstatus(wrap(status)), argo(kind, wrap(status))[0]) == (current, health)


def catalogued(error: str) -> dict[str, Object]:
    """As the operator's reconciler of Releases and classes writes it."""
    word = "Invalid" if error else "Valid"
    made = merge(
        [], (condition("Ready", not error, word, error), condition("Stalled", bool(error), word, error)), 1, NOW
    )
    return {
        "Release": ReleaseStatus(observed_generation=GENERATION, conditions=made).to_wire(),
        "InstanceClass": InstanceClassStatus(observed_generation=GENERATION, conditions=made).to_wire(),
    }


@pytest.mark.parametrize("kind", ["Release", "InstanceClass"])
def test_a_release_and_a_class(kind: str) -> None:
    well, ill = wrap(catalogued("")[kind]), wrap(catalogued("spec.upgradeFrom: bad")[kind])
    assert (kstatus(well), argo(kind, well)[0]) == ("Current", HEALTHY)
    assert (kstatus(ill), argo(kind, ill)) == ("Failed", (DEGRADED, "spec.upgradeFrom: bad"))


def every() -> Iterator[tuple[str, Object]]:
    for instances, _, _ in INSTANCES.values():
        yield "Instance", instances.to_wire()
    for servers, _, _ in SERVERS.values():
        yield "Server", servers.to_wire()
    for error in ("", "bad"):
        yield from catalogued(error).items()
    for status, _, _ in JOBS.values():
        yield "Backup", status
        yield "Restore", status


def test_no_status_counts_for_another_generation() -> None:
    for kind, status in every():
        obj = wrap(status, GENERATION + 1)
        assert (kstatus(obj), argo(kind, obj)[0]) == ("InProgress", PROGRESSING), (kind, status)


def test_nothing_that_is_being_deleted_is_well() -> None:
    for kind, status in every():
        obj = wrap(status, deletionTimestamp="2027-01-15T08:00:00Z")
        assert (kstatus(obj), argo(kind, obj)[0]) == ("Terminating", PROGRESSING), (kind, status)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_object_is_in_progress(kind: str) -> None:
    # What the CRD's default gives it: see test_every_crd_defaults_the_observed_generation.
    assert kstatus(wrap({"observedGeneration": -1}, 1)) == "InProgress"
    for status in (
        None,
        {},
        {"observedGeneration": -1},
        {"observedGeneration": 1},
        {"observedGeneration": 1, "conditions": []},
    ):
        assert argo(kind, wrap(status, 1))[0] == PROGRESSING, status


@pytest.mark.parametrize("kind", KINDS)
def test_every_crd_defaults_the_observed_generation(kind: str) -> None:
    plural = kind.lower() + ("es" if kind.endswith("s") else "s")
    crd = yaml.safe_load((DEPLOY.parent / "crds" / f"{plural}.platform.dotmac.io.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    assert schema["default"] == {"observedGeneration": -1}


def test_messages_are_the_operators() -> None:
    assert argo("Instance", wrap(INSTANCES["stalled"][0].to_wire()))[1] == "choose another"
    assert "approve=" in argo("Instance", wrap(INSTANCES["not approved"][0].to_wire()))[1]
    deleting = wrap(SERVERS["blocked"][0].to_wire(), deletionTimestamp="2027-01-15T08:00:00Z")
    assert argo("Server", deleting)[1] == "2 Instances live on it"


def test_the_patch_of_argo_cds_configuration_carries_the_scripts() -> None:
    """Else: python deploy/argocd/generate.py > deploy/argocd/argocd-cm.yaml"""
    spec = importlib.util.spec_from_file_location("generate", ARGOCD / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ARGOCD / "argocd-cm.yaml").read_text()
    assert text == module.page()
    data = yaml.safe_load(text)["data"]
    for kind in KINDS:
        assert written_scripts()[kind] == module.script(kind)
    for key, value in data.items():
        if ".ignore" in key:
            assert list(yaml.safe_load(value)) == ["jsonPointers"], key


def test_crds_operator_and_tenants_come_in_this_order() -> None:
    apps = list(yaml.safe_load_all((ARGOCD / "applications.yaml").read_text()))
    waves = {
        app["metadata"]["name"]: int(app["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]) for app in apps
    }
    assert sorted(waves, key=lambda name: waves[name]) == ["dotmac-crds", "dotmac-operator", "dotmac-tenants"]
    assert len(set(waves.values())) == 3
    pruned = {app["metadata"]["name"]: app["spec"]["syncPolicy"]["automated"]["prune"] for app in apps}
    assert pruned == {"dotmac-crds": False, "dotmac-operator": True, "dotmac-tenants": False}
    flux = [
        doc
        for doc in yaml.safe_load_all((DEPLOY / "flux" / "dotmac.yaml").read_text())
        if doc["kind"] == "Kustomization"
    ]
    needs = {doc["metadata"]["name"]: [need["name"] for need in doc["spec"].get("dependsOn", [])] for doc in flux}
    assert needs == {"dotmac-crds": [], "dotmac-operator": ["dotmac-crds"], "dotmac-tenants": ["dotmac-operator"]}
    ours = [app["spec"]["source"]["path"] for app in apps[:2]] + [doc["spec"]["path"] for doc in flux[:2]]
    for path in ours:
        folder = DEPLOY.parent / path
        assert any((folder / name).is_file() for name in ("kustomization.yaml", "Kustomization")), path


@pytest.mark.parametrize("overlay", ["namespaced", "cluster-wide"])
def test_no_gitops_tool_prunes_a_namespace_and_all_that_is_in_it(overlay: str) -> None:
    """By the annotations of Argo CD's sync options and of Flux's kustomize-controller."""
    path = DEPLOY / "kustomize" / "overlays" / overlay / "namespaces.yaml"
    for namespace in yaml.safe_load_all(path.read_text()):
        kept = namespace["metadata"]["annotations"]
        assert set(kept["argocd.argoproj.io/sync-options"].split(",")) == {"Prune=false", "Delete=false"}
        assert kept["kustomize.toolkit.fluxcd.io/prune"] == "disabled"


def test_ready_and_reconciling_at_once_is_not_well() -> None:
    both = [condition("Ready", True, "Converged"), condition("Reconciling", True, "Progressing")]
    obj = wrap({"observedGeneration": GENERATION, "conditions": [made.to_wire() for made in both]})
    for kind in ("Instance", "Server"):
        assert (kstatus(obj), argo(kind, obj)[0]) == ("InProgress", PROGRESSING)


def served_as_asked(world: World) -> bool:
    body = world.cluster.get("Instance", "tenants/acme")
    release = body["status"].get("release", {}).get("current")
    return world.engine.served("acme.erp.example") == 200 and release == body["spec"]["releaseRef"]["name"]


def watched(
    world: World, kind: str = "Instance", true: Callable[[World], bool] = served_as_asked
) -> list[tuple[str, str, bool]]:
    """(kstatus, Argo CD's health, what is true on the host) at each status of this kind that is written."""
    made: list[tuple[str, str, bool]] = []
    write = world.cluster.apply_status

    def apply(ref: Any, status: dict[str, Any], exactly: bool = False) -> dict[str, Any]:
        body = write(ref, status, exactly)
        if ref.kind == kind:
            made.append((kstatus(body), argo(kind, body)[0], true(world)))
        return body

    world.cluster.apply_status = apply  # type: ignore[method-assign]
    world.restart()
    return made


def test_a_whole_deploy_and_an_upgrade_are_never_well_too_early() -> None:
    world = prepared()
    seen = watched(world)
    world.settle()
    assert len(seen) > 5
    assert {told[:2] for told in seen[:-1]} == {("InProgress", PROGRESSING)}
    assert seen[-1] == ("Current", HEALTHY, True)
    seen.clear()
    upgrade(world)
    body = world.cluster.get("Instance", "tenants/acme")
    assert (kstatus(body), argo("Instance", body)[0]) == ("InProgress", PROGRESSING), "edited, and not looked at yet"
    world.settle()
    assert len(seen) > 3
    assert all(served for current, health, served in seen if current == "Current" or health == HEALTHY)
    assert seen[-1] == ("Current", HEALTHY, True)


def test_a_backup_and_a_restore_are_never_well_before_they_are_complete() -> None:
    world = served()
    backups = watched(world, "Backup", lambda world: len(world.status(BACKUP, "Backup").get("files", [])) == 2)
    asked(world)
    world.settle()
    assert len(backups) > 2
    assert {told[:2] for told in backups[:-1]} == {("InProgress", PROGRESSING)}
    assert backups[-1] == ("Current", HEALTHY, True)
    world.engine.rows, world.engine.data[FILES] = "order 2", "nothing"
    restores = watched(world, "Restore", lambda world: (world.engine.rows, world.engine.data[FILES]) == OLD)
    tenant = watched(world)
    world.create("Restore", "back", {"instanceRef": {"name": "acme"}, "backupRef": {"name": "monday"}})
    world.settle()
    assert len(restores) > 2
    assert {told[:2] for told in restores[:-1]} == {("InProgress", PROGRESSING)}
    assert restores[-1] == ("Current", HEALTHY, True)
    assert all(well for current, health, well in tenant if current == "Current" or health == HEALTHY)
    assert tenant[-1][0] == "Current"
