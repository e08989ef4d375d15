"""Approvals by two persons: who asked for what waits, and whether this person may approve it. Pure.

The operator lets disruptive work of an Instance with `approval: Required` wait until the annotation `approve` carries
the hash of its plan. Who asked is noted beside it on each write: everybody since the Instance was last in sync.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from dotmac_api.errors import Conflict, Forbidden
from dotmac_api.gateway.client import Object
from dotmac_api.gateway.writes import RECONCILE_REQUESTED_AT, ensure
from dotmac_api.mirror.projection import condition, parse_time
from dotmac_crds.base import GROUP

APPROVE = f"{GROUP}/approve"
APPROVED_BY = f"{GROUP}/approved-by"
ASKED_BY = f"{GROUP}/change-requested-by"
ASKED_AT = f"{GROUP}/change-requested-at"

LIFETIME = timedelta(days=7)
"""After which a change must be asked for again before it can be approved; as on the earlier platform."""


def asked_by(annotations: Mapping[str, str]) -> list[str]:
    """Ids of the persons who asked for what is not in place yet."""
    return [person for person in annotations.get(ASKED_BY, "").split(",") if person]


def note_request(config: Object, live: Mapping[str, Any], person: str, now: datetime) -> None:
    """Adds `person` to those who asked; the first one after the Instance was in sync starts the list afresh."""
    known = [] if settled(live) else asked_by(_annotations(live))
    annotations = ensure(config, "metadata", "annotations")
    annotations[ASKED_BY] = ",".join([*(p for p in known if p != person), person])
    annotations[ASKED_AT] = now.astimezone(UTC).isoformat(timespec="seconds")


def settled(live: Mapping[str, Any]) -> bool:
    """Whether the operator has taken up everything that was asked for, and nothing of it is left to do."""
    status = live.get("status") or {}
    asked = _annotations(live).get(RECONCILE_REQUESTED_AT)
    return (
        status.get("observedGeneration") == live["metadata"].get("generation")
        and (asked is None or status.get("lastHandledReconcileAt") == asked)
        and not (status.get("plan") or {}).get("actions")
    )


def check_approval(live: Mapping[str, Any], plan: str, person: str, now: datetime) -> None:
    """Raises Conflict when there is no such plan to approve (any more), Forbidden for one's own change."""
    status = live.get("status") or {}
    if condition(status, "ApprovalNeeded") != "True":
        raise Conflict("nothing waits for an approval; see GET .../plan", code="nothing_to_approve")
    current = status.get("observedGeneration") == live["metadata"].get("generation")
    if not current or (status.get("plan") or {}).get("hash") != plan:
        raise Conflict("the plan is another one by now: read GET .../plan again, and approve that", code="plan_changed")
    if person in asked_by(_annotations(live)):
        raise Forbidden("you asked for this change: somebody else has to approve it", code="own_change")
    if now - _asked_at(live, status) > LIFETIME:
        text = f"it was asked for more than {LIFETIME.days} days ago: have it asked for again with POST .../deploy"
        raise Conflict(text, code="approval_expired")


def _asked_at(live: Mapping[str, Any], status: Mapping[str, Any]) -> datetime:
    waits = next(c for c in status["conditions"] if c["type"] == "ApprovalNeeded")
    times = [parse_time(waits["lastTransitionTime"])]
    if noted := _annotations(live).get(ASKED_AT):
        times.append(parse_time(noted))
    return max(times)


def _annotations(live: Mapping[str, Any]) -> Mapping[str, str]:
    return live["metadata"].get("annotations") or {}
