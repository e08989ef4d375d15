"""What Backups and Restores have in common: when an Instance can be worked on, how a one-shot goes, what is told."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from dotmac_crds.backup import BackupStatus, Phase, RestoreStatus
from dotmac_crds.base import Condition
from dotmac_crds.instance import InstanceSpec, InstanceStatus
from dotmac_crds.lifecycle import State
from dotmac_crds.release import ReleaseSpec
from dotmac_operator.core.actions import RunContainer, StartContainer
from dotmac_operator.core.archive import NO_SPACE, TIMEOUT
from dotmac_operator.core.conditions import TEXT_LIMIT, condition, find, merge, rfc3339
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.steps.base import MET, Verdict, act, blocked, failed, wait
from dotmac_operator.core.steps.preflight import release_allowed

FINAL: tuple[Phase, ...] = ("Completed", "Failed")


@dataclass(frozen=True)
class Report:
    """What is to be told of a Backup or Restore."""

    phase: Phase
    reason: str
    message: str = ""
    deleting: bool = False
    blocked: bool = False
    """Of a deletion: it waits for somebody."""


def waits(reason: str, message: str) -> Verdict:
    return Verdict("wait", message, reason, after=30.0)


def workable(name: str, spec: InstanceSpec, status: InstanceStatus, generation: int) -> Verdict:
    """Whether the data of an Instance can be copied or replaced now: `met`, `wait`, or `blocked` for good.

    Not during a change: which Release wrote the data, and which dump the change can go back to, must be certain.
    """
    stopped: State | None = spec.state if spec.state != "Running" else None
    if stopped is None and (status.release is None or status.release.current is None):
        return waits("InstanceNotServed", f"Instance {name} was never served: this waits for its first deploy")
    if stopped is None and status.applied_generation != generation and not _given_up(status, generation):
        step = f", {status.step} steps are done" if status.step else ""
        return waits("InstanceChanging", f"Instance {name} is being changed{step}: this waits until that has ended")
    stopped = stopped or (status.state if status.state not in (None, "Running") else None)
    if stopped is not None:
        return blocked(
            "InstanceStopped",
            f"Instance {name} is {stopped.lower()}, so its database does not run: let it run again (spec.state, or a"
            " later spec.trial.expiresAt), then create this once more under another name",
        )
    return MET


def _given_up(status: InstanceStatus, generation: int) -> bool:
    stalled = find(status.conditions, "Stalled")
    return stalled is not None and stalled.status == "True" and stalled.observed_generation == generation


def restorable(backup: BackupStatus, name: str, instance: InstanceStatus, release: ReleaseSpec | None) -> Verdict:
    """Whether the Release that serves can live with what a Backup (called `name`) holds: `met`, or `blocked`.

    `release` is the one that serves; None when it does not exist any more.
    """
    serves = instance.release.current if instance.release else None
    if serves is None or backup.release == serves:
        return MET
    remedy = f"set the Instance's spec.releaseRef to {backup.release} first, then restore"
    told = f"Backup {name} was made by Release {backup.release} ({backup.release_version}), and {serves} serves"
    if instance.failure is not None:
        return blocked("ReleaseDiffers", f"{told}, to which a failed change has given way: {remedy}")
    if release is None:
        return blocked("ReleaseDiffers", f"{told}, which does not exist any more: {remedy}")
    if _newer(backup.release_version, release.version):
        return blocked("ReleaseDiffers", f"{told} ({release.version}), which is older: {remedy}")
    verdict = release_allowed(serves, release, backup.release, backup.release_version)
    return MET if verdict is None else blocked("ReleaseDiffers", f"{told}: {verdict.message}. Or {remedy}")


def _newer(one: str | None, other: str) -> bool:
    try:
        return one is None or Version(one) > Version(other)
    except InvalidVersion:
        return True


def progress(spec: ContainerSpec, found: ContainerFact | None, now: float, what: str) -> Verdict:
    """How far a one-shot is: the container itself is the record, as for the steps of a deploy."""
    if found is None:
        return act(RunContainer(what, spec))
    if found.state == "created":
        return act(StartContainer(f"it was created but not started: {what}", spec.name))
    if found.state not in ("exited", "dead"):
        if now - found.created > TIMEOUT:
            return failed("TookTooLong", f"{what}: it did not end within {TIMEOUT // 3600} h", found.name)
        return wait(what, after=2.0)
    if found.exit_code == 0:
        return MET
    return failed("", f"{what}: it ended with exit code {found.exit_code}", found.name)


def find_container(facts: Iterable[ContainerFact], spec: ContainerSpec) -> ContainerFact | None:
    return next((container for container in facts if container.name == spec.name), None)


def cause(log: str, otherwise: str) -> tuple[str, str]:
    """(reason, remedy) of a one-shot that has failed, by what it said last."""
    if NO_SPACE in log:
        reason = "DiskFull"
        return reason, "free space on the host (docker image prune, fewer Backups), or enlarge its disk; then "
    return otherwise, ""


def _conditions(report: Report) -> Iterator[Condition]:
    """As kstatus reads them."""
    reason, message = report.reason, report.message
    if report.deleting:
        yield condition("Ready", False, "Deleting", message)
        yield condition("Reconciling", True, "Deleting", message)
        yield condition("Stalled", False, "Deleting")
        if report.blocked:
            yield condition("DeletionBlocked", True, "DeletionBlocked", message)
        return
    ready = None if reason == "Paused" else report.phase == "Completed"
    yield condition("Ready", ready, reason, message)
    yield condition("Reconciling", report.phase not in FINAL and reason != "Paused", reason, message)
    yield condition("Stalled", report.phase == "Failed", reason, message if report.phase == "Failed" else "")


def status_of[StatusT: (BackupStatus, RestoreStatus)](
    old: StatusT, report: Report, generation: int, now: float
) -> StatusT:
    """The new status; equal to the old one when nothing has changed."""
    changes: dict[str, object] = {
        "observed_generation": generation,
        "conditions": merge(old.conditions, _conditions(report), generation, now),
        "message": report.message[:TEXT_LIMIT] or None,
    }
    if not report.deleting:
        changes["phase"] = report.phase
        if report.phase in FINAL:
            changes["finished_at"] = old.finished_at or rfc3339(now)
    return old.model_copy(update=changes)
