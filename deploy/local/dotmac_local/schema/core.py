"""The kinds that the API server implements itself, as OpenAPI v3 schemas like those of a real one.

They carry what the other modules need: list types, map keys, patch strategies. `default: {}`, `""` and `null` stand for
the struct fields, strings and times that a typed object always shows. Other defaults are those of the real kinds.
"""

from __future__ import annotations

from typing import Any

from dotmac_local.schema.metadata import OBJECT_META

type OpenAPI = dict[str, Any]

RBAC = "rbac.authorization.k8s.io"
AUTHORIZATION = "authorization.k8s.io"
AUTHENTICATION = "authentication.k8s.io"
EXTENSIONS = "apiextensions.k8s.io"

_BOOL: OpenAPI = {"type": "boolean"}
_INT: OpenAPI = {"type": "integer", "format": "int32"}
_INT64: OpenAPI = {"type": "integer", "format": "int64"}
_TIME: OpenAPI = {"type": "string", "format": "date-time", "nullable": True}
_ANY: OpenAPI = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _text(description: str = "") -> OpenAPI:
    return {"type": "string", "description": description} if description else {"type": "string"}


def _texts(list_type: str = "atomic") -> OpenAPI:
    return {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": list_type}


def _text_map(description: str = "", text_format: str = "") -> OpenAPI:
    value: OpenAPI = {"type": "string", "format": text_format} if text_format else {"type": "string"}
    return {"type": "object", "description": description, "additionalProperties": value}


def _struct(properties: OpenAPI, description: str = "", **extra: Any) -> OpenAPI:
    return {"type": "object", "description": description, "properties": properties, **extra}


def _atomic(properties: OpenAPI, **extra: Any) -> OpenAPI:
    return _struct(properties, **{"x-kubernetes-map-type": "atomic"}, **extra)


def _list_of(item: OpenAPI, *keys: str) -> OpenAPI:
    """An atomic list, or one merged by `keys`."""
    if not keys:
        return {"type": "array", "items": item, "x-kubernetes-list-type": "atomic"}
    return {
        "type": "array",
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": list(keys),
        "x-kubernetes-patch-merge-key": keys[0],
        "x-kubernetes-patch-strategy": "merge",
    }


def _zero(schema: OpenAPI, value: Any) -> OpenAPI:
    """A field that a typed object always shows, with this value when nobody sets it."""
    return {**schema, "default": value}


def _kind(group: str, version: str, kind: str, properties: OpenAPI, description: str, **extra: Any) -> OpenAPI:
    return {
        "type": "object",
        "description": description,
        "properties": {
            "apiVersion": _text("APIVersion defines the versioned schema of this representation of an object."),
            "kind": _text("Kind is a string value representing the REST resource this object represents."),
            "metadata": {**OBJECT_META, "default": {}},
            **properties,
        },
        "x-kubernetes-group-version-kind": [{"group": group, "kind": kind, "version": version}],
        **extra,
    }


_OBJECT_REFERENCE = {
    name: _text() for name in ("apiVersion", "fieldPath", "kind", "name", "namespace", "resourceVersion", "uid")
}
_CONDITION: OpenAPI = _struct(
    {
        "type": _text(),
        "status": _text(),
        "reason": _text(),
        "message": _text(),
        "lastTransitionTime": _TIME,
        "observedGeneration": _INT64,
    },
    required=["type", "status"],
)

NAMESPACE = _kind(
    "",
    "v1",
    "Namespace",
    {
        "spec": _zero(_struct({"finalizers": _texts()}, "Spec defines the behavior of the Namespace."), {}),
        "status": _zero(
            _struct(
                {"phase": _text("Phase is the current lifecycle phase."), "conditions": _list_of(_CONDITION, "type")}
            ),
            {},
        ),
    },
    "Namespace provides a scope for Names.",
)
SECRET = _kind(
    "",
    "v1",
    "Secret",
    {
        "data": _text_map("Data contains the secret data, base64 encoded.", "byte"),
        "stringData": _text_map("stringData allows specifying non-binary secret data in string form. Write-only."),
        "type": _text("Used to facilitate programmatic handling of secret data."),
        "immutable": _BOOL,
    },
    "Secret holds secret data of a certain type.",
)
CONFIG_MAP = _kind(
    "",
    "v1",
    "ConfigMap",
    {
        "data": _text_map("Data contains the configuration data."),
        "binaryData": _text_map("BinaryData contains the binary data, base64 encoded.", "byte"),
        "immutable": _BOOL,
    },
    "ConfigMap holds configuration data for pods to consume.",
)
SERVICE_ACCOUNT = _kind(
    "",
    "v1",
    "ServiceAccount",
    {
        "secrets": _list_of(_atomic(_OBJECT_REFERENCE), "name"),
        "imagePullSecrets": _list_of(_atomic({"name": _text()})),
        "automountServiceAccountToken": _BOOL,
    },
    "ServiceAccount binds together a name, a principal that can be authenticated, and a set of secrets.",
)
_SERIES = _struct({"count": _INT, "lastObservedTime": _TIME})
_EVENT_SOURCE = _struct({"component": _text(), "host": _text()})
EVENT = _kind(
    "",
    "v1",
    "Event",
    {
        "involvedObject": _zero(_atomic(_OBJECT_REFERENCE), {}),
        "reason": _text("A short, machine understandable reason."),
        "message": _text("A human-readable description."),
        "source": _zero(_EVENT_SOURCE, {}),
        "firstTimestamp": _zero(_TIME, None),
        "lastTimestamp": _zero(_TIME, None),
        "count": _INT,
        "type": _text("Normal or Warning."),
        "eventTime": _zero(_TIME, None),
        "series": _SERIES,
        "action": _text(),
        "related": _atomic(_OBJECT_REFERENCE),
        "reportingComponent": _zero(_text(), ""),
        "reportingInstance": _zero(_text(), ""),
    },
    "Event is a report of an event somewhere in the cluster.",
    required=["metadata", "involvedObject"],
)
EVENTS_EVENT = _kind(
    "events.k8s.io",
    "v1",
    "Event",
    {
        "eventTime": _zero(_TIME, None),
        "series": _SERIES,
        "reportingController": _text(),
        "reportingInstance": _text(),
        "action": _text(),
        "reason": _text(),
        "regarding": _zero(_atomic(_OBJECT_REFERENCE), {}),
        "related": _atomic(_OBJECT_REFERENCE),
        "note": _text(),
        "type": _text(),
        "deprecatedSource": _zero(_EVENT_SOURCE, {}),
        "deprecatedFirstTimestamp": _zero(_TIME, None),
        "deprecatedLastTimestamp": _zero(_TIME, None),
        "deprecatedCount": _INT,
    },
    "Event is a report of an event somewhere in the cluster.",
)
LEASE = _kind(
    "coordination.k8s.io",
    "v1",
    "Lease",
    {
        "spec": _zero(
            _struct(
                {
                    "holderIdentity": _text("The holder of the lease."),
                    "leaseDurationSeconds": _INT,
                    "acquireTime": {"type": "string", "format": "date-time"},
                    "renewTime": {"type": "string", "format": "date-time"},
                    "leaseTransitions": _INT,
                    "strategy": _text(),
                    "preferredHolder": _text(),
                }
            ),
            {},
        )
    },
    "Lease defines a lease concept.",
)
_POLICY_RULE = _struct(
    {
        "verbs": _texts(),
        "apiGroups": _texts(),
        "resources": _texts(),
        "resourceNames": _texts(),
        "nonResourceURLs": _texts(),
    },
    required=["verbs"],
)
_RULES = {**_list_of(_POLICY_RULE), "nullable": True}
_LABEL_SELECTOR = _atomic(
    {
        "matchLabels": _text_map(),
        "matchExpressions": _list_of(_struct({"key": _text(), "operator": _text(), "values": _texts()})),
    }
)
_SUBJECT = _atomic(
    {"apiGroup": _text(), "kind": _text(), "name": _text(), "namespace": _text()}, required=["kind", "name"]
)
_ROLE_REF = _atomic({"apiGroup": _text(), "kind": _text(), "name": _text()}, required=["apiGroup", "kind", "name"])
ROLE = _kind(RBAC, "v1", "Role", {"rules": _zero(_RULES, None)}, "Role is a namespaced, logical grouping of rules.")
CLUSTER_ROLE = _kind(
    RBAC,
    "v1",
    "ClusterRole",
    {"rules": _zero(_RULES, None), "aggregationRule": _struct({"clusterRoleSelectors": _list_of(_LABEL_SELECTOR)})},
    "ClusterRole is a cluster level, logical grouping of rules.",
)
_BINDING = {"subjects": _list_of(_SUBJECT), "roleRef": _zero(_ROLE_REF, {})}
ROLE_BINDING = _kind(RBAC, "v1", "RoleBinding", _BINDING, "RoleBinding references a role, but does not contain it.")
CLUSTER_ROLE_BINDING = _kind(
    RBAC, "v1", "ClusterRoleBinding", _BINDING, "ClusterRoleBinding references a ClusterRole, but does not contain it."
)

_NAMES = _struct(
    {
        "plural": _zero(_text(), ""),
        "singular": _text(),
        "shortNames": _texts(),
        "kind": _zero(_text(), ""),
        "listKind": _text(),
        "categories": _texts(),
    },
    required=["plural", "kind"],
)
_CRD_VERSION = _struct(
    {
        "name": _text(),
        "served": _BOOL,
        "storage": _BOOL,
        "deprecated": _BOOL,
        "deprecationWarning": _text(),
        "schema": _struct({"openAPIV3Schema": _ANY}),
        "subresources": _struct(
            {
                "status": _ANY,
                "scale": _struct(
                    {"specReplicasPath": _text(), "statusReplicasPath": _text(), "labelSelectorPath": _text()}
                ),
            }
        ),
        "additionalPrinterColumns": _list_of(
            _struct(
                {
                    "name": _text(),
                    "type": _text(),
                    "format": _text(),
                    "description": _text(),
                    "priority": _INT,
                    "jsonPath": _text(),
                }
            )
        ),
        "selectableFields": _list_of(_struct({"jsonPath": _text()})),
    },
    required=["name", "served", "storage"],
)
CUSTOM_RESOURCE_DEFINITION = _kind(
    EXTENSIONS,
    "v1",
    "CustomResourceDefinition",
    {
        "spec": _zero(
            _struct(
                {
                    "group": _zero(_text(), ""),
                    "names": _zero(_NAMES, {}),
                    "scope": _zero(_text(), ""),
                    "versions": _list_of(_CRD_VERSION),
                    "conversion": _zero(_struct({"strategy": _text(), "webhook": _ANY}), {"strategy": "None"}),
                    "preserveUnknownFields": _BOOL,
                },
                required=["group", "names", "scope", "versions"],
            ),
            {},
        ),
        "status": _zero(
            _struct(
                {
                    "conditions": _zero({**_list_of(_CONDITION, "type"), "nullable": True}, None),
                    "acceptedNames": _zero(_NAMES, {}),
                    "storedVersions": _zero({**_texts(), "nullable": True}, None),
                }
            ),
            {},
        ),
    },
    "CustomResourceDefinition represents a resource that should be exposed on the API server.",
    required=["spec"],
)

_REVIEWED = {
    "resourceAttributes": _struct(
        {
            **{name: _text() for name in ("namespace", "verb", "group", "version", "resource", "subresource", "name")},
            "fieldSelector": _ANY,
            "labelSelector": _ANY,
        }
    ),
    "nonResourceAttributes": _struct({"path": _text(), "verb": _text()}),
}
_USER = {
    "user": _text(),
    "groups": _texts(),
    "extra": {"type": "object", "additionalProperties": _texts()},
    "uid": _text(),
}
_REVIEW_STATUS = _zero(
    _struct(
        {"allowed": _zero(_BOOL, False), "denied": _BOOL, "reason": _text(), "evaluationError": _text()},
    ),
    {},
)


def _review(kind: str, spec: OpenAPI) -> OpenAPI:
    properties = {"spec": _zero(_struct(spec), {}), "status": _REVIEW_STATUS}
    return _kind(AUTHORIZATION, "v1", kind, properties, f"{kind} checks whether a request is allowed.")


SELF_SUBJECT_RULES_REVIEW = _kind(
    AUTHORIZATION,
    "v1",
    "SelfSubjectRulesReview",
    {"spec": _zero(_struct({"namespace": _text()}), {}), "status": _ANY},
    "SelfSubjectRulesReview enumerates the actions the current user may take in a namespace.",
)
SELF_SUBJECT_REVIEW = _kind(
    AUTHENTICATION,
    "v1",
    "SelfSubjectReview",
    {"status": _ANY},
    "SelfSubjectReview contains the user information the API server has about the user making this request.",
)
TOKEN_REVIEW = _kind(
    AUTHENTICATION,
    "v1",
    "TokenReview",
    {"spec": _zero(_struct({"token": _text(), "audiences": _texts()}), {}), "status": _ANY},
    "TokenReview attempts to authenticate a token to a known user.",
)
TOKEN_REQUEST = _kind(
    AUTHENTICATION,
    "v1",
    "TokenRequest",
    {
        "spec": _zero(_struct({"audiences": _texts(), "expirationSeconds": _INT64, "boundObjectRef": _ANY}), {}),
        "status": _ANY,
    },
    "TokenRequest requests a token for a given service account.",
)
SCALE = _kind(
    "autoscaling",
    "v1",
    "Scale",
    {
        "spec": _zero(_struct({"replicas": _INT}), {}),
        "status": _zero(_struct({"replicas": _INT, "selector": _text()}), {}),
    },
    "Scale represents a scaling request for a resource.",
)

# Keyed by group ("" for core), version and kind.
CORE: dict[tuple[str, str, str], OpenAPI] = {
    (gvk["group"], gvk["version"], gvk["kind"]): schema
    for schema in (
        NAMESPACE,
        SECRET,
        CONFIG_MAP,
        SERVICE_ACCOUNT,
        EVENT,
        EVENTS_EVENT,
        LEASE,
        ROLE,
        CLUSTER_ROLE,
        ROLE_BINDING,
        CLUSTER_ROLE_BINDING,
        CUSTOM_RESOURCE_DEFINITION,
        _review("SelfSubjectAccessReview", _REVIEWED),
        _review("SubjectAccessReview", {**_REVIEWED, **_USER}),
        _review("LocalSubjectAccessReview", {**_REVIEWED, **_USER}),
        SELF_SUBJECT_RULES_REVIEW,
        SELF_SUBJECT_REVIEW,
        TOKEN_REVIEW,
        TOKEN_REQUEST,
        SCALE,
    )
    for gvk in schema["x-kubernetes-group-version-kind"]
}
