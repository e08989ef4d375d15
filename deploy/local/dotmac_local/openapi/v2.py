"""OpenAPI v2, for clients before kubectl 1.27."""

from __future__ import annotations

from typing import Any

from dotmac_local.openapi import parts
from dotmac_local.openapi.parts import Operation
from dotmac_local.resources import Registry

Object = dict[str, Any]

_REF = "#/definitions/"
# OpenAPI v2 has no words for these; a kube-apiserver drops them from its v2 document too.
_V3_ONLY = frozenset({"nullable", "oneOf", "anyOf", "not"})


def swagger(registry: Registry) -> Object:
    """`/openapi/v2`: everything in one document."""
    definitions = parts.common_schemas()
    paths: dict[str, Object] = {}
    for resource in registry.all():
        definitions[parts.schema_name(resource)] = parts.kind_schema(resource, _REF)
        definitions[f"{parts.schema_name(resource)}List"] = parts.list_schema(resource, _REF)
        for operation in parts.operations(resource):
            _add(paths, operation)
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.2"},
        "paths": paths,
        "definitions": {name: _down(schema) for name, schema in definitions.items()},
    }


def _down(schema: Any) -> Any:
    """A v3 schema in the words of v2."""
    if isinstance(schema, list):
        return [_down(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if len(schema.get("allOf") or ()) == 1 and "$ref" in schema["allOf"][0]:
        return {"description": schema.get("description", ""), "$ref": schema["allOf"][0]["$ref"]}
    if schema.get("nullable") or schema.get("x-kubernetes-preserve-unknown-fields"):
        # Neither can be said in v2, so any value has to pass the client; the server checks.
        kept = ("description", "type") if not schema.get("nullable") else ("description",)
        return {name: value for name, value in schema.items() if name in kept or name.startswith("x-")}
    down: Object = {}
    for name, value in schema.items():
        if name == "properties" and isinstance(value, dict):
            down[name] = {key: _down(child) for key, child in value.items()}
        elif name in ("default", "enum", "example") or name.startswith("x-"):
            down[name] = value
        elif name not in _V3_ONLY:
            down[name] = _down(value)
    return down


def _add(paths: dict[str, Object], operation: Operation) -> None:
    resource = operation.resource
    assert resource is not None  # noqa: S101
    path = paths.setdefault(
        operation.path, {"parameters": [_path_parameter(name) for name in operation.path_parameters]}
    )
    parameters = [_query_parameter(name) for name in operation.query]
    if operation.body:
        parameters.append({"name": "body", "in": "body", "required": True, "schema": {"$ref": _REF + operation.body}})
    path[operation.method] = {
        "description": f"{operation.action} objects of kind {resource.kind}",
        "consumes": ["*/*"],
        "produces": ["application/json", "application/yaml"],
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "schema": {"$ref": _REF + operation.answer}},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": parts.gvk(resource),
    }


def _path_parameter(name: str) -> Object:
    return {"name": name, "in": "path", "required": True, "type": "string", "uniqueItems": True}


def _query_parameter(name: str) -> Object:
    kind, description = parts.parameter(name)
    return {"name": name, "in": "query", "description": description, "type": kind, "uniqueItems": True}
