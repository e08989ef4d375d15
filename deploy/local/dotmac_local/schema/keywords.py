"""The JSON types of what a CustomResourceDefinition is made of, so that its checks can count on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dotmac_local.schema import causes
from dotmac_local.schema.causes import Cause
from dotmac_local.schema.validation import json_type

type Shape = str | list[Any] | dict[str, Any]

# A shape is a JSON type, a list of one shape, or an object of named shapes ("*": of any name).
_RULE: Shape = {
    "rule": "string",
    "message": "string",
    "messageExpression": "string",
    "reason": "string",
    "fieldPath": "string",
    "optionalOldSelf": "boolean",
}
_SCHEMA: dict[str, Shape] = {
    **dict.fromkeys(("type", "format", "pattern", "description", "title", "$ref", "id"), "string"),
    **dict.fromkeys(("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"), "integer"),
    **dict.fromkeys(("maximum", "minimum", "multipleOf"), "number"),
    **dict.fromkeys(("nullable", "uniqueItems", "exclusiveMaximum", "exclusiveMinimum"), "boolean"),
    **dict.fromkeys(("x-kubernetes-int-or-string", "x-kubernetes-embedded-resource"), "boolean"),
    "x-kubernetes-preserve-unknown-fields": "boolean",
    "x-kubernetes-list-type": "string",
    "x-kubernetes-map-type": "string",
    "x-kubernetes-list-map-keys": ["string"],
    "x-kubernetes-validations": [_RULE],
    "required": ["string"],
    "enum": ["any"],
    "properties": {"*": "schema"},
    "items": "schema or list",
    "additionalProperties": "schema or boolean",
    "allOf": ["schema"],
    "anyOf": ["schema"],
    "oneOf": ["schema"],
    "not": "schema",
}
_COLUMN: Shape = {
    **dict.fromkeys(("name", "type", "format", "description", "jsonPath"), "string"),
    "priority": "integer",
}
_VERSION: Shape = {
    "name": "string",
    "served": "boolean",
    "storage": "boolean",
    "schema": {"openAPIV3Schema": "schema"},
    "subresources": {
        "scale": {"specReplicasPath": "string", "statusReplicasPath": "string", "labelSelectorPath": "string"}
    },
    "additionalPrinterColumns": [_COLUMN],
    "selectableFields": [{"jsonPath": "string"}],
}
_DEFINITION: Shape = {
    "metadata": {"name": "string", "annotations": {"*": "string"}},
    "spec": {
        "group": "string",
        "scope": "string",
        "names": {
            **dict.fromkeys(("plural", "singular", "kind", "listKind"), "string"),
            "shortNames": ["string"],
            "categories": ["string"],
        },
        "versions": [_VERSION],
        "conversion": {"strategy": "string", "webhook": {"conversionReviewVersions": ["string"]}},
        "preserveUnknownFields": "boolean",
    },
}
# Deeper ones are refused; the checks of a definition call themselves once a level.
MAX_DEPTH = 100


def ill_typed(crd: Any) -> Iterator[Cause]:
    """A FieldValueTypeInvalid cause for every part of a definition that is of the wrong JSON type."""
    yield from _misfits(crd, _DEFINITION, "", 0)


def _misfits(value: Any, shape: Shape, field: str, depth: int) -> Iterator[Cause]:
    if value is None or shape == "any":
        return
    if depth > MAX_DEPTH:
        yield causes.invalid(field, None, f"nested more than {MAX_DEPTH} levels deep")
    elif isinstance(shape, dict):
        yield from _map_misfits(value, shape, field, depth)
    elif isinstance(shape, list):
        if isinstance(value, list):
            for index, item in enumerate(value):
                if item is None and shape[0] != "any":
                    yield _misfit(item, "object", f"{field}[{index}]")
                yield from _misfits(item, shape[0], f"{field}[{index}]", depth + 1)
        else:
            yield _misfit(value, "array", field)
    elif shape.startswith("schema"):
        yield from _schema_misfits(value, shape, field, depth)
    elif json_type(value) != shape and not (shape == "number" and json_type(value) == "integer"):
        yield _misfit(value, shape, field)


def _map_misfits(value: Any, shape: dict[str, Any], field: str, depth: int) -> Iterator[Cause]:
    if not isinstance(value, dict):
        yield _misfit(value, "object", field)
        return
    every = shape.get("*")
    for name, item in value.items():
        inner = shape.get(name, every)
        if inner is not None:
            if item is None and inner == "schema":
                yield _misfit(item, "object", f"{field}.{name}")
            yield from _misfits(item, inner, f"{field}.{name}" if field else name, depth + 1)


def _schema_misfits(value: Any, shape: str, field: str, depth: int) -> Iterator[Cause]:
    if shape.endswith("boolean") and isinstance(value, bool):
        return
    if shape.endswith("list") and isinstance(value, list):
        yield from _misfits(value, ["schema"], field, depth)
        return
    yield from _map_misfits(value, _SCHEMA, field, depth)


def _misfit(value: Any, expected: str, field: str) -> Cause:
    actual = json_type(value)
    name = field or "definition"
    return causes.type_invalid(name, actual, f'{name} in body must be of type {expected}: "{actual}"')
