"""The rules for schemas inside a CustomResourceDefinition ("structural schemas"), and of their extensions."""

from __future__ import annotations

from typing import Any

from dotmac_local.schema import causes, pruning
from dotmac_local.schema.causes import Cause
from dotmac_local.schema.listtypes import list_duplicates
from dotmac_local.schema.node import MISSING, compile_node
from dotmac_local.schema.patterns import PatternError, compile_pattern
from dotmac_local.schema.validation import Finding, compile_checks

type OpenAPI = dict[str, Any]

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_NOT_SUPPORTED = ("$ref", "id", "definitions", "patternProperties", "dependencies", "additionalItems")
# What only the schema itself may say, not the branches of allOf, anyOf, oneOf and not.
_OUTSIDE_EMPTY = ("type", "description", "title", "additionalProperties", "x-kubernetes-list-type")
_JUNCTORS = ("allOf", "anyOf", "oneOf")
# The one place where branches may have types: beside x-kubernetes-int-or-string, spelled like this.
_INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]
_SCALARS = ("string", "number", "integer", "boolean")
_OBJECT_FIELDS = ("apiVersion", "kind")


def check_structure(schema: OpenAPI, field: str) -> list[Cause]:
    """Why the schema at `field` (`spec.validation.openAPIV3Schema`) is not structural; it is that of a whole object."""
    found: list[Cause] = []
    if not schema.get("type"):
        found.append(causes.required(f"{field}.type", "must not be empty at the root"))
    elif schema["type"] != "object":
        found.append(causes.invalid(f"{field}.type", schema["type"], "must be object at the root"))
    _check(schema, field, found)
    _check_object(schema, field, found)
    return found


def _check(schema: OpenAPI, field: str, found: list[Cause]) -> None:
    """Everything about one schema and those below it, but for a missing type, which its parent words."""
    if schema.get("type") and schema["type"] not in _TYPES:
        found.append(causes.not_supported(f"{field}.type", schema["type"], list(_TYPES)))
    found += [
        causes.forbidden(f"{field}.{keyword}", f"{keyword} is not supported")
        for keyword in _NOT_SUPPORTED
        if schema.get(keyword) is not None
    ]
    if schema.get("uniqueItems"):
        why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        found.append(causes.forbidden(f"{field}.uniqueItems", why))
    _check_pattern(schema, field, found)
    _check_map(schema, field, found)
    _check_list(schema, field, found)
    _check_extensions(schema, field, found)
    _check_junctors(schema, field, found)
    _check_default(schema, field, found)


def _check_pattern(schema: OpenAPI, field: str, found: list[Cause]) -> None:
    if not schema.get("pattern"):
        return
    try:
        compile_pattern(schema["pattern"])
    except PatternError as error:
        detail = f"must be a valid regular expression, but isn't: {error}"
        found.append(causes.invalid(f"{field}.pattern", schema["pattern"], detail))


def _check_below(schema: Any, field: str, place: str, found: list[Cause]) -> None:
    if not isinstance(schema, dict):
        return
    open_type = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    embedded = schema.get("x-kubernetes-embedded-resource")
    if not schema.get("type") and not open_type and not embedded:
        found.append(causes.required(f"{field}.type", f"must not be empty for specified {place}"))
    _check(schema, field, found)


def _check_map(schema: OpenAPI, field: str, found: list[Cause]) -> None:
    extra, properties = schema.get("additionalProperties"), schema.get("properties") or {}
    if properties and extra not in (None, False):
        why = "additionalProperties and properties are mutual exclusive"
        found.append(causes.forbidden(f"{field}.additionalProperties", why))
    for name, child in properties.items():
        _check_below(child, f"{field}.properties[{name}]", "object fields", found)
    _check_below(extra, f"{field}.additionalProperties", "object fields", found)


def _check_list(schema: OpenAPI, field: str, found: list[Cause]) -> None:
    items = schema.get("items")
    if isinstance(items, list):
        why = "items must be a schema object and not an array"
        found.append(causes.forbidden(f"{field}.items", why))
        return
    if schema.get("type") == "array" and items is None:
        found.append(causes.required(f"{field}.items", "must be specified"))
    _check_below(items, f"{field}.items", "array items", found)
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys")
    if kind is None and not keys:
        return
    if keys and kind != "map":
        why = "must be map if x-kubernetes-list-map-keys is non-empty"
        found.append(causes.required(f"{field}.x-kubernetes-list-type", why))
    elif kind not in ("atomic", "set", "map"):
        found.append(causes.not_supported(f"{field}.x-kubernetes-list-type", kind, ["atomic", "set", "map"]))
    elif schema.get("type") != "array":
        why = "must be array if x-kubernetes-list-type is specified"
        found.append(causes.invalid(f"{field}.type", schema.get("type", ""), why))
    elif kind == "set":
        _check_set(items or {}, f"{field}.items", found)
    elif kind == "map":
        _check_list_map(items or {}, keys or [], field, found)


def _check_set(items: OpenAPI, field: str, found: list[Cause]) -> None:
    if items.get("type") == "object" and items.get("x-kubernetes-map-type") != "atomic":
        why = "must be atomic as item of a list with x-kubernetes-list-type=set"
        found.append(
            causes.invalid(f"{field}.x-kubernetes-map-type", items.get("x-kubernetes-map-type"), why),
        )


