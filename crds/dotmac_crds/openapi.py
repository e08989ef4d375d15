"""pydantic's JSON schema -> the structural OpenAPI schema that a CustomResourceDefinition takes.

Structural: no `$ref`, no `anyOf` with null, no `const`, no `patternProperties`; every string, list and map bounded,
because the API server prices CEL rules by those bounds.
Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

Node = dict[str, Any]

_DROPPED = {"title", "examples", "$defs"}


def structural(model: type[BaseModel]) -> Node:
    """The structural schema of `model`, by its camelCase names."""
    made = model.model_json_schema(by_alias=True, mode="validation")
    return _node(made, made.get("$defs", {}))


def _node(node: Node, defs: dict[str, Node]) -> Node:
    node = _without_null(_resolved(node, defs))
    node = _resolved(node, defs)
    made: Node = {key: value for key, value in node.items() if key not in _DROPPED}
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type")
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if made.get("type") == "array":
        made["items"] = _node(made["items"], defs)
    if made.get("type") == "object":
        _object(made, defs)
    return made


def _object(made: Node, defs: dict[str, Node]) -> None:
    if "properties" in made:
        # Unknown fields are pruned by the API server; `additionalProperties: false` may not stand beside properties.
        made.pop("additionalProperties", None)
        made["properties"] = {name: _node(child, defs) for name, child in made["properties"].items()}
        if made.get("default"):
            made["default"] = _beyond(made["default"], made["properties"])
        return
    keys = made.pop("propertyNames", None)
    for pattern, child in made.pop("patternProperties", {}).items():
        made["additionalProperties"] = child
        keys = {**(keys or {}), "pattern": pattern}
    made["additionalProperties"] = _node(made["additionalProperties"], defs)
    if keys:
        keys = _node(keys, defs)
        made.setdefault("x-kubernetes-validations", []).append(_key_rule(keys))


def _beyond(default: Node, properties: dict[str, Node]) -> Node:
    """What a default says beyond its fields' own defaults, which fill the rest."""
    made: Node = {}
    for name, value in default.items():
        field = properties[name]
        if value is None or value == field.get("default"):
            continue
        made[name] = _beyond(value, field["properties"]) if "properties" in field else value
        if made[name] == {}:
            del made[name]
    return made


def _key_rule(keys: Node) -> Node:
    """CEL for what OpenAPI cannot say in a structural schema: how the keys of a map look."""
    pattern = keys["pattern"].replace("\\", "\\\\").replace("'", "\\'")
    longest = keys["maxLength"]
    return {
        "rule": f"self.all(k, size(k) <= {longest} && k.matches('{pattern}'))",
        "message": f"every key has at most {longest} characters and matches {keys['pattern']}",
    }


def _resolved(node: Node, defs: dict[str, Node]) -> Node:
    """`$ref` replaced by what it names; words beside it, such as the field's description, win."""
    while "$ref" in node:
        named = defs[node["$ref"].rsplit("/", 1)[1]]
        node = {**named, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def _without_null(node: Node) -> Node:
    """`X | None = None` means an absent field; null itself is not a value here."""
    if "anyOf" not in node or node.get("x-kubernetes-int-or-string"):
        return node
    real = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
    if len(real) != 1:
        raise TypeError(f"a field is of one type: {node}")
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    if rest.get("default", "") is None:
        rest.pop("default")
    return {**real[0], **rest}


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every node of a structural schema with its path, for tests and documentation."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from walk(node["additionalProperties"], f"{path}{{}}")
