"""Dropping the fields that a schema does not know, and filling in the ones it has defaults for."""

from __future__ import annotations

import copy
from typing import Any

from dotmac_local.schema.causes import Path, field_path
from dotmac_local.schema.metadata import OBJECT_META
from dotmac_local.schema.node import MISSING, Node, compile_node

_METADATA = compile_node(OBJECT_META)
_OBJECT_FIELDS = frozenset({"apiVersion", "kind", "metadata"})


def prune(value: Any, node: Node, path: Path, unknown: list[str], *, is_object: bool = False) -> None:
    """Drop what `node` does not describe from `value`, in place, and add the paths dropped to `unknown`.

    `is_object`: `value` is a whole object, whose apiVersion, kind and metadata belong to Kubernetes.
    """
    if isinstance(value, dict):
        _prune_map(value, node, path, unknown, is_object or node.embedded)
    elif isinstance(value, list) and node.items is not None:
        for index, item in enumerate(value):
            if isinstance(item, dict | list):
                prune(item, node.items, (*path, index), unknown)


def _prune_map(value: dict[str, Any], node: Node, path: Path, unknown: list[str], is_object: bool) -> None:
    dropped: list[str] = []
    for key, item in value.items():
        if is_object and key in _OBJECT_FIELDS:
            if key == "metadata":
                prune(item, _METADATA, (*path, key), unknown)
            continue
        child = node.properties.get(key, node.additional)
        if child is not None:
            if isinstance(item, dict | list):
                prune(item, child, (*path, key), unknown)
        elif not node.preserve and not node.open_map:
            dropped.append(key)
    for key in dropped:
        del value[key]
        unknown.append(field_path((*path, key)))


def default(value: Any, node: Node) -> None:
    """Fill in defaults, in place. A null where null is not allowed counts as absent: it takes the default, or goes.

    A default fills an absent field of a present object only; a default for the object itself brings its own fields.
    """
    if isinstance(value, dict):
        _default_map(value, node)
    elif isinstance(value, list) and node.items is not None:
        _default_list(value, node.items)


def _default_map(value: dict[str, Any], node: Node) -> None:
    for key, child in node.properties.items():
        item = value.get(key, MISSING)
        if item is MISSING or (item is None and not child.nullable):
            if child.default is not MISSING:
                value[key] = item = copy.deepcopy(child.default)
            elif item is None:
                del value[key]
        if isinstance(item, dict | list):
            default(item, child)
    extra = node.additional
    if extra is None:
        return
    for key, item in list(value.items()):
        if key in node.properties:
            continue
        if item is None and not extra.nullable:
            if extra.default is MISSING:
                del value[key]
                continue
            value[key] = item = copy.deepcopy(extra.default)
        if isinstance(item, dict | list):
            default(item, extra)


def _default_list(value: list[Any], items: Node) -> None:
    for index, item in enumerate(value):
        if item is None and not items.nullable and items.default is not MISSING:
            value[index] = item = copy.deepcopy(items.default)
        if isinstance(item, dict | list):
            default(item, items)
