"""The OpenAPI v2 document in protobuf, which kubectl before 1.27 asks for and cannot do without.

Field numbers are those of gnostic's OpenAPIv2.proto. What clients look at is encoded: definitions with their types and
extensions, and per path the kind and the query parameters of each method.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import orjson

Object = dict[str, Any]

MEDIA_TYPES = (
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
)
_SCHEMA_TEXTS = {1: "$ref", 2: "format", 3: "title", 4: "description", 13: "pattern"}
_SCHEMA_NUMBERS = {6: "multipleOf", 7: "maximum", 9: "minimum"}
_SCHEMA_FLAGS = {8: "exclusiveMaximum", 10: "exclusiveMinimum", 16: "uniqueItems"}
_SCHEMA_COUNTS = {
    11: "maxLength",
    12: "minLength",
    14: "maxItems",
    15: "minItems",
    17: "maxProperties",
    18: "minProperties",
}
_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}


def encode(swagger: Object) -> bytes:
    """A document as `swagger()` makes it."""
    info = _text(1, swagger["info"]["title"]) + _text(2, swagger["info"]["version"])
    paths = b"".join(_field(2, _text(1, path) + _field(2, _path(item))) for path, item in swagger["paths"].items())
    definitions = _named_schemas(swagger["definitions"])
    return _text(1, swagger["swagger"]) + _field(2, info) + _field(8, paths) + _field(9, definitions)


def _number(value: int) -> bytes:
    """A varint; negative numbers take all ten bytes, as protobuf has it."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _text(number: int, value: Any) -> bytes:
    return _field(number, str(value).encode()) if value else b""


def _texts(number: int, values: Iterable[str]) -> bytes:
    return b"".join(_field(number, value.encode()) for value in values)


def _count(number: int, value: int) -> bytes:
    return _number(number << 3) + _number(value)


def _double(number: int, value: float) -> bytes:
    return _number(number << 3 | 1) + struct.pack("<d", value)


def _any(value: Any) -> bytes:
    """gnostic's Any: YAML text, and JSON is YAML."""
    return _text(2, orjson.dumps(value).decode())


def _extensions(number: int, schema: Object) -> bytes:
    named = ((name, value) for name, value in schema.items() if name.startswith("x-"))
    return b"".join(_field(number, _text(1, name) + _field(2, _any(value))) for name, value in named)


def _named_schemas(schemas: Object) -> bytes:
    return b"".join(_field(1, _text(1, name) + _field(2, _schema(schema))) for name, schema in schemas.items())


def _schema(schema: Object) -> bytes:
    parts = [_text(number, schema.get(name)) for number, name in _SCHEMA_TEXTS.items()]
    parts += [_double(number, schema[name]) for number, name in _SCHEMA_NUMBERS.items() if name in schema]
    parts += [_count(number, 1) for number, name in _SCHEMA_FLAGS.items() if schema.get(name)]
    parts += [_count(number, schema[name]) for number, name in _SCHEMA_COUNTS.items() if name in schema]
    if "default" in schema:
        parts.append(_field(5, _any(schema["default"])))
    parts.append(_texts(19, schema.get("required", ())))
    parts += [_field(20, _any(value)) for value in schema.get("enum", ())]
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        parts.append(_field(21, _field(1, _schema(more))))
    elif isinstance(more, bool):
        parts.append(_field(21, _count(2, int(more))))
    if "type" in schema:
        parts.append(_field(22, _text(1, schema["type"])))
    if isinstance(schema.get("items"), dict):
        parts.append(_field(23, _field(1, _schema(schema["items"]))))
    parts += [_field(24, _schema(part)) for part in schema.get("allOf", ())]
    if "properties" in schema:
        parts.append(_field(25, _named_schemas(schema["properties"])))
    parts.append(_extensions(31, schema))
    return b"".join(parts)


def _path(item: Object) -> bytes:
    methods = b"".join(_field(number, _operation(item[name])) for name, number in _METHODS.items() if name in item)
    return methods + b"".join(_field(9, _parameter(parameter)) for parameter in item.get("parameters", ()))


def _operation(operation: Object) -> bytes:
    parts = [_text(3, operation["description"]), _texts(6, operation["produces"]), _texts(7, operation["consumes"])]
    parts += [_field(8, _parameter(parameter)) for parameter in operation["parameters"]]
    return b"".join(parts) + _extensions(13, operation)


def _parameter(parameter: Object) -> bytes:
    """ParametersItem > Parameter > body, or query or path (3 and 4 of NonBodyParameter)."""
    required = _count(1, 1) if parameter.get("required") else b""
    described = _text(2, parameter["in"]) + _text(3, parameter.get("description")) + _text(4, parameter["name"])
    if parameter["in"] == "body":
        body = _text(2, parameter["name"]) + _text(3, "body") + _count(4, 1) + _field(5, _schema(parameter["schema"]))
        return _field(1, _field(1, body))
    if parameter["in"] == "query":
        return _field(1, _field(2, _field(3, required + described + _text(6, parameter["type"]))))
    return _field(1, _field(2, _field(4, required + described + _text(5, parameter["type"]))))
