"""(old status, view, plan, outcome) -> new status of an Instance. Computed in one place, on failures too."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from dotmac_crds.backup import BackupStatus
from dotmac_crds.base import Condition, DriftRecord, FoundDrift, LocalSecretRef
from dotmac_crds.instance import (
    BackupRecord,
    ComponentStatus,
    FailureRecord,
    ImagePin,
    InstanceStatus,
    OneShotRecord,
    PlannedAction,
    PlanStatus,
    QuotaStatus,
    ReleaseProgress,
    StepStatus,
)
from dotmac_crds.lifecycle import RollbackRecord
from dotmac_operator.core import drift, names, proxy
from dotmac_operator.core.conditions import TEXT_LIMIT, condition, find, merge, rfc3339
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.desired import containers
from dotmac_operator.core.gate import APPROVAL, serving_route
from dotmac_operator.core.plan import Plan
from dotmac_operator.core.steps import STEPS
from dotmac_operator.core.steps.backup import FINAL
from dotmac_operator.core.steps.base import Verdict
from dotmac_operator.core.view import View

SHOWN_ACTIONS = 64
IMAGE_MOVED = "ImageMoved"
"""Reason of InSync when a tag on the host points to another image than the one that the Instance runs."""


@dataclass(frozen=True)
class Problem:
    """Why an Instance could not be looked at, or what went wrong with it."""

    reason: str
    message: str
    stalled: bool = False
    """True: it needs somebody; False: it is tried again by itself."""


@dataclass(frozen=True)
class Situation:
    """What one pass learned."""

    generation: int
    now: float
    server: str | None = None
    url: str | None = None
    view: View | None = None
    plan: Plan | None = None
    problem: Problem | None = None
    paused: bool = False
    deleting: str = ""
    """What the deletion waits for; empty when the object is not being deleted."""
    deletion_blocked: bool = False
    quota: QuotaStatus | None = None
    reconcile_token: str | None = None
    backup: BackupRecord | None = None
    backups: tuple[BackupStatus, ...] | None = None
    """The Instance's Backups; None: they were not looked at."""
    drift: str = ""
    """What was repaired; empty: nothing, or not yet."""
    repairing: Mapping[str, str] = field(default_factory=dict)
    """Kind of drift -> what was found of it and is not repaired yet."""
    progress: str = ""
    """How far the current step's long action is."""
    failure: FailureRecord | None = None
    rollback: RollbackRecord | None = None


def compute(old: InstanceStatus, situation: Situation) -> InstanceStatus:
    """The new status. Equal to the old one when nothing that a reader could care about has changed."""
    new = old.model_copy(
        update={
            "observed_generation": situation.generation,
            "server": situation.server or old.server,
            "url": situation.url or old.url,
            "quota": situation.quota or old.quota,
            "last_backup": situation.backup or _last_backup(old.last_backup, situation.backups),
            "failure": situation.failure if situation.failure else _kept_failure(old, situation),
            "drift": _drift(old, situation),
            "repairing": _repairing(old, situation),
            "rollback": situation.rollback or old.rollback,
            "last_handled_reconcile_at": situation.reconcile_token or old.last_handled_reconcile_at,
        }
    )
    if situation.view is not None and situation.plan is not None:
        new = new.model_copy(update=_from_view(old, situation, situation.view, situation.plan))
    made = tuple(_conditions(new, situation))
    kept = merge(old.conditions, made, situation.generation, situation.now)
    return new.model_copy(update={"conditions": kept, "phase": _phase(new, situation)})


def _last_backup(old: BackupRecord | None, backups: tuple[BackupStatus, ...] | None) -> BackupRecord | None:
    """The newest of the dump that a step made last and the Backups that are complete. Those are told by their files'
    directories; one that was deleted is no last backup any more."""
    if backups is None:
        return old
    found = [record for backup in backups if (record := _record_of(backup)) is not None]
    if old is not None and ("/" not in old.file or any(record.file == old.file for record in found)):
        found.insert(0, old)
    return max(found, key=lambda record: record.finished_at, default=None)


def _record_of(backup: BackupStatus) -> BackupRecord | None:
    if backup.phase != "Completed" or not backup.files or backup.finished_at is None:
        return None
    first = backup.files[0]
    return BackupRecord(
        file=first.name[:253],
        sha256=first.sha256,
        size=first.size,
        release=backup.release or "",
        finished_at=backup.finished_at,
    )


