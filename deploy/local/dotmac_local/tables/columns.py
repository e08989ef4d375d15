"""The columns of every kind: those of a CRD, and those that a kube-apiserver prints for the built-in kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from dotmac_local.resources import RBAC, ResourceType
from dotmac_local.tables.jsonpath import BadPath, find

Object = dict[str, Any]

NAME_DOC = (
    "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a "
    "client to request the generation of an appropriate name automatically. Name is primarily intended for creation "
    "idempotence and configuration definition. Cannot be updated. More info: "
    "https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
)
_AGE_DOC = (
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed "
    "to be set in happens-before order across separate operations. Clients may not set this value. It is represented "
    "in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
)


@dataclass(frozen=True)
class Column:
    """One column: its definition and the cell of an object."""

    name: str
    type: str
    cell: Callable[[Object], Any]
    description: str = ""
    format: str = ""
    priority: int = 0

    def definition(self) -> Object:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


def age(timestamp: Any) -> str:
    """How long ago, in the units of `kubectl get`: 5s, 3m12s, 47m, 5h10m, 2d3h, 30d, 2y45d."""
    if not isinstance(timestamp, str):
        return "<unknown>"
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return "<invalid>"
    seconds = int((datetime.now(UTC) - then).total_seconds())
    return duration(seconds)


def duration(seconds: int) -> str:
    """Seconds as kubectl words them (Kubernetes: HumanDuration)."""
    if seconds < -1:
        return "<invalid>"
    if seconds < 0:
        return "0s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(first: int, unit: str, second: int, smaller: str) -> str:
    return f"{first}{unit}{second}{smaller}" if second else f"{first}{unit}"


def columns_of(resource: ResourceType) -> list[Column]:
    """Ordered as they are printed."""
    name = Column("Name", "string", lambda obj: obj["metadata"]["name"], NAME_DOC, "name")
    if resource.custom:
        own = [_custom(column) for column in resource.columns]
        return [name, *(own or [_custom_age()])]
    own = list(_BUILT_IN.get((resource.group, resource.kind), ()))
    if resource.kind == "Event":
        return own
    if resource.kind in ("CustomResourceDefinition", "ClusterRole", "Role"):
        return [name, Column("Created At", "date", lambda obj: obj["metadata"]["creationTimestamp"], _AGE_DOC)]
    return [name, *own, Column("Age", "string", _created, _AGE_DOC), *_WIDE.get((resource.group, resource.kind), ())]


def _created(obj: Object) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _custom_age() -> Column:
    return _custom({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})


def _custom(column: Object) -> Column:
    path, kind = column["jsonPath"], column["type"]
    described = column.get("description") or f"Custom resource definition column (in JSONPath format): {path}"

    def cell(obj: Object) -> Any:
        try:
            found = find(obj, path)
        except BadPath:
            return None
        return _cell(found, kind) if found else None

    return Column(column["name"], kind, cell, described, column.get("format", ""), column.get("priority", 0))


def _cell(found: Sequence[Any], kind: str) -> Any:
    """A value as its column's type; what does not fit shows as nothing."""
    value = found[0]
    if value is None:
        return None
    if kind == "date":
        return age(value)
    if kind == "integer":
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if kind == "number":
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    return ",".join(_text(item) for item in found)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    return orjson.dumps(value).decode()


def _count(*names: str) -> Callable[[Object], int]:
    return lambda obj: sum(len(obj.get(name) or ()) for name in names)


def _role(obj: Object) -> str:
    role = obj.get("roleRef") or {}
    return f"{role.get('kind', '')}/{role.get('name', '')}"


def _subjects(kind: str) -> Callable[[Object], str]:
    def cell(obj: Object) -> str:
        chosen = [subject for subject in obj.get("subjects") or [] if subject.get("kind") == kind]
        return ", ".join("/".join(part for part in (s.get("namespace"), s.get("name")) if part) for s in chosen)

    return cell


def _event_age(obj: Object) -> str:
    series = obj.get("series") or {}
    last = (
        series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("eventTime") or obj.get("firstTimestamp")
    )
    return age(last) if last else "<unknown>"


def _event_source(obj: Object) -> str:
    source = obj.get("source") or {}
    component = source.get("component") or obj.get("reportingComponent") or ""
    return ", ".join(part for part in (component, source.get("host")) if part)


def _event_object(obj: Object) -> str:
    involved = obj.get("involvedObject") or {}
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"


_BINDING = (
    Column(
        "Role",
        "string",
        _role,
        "RoleRef can only reference a Role in the current namespace or a ClusterRole in the global namespace.",
    ),
)
_WIDE_BINDING = tuple(
    Column(f"{label}s", "string", _subjects(kind), f"{label}s in the binding", priority=1)
    for label, kind in (("User", "User"), ("Group", "Group"), ("ServiceAccount", "ServiceAccount"))
)
_EVENTS = (
    Column(
        "Last Seen", "string", _event_age, "The time at which the most recent occurrence of this event was recorded."
    ),
    Column(
        "Type",
        "string",
        lambda o: o.get("type", ""),
        "Type of this event (Normal, Warning), new types could be added in the future",
    ),
    Column("Reason", "string", lambda o: o.get("reason", ""), "This should be a short, machine understandable string."),
    Column("Object", "string", _event_object, "The object that this event is about."),
    Column("Subobject", "string", lambda o: (o.get("involvedObject") or {}).get("fieldPath", ""), "", priority=1),
    Column("Source", "string", _event_source, "The component reporting this event.", priority=1),
    Column(
        "Message",
        "string",
        lambda o: str(o.get("message", "")).strip(),
        "A human-readable description of the status of this operation.",
    ),
    Column("First Seen", "string", lambda o: age(o.get("firstTimestamp") or o.get("eventTime")), "", priority=1),
    Column("Count", "string", lambda o: o.get("count") or (o.get("series") or {}).get("count") or 1, "", priority=1),
    Column("Name", "string", lambda o: o["metadata"]["name"], NAME_DOC, "name", priority=1),
)

_BUILT_IN: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "Secret"): (
        Column(
            "Type",
            "string",
            lambda obj: obj.get("type", ""),
            "Used to facilitate programmatic handling of secret data. More info: "
            "https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
        ),
        Column(
            "Data",
            "string",
            _count("data"),
            "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'. The "
            "serialized form of the secret data is a base64 encoded string, representing the arbitrary (possibly "
            "non-string) data value here. Described in https://tools.ietf.org/html/rfc4648#section-4",
        ),
    ),
    ("", "ConfigMap"): (
        Column("Data", "string", _count("data", "binaryData"), "Data contains the configuration data."),
    ),
    ("", "Namespace"): (
        Column("Status", "string", lambda o: (o.get("status") or {}).get("phase", ""), "The status of the namespace"),
    ),
    ("", "ServiceAccount"): (Column("Secrets", "string", _count("secrets"), "Secrets that pods may use."),),
    ("", "Event"): _EVENTS,
    ("events.k8s.io", "Event"): _EVENTS,
    ("coordination.k8s.io", "Lease"): (
        Column(
            "Holder", "string", lambda o: (o.get("spec") or {}).get("holderIdentity") or "", "The holder of the lease"
        ),
    ),
    (RBAC, "RoleBinding"): (*_BINDING,),
    (RBAC, "ClusterRoleBinding"): (*_BINDING,),
}
_WIDE = {(RBAC, "RoleBinding"): _WIDE_BINDING, (RBAC, "ClusterRoleBinding"): _WIDE_BINDING}
