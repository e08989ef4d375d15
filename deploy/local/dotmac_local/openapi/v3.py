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


_DONE = {
    "post": {"200": "OK", "201": "Created", "202": "Accepted"},
    "put": {"200": "OK", "201": "Created"},
    "delete": {"200": "OK", "202": "Accepted"},
}
_WORDS = {
    "list": "list objects of kind {kind}",
    "post": "create a {kind}",
    "get": "read {part}the specified {kind}",
    "put": "replace {part}the specified {kind}",
    "patch": "partially update {part}the specified {kind}",
    "delete": "delete a {kind}",
    "deletecollection": "delete collection of {kind}",
}
_NAMED = {"list": "list", "post": "create", "get": "read", "put": "replace", "patch": "patch", "delete": "delete"}


def _add(paths: dict[str, Object], operation: Operation) -> None:
    resource = operation.resource
    assert resource is not None  # noqa: S101
    everywhere = operation.action == "list" and resource.namespaced and "{namespace}" not in operation.path
    shared = [_path_parameter(name) for name in sorted(operation.path_parameters)]
    shared += [_query_parameter(name) for name in sorted((*(operation.query if everywhere else ()), "pretty"))]
    path = paths.setdefault(operation.path, {"parameters": shared})
    reference = {"schema": {"$ref": _REF + operation.answer}}
    subresource = operation.path.rpartition("{name}/")[2] if "{name}/" in operation.path else ""
    content = {"application/json": reference, "application/yaml": reference}
    done = _DONE.get(operation.action, {"200": "OK"})
    entry: Object = {
        "tags": [f"{_camel(resource.group)}_{resource.version}"],
        "description": _WORDS[operation.action].format(
            kind=resource.kind, part=f"{subresource} of " if subresource else ""
        ),
        "operationId": _operation_id(operation, subresource, everywhere),
        "responses": {
            **{code: {"description": word, "content": content} for code, word in done.items()},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": parts.gvk(resource),
    }
    if operation.query and not everywhere:
        entry["parameters"] = [_query_parameter(name) for name in operation.query]
    if operation.body:
        types = ["application/json", "application/yaml"]
        if operation.action == "patch":
            types = ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"]
            types += [] if resource.custom else ["application/strategic-merge-patch+json"]
        body = {"schema": {"$ref": _REF + operation.body}}
        entry["requestBody"] = {"content": {media_type: body for media_type in types}}
        if operation.action != "delete":
            entry["requestBody"]["required"] = True
    path[operation.method] = entry


def _camel(group: str) -> str:
    """`widgets.example.com` as `widgetsExampleCom`; the core group is called core."""
    first, *rest = (group or "core").replace("-", ".").split(".")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _operation_id(operation: Operation, subresource: str, everywhere: bool) -> str:
    """Such as listWidgetsExampleComV1NamespacedWidget."""
    resource = operation.resource
    assert resource is not None  # noqa: S101
    group = _camel(resource.group)
    where = f"{group[:1].upper()}{group[1:]}{resource.version.capitalize()}"
    if operation.action == "deletecollection":
        return f"delete{where}Collection{'Namespaced' if resource.namespaced else ''}{resource.kind}"
    scope = "Namespaced" if resource.namespaced and not everywhere else ""
    last = "ForAllNamespaces" if everywhere else subresource.capitalize()
    return f"{_NAMED[operation.action]}{where}{scope}{resource.kind}{last}"


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
