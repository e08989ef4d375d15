"""What changed between two versions of a resource, as a history. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from dotmac_api.mirror.projection import Row, optional_time

InstanceEvent = Literal[
    "instance.created",
    "instance.deleted",
    "instance.status_changed",
    "instance.release_changed",
    "instance.condition_changed",
    "instance.step_changed",
    "instance.drift_repaired",
    "instance.trial_expired",
    "instance.certificate_expiring",
    "backup.created",
    "backup.started",
    "backup.completed",
    "backup.failed",
    "backup.deleted",
    "restore.created",
    "restore.started",
    "restore.completed",
    "restore.failed",
    "restore.deleted",
]
"""What the history of an instance has, with its backups and restores."""

Event = Literal[InstanceEvent, "server.status_changed", "server.condition_changed"]
EVENTS: tuple[str, ...] = get_args(Event)
"""Everything that history records and webhooks can be told."""

_WATCHED = {"Instance": "instance", "Server": "server"}
_WORK = {"Backup": "backup", "Restore": "restore"}
_REACHED = {"running": "started", "completed": "completed", "failed": "failed"}


@dataclass(frozen=True)
class Transition:
    """One thing that changed."""

    event: str
    at: datetime | None
    """When the resource says it happened; None: it does not tell."""
    subject: str = ""
    before: str | None = None
    after: str | None = None
    reason: str = ""
    message: str = ""


def transitions(kind: str, old: Mapping[str, Any] | None, new: Row, *, gone: bool = False) -> Iterator[Transition]:
    """Between the row kept (None: the resource is new) and the row to come. `gone`: `new` is the last that was seen."""
    if kind in _WORK:
        yield from _work(_WORK[kind], old, new, gone)
        return
    noun = _WATCHED.get(kind)
    if noun is None:
        return
    before: Mapping[str, Any] = old if old is not None else {"observed": {}}
    if old is None and noun == "instance":
        yield Transition("instance.created", new["created_at"], after=new["status"])
    if before.get("status") != new["status"]:
        yield _status(noun, before, new)
    if noun == "instance":
        yield from _instance(before, new)
    yield from _conditions(noun, before["observed"], new["observed"])
    if gone and noun == "instance":
        yield Transition("instance.deleted", None, before=new["status"])


def _work(noun: str, old: Mapping[str, Any] | None, new: Row, gone: bool) -> Iterator[Transition]:
    """Of a Backup or a Restore, which is done once: where it has got to. Told of the Instance that it is for."""
    subject = new["instance_name"]
    if old is None:
        yield Transition(f"{noun}.created", new["created_at"], subject, after=new["status"])
    before = old["status"] if old is not None else "pending"
    if before != new["status"] and new["status"] in _REACHED:
        yield Transition(
            event=f"{noun}.{_REACHED[new['status']]}",
            at=new["started_at"] if new["status"] == "running" else new["finished_at"],
            subject=subject,
            before=before,
            after=new["status"],
            reason=_ready(new).get("reason", ""),
            message=new["observed"].get("message") or "",
        )
    if gone:
        yield Transition(f"{noun}.deleted", None, subject, before=new["status"])


def _ready(row: Row) -> Mapping[str, Any]:
    return next((c for c in row["observed"].get("conditions") or () if c["type"] == "Ready"), {})


def _status(noun: str, old: Mapping[str, Any], new: Row) -> Transition:
    ready = _ready(new)
    return Transition(
        event=f"{noun}.status_changed",
        at=None,
        before=old.get("status"),
        after=new["status"],
        reason=ready.get("reason", ""),
        message=ready.get("message", ""),
    )


def _instance(old: Mapping[str, Any], new: Row) -> Iterator[Transition]:
    if old.get("deployed_release") != new["deployed_release"]:
        yield Transition(
            "instance.release_changed", None, before=old.get("deployed_release"), after=new["deployed_release"]
        )
    yield from _steps(old["observed"], new["observed"])
    drift = new["observed"].get("drift")
    if drift and drift != old["observed"].get("drift"):
        yield Transition("instance.drift_repaired", optional_time(drift["repairedAt"]), message=drift["what"])


def _conditions(noun: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Transition]:
    kept = {c["type"]: c for c in old.get("conditions") or ()}
    for fresh in new.get("conditions") or ():
        was = kept.get(fresh["type"])
        if was is None or (was["status"], was["reason"]) != (fresh["status"], fresh["reason"]):
            flipped = was is None or was["status"] != fresh["status"]
            yield Transition(
                event=f"{noun}.condition_changed",
                # A change of the reason alone leaves the transition time where it was.
                at=optional_time(fresh["lastTransitionTime"]) if flipped else None,
                subject=fresh["type"],
                before=was["status"] if was else None,
                after=fresh["status"],
                reason=fresh["reason"],
                message=fresh.get("message", ""),
            )


def _steps(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Transition]:
    kept = {step["name"]: step for step in old.get("steps") or ()}
    for fresh in new.get("steps") or ():
        was = kept.get(fresh["name"])
        if was is None or was["state"] != fresh["state"]:
            ended = fresh["state"] in ("Succeeded", "Failed", "Skipped")
            yield Transition(
                event="instance.step_changed",
                at=optional_time(fresh.get("finishedAt") if ended else fresh.get("startedAt")),
                subject=fresh["name"],
                before=was["state"] if was else None,
                after=fresh["state"],
                message=fresh.get("message") or "",
            )
