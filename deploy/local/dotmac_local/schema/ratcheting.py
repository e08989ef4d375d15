"""On an update, what was already wrong and was not touched is let through (CRDValidationRatcheting)."""

from __future__ import annotations

import json
from typing import Any

from dotmac_local.schema.causes import Path
from dotmac_local.schema.listtypes import item_identity
from dotmac_local.schema.node import MISSING, Node
from dotmac_local.schema.validation import same_json


def untouched(new: Any, old: Any, node: Node | None, path: Path) -> bool:
    """Whether the value at `path`, or something around it, is the same in `new` as in `old`."""
    for step in path:
        if same_json(new, old):
            return True
        old = correlated(old, new, node, step)
        if old is MISSING:
            return False
        new, node = _descend(new, node, step)
    return same_json(new, old)


def _descend(value: Any, node: Node | None, step: str | int) -> tuple[Any, Node | None]:
    child = None if node is None else (node.items if isinstance(step, int) else node.child(step))
    return value[step], child


def correlated(old: Any, new: Any, node: Node | None, step: str | int) -> Any:
    """The old value that belongs to `new[step]`: by name in maps, by key in list maps, none in other lists."""
    if isinstance(step, str):
        if isinstance(old, dict) and isinstance(new, dict) and step in old and step in new:
            return old[step]
        return MISSING
    if node is None or node.list_type != "map" or not isinstance(old, list) or not isinstance(new, list):
        return MISSING
    wanted = json.dumps(item_identity(new[step], node), sort_keys=True)
    for item in old:
        if json.dumps(item_identity(item, node), sort_keys=True) == wanted:
            return item
    return MISSING