def _backup_health(new: InstanceStatus, backups: tuple[BackupStatus, ...] | None) -> Iterator[Condition]:
    """Absent until there was a backup, or one has failed."""
    if backups is None:
        yield from (c for c in new.conditions if c.type == "BackupHealthy")
        return
    since = new.last_backup.finished_at if new.last_backup else ""
    ill = [b for b in backups if b.phase == "Failed" and (b.finished_at or "") > since]
    if ill:
        last = max(ill, key=lambda backup: backup.finished_at or "")
        yield condition("BackupHealthy", False, "BackupFailed", f"the last Backup has failed: {last.message or ''}")
    elif new.last_backup is not None:
        yield condition("BackupHealthy", True, "BackedUp", f"{new.last_backup.file} of {since}")


def _kept_failure(old: InstanceStatus, situation: Situation) -> FailureRecord | None:
    """A failure is remembered until the spec, the token or what it was made of changes."""
    failure, view = old.failure, situation.view
    if failure is None or failure.generation != situation.generation:
        return None
    if situation.reconcile_token and situation.reconcile_token != old.last_handled_reconcile_at:
        return None
    return failure if view is None or view.desired.hash == failure.hash else None


def _drift(old: InstanceStatus, situation: Situation) -> DriftRecord | None:
    if not situation.drift:
        return old.drift
    return drift.repaired(situation.drift, situation.now)


def _repairing(old: InstanceStatus, situation: Situation) -> list[FoundDrift] | None:
    return None if situation.drift else drift.records(situation.repairing) or old.repairing


def _from_view(old: InstanceStatus, situation: Situation, view: View, plan: Plan) -> dict[str, object]:
    steps = _steps(old.steps or [], plan, situation)
    made: dict[str, object] = {
        "release": _release(old, view, plan),
        "components": list(_components(view)),
        "one_shots": _one_shots(old, view, plan, situation.now),
        "steps": steps,
        "step": f"{sum(step.state in ('Succeeded', 'Skipped') for step in steps)}/{len(STEPS)}",
        "plan": _plan(old.plan, plan, situation.now),
    }
    if view.credential_keys is not None:
        made["credentials_ref"] = LocalSecretRef(name=view.desired.tenant.credentials)
    held = plan.held
    made["next_window"] = rfc3339(held.until) if held and held.until is not None else None
    if plan.converged:
        made["state"] = plan.state
    if plan.converged and plan.state == "Running":
        made["applied_generation"] = view.desired.tenant.generation
        made["last_handled_restart_at"] = view.desired.restarted or None
        made["applied_hash"] = view.desired.hash
        made["serving"] = [spec.name for spec in (*view.desired.infrastructure, *view.desired.apps)]
        made["volumes"] = list(view.desired.volumes)
        made["images"] = _pins(old, view)
    return made


def _release(old: InstanceStatus, view: View, plan: Plan) -> ReleaseProgress:
    before = old.release or ReleaseProgress()
    if plan.state != "Running":
        return before.model_copy(update={"target": None})
    if not plan.converged:
        moving = before.current != view.desired.release_name
        target = view.desired.release_name if moving and not plan.rolled_back else None
        return before.model_copy(update={"target": target})
    changed = before.current not in (None, view.desired.release_name)
    return ReleaseProgress(
        current=view.desired.release_name,
        current_version=view.desired.version,
        previous=before.current if changed else before.previous,
    )


def _components(view: View) -> Iterator[ComponentStatus]:
    wanted = {spec.name: spec for spec in (*view.desired.infrastructure, *view.desired.apps)}
    long_running = (c for c in view.containers if names.is_app(c.labels) or c.name in wanted)
    for container in sorted(long_running, key=lambda c: c.name):
        spec = wanted.get(container.name)
        yield ComponentStatus(
            role=container.labels.get(names.ROLE, ""),
            container=container.name,
            image=container.image[:512],
            image_id=container.image_id[:128],
            health=view.health(spec, container) if spec else (container.health or container.state),
        )


