"""Lists that are sets or maps: no two items may be the same, or have the same keys."""

from __future__ import annotations

import json
from typing import Any

from dotmac_local.schema import causes
from dotmac_local.schema.causes import Cause, Path, field_path
from dotmac_local.schema.node import MISSING, Node


def list_duplicates(value: Any, node: Node, path: Path, found: list[Cause]) -> None:
    """Add a FieldValueDuplicate cause for each item of a set or map list that repeats an earlier one."""
    if isinstance(value, dict):
        for key, item in value.items():
            child = node.child(key)
            if child is not None and isinstance(item, dict | list):
                list_duplicates(item, child, (*path, key), found)
    elif isinstance(value, list):
        if node.list_type != "atomic":
            _repeated(value, node, path, found)
        if node.items is not None:
            for index, item in enumerate(value):
                if isinstance(item, dict | list):
                    list_duplicates(item, node.items, (*path, index), found)


def _repeated(value: list[Any], node: Node, path: Path, found: list[Cause]) -> None:
    seen: set[str] = set()
    for index, item in enumerate(value):
        identity = item_identity(item, node) if node.list_type == "map" else item
        key = json.dumps(identity, sort_keys=True)
        if key in seen:
            found.append(causes.duplicate(field_path((*path, index)), identity))
        seen.add(key)


def item_identity(item: Any, node: Node) -> dict[str, Any]:
    """The key fields of an item of a list map; an absent key takes its default, or stays out."""
    if not isinstance(item, dict):
        return {}
    identity: dict[str, Any] = {}
    for key in node.keys:
        if key in item:
            identity[key] = item[key]
        elif node.items is not None and (child := node.items.properties.get(key)) and child.default is not MISSING:
            identity[key] = child.default
    return identity
