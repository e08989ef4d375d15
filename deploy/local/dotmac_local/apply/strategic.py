"""Strategic merge patch, for the kinds that the API server itself implements.

As a merge patch, but lists with the patch strategy `merge` are merged by their key (or as a set), and directives inside
the patch say what else to do: `$patch`, `$retainKeys`, `$deleteFromPrimitiveList/<field>`, `$setElementOrder/<field>`.
"""

from __future__ import annotations

import functools
from typing import Any

from dotmac_local.apply.patches import PatchError
from dotmac_local.schema.core import CORE
from dotmac_local.schema.node import FREE, Node, compile_node

_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_DELETE = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"


def strategic_merge(target: dict[str, Any], patch: dict[str, Any], kind: tuple[str, str, str]) -> dict[str, Any]:
    """`target` with `patch` merged by the patch strategies of `kind` (group, version, kind). Changes neither.

    Raises PatchError 400 for a patch that does not fit: an unknown directive, a list item without its merge key.
    """
    return _merge_map(target, patch, _node(kind))


@functools.cache
def _node(kind: tuple[str, str, str]) -> Node:
    openapi = CORE.get(kind)
    return compile_node(openapi) if openapi is not None else FREE


def _refused(message: str) -> PatchError:
    return PatchError(400, "BadRequest", message)


def _merge_map(target: dict[str, Any], patch: dict[str, Any], node: Node) -> dict[str, Any]:
    directive = patch.get(_DIRECTIVE)
    if directive == "delete":
        return {}
    if directive not in (None, "replace", "merge"):
        raise _refused(f"Unknown patch type found: {directive}")
    out = {} if directive == "replace" else dict(target)
    if _RETAIN in patch:
        out = {key: value for key, value in out.items() if key in patch[_RETAIN]}
    for key, value in patch.items():
        if key.startswith(_DELETE):
            name = key.removeprefix(_DELETE)
            out[name] = [item for item in out.get(name) or [] if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            out.pop(key, None)
        else:
            out[key] = _merge_value(out.get(key), value, node.properties.get(key) or node.additional or FREE)
    for key, order in patch.items():
        if key.startswith(_ORDER) and isinstance(out.get(name := key.removeprefix(_ORDER)), list):
            out[name] = _in_order(out[name], order, node.properties.get(name) or FREE)
    return out


def _merge_value(target: Any, patch: Any, node: Node) -> Any:
    if isinstance(patch, dict):
        return _merge_map(target if isinstance(target, dict) else {}, patch, node)
    if isinstance(patch, list) and node.raw.get("x-kubernetes-patch-strategy") == "merge":
        return _merge_list(target if isinstance(target, list) else [], patch, node)
    return patch


def _merge_list(target: list[Any], patch: list[Any], node: Node) -> list[Any]:
    key = node.raw.get("x-kubernetes-patch-merge-key")
    if key is None:
        return [*target, *(item for item in patch if item not in target)]
    out: list[Any] = list(target)
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in patch):
        out = []
    for item in patch:
        if not isinstance(item, dict):
            raise _refused(f"a list merged by {key} holds objects only")
        if item.keys() == {_DIRECTIVE}:
            continue
        if key not in item:
            raise _refused(f"map: {item} does not contain declared merge key: {key}")
        at = next((index for index, known in enumerate(out) if known.get(key) == item[key]), None)
        if item.get(_DIRECTIVE) == "delete":
            out = [known for known in out if known.get(key) != item[key]]
        elif at is None:
            out.append(_merge_map({}, item, node.items or FREE))
        else:
            out[at] = _merge_map(out[at], item, node.items or FREE)
    return out


def _in_order(items: list[Any], order: list[Any], node: Node) -> list[Any]:
    """Items in the order the patch states; those it does not name go last, in the order they had."""
    key = node.raw.get("x-kubernetes-patch-merge-key")
    wanted = [entry.get(key) if isinstance(entry, dict) else entry for entry in order]
    names = [item.get(key) if isinstance(item, dict) else item for item in items]
    ranks = [wanted.index(name) if name in wanted else len(wanted) for name in names]
    return [item for _, item in sorted(zip(ranks, items, strict=True), key=lambda pair: pair[0])]