def _one_shots(old: InstanceStatus, view: View, plan: Plan, now: float) -> list[OneShotRecord]:
    done = {shot.name: shot for shot in old.one_shots or ()}
    if plan.stopping:
        done.pop("verify", None)  # when it runs again, it is asked again
        if plan.state == "Archived" and dict(plan.verdicts)["backup"].state == "met":
            _record(done, FINAL, FINAL, now)
        return sorted(done.values(), key=lambda shot: shot.name)
    if view.of_role(names.DATABASE) and not plan.held:
        done.pop(FINAL, None)  # what is written from now on is in no dump
    undone = any(c.state != "created" for c in view.of_role(names.RESTORE))
    if undone:
        done.pop(names.MIGRATE, None)  # which version the database is of then, its next migrate finds out
    for shot in view.of_role(names.RESTORE):
        if shot.exit_code == 0:
            _record(done, names.RESTORE, shot.labels.get(names.HASH, ""), now)
    for spec in (view.desired.migrate, view.desired.bootstrap):
        if undone and spec is view.desired.migrate:
            continue
        container = view.container(spec) if spec else None
        if spec and container and container.state == "exited" and container.exit_code == 0:
            _record(done, spec.role, spec.hash, now)
    if view.memory.verified == view.desired.serving_hash:
        _record(done, "verify", view.desired.serving_hash, now)
    return sorted(done.values(), key=lambda shot: shot.name)


def _pins(old: InstanceStatus, view: View) -> list[ImagePin]:
    """An image that is in use stays pinned although its tag may have moved."""
    kept = {pin.reference: pin for pin in old.images or () if pin.reference in view.desired.images}
    for spec in containers(view.desired):
        container = view.container(spec)
        if container is not None and container.image_id and spec.image not in kept:
            kept[spec.image] = ImagePin(reference=spec.image, id=container.image_id)
    return sorted(kept.values(), key=lambda pin: pin.reference)


def _record(done: dict[str, OneShotRecord], name: str, hash_: str, now: float) -> None:
    if name not in done or done[name].hash != hash_:
        done[name] = OneShotRecord(name=name, hash=hash_, finished_at=rfc3339(now))


def _plan(old: PlanStatus | None, plan: Plan, now: float) -> PlanStatus:
    actions = [
        PlannedAction(step=step, action=action.text[:TEXT_LIMIT], reason=action.reason[:TEXT_LIMIT])
        for step, action in plan.actions[:SHOWN_ACTIONS]
    ]
    if not plan.change:
        return PlanStatus(hash=plan.hash if actions else "", actions=actions)
    begun = old.started_at if old is not None and old.hash == plan.change else None
    return PlanStatus(hash=plan.change, started_at=begun or (None if plan.hold else rfc3339(now)), actions=actions)


def _steps(old: Iterable[StepStatus], plan: Plan, situation: Situation) -> list[StepStatus]:
    before = {step.name: step for step in old}
    current = plan.current[0] if plan.current and not plan.held else ""
    made = []
    for name, verdict in plan.verdicts:
        problem = situation.problem if name == current else None
        told = verdict if name != current or not situation.progress else replace(verdict, message=situation.progress)
        made.append(_step(before.get(name), name, told, current == name, problem, rfc3339(situation.now)))
    order = {step.name: number for number, step in enumerate(STEPS)}
    return sorted(made, key=lambda step: order[step.name])


def _step(
    old: StepStatus | None, name: str, verdict: Verdict, current: bool, problem: Problem | None, now: str
) -> StepStatus:
    state = _step_state(verdict, current, problem)
    message = (problem.message if problem else verdict.message)[:TEXT_LIMIT] or None
    if state in ("Pending", "Succeeded"):
        message = None
    started = old.started_at if old else None
    finished = old.finished_at if old else None
    if old is None or old.state != state:
        if state == "Running" and (old is None or old.state != "Failed"):
            started, finished = now, None
        elif state in ("Succeeded", "Failed"):
            started, finished = started or now, now
        elif state == "Pending":
            started, finished = None, None
    return StepStatus(name=name, state=state, started_at=started, finished_at=finished, message=message)


def _step_state(verdict: Verdict, current: bool, problem: Problem | None) -> str:
    if verdict.state == "met":
        return "Succeeded"
    if verdict.state == "skipped":
        return "Skipped"
    if not current:
        return "Pending"
    return "Failed" if problem or verdict.state in ("failed", "blocked") else "Running"


