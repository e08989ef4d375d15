"""Sets of field paths: who owns what in an object.

A set is a tree of path elements in the notation of `fieldsV1`: `f:name` for a field, `k:{"name":"http"}` for an item of
a list map, `v:"x"` for an item of a set. A node that is itself a member carries the key `.`; so `{"f:spec": {".": {},
"f:size": {".": {}}}}` holds spec and spec.size. `fieldsV1` writes a member without children as `{}`, hence `encode`
and `decode`. No function changes its arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

type FieldSet = dict[str, Any]

MEMBER = "."


def decode(fields: dict[str, Any]) -> FieldSet:
    """A `fieldsV1` as a set."""
    return {key: {} if key == MEMBER else decode(below) if below else {MEMBER: {}} for key, below in fields.items()}


def encode(fields: FieldSet) -> dict[str, Any]:
    """A set as `fieldsV1`, keys in order."""
    out: dict[str, Any] = {}
    for key in sorted(fields):
        below = fields[key]
        out[key] = {} if key == MEMBER or below.keys() == {MEMBER} else encode(below)
    return out


def union(left: FieldSet, right: FieldSet) -> FieldSet:
    out = dict(left)
    for key, below in right.items():
        out[key] = union(out[key], below) if key in out else below
    return out


def difference(left: FieldSet, right: FieldSet) -> FieldSet:
    """The members of `left` that are not members of `right`."""
    out: FieldSet = {}
    for key, below in left.items():
        if key not in right:
            out[key] = below
        elif key != MEMBER and (rest := difference(below, right[key])):
            out[key] = rest
    return out


def recursive_difference(left: FieldSet, right: FieldSet) -> FieldSet:
    """`left` without the members of `right` and everything below them."""
    out: FieldSet = {}
    for key, below in left.items():
        other = right.get(key)
        if other is None:
            out[key] = below
        elif key != MEMBER and MEMBER not in other and (rest := recursive_difference(below, other)):
            out[key] = rest
    return out


def intersection(left: FieldSet, right: FieldSet) -> FieldSet:
    out: FieldSet = {}
    for key, below in left.items():
        if key not in right:
            continue
        if key == MEMBER:
            out[key] = {}
        elif common := intersection(below, right[key]):
            out[key] = common
    return out


def named_as_members(fields: FieldSet) -> FieldSet:
    """The set with every field that holds members made a member too (items of lists stay as they are)."""
    out: FieldSet = {}
    for key, below in fields.items():
        if key == MEMBER:
            out[key] = {}
            continue
        out[key] = named_as_members(below)
        if key.startswith("f:"):
            out[key][MEMBER] = {}
    return out


def members(fields: FieldSet, above: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
    """The path of every member: those of one level first, then what is below them."""
    ordered = sorted(key for key in fields if key != MEMBER)
    for key in ordered:
        if MEMBER in fields[key]:
            yield (*above, key)
    for key in ordered:
        yield from members(fields[key], (*above, key))


def shown(path: tuple[str, ...]) -> str:
    """A path as conflicts print it: `.spec.ports[name="http"].number`."""
    text = ""
    for element in path:
        kind, _, name = element.partition(":")
        if kind == "f":
            text += f".{name}"
        elif kind == "v":
            text += f"[={name}]"
        elif kind == "k":
            pairs = json.loads(name).items()
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in pairs) + "]"
        else:
            text += f"[{name}]"
    return text
