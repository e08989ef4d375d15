"""Value validation, compiled once from a schema into one closure per node.

The rules and their wording are those of kube-openapi's validator and of apiextensions-apiserver. Each finding names the
node that owns the rule, so that an update may leave alone what it did not touch (ratcheting).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from dotmac_local.schema import causes
from dotmac_local.schema.causes import Cause, Path, field_path
from dotmac_local.schema.formats import FORMATS, INTEGER_FORMATS
from dotmac_local.schema.patterns import compile_pattern


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause, and the path of the value whose schema it breaks (for `required`, the object that lacks the field)."""

    cause: Cause
    owner: Path


# A JSON number beyond these is a float to the API server.
INT64 = INTEGER_FORMATS["int64"]

type Check = Callable[[Any, Path, list[Finding]], None]
type FieldsCheck = Callable[[dict[str, Any], Collection[str], list[Finding]], None]


def json_type(value: Any) -> str:
    """The JSON type of a value, as validation messages name it."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer" if INT64[0] <= value <= INT64[1] else "number"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def compile_checks(raw: dict[str, Any]) -> Check | None:
    """The closure that checks a value against `raw` and everything below it; None when there is nothing to check."""
    checks = [
        check
        for make in (_types, _formats, _enums, _strings, _numbers, _lists, _maps, _embedded, _junctors)
        if (check := make(raw)) is not None
    ]
    if not checks:
        return None
    nullable = bool(raw.get("nullable"))
    typed = _types(raw)
    single = checks[0] if len(checks) == 1 else None

    def run(value: Any, path: Path, found: list[Finding]) -> None:
        if value is None:
            if not nullable and typed is not None:
                typed(value, path, found)
            return
        if single is not None:
            single(value, path, found)
            return
        for check in checks:
            check(value, path, found)

    return run


# What looks into fields other than through `properties`.
_LOOKS_INSIDE = ("additionalProperties", "allOf", "anyOf", "oneOf", "not")


def compile_fields(raw: dict[str, Any]) -> FieldsCheck:
    """As `compile_checks`, for an object of which only some fields have to be looked into."""
    properties = {} if any(name in raw for name in _LOOKS_INSIDE) else raw.get("properties") or {}
    fields = {name: check for name, child in properties.items() if (check := compile_checks(child)) is not None}
    whole = compile_checks({name: value for name, value in raw.items() if not properties or name != "properties"})

    def run(value: dict[str, Any], names: Collection[str], found: list[Finding]) -> None:
        if whole is not None:
            whole(value, (), found)
        for name, item in value.items():
            if name in names and (check := fields.get(name)) is not None:
                check(item, (name,), found)

    return run


_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "number": (int, float),
    "integer": (int,),
}


def _types(raw: dict[str, Any]) -> Check | None:
    expected = raw.get("type")
    if raw.get("x-kubernetes-int-or-string"):
        accepted: tuple[type, ...] = (int, str)
        expected = "integer,string"
    elif isinstance(expected, str) and expected in _PYTHON_TYPES:
        accepted = _PYTHON_TYPES[expected]
    else:
        return None
    takes_bool = expected == "boolean"
    takes_whole_float = expected == "integer"
    takes_int_only = float not in accepted

    def check(value: Any, path: Path, found: list[Finding]) -> None:
        if isinstance(value, accepted) and (takes_bool or not isinstance(value, bool)):
            if not takes_int_only or not isinstance(value, int) or INT64[0] <= value <= INT64[1]:
                return
        if takes_whole_float and isinstance(value, float) and value.is_integer():
            return
        name = field_path(path)
        actual = json_type(value)
        detail = f'{name} in body must be of type {expected}: "{actual}"'
        found.append(Finding(causes.type_invalid(name, actual, detail), path))

    return check


def _formats(raw: dict[str, Any]) -> Check | None:
    name = raw.get("format")
    if not isinstance(name, str):
        return None
    test = FORMATS.get(name)
    if test is not None and raw.get("type") in ("string", None):

        def check_text(value: Any, path: Path, found: list[Finding]) -> None:
            if isinstance(value, str) and not test(value):
                field = field_path(path)
                detail = f'{field} in body must be of type {name}: "{value}"'
                found.append(Finding(causes.type_invalid(field, value, detail), path))

        return check_text
    if name in INTEGER_FORMATS and raw.get("type") in ("integer", "number"):
        low, high = INTEGER_FORMATS[name]

        def check_range(value: Any, path: Path, found: list[Finding]) -> None:
            if isinstance(value, int | float) and not low <= value <= high:
                detail = f"Checked value must be of type {raw['type']} with format {name} in {field_path(path)}"
                found.append(_unplaced(detail, path))

        return check_range
    return None


def _enums(raw: dict[str, Any]) -> Check | None:
    if not raw.get("enum"):
        return None
    allowed: list[Any] = raw["enum"]

    def check(value: Any, path: Path, found: list[Finding]) -> None:
        if not any(same_json(value, item) for item in allowed):
            found.append(Finding(causes.not_supported(field_path(path), value, allowed), path))

    return check


def _strings(raw: dict[str, Any]) -> Check | None:
    maximum, minimum, pattern = raw.get("maxLength"), raw.get("minLength"), raw.get("pattern")
    if maximum is None and minimum is None and not pattern:
        return None
    matcher = compile_pattern(pattern).search if pattern else None

    def check(value: Any, path: Path, found: list[Finding]) -> None:
        if not isinstance(value, str):
            return
        field = field_path
        if maximum is not None and len(value) > maximum:
            found.append(Finding(causes.too_long(field(path), maximum), path))
        if minimum is not None and len(value) < minimum:
            detail = f"{field(path)} in body should be at least {minimum} chars long"
            found.append(Finding(causes.invalid(field(path), value, detail), path))
        if matcher is not None and matcher(value) is None:
            detail = f"{field(path)} in body should match '{pattern}'"
            found.append(Finding(causes.invalid(field(path), value, detail), path))

    return check


def _numbers(raw: dict[str, Any]) -> Check | None:
    maximum, minimum, factor = raw.get("maximum"), raw.get("minimum"), raw.get("multipleOf")
    if maximum is None and minimum is None and factor is None:
        return None
    above, below = bool(raw.get("exclusiveMinimum")), bool(raw.get("exclusiveMaximum"))

    def check(value: Any, path: Path, found: list[Finding]) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        detail = ""
        if factor is not None and value % factor:
            detail = f"should be a multiple of {factor}"
        if maximum is not None and (value >= maximum if below else value > maximum):
            detail = f"should be less than {'' if below else 'or equal to '}{maximum}"
        if minimum is not None and (value <= minimum if above else value < minimum):
            detail = f"should be greater than {'' if above else 'or equal to '}{minimum}"
        if detail:
            field = field_path(path)
            found.append(Finding(causes.invalid(field, value, f"{field} in body {detail}"), path))

    return check


def _lists(raw: dict[str, Any]) -> Check | None:
    maximum, minimum = raw.get("maxItems"), raw.get("minItems")
    item_check = compile_checks(raw["items"]) if isinstance(raw.get("items"), dict) else None
    if maximum is None and minimum is None and item_check is None:
        return None

    def check(value: Any, path: Path, found: list[Finding]) -> None:
        if not isinstance(value, list):
            return
        if maximum is not None and len(value) > maximum:
            found.append(Finding(causes.too_many(field_path(path), len(value), maximum), path))
        if minimum is not None and len(value) < minimum:
            detail = f"{field_path(path)} in body should have at least {minimum} items"
            found.append(Finding(causes.invalid(field_path(path), len(value), detail), path))
        if item_check is not None:
            for index, item in enumerate(value):
                item_check(item, (*path, index), found)

    return check


def _maps(raw: dict[str, Any]) -> Check | None:
    needed: list[str] = raw.get("required") or []
    named = {name: checks for name, child in (raw.get("properties") or {}).items() if (checks := compile_checks(child))}
    known = frozenset(raw.get("properties") or ())
    extra = raw.get("additionalProperties")
    extra_check = compile_checks(extra) if isinstance(extra, dict) else None
    sizes = _map_sizes(raw)
    if not needed and not named and extra_check is None and sizes is None:
        return None

    def check(value: Any, path: Path, found: list[Finding]) -> None:
        if not isinstance(value, dict):
            return
        for name in needed:
            if name not in value:
                found.append(Finding(causes.required(field_path((*path, name))), path))
        if sizes is not None:
            sizes(value, path, found)
        for name, item in value.items():
            if (item_check := named.get(name)) is not None:
                item_check(item, (*path, name), found)
            elif extra_check is not None and name not in known:
                extra_check(item, (*path, name), found)

    return check


def _embedded(raw: dict[str, Any]) -> Check | None:
    """A whole object inside another says what it is."""
    if not raw.get("x-kubernetes-embedded-resource"):
        return None

    def check(value: Any, path: Path, found: list[Finding]) -> None:
        for name in ("apiVersion", "kind"):
            if isinstance(value, dict) and not value.get(name):
                found.append(Finding(causes.required(field_path((*path, name)), "must not be empty"), path))

    return check


def _map_sizes(raw: dict[str, Any]) -> Check | None:
    maximum, minimum = raw.get("maxProperties"), raw.get("minProperties")
    if maximum is None and minimum is None:
        return None

    def check(value: Any, path: Path, found: list[Finding]) -> None:
        if maximum is not None and len(value) > maximum:
            found.append(Finding(causes.too_many(field_path(path), len(value), maximum), path))
        if minimum is not None and len(value) < minimum:
            detail = f"{field_path(path)} in body should have at least {minimum} properties"
            found.append(Finding(causes.invalid(field_path(path), value, detail), path))

    return check


def _junctors(raw: dict[str, Any]) -> Check | None:
    every, some, one = (_branches(raw.get(name)) for name in ("allOf", "anyOf", "oneOf"))
    without = _branches([raw["not"]]) if raw.get("not") else []
    if not (every or some or one or without):
        return None

    def report(path: Path, found: list[Finding], detail: str) -> None:
        found.append(_unplaced(f'"{field_path(path)}" {detail}', path))

    def check(value: Any, path: Path, found: list[Finding]) -> None:
        for branch in every:
            branch(value, path, found)
        if some and (worst := _least_failed(some, value, path)):
            report(path, found, "must validate at least one schema (anyOf)")
            found += worst
        if one:
            passed = sum(not _failures(branch, value, path) for branch in one)
            if passed != 1:
                why = "Found none valid" if passed == 0 else f"Found {passed} valid alternatives"
                report(path, found, f"must validate one and only one schema (oneOf). {why}")
                found += _least_failed(one, value, path) if passed == 0 else []
        if any(not _failures(branch, value, path) for branch in without):
            report(path, found, "must not validate the schema (not)")

    return check


def _unplaced(detail: str, path: Path) -> Finding:
    """A finding without a field of its own, as the API server's validator reports these."""
    return Finding(Cause(causes.INVALID, f'Invalid value: "": {detail}', "<nil>"), path)


def _branches(schemas: list[dict[str, Any]] | None) -> list[Check]:
    def anything(value: Any, path: Path, found: list[Finding]) -> None:
        return None

    return [compile_checks(schema) or anything for schema in schemas or []]


def _failures(check: Check, value: Any, path: Path) -> list[Finding]:
    found: list[Finding] = []
    check(value, path, found)
    return found


def _least_failed(branches: list[Check], value: Any, path: Path) -> list[Finding]:
    """The findings of the branch that came nearest; empty when one passes."""
    return min((_failures(branch, value, path) for branch in branches), key=len)


def same_json(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 is not true, 1 is 1.0."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_json(item, right[key]) for key, item in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_json, left, right))
    return bool(left == right)
