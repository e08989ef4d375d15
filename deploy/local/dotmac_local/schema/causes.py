"""Why an object is refused, in the words of the `details.causes` of a Kubernetes Status."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

type Path = tuple[str | int, ...]

REQUIRED = "FieldValueRequired"
INVALID = "FieldValueInvalid"
TYPE_INVALID = "FieldValueTypeInvalid"
NOT_SUPPORTED = "FieldValueNotSupported"
TOO_LONG = "FieldValueTooLong"
TOO_MANY = "FieldValueTooMany"
DUPLICATE = "FieldValueDuplicate"
FORBIDDEN = "FieldValueForbidden"


@dataclass(frozen=True, slots=True)
class Cause:
    """One entry of `details.causes`: `reason` is a CauseType (FieldValueInvalid, ...), `field` a path such as
    `spec.ports[1].name`, `message` what kubectl prints after it."""

    reason: str
    message: str
    field: str


def field_path(path: Path) -> str:
    """`("spec", "ports", 1, "name")` as `spec.ports[1].name`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def shown(value: Any) -> str:
    """A value as the API server prints it inside a message: JSON, compact."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def required(field: str, detail: str = "") -> Cause:
    return Cause(REQUIRED, f"Required value: {detail}" if detail else "Required value", field)


def invalid(field: str, value: Any, detail: str) -> Cause:
    """Objects and lists are left out of the message, as they may be large; scalars are shown."""
    if isinstance(value, dict | list):
        return Cause(INVALID, f"Invalid value: {detail}", field)
    return Cause(INVALID, f"Invalid value: {shown(value)}: {detail}", field)


def type_invalid(field: str, value: Any, detail: str) -> Cause:
    return Cause(TYPE_INVALID, f"Invalid value: {shown(value)}: {detail}", field)


def not_supported(field: str, value: Any, allowed: list[Any]) -> Cause:
    listed = ", ".join(shown(item) for item in allowed)
    return Cause(NOT_SUPPORTED, f"Unsupported value: {shown(value)}: supported values: {listed}", field)


def too_long(field: str, limit: int) -> Cause:
    return Cause(TOO_LONG, f"Too long: may not be more than {limit} bytes", field)


def too_many(field: str, count: int, limit: int) -> Cause:
    return Cause(TOO_MANY, f"Too many: {count}: must have at most {limit} items", field)


def duplicate(field: str, value: Any) -> Cause:
    return Cause(DUPLICATE, f"Duplicate value: {shown(value)}", field)


def forbidden(field: str, detail: str) -> Cause:
    return Cause(FORBIDDEN, f"Forbidden: {detail}", field)
