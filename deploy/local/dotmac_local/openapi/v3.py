"""OpenAPI v3: an index, and one document per group and version."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from dotmac_local.openapi import parts
from dotmac_local.openapi.parts import Operation
from dotmac_local.resources import Registry

Object = dict[str, Any]

_REF = "#/components/schemas/"


def _keys(registry: Registry) -> list[tuple[str, str, str]]:
    keys = [("api/v1", "", "v1")]
    for group in registry.groups():
        keys += [(f"apis/{group}/{version}", group, version) for version in registry.versions(group)]
    return keys


def index(registry: Registry) -> Object:
    """`/openapi/v3`: where the document of every group and version is; its hash changes with it."""
    paths = {}
    for key, group, version in _keys(registry):
        digest = hashlib.sha512(orjson.dumps(spec(registry, group, version))).hexdigest().upper()
        paths[key] = {"serverRelativeURL": f"/openapi/v3/{key}?hash={digest}"}
    return {"paths": paths}


def spec(registry: Registry, group: str, version: str) -> Object | None:
    """`/openapi/v3/<key>`; None when it is not served."""
    resources = registry.resources(group, version)
    if not resources:
        return None
    paths: dict[str, Object] = {}
    schemas = parts.common_schemas()
    for resource in resources:
        schemas[parts.schema_name(resource)] = parts.kind_schema(resource, _REF)
        schemas[f"{parts.schema_name(resource)}List"] = parts.list_schema(resource, _REF)
        for operation in parts.operations(resource):
            _add(paths, operation)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes CRD Swagger" if resources[0].custom else "Kubernetes", "version": "v0.1.0"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _add(paths: dict[str, Object], operation: Operation) -> None:
    resource = operation.resource
    assert resource is not None  # noqa: S101
    path = paths.setdefault(
        operation.path, {"parameters": [_path_parameter(name) for name in operation.path_parameters]}
    )
    reference = {"schema": {"$ref": _REF + operation.answer}}
    entry: Object = {
        "description": f"{operation.action} objects of kind {resource.kind}",
        "parameters": [_query_parameter(name) for name in operation.query],
        "responses": {
            "200": {"description": "OK", "content": {"application/json": reference, "application/yaml": reference}},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": parts.gvk(resource),
    }
    if operation.body:
        types = ["application/json", "application/yaml"]
        if operation.action == "patch":
            types = ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"]
            types += [] if resource.custom else ["application/strategic-merge-patch+json"]
        body = {"schema": {"$ref": _REF + operation.body}}
        entry["requestBody"] = {"content": {media_type: body for media_type in types}}
    path[operation.method] = entry


def _path_parameter(name: str) -> Object:
    shown = (
        "object name and auth scope, such as for teams and projects" if name == "namespace" else "name of the object"
    )
    return {
        "name": name,
        "in": "path",
        "description": shown,
        "required": True,
        "schema": {"type": "string", "uniqueItems": True},
    }


def _query_parameter(name: str) -> Object:
    kind, description = parts.parameter(name)
    return {"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": True}}
