"""The life of an instance: its state, tags, maintenance windows and approvals."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from dotmac_api.errors import Conflict, NotFound
from dotmac_api.gateway.writes import ensure, removable
from dotmac_api.instances.approval import APPROVE, APPROVED_BY, check_approval
from dotmac_api.instances.schemas import TAG
from dotmac_api.instances.windows import MOST, WindowBody, window_id
from dotmac_api.instances.writer import InstanceWriter
from dotmac_api.mirror.models import InstanceRow
from dotmac_crds.lifecycle import State

REQUIRES_APPROVAL = "requires_approval"


async def set_state(writer: InstanceWriter, row: InstanceRow, state: State) -> InstanceRow:
    """Running, Suspended or Archived. Raises Conflict for suspending what is archived."""

    def look(live: dict[str, Any]) -> None:
        if state == "Suspended" and live["spec"].get("state") == "Archived":
            raise Conflict("it is archived; POST .../reactivate brings it back first", code="archived")

    return await writer.apply(row, lambda config: ensure(config, "spec").update(state=state), look=look)


async def set_tag(writer: InstanceWriter, row: InstanceRow, key: str, value: str | None) -> InstanceRow:
    """Sets a tag, or (None) takes it away. Raises NotFound.

    `requires_approval` is the earlier platform's way to ask for approvals: it sets spec.approval, too.
    """
    name = TAG + key
    if value is None and name not in row.annotations:
        raise NotFound(f"the instance has no tag {key}")
    approval = _approval_tag(value) if key == REQUIRES_APPROVAL else None

    def edit(config: dict[str, Any]) -> None:
        annotations = ensure(config, "metadata", "annotations")
        if value is None:
            annotations.pop(name, None)
        else:
            annotations[name] = value
        if approval is not None:
            ensure(config, "spec")["approval"] = approval

    removes = (("f:metadata", "f:annotations", f"f:{name}"),) if value is None else ()
    look = writer.may_lower_approval if approval == "None" else None
    return await writer.apply(row, edit, removes=removes, look=look, asks=False)


async def add_window(writer: InstanceWriter, row: InstanceRow, window: WindowBody) -> InstanceRow:
    """Raises Conflict when there is an equal one, or too many."""
    wanted = window.model_dump()

    def changed(kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if any(window_id(w) == window_id(wanted) for w in kept):
            raise Conflict("the instance has this window already", code="already_exists")
        if len(kept) >= MOST:
            raise Conflict(f"there are {MOST} windows, as many as there may be; delete one first")
        return [*kept, wanted]

    return await _change_windows(writer, row, changed)


async def remove_window(writer: InstanceWriter, row: InstanceRow, which: str) -> InstanceRow:
    """Raises NotFound. After the last one, those of the plan hold."""

    def changed(kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
        left = [w for w in kept if window_id(w) != which]
        if len(left) == len(kept):
            raise NotFound(f"the instance has no maintenance window {which} of its own")
        return left

    return await _change_windows(writer, row, changed)


async def _change_windows(
    writer: InstanceWriter, row: InstanceRow, changed: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> InstanceRow:
    # The list has one owner as a whole, so it is made of what is there and not of what we own.
    windows: list[dict[str, Any]] = []

    def look(live: dict[str, Any]) -> None:
        windows[:] = changed(live["spec"].get("maintenanceWindows") or [])
        if not windows:
            removable(live, ("f:spec", "f:maintenanceWindows"))

    def edit(config: dict[str, Any]) -> None:
        if windows:
            ensure(config, "spec")["maintenanceWindows"] = list(windows)
        else:
            ensure(config, "spec").pop("maintenanceWindows", None)

    return await writer.apply(row, edit, look=look)


async def approve(writer: InstanceWriter, row: InstanceRow, plan: str) -> InstanceRow:
    """Lets the plan of this hash be carried out. Raises Conflict, and Forbidden for one's own change."""
    now = datetime.now(UTC)

    def edit(config: dict[str, Any]) -> None:
        ensure(config, "metadata", "annotations").update({APPROVE: plan, APPROVED_BY: writer.intent.actor})

    def look(live: dict[str, Any]) -> None:
        check_approval(live, plan, writer.intent.person, now)

    return await writer.apply(row, edit, look=look, asks=False)


def _approval_tag(value: str | None) -> str:
    return "Required" if (value or "").strip().lower() in ("true", "1", "yes", "on") else "None"