def _conditions(new: InstanceStatus, situation: Situation) -> Iterator[Condition]:
    yield from _summary(new, situation)
    placed = new.server is not None
    waiting = "no Server was chosen yet"
    yield condition("Scheduled", placed, "Placed" if placed else "Waiting", "" if placed else waiting)
    if situation.plan is not None and not situation.paused:
        yield from _lifecycle(situation.plan, situation)
    yield from _backup_health(new, situation.backups)
    if situation.paused:
        yield condition("Paused", True, "Annotated", f"annotation {names.PAUSED} is set: nothing is changed")
    if situation.deletion_blocked:
        yield condition("DeletionBlocked", True, "DeletionBlocked", situation.deleting)
    if situation.view is not None and situation.plan is not None:
        yield from _aspects(situation.view, situation.plan)
    else:
        yield from _last_known(new)


def _summary(new: InstanceStatus, situation: Situation) -> Iterator[Condition]:
    """Ready, Reconciling, Stalled: kstatus reads these."""
    plan, problem = situation.plan, situation.problem
    if situation.deleting:
        yield condition("Ready", False, "Deleting", situation.deleting)
        yield condition("Reconciling", True, "Deleting", situation.deleting)
        yield condition("Stalled", False, "Deleting")
    elif situation.paused:
        yield condition("Ready", None, "Paused", "paused: the host is not looked at")
        yield condition("Reconciling", False, "Paused")
        yield condition("Stalled", False, "Paused")
    elif problem is not None:
        yield condition("Ready", None if problem.reason == "ServerNotReady" else False, problem.reason, problem.message)
        yield condition("Reconciling", not problem.stalled, problem.reason, problem.message)
        yield condition("Stalled", problem.stalled, problem.reason, problem.message if problem.stalled else "")
    elif plan is not None and plan.held is not None:
        # What serves is what was asked for before: not wrong, but not what the spec says now.
        yield condition("Ready", None, plan.held.reason, plan.held.message)
        yield condition("Reconciling", True, plan.held.reason, plan.held.message)
        yield condition("Stalled", False, plan.held.reason)
    elif plan is not None and plan.converged and plan.state != "Running":
        # As asked, so Ready: else nobody who waits for this Instance would come to an end. See ADR 0011.
        reason = _stop_reason(plan, situation)
        yield condition("Ready", True, reason, f"{STOPPED[reason]}; its data is kept")
        yield condition("Reconciling", False, reason)
        yield condition("Stalled", False, reason)
    elif plan is not None and plan.converged:
        served = new.release.current if new.release else ""
        yield condition("Ready", True, "Converged", f"Release {served} is served at {new.url}")
        yield condition("Reconciling", False, "Converged")
        yield condition("Stalled", False, "Converged")
    else:
        message = _progress(plan)
        yield condition("Ready", None if new.release and new.release.current else False, "Progressing", message)
        yield condition("Reconciling", True, "Progressing", message)
        yield condition("Stalled", False, "Progressing")


STOPPED = {
    "Suspended": "suspended as asked, users get a page with status 503",
    "TrialExpired": "suspended because its trial is over (spec.trial.expiresAt), users get a page with status 503",
    "Archived": "archived as asked, users get a page with status 410",
}
"""Reason of the conditions of an Instance that does not run -> what people are told."""


def _stop_reason(plan: Plan, situation: Situation) -> str:
    view = situation.view
    if plan.state == "Suspended" and view is not None and view.policy.by_trial(view.now):
        return "TrialExpired"
    return plan.state


def _lifecycle(plan: Plan, situation: Situation) -> Iterator[Condition]:
    """Suspended and ApprovalNeeded: there only while they have something to say."""
    if plan.held is not None and plan.held.reason == APPROVAL:
        yield condition(APPROVAL, True, APPROVAL, plan.held.message)
    if plan.stopping:
        reason = _stop_reason(plan, situation)
        told = STOPPED[reason] if plan.converged else _progress(plan)
        yield condition("Suspended", plan.converged, reason if plan.converged else "Stopping", told)


def _progress(plan: Plan | None) -> str:
    if plan is None or plan.current is None:
        return "not looked at yet"
    name, verdict = plan.current
    return f"step {name}: {verdict.message}" if verdict.message else f"step {name}"


def _aspects(view: View, plan: Plan) -> Iterator[Condition]:
    if plan.stopping:
        yield from _stopped_aspects(view, plan)
        return
    if plan.held is not None:
        yield from _held_aspects(view)
        return
    database = _state(view, view.desired.database)
    yield condition(
        "DatabaseReady", database == "healthy", "Healthy" if database == "healthy" else "NotHealthy", database
    )
    ill = [f"{spec.role} is {_state(view, spec)}" for spec in view.desired.apps if _state(view, spec) != "healthy"]
    yield condition("AppHealthy", not ill, "NotHealthy" if ill else "Healthy", ", ".join(ill[:5]))
    routed = proxy.same(view.route, view.desired.route) and view.proxy is not None and view.proxy.running
    yield condition("RouteReady", routed, "Routed" if routed else "NotRouted")
    yield from _certificate(view)
    yield _in_sync(view, plan)


