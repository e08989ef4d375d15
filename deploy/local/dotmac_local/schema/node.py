"""A structural schema, read once from its OpenAPI form into nodes that the other modules walk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


@dataclass(slots=True, eq=False)
class Node:
    """One place in a schema.

    `additional` is the schema of every property not named in `properties`; `open_map` says that such properties are
    allowed without a schema (`additionalProperties: true`). `keys` names the fields that identify an item of a list of
    type map. `raw` is the OpenAPI the node was read from.
    """

    raw: dict[str, Any]
    type: str = ""
    nullable: bool = False
    int_or_string: bool = False
    preserve: bool = False
    embedded: bool = False
    default: Any = MISSING
    properties: dict[str, Node] = field(default_factory=dict)
    additional: Node | None = None
    open_map: bool = False
    items: Node | None = None
    list_type: str = "atomic"
    keys: tuple[str, ...] = ()
    atomic_map: bool = False

    def child(self, name: str) -> Node | None:
        """The node of a property, named or additional; None when the schema does not describe it."""
        return self.properties.get(name, self.additional)


# A place that the schema leaves open: maps are merged key by key, lists and scalars as a whole.
FREE = Node(raw={}, preserve=True)


def compile_node(openapi: dict[str, Any], *, null_defaults: bool = False) -> Node:
    """Read an OpenAPI v3 schema. `null_defaults`: take `default: null` as a default (our core kinds), where a custom
    resource definition means no default by it."""
    extra = openapi.get("additionalProperties")
    node = Node(
        raw=openapi,
        type=openapi.get("type", ""),
        nullable=bool(openapi.get("nullable")),
        int_or_string=bool(openapi.get("x-kubernetes-int-or-string")) or openapi.get("format") == "int-or-string",
        preserve=bool(openapi.get("x-kubernetes-preserve-unknown-fields")),
        embedded=bool(openapi.get("x-kubernetes-embedded-resource")),
        properties={
            name: compile_node(child, null_defaults=null_defaults)
            for name, child in (openapi.get("properties") or {}).items()
        },
        additional=compile_node(extra, null_defaults=null_defaults) if isinstance(extra, dict) else None,
        open_map=extra is True,
        items=compile_node(openapi["items"], null_defaults=null_defaults) if openapi.get("items") else None,
        list_type=openapi.get("x-kubernetes-list-type") or "atomic",
        keys=tuple(openapi.get("x-kubernetes-list-map-keys") or ()),
        atomic_map=openapi.get("x-kubernetes-map-type") == "atomic",
    )
    if "default" in openapi and (null_defaults or openapi["default"] is not None):
        node.default = openapi["default"]
    return node


def zero_value(node: Node) -> dict[str, Any]:
    """The fields below `node` that a typed object always shows: structs, and empty strings and times."""
    out: dict[str, Any] = {}
    for name, child in node.properties.items():
        if child.default == {}:
            out[name] = zero_value(child)
        elif child.default is None or child.default == "":
            out[name] = child.default
    return out
