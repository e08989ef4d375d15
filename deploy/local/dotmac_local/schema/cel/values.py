"""JSON values as CEL sees them: names that CEL can spell; times, durations, bytes and doubles of their own type."""

from __future__ import annotations

import base64
import datetime
import re
from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from dotmac_local.schema.node import Node

type Convert = Callable[[Any], Any]

# The words that CEL keeps for itself; a field of that name is written `__namespace__` in a rule.
RESERVED = frozenset(
    "true false null in as break const continue else for function if import let loop package namespace return var void "
    "while".split()
)
_UNREADABLE = frozenset({"true", "false", "null", "in"})
_SPELLED = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))
_ACCESSIBLE = re.compile(r"[A-Za-z_.\-/][A-Za-z0-9_.\-/]*")
_GO_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_GO_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def spellings(name: str) -> tuple[str, ...]:
    """All ways a rule may spell a property: reserved words that CEL's grammar can still read go as they are, too."""
    written = spelled(name)
    if written is None:
        return ()
    return (written, name) if name in RESERVED - _UNREADABLE else (written,)


def spelled(name: str) -> str | None:
    """How a rule spells a property; None when it cannot name it at all."""
    if name in RESERVED:
        return f"__{name}__"
    if not _ACCESSIBLE.fullmatch(name):
        return None
    for raw, written in _SPELLED:
        name = name.replace(raw, written)
    return name


def converter(node: Node) -> Convert | None:
    """The function that makes a value of `node` fit for CEL; None when values can be taken as they are."""
    if node.int_or_string:
        return None
    match node.type:
        case "number":
            return lambda value: float(value) if type(value) is int else value
        case "integer":
            return lambda value: int(value) if type(value) is float else value
        case "string":
            return _TEXT_FORMS.get(node.raw.get("format", ""))
        case "array":
            return _list_converter(node)
        case _:
            return _map_converter(node)


def _list_converter(node: Node) -> Convert | None:
    item = converter(node.items) if node.items is not None else None
    if item is None:
        return None
    return lambda value: [item(entry) for entry in value] if isinstance(value, list) else value


def _map_converter(node: Node) -> Convert | None:
    if node.additional is not None:
        extra = converter(node.additional)
        if extra is None:
            return None
        return lambda value: {k: extra(v) for k, v in value.items()} if isinstance(value, dict) else value
    renamed = {name: written for name in node.properties if (written := spelled(name)) not in (None, name)}
    changed = {name: make for name, child in node.properties.items() if (make := converter(child)) is not None}
    if not renamed and not changed:
        return None

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        out = dict(value)
        for name, make in changed.items():
            if name in out:
                out[name] = make(out[name])
        for name, written in renamed.items():
            if name in out:
                out[written] = out[name]
        return out

    return convert


def _time(value: Any) -> Any:
    stamp = Timestamp()
    try:
        stamp.FromJsonString(value)
    except (ValueError, AttributeError, TypeError):
        return value
    return stamp


def _date(value: Any) -> Any:
    try:
        day = datetime.date.fromisoformat(value)
    except (ValueError, TypeError):
        return value
    return _time(f"{day.isoformat()}T00:00:00Z")


def _duration(value: Any) -> Any:
    if not isinstance(value, str) or not _GO_DURATION.search(value):
        return value
    nanos = round(sum(float(amount) * _GO_UNITS[unit] for amount, unit in _GO_DURATION.findall(value)))
    length = Duration()
    length.FromNanoseconds(-nanos if value.startswith("-") else nanos)
    return length


def _bytes(value: Any) -> Any:
    try:
        return base64.b64decode(value, validate=True)
    except (ValueError, TypeError):
        return value


_TEXT_FORMS: dict[str, Convert] = {
    "date-time": _time,
    "datetime": _time,
    "date": _date,
    "duration": _duration,
    "byte": _bytes,
}
