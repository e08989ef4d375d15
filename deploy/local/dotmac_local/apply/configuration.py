"""Whether an applied configuration fits the schema at all, so that its fields can be owned."""

from __future__ import annotations

from typing import Any

from dotmac_local.apply.fieldset import shown
from dotmac_local.apply.patches import PatchError
from dotmac_local.apply.typed import path_element
from dotmac_local.schema import Schema
from dotmac_local.schema.listtypes import item_identity
from dotmac_local.schema.node import Node

_SCALARS: dict[str, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "string"),
    "integer": ((int, float), "numeric (int or float)"),
    "number": ((int, float), "numeric (int or float)"),
    "boolean": ((bool,), "boolean"),
}


def check_configuration(patch: dict[str, Any], schema: Schema) -> None:
    """Raises PatchError 500, as the API server does, for a field that the schema does not have, a value of another
    type, and items of a list map or set that repeat or lack their key.
    """
    metadata = patch.get("metadata")
    meta = metadata if isinstance(metadata, dict) else {}
    name = f"{meta.get('namespace', '')}/{meta.get('name', '')}"
    try:
        _check(patch, schema.node, (), is_object=True)
    except _MisfitError as misfit:
        kind = f"{patch.get('apiVersion')}, Kind={patch.get('kind')}"
        message = f"failed to create typed patch object ({name}; {kind}): {misfit}"
        raise PatchError(500, "", message) from None


class _MisfitError(ValueError):
    def __init__(self, path: tuple[str, ...], why: str) -> None:
        super().__init__(f"{shown(path)}: {why}")


def _check(value: Any, node: Node, path: tuple[str, ...], *, is_object: bool = False) -> None:
    if value is None or node.int_or_string:
        return
    if node.type in _SCALARS:
        accepted, name = _SCALARS[node.type]
        if not isinstance(value, accepted) or (isinstance(value, bool) and node.type != "boolean"):
            raise _MisfitError(path, f"expected {name}, got {value!r}")
    elif node.type == "array":
        if not isinstance(value, list):
            raise _MisfitError(path, f"expected list, got {value!r}")
        _check_items(value, node, path)
    elif node.type == "object" or is_object:
        if not isinstance(value, dict):
            raise _MisfitError(path, f"expected map, got {value!r}")
        _check_fields(value, node, path, is_object or node.embedded)


def _check_fields(value: dict[str, Any], node: Node, path: tuple[str, ...], is_object: bool) -> None:
    for name, item in value.items():
        below = (*path, f"f:{name}")
        child = node.child(name)
        if child is not None:
            _check(item, child, below)
        elif not (node.preserve or node.open_map or (is_object and name in ("apiVersion", "kind", "metadata"))):
            raise _MisfitError(below, "field not declared in schema")


def _check_items(value: list[Any], node: Node, path: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for index, item in enumerate(value):
        if node.items is not None:
            _check(item, node.items, (*path, f"i:{index}"))
        if node.list_type == "atomic":
            continue
        if node.list_type == "map" and not item_identity(item, node):
            keys = " ".join(f'"{key}"' for key in node.keys)
            why = f"element {index}: associative list with keys has an element that omits all key fields [{keys}]"
            raise _MisfitError(path, f"{why} (and doesn't have default values for any key fields)")
        element = path_element(item, node)
        if element in seen:
            raise _MisfitError(path, f"duplicate entries for key {shown((element,))}")
        seen.add(element)