def _in_sync(view: View, plan: Plan) -> Condition:
    told = moved_images(view) if plan.converged else ""
    if not told:
        return condition("InSync", plan.converged, "Converged" if plan.converged else "Differs")
    return condition("InSync", True, IMAGE_MOVED, f"{told}: give the Release a digest or another tag to move to it")


def moved_images(view: View) -> str:
    """Which images of what runs were tagged anew on the host, for people; empty: none."""
    moved = [reference for reference in view.desired.images if reference in view.facts.images and view.moved(reference)]
    return ", ".join(f"{name} is {view.facts.images[name].id} now, and {view.pins[name]} runs on" for name in moved)


def _stopped_aspects(view: View, plan: Plan) -> Iterator[Condition]:
    for type_ in ("DatabaseReady", "AppHealthy"):
        yield condition(type_, False, plan.state, "it is not to run")
    paged = view.route is not None and view.route.page == plan.state
    yield condition("RouteReady", paged, plan.state if paged else "NotRouted")
    yield condition("InSync", plan.converged, "Converged" if plan.converged else "Differs")


def _held_aspects(view: View) -> Iterator[Condition]:
    """Of what serves meanwhile; its spec may not be known any more, but Docker tells how it is."""
    database = view.of_role(names.DATABASE)
    apps = [c for c in view.containers if names.is_app(c.labels) and view.served_once(c)]
    lost = sorted(set(view.record.serving or ()) - {view.made_name(c) for c in view.containers})
    for type_, parts, gone in (("DatabaseReady", database, []), ("AppHealthy", apps, lost)):
        ill = [f"{c.name} is {c.health or c.state}" for c in parts if not c.running or c.health not in ("", "healthy")]
        ill += [f"{name} is gone" for name in gone]
        well = bool(parts) and not ill
        yield condition(type_, well, "Healthy" if well else "NotHealthy", ", ".join(ill[:5]))
    routed = view.route is not None and proxy.same(view.route, serving_route(view) or view.desired.route)
    yield condition("RouteReady", routed, "Routed" if routed else "NotRouted")
    yield condition("InSync", False, "Differs")


def _certificate(view: View) -> Iterator[Condition]:
    """Judged by the request of step verify, which speaks TLS with the first domain when that has it."""
    host, mode = view.desired.route.hosts[0]
    if mode != "Off":
        reason, told = ("Served", "has a certificate") if view.verified else ("NotServed", "has no certificate yet")
        yield condition("CertificateReady", view.verified, reason, f"{host} {told} (mode {mode})")


def _last_known(new: InstanceStatus) -> Iterator[Condition]:
    """What was last known of a host that cannot be looked at: the reasons stay, the verdict becomes Unknown."""
    for type_ in ("DatabaseReady", "AppHealthy", "RouteReady", "CertificateReady", "InSync"):
        last = find(new.conditions, type_)
        if last is not None and last.reason == "NotObserved":
            yield last  # what was seen before that is still what was last seen
        elif last is not None:
            yield condition(type_, None, "NotObserved", f"was last seen {last.status.lower()}")


def _state(view: View, spec: ContainerSpec) -> str:
    container = view.container(spec)
    return view.health(spec, container) if container else "absent"


def _phase(new: InstanceStatus, situation: Situation) -> str:
    served = new.release is not None and new.release.current is not None
    if situation.deleting:
        return "Deleting"
    if situation.paused:
        return "Paused"
    if situation.problem is not None:
        if situation.problem.reason == "Restoring":
            return "Restoring"
        if situation.problem.reason == "ServerNotReady":
            return "Unreachable" if served else "Pending"
        return "Stalled" if situation.problem.stalled else "Failing"
    if situation.plan is None:
        return "Pending"
    if situation.plan.held is not None:
        return "Waiting"
    if situation.plan.converged:
        return situation.plan.state
    if situation.plan.state != "Running":
        return {"Suspended": "Suspending", "Archived": "Archiving"}[situation.plan.state]
    if new.state in ("Suspended", "Archived"):
        return "Resuming" if served else "Deploying"
    return "Updating" if served else "Deploying"