def _check_list_map(items: OpenAPI, keys: list[str], field: str, found: list[Cause]) -> None:
    where = f"{field}.x-kubernetes-list-map-keys"
    if not keys:
        found.append(causes.required(where, "must not be empty if x-kubernetes-list-type is map"))
        return
    if items.get("type") != "object":
        why = "must be object if parent array's x-kubernetes-list-type is map"
        found.append(causes.invalid(f"{field}.items.type", items.get("type", ""), why))
        return
    properties = items.get("properties") or {}
    for key in keys:
        child = properties.get(key)
        place = f"{field}.items.properties[{key}]"
        if child is None:
            found.append(Cause(causes.INVALID, f"Invalid value: {causes.shown(keys)}: {_KEYS}", where))
        elif child.get("type") not in _SCALARS:
            why = "must be a scalar type if parent array's x-kubernetes-list-type is map"
            found.append(causes.invalid(f"{place}.type", child.get("type", ""), why))
        elif key not in (items.get("required") or []) and child.get("default") is None:
            found.append(causes.required(f"{place}.default", _KEY_NEEDED))


_KEYS = "entries must all be names of item properties"
_KEY_NEEDED = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"


def _check_extensions(schema: OpenAPI, field: str, found: list[Cause]) -> None:
    preserve, kind = schema.get("x-kubernetes-preserve-unknown-fields"), schema.get("x-kubernetes-map-type")
    if preserve is False:
        where = f"{field}.x-kubernetes-preserve-unknown-fields"
        found.append(causes.invalid(where, False, "must be true or undefined"))
    if kind is not None and kind not in ("atomic", "granular"):
        found.append(causes.not_supported(f"{field}.x-kubernetes-map-type", kind, ["atomic", "granular"]))
    elif kind is not None and schema.get("type") != "object":
        why = "must be object if x-kubernetes-map-type is specified"
        found.append(causes.invalid(f"{field}.type", schema.get("type", ""), why))
    if not schema.get("x-kubernetes-embedded-resource"):
        return
    if not preserve and not schema.get("properties"):
        why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"
        found.append(causes.required(f"{field}.properties", why))
    if not schema.get("type"):
        why = "must be object if x-kubernetes-embedded-resource is true"
        found.append(causes.required(f"{field}.type", why))
    _check_object(schema, field, found)


def _check_object(schema: OpenAPI, field: str, found: list[Cause]) -> None:
    """What belongs to every object has the schema Kubernetes gives it; only names may be restricted further."""
    properties = schema.get("properties") or {}
    for name in _OBJECT_FIELDS:
        kind = (properties.get(name) or {}).get("type")
        if kind not in (None, "", "string"):
            found.append(causes.invalid(f"{field}.properties[{name}].type", kind, "must be string"))
    metadata = properties.get("metadata")
    if not isinstance(metadata, dict):
        return
    where = f"{field}.properties[metadata]"
    if metadata.get("type") not in (None, "", "object"):
        found.append(causes.invalid(f"{where}.type", metadata["type"], "must be object"))
    elif set(metadata.get("properties") or {}) - {"name", "generateName"}:
        why = "must not specify anything other than name and generateName, but metadata is implicitly specified"
        found.append(causes.forbidden(where, why))


def _check_junctors(schema: OpenAPI, field: str, found: list[Cause]) -> None:
    free = schema.get("x-kubernetes-int-or-string")
    for name in _JUNCTORS:
        if free and name == "anyOf" and schema.get(name) == _INT_OR_STRING:
            continue
        for index, branch in enumerate(schema.get(name) or []):
            if free and name == "allOf" and branch == {"anyOf": _INT_OR_STRING}:
                continue
            _check_branch(branch, f"{field}.{name}[{index}]", found)
    if isinstance(schema.get("not"), dict):
        _check_branch(schema["not"], f"{field}.not", found)


def _check_branch(branch: OpenAPI, field: str, found: list[Cause]) -> None:
    for keyword in _OUTSIDE_EMPTY:
        if branch.get(keyword):
            found.append(causes.forbidden(f"{field}.{keyword}", "must be empty to be structural"))
    if branch.get("default") is not None:
        found.append(causes.forbidden(f"{field}.default", "must be undefined to be structural"))
    if branch.get("nullable"):
        found.append(causes.forbidden(f"{field}.nullable", "must be false to be structural"))
    _check_pattern(branch, field, found)
    _check_junctors(branch, field, found)
    for name, child in (branch.get("properties") or {}).items():
        _check_branch(child, f"{field}.properties[{name}]", found)
    if isinstance(branch.get("items"), dict):
        _check_branch(branch["items"], f"{field}.items", found)


def _check_default(schema: OpenAPI, field: str, found: list[Cause]) -> None:
    """A default must hold against its own schema, once the defaults below it are filled in."""
    value = schema.get("default")
    if value is None:
        return
    try:
        node, checks = compile_node(schema), compile_checks(schema)
    except PatternError:
        return  # named already
    filled: dict[str, Any] = {"default": value}
    holder = compile_node({"type": "object", "properties": {"default": {**schema, "default": None}}})
    unknown: list[str] = []
    filled = _copied(filled)
    pruning.prune(filled, holder, (), unknown)
    if unknown:
        shown = causes.shown(value)
        found.append(Cause(causes.INVALID, f"Invalid value: {shown}: must not have unknown fields", f"{field}.default"))
        return
    pruning.default(filled, holder)
    findings: list[Finding] = []
    if checks is not None and filled.get("default", MISSING) is not MISSING:
        checks(filled["default"], (), findings)
    repeated: list[Cause] = []
    list_duplicates(filled.get("default"), node, (), repeated)
    for cause in [*(finding.cause for finding in findings), *repeated]:
        inner = f".{cause.field}" if cause.field and not cause.field.startswith("[") else cause.field
        found.append(Cause(cause.reason, cause.message, f"{field}.default{inner}"))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
