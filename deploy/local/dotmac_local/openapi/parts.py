"""What both versions of OpenAPI share: names of schemas, paths of a resource, parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dotmac_local.discovery.documents import subresources
from dotmac_local.resources import APIEXTENSIONS, ResourceType
from dotmac_local.schema.core import CORE
from dotmac_local.schema.metadata import OBJECT_META

Object = dict[str, Any]

META = "io.k8s.apimachinery.pkg.apis.meta.v1"
SCALE = "io.k8s.api.autoscaling.v1.Scale"

_FIELD_VALIDATION = (
    "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) containing unknown "
    "or duplicate fields. Valid values are: Ignore, Warn (the default), Strict."
)
_PARAMETERS: dict[str, tuple[str, str]] = {
    "dryRun": (
        "string",
        "When present, indicates that modifications should not be persisted. The only valid value is All.",
    ),
    "fieldManager": (
        "string",
        "fieldManager is a name associated with the actor or entity that is making these changes.",
    ),
    "fieldValidation": ("string", _FIELD_VALIDATION),
    "force": ("boolean", "Force is going to force Apply requests. It means user will re-acquire conflicting fields."),
    "pretty": ("string", "If 'true', then the output is pretty printed."),
    "allowWatchBookmarks": ("boolean", "allowWatchBookmarks requests watch events with type BOOKMARK."),
    "continue": ("string", "The continue option should be set when retrieving more results from the server."),
    "fieldSelector": ("string", "A selector to restrict the list of returned objects by their fields."),
    "labelSelector": ("string", "A selector to restrict the list of returned objects by their labels."),
    "limit": ("integer", "limit is a maximum number of responses to return for a list call."),
    "resourceVersion": (
        "string",
        "resourceVersion sets a constraint on what resource versions a request may be served from.",
    ),
    "resourceVersionMatch": ("string", "resourceVersionMatch determines how resourceVersion is applied to list calls."),
    "sendInitialEvents": ("boolean", "If set, a watch begins with the current state and a bookmark that ends it."),
    "timeoutSeconds": ("integer", "Timeout for the list/watch call."),
    "watch": ("boolean", "Watch for changes to the described resources."),
    "gracePeriodSeconds": ("integer", "The duration in seconds before the object should be deleted."),
    "propagationPolicy": ("string", "Whether and how garbage collection will be performed."),
}
_LISTING = (
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
)
_WRITING = ("dryRun", "fieldManager", "fieldValidation")


@dataclass(frozen=True)
class Operation:
    """One method on one path. `body` and `answer` are schema names."""

    path: str
    method: str
    action: str
    answer: str
    body: str = ""
    query: tuple[str, ...] = ()
    resource: ResourceType | None = None

    @property
    def path_parameters(self) -> list[str]:
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


def schema_name(resource: ResourceType) -> str:
    """The definition's name: the group's domain backwards for custom resources, io.k8s.api... for built-in ones."""
    if not resource.custom:
        package = f"io.k8s.api.{resource.group.partition('.')[0] or 'core'}"
        if resource.group == APIEXTENSIONS:
            package = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions"
        return f"{package}.{resource.version}.{resource.kind}"
    domain = ".".join(reversed(resource.group.split(".")))
    return f"{domain}.{resource.version}.{resource.kind}"


def operations(resource: ResourceType) -> Iterator[Operation]:
    """Every method of a resource, with its subresources."""
    name = schema_name(resource)
    base = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    collection = (
        f"{base}/namespaces/{{namespace}}/{resource.plural}" if resource.namespaced else f"{base}/{resource.plural}"
    )
    one = f"{collection}/{{name}}"
    if resource.namespaced:
        yield Operation(f"{base}/{resource.plural}", "get", "list", f"{name}List", query=_LISTING, resource=resource)
    yield Operation(collection, "get", "list", f"{name}List", query=_LISTING, resource=resource)
    yield Operation(collection, "post", "post", name, name, _WRITING, resource)
    if "deletecollection" in resource.verbs:
        yield Operation(collection, "delete", "deletecollection", f"{META}.Status", "", _LISTING, resource)
    yield from _of_one(one, name, resource)
    yield Operation(
        one,
        "delete",
        "delete",
        f"{META}.Status",
        f"{META}.DeleteOptions",
        ("dryRun", "gracePeriodSeconds", "propagationPolicy"),
        resource,
    )
    for sub, _, _, kind, verbs in subresources(resource):
        if kind == resource.kind and "patch" in verbs:
            yield from _of_one(f"{one}/{sub}", name, resource)
        elif kind == "Scale":
            yield from _of_one(f"{one}/{sub}", SCALE, resource)


def _of_one(path: str, name: str, resource: ResourceType) -> Iterator[Operation]:
    yield Operation(path, "get", "get", name, query=("resourceVersion",), resource=resource)
    yield Operation(path, "put", "put", name, name, _WRITING, resource)
    yield Operation(path, "patch", "patch", name, f"{META}.Patch", (*_WRITING, "force"), resource)


def parameter(name: str) -> tuple[str, str]:
    """Type and description of a query parameter."""
    return _PARAMETERS[name]


def kind_schema(resource: ResourceType, ref: str) -> Object:
    """The schema of a kind with apiVersion, kind and metadata as every kind has them. `ref` is the prefix of
    references.
    """
    schema = _published(resource.openapi)
    schema["type"] = "object"
    schema["properties"] = {
        "apiVersion": {"type": "string", "description": API_VERSION_DOC},
        "kind": {"type": "string", "description": KIND_DOC},
        **{
            name: value
            for name, value in (schema.get("properties") or {}).items()
            if name not in ("apiVersion", "kind")
        },
        "metadata": _reference(f"{ref}{META}.ObjectMeta", METADATA_DOC),
    }
    schema["x-kubernetes-group-version-kind"] = [gvk(resource)]
    return schema


def _published(schema: Object) -> Object:
    """A schema as it is shown: what may be an integer or a string says so in plain OpenAPI, too."""
    out = dict(schema)
    if schema.get("x-kubernetes-int-or-string") and not schema.get("type"):
        out.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if isinstance(schema.get("properties"), dict):
        out["properties"] = {name: _published(child) for name, child in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            out[key] = _published(schema[key])
    return out


def list_schema(resource: ResourceType, ref: str) -> Object:
    item = {"$ref": f"{ref}{schema_name(resource)}"}
    return {
        "description": f"{resource.list_kind} is a list of {resource.kind}",
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION_DOC},
            "kind": {"type": "string", "description": KIND_DOC},
            "items": {"type": "array", "items": item, "description": f"List of {resource.plural}."},
            "metadata": _reference(f"{ref}{META}.ListMeta", "Standard list metadata."),
        },
        "x-kubernetes-group-version-kind": [gvk(resource) | {"kind": resource.list_kind}],
    }


def _reference(target: str, description: str) -> Object:
    return {"description": description, "allOf": [{"$ref": target}]}


def gvk(resource: ResourceType) -> Object:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


API_VERSION_DOC = (
    "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized "
    "schemas to the latest internal value, and may reject unrecognized values. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
)
KIND_DOC = (
    "Kind is a string value representing the REST resource this object represents. Servers may infer this from the "
    "endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
)
METADATA_DOC = (
    "Standard object's metadata. More info: "
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
)


def common_schemas() -> dict[str, Object]:
    """The schemas of meta/v1 that all groups refer to."""
    text: Object = {"type": "string"}
    status: Object = {
        "description": "Status is a return value for calls that don't return other objects.",
        "type": "object",
        "properties": {
            "apiVersion": text,
            "kind": text,
            "status": text,
            "message": text,
            "reason": text,
            "code": {"type": "integer", "format": "int32"},
            "details": {"type": "object"},
            "metadata": {"type": "object"},
        },
        "x-kubernetes-group-version-kind": [{"group": "", "kind": "Status", "version": "v1"}],
    }
    options: Object = {
        "description": "DeleteOptions may be provided when deleting an API object.",
        "type": "object",
        "properties": {
            "apiVersion": text,
            "kind": text,
            "propagationPolicy": text,
            "orphanDependents": {"type": "boolean"},
            "gracePeriodSeconds": {"type": "integer", "format": "int64"},
            "dryRun": {"type": "array", "items": text},
            "preconditions": {"type": "object", "properties": {"uid": text, "resourceVersion": text}},
        },
        "x-kubernetes-group-version-kind": [{"group": "", "kind": "DeleteOptions", "version": "v1"}],
    }
    list_meta: Object = {
        "description": "ListMeta describes metadata that synthetic resources must have.",
        "type": "object",
        "properties": {
            "continue": text,
            "resourceVersion": text,
            "selfLink": text,
            "remainingItemCount": {"type": "integer", "format": "int64"},
        },
    }
    return {
        f"{META}.ObjectMeta": {
            "description": "ObjectMeta is metadata that all persisted resources must have.",
            **OBJECT_META,
        },
        SCALE: CORE["autoscaling", "v1", "Scale"],
        f"{META}.ListMeta": list_meta,
        f"{META}.Status": status,
        f"{META}.DeleteOptions": options,
        f"{META}.Patch": {
            "description": "Patch is provided to give a concrete name and type to the PATCH body.",
            "type": "object",
        },
    }
