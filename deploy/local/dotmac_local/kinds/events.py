"""One event, two API groups: core/v1 is what is stored, events.k8s.io/v1 names the same fields differently."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

# events.k8s.io name -> core name; where a value is left out in one it is left out in the other.
_RENAMED = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_TO_NEW = {core: new for new, core in _RENAMED.items()}


def to_core(event: Object) -> Object:
    """An events.k8s.io/v1 Event as core/v1."""
    return {_RENAMED.get(name, name): value for name, value in event.items()} | {"apiVersion": "v1"}


def from_core(event: Object) -> Object:
    """A core/v1 Event as events.k8s.io/v1; what is empty is left out, but for eventTime."""
    renamed = {_TO_NEW.get(name, name): value for name, value in event.items()} | {"apiVersion": "events.k8s.io/v1"}
    return {name: value for name, value in renamed.items() if name == "eventTime" or value not in (None, "", {}, [])}
