"""Objects seen through their schema: which fields they have, how two differ, how one is merged into the other.

The rules are those of Kubernetes' structured merge: maps are merged by key and list maps and sets by item, unless the
schema calls them atomic; other lists and all scalars are taken as a whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import orjson

from dotmac_local.apply.fieldset import MEMBER, FieldSet
from dotmac_local.schema.listtypes import item_identity
from dotmac_local.schema.node import FREE, Node
from dotmac_local.schema.validation import same_json

_ABSENT = object()
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_encode_sorted = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def child_node(node: Node, name: str) -> Node:
    """The node below `name`; what the schema leaves open is merged by key, without end."""
    return node.properties.get(name) or node.additional or FREE


def item_node(node: Node) -> Node:
    return node.items or FREE


def is_leaf(value: Any, node: Node) -> bool:
    """Whether a value is owned and replaced as a whole."""
    if isinstance(value, dict):
        return node.atomic_map
    if isinstance(value, list):
        return node.list_type == "atomic"
    return True


def path_element(item: Any, node: Node) -> str:
    """The path element of an item of a set or list map."""
    if node.list_type == "map":
        identity = item_identity(item, node)
        return "k:" + _encode_sorted(identity)
    return "v:" + _encode(item)


def items_by_element(items: list[Any], node: Node) -> dict[str, Any]:
    """The items of a set or list map, in order; of a repeated one, the first."""
    out: dict[str, Any] = {}
    for item in items:
        out.setdefault(path_element(item, node), item)
    return out


def field_set(value: Any, node: Node) -> FieldSet:
    """The fields that an applied configuration states: leaves, items, empty maps, and entries of open maps."""
    if is_leaf(value, node):
        return {MEMBER: {}}
    out: FieldSet = {}
    if isinstance(value, dict):
        for name, item in value.items():
            below = field_set(item, child_node(node, name))
            if item is None or item == {} or name not in node.properties:
                below = {**below, MEMBER: {}}
            if below:
                out["f:" + name] = below
    else:
        for element, item in items_by_element(value, node).items():
            out[element] = {**field_set(item, item_node(node)), MEMBER: {}}
    return out


@dataclass(slots=True)
class Comparison:
    """Where two objects differ."""

    added: FieldSet = field(default_factory=dict)
    modified: FieldSet = field(default_factory=dict)
    removed: FieldSet = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.added or self.modified or self.removed)


def compare(old: Any, new: Any, node: Node) -> Comparison:
    """What `new` adds, changes and drops. A map or item that comes or goes is counted itself, with all below it."""
    out = Comparison()
    if old is new:
        return out
    old, new = _null_as_empty(old, new), _null_as_empty(new, old)
    if is_leaf(old, node) or is_leaf(new, node) or type(old) is not type(new) or (not old and not new):
        if not same_json(old, new):
            out.modified[MEMBER] = {}
        return out
    if isinstance(old, dict):
        _compare_items(old, new, node, "f:", out)
    else:
        _compare_items(items_by_element(old, node), items_by_element(new, node), node, "", out)
    return out


def _null_as_empty(value: Any, other: Any) -> Any:
    """A null beside a map or list with content counts as an empty one."""
    return type(other)() if value is None and isinstance(other, dict | list) and other else value


def _compare_items(old: dict[str, Any], new: dict[str, Any], node: Node, prefix: str, out: Comparison) -> None:
    for name, item in new.items():
        below = child_node(node, name) if prefix else item_node(node)
        before = old.get(name, _ABSENT)
        if before is item:
            continue
        if before is _ABSENT:
            out.added[prefix + name] = all_fields(item, below)
            continue
        if _written_alike(before, item):
            continue
        inner = compare(before, item, below)
        for total, part in ((out.added, inner.added), (out.modified, inner.modified), (out.removed, inner.removed)):
            if part:
                total[prefix + name] = part
    for name, item in old.items():
        if name not in new:
            below = child_node(node, name) if prefix else item_node(node)
            out.removed[prefix + name] = all_fields(item, below)


def _written_alike(old: Any, new: Any) -> bool:
    """Whether two maps or lists are the same text, which is found much sooner than by looking at each of their fields.
    Others may be equal, too."""
    if not isinstance(old, dict | list) or type(old) is not type(new):
        return False
    try:
        return orjson.dumps(old) == orjson.dumps(new)
    except TypeError:
        return False  # a number that it has no room for


def all_fields(value: Any, node: Node) -> FieldSet:
    """A value and everything in it."""
    out: FieldSet = {MEMBER: {}}
    if is_leaf(value, node):
        return out
    if isinstance(value, dict):
        for name, item in value.items():
            out["f:" + name] = all_fields(item, child_node(node, name))
    else:
        for element, item in items_by_element(value, node).items():
            out[element] = all_fields(item, item_node(node))
    return out


def merge(live: Any, applied: Any, node: Node) -> Any:
    """`applied` laid over `live`. Shares what it does not change with its arguments."""
    if applied is None or type(live) is not type(applied) or is_leaf(live, node) or is_leaf(applied, node):
        return applied
    if isinstance(live, dict):
        out = dict(live)
        for name, item in applied.items():
            out[name] = merge(live[name], item, child_node(node, name)) if name in live else item
        return out
    return _merge_items(live, applied, node)


def _merge_items(live: list[Any], applied: list[Any], node: Node) -> list[Any]:
    """Items of both, in the order of `applied`, the others staying near their live neighbours.

    Walks both lists: an item only live is taken where it stands, a shared one where `applied` has it.
    """
    old, new = items_by_element(live, node), items_by_element(applied, node)
    left, right = list(old), list(new)
    shared = [element for element in right if element in old]
    out: list[Any] = []
    done: set[str] = set()
    i = j = 0
    while i < len(left) or j < len(right):
        wanted = next((element for element in shared if element not in done), None)
        if i < len(left) and left[i] in new:
            ours_next = j < len(right) and left[i] == right[j]
            if left[i] in done or (not ours_next and left[i] != wanted):
                i += 1
                continue
        if i < len(left) and left[i] not in new:
            out.append(old[left[i]])
            i += 1
        elif j < len(right):
            element = right[j]
            out.append(merge(old[element], new[element], item_node(node)) if element in old else new[element])
            done.add(element)
            j += 1
        else:
            i += 1
    return out


def remove(value: Any, fields: FieldSet, node: Node) -> Any:
    """`value` without the members of `fields`; what is left empty by that becomes None."""
    if is_leaf(value, node) or not value:
        return value
    if isinstance(value, dict):
        kept: dict[str, Any] = {}
        for name, item in value.items():
            below = fields.get("f:" + name)
            if below is None:
                kept[name] = item
            elif MEMBER not in below:
                kept[name] = remove(item, below, child_node(node, name))
        return kept or None
    items: list[Any] = []
    for item in value:
        below = fields.get(path_element(item, node))
        if below is None:
            items.append(item)
        elif MEMBER not in below:
            items.append(remove(item, below, item_node(node)))
    return items or None
