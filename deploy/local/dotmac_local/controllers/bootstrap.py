"""What every cluster has from its first moment: namespaces and the default roles."""

from __future__ import annotations

from typing import Any

from dotmac_local.errors import ApiError
from dotmac_local.resources import RBAC, Registry
from dotmac_local.verbs.request import Target, WriteOptions
from dotmac_local.verbs.write import Writer

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "deletecollection", "patch", "update"]
_BOOTSTRAP = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_OPEN = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
_REVIEWS = [
    {
        "verbs": ["create"],
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    },
    {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
]
_DISCOVERY = [
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
]
_PLAIN = ["configmaps", "serviceaccounts"]


def _rule(group: str, resources: list[str], verbs: list[str]) -> dict[str, Any]:
    return {"verbs": verbs, "apiGroups": [group], "resources": resources}


_VIEW = [_rule("", [*_PLAIN, "events", "namespaces"], _READ), _rule("events.k8s.io", ["events"], _READ)]
_EDIT = [
    *_VIEW,
    _rule("", [*_PLAIN, "secrets"], _WRITE),
    _rule("", ["secrets"], _READ),
    _rule("", ["serviceaccounts/token"], ["create"]),
    _rule("coordination.k8s.io", ["leases"], [*_READ, *_WRITE]),
]
_ADMIN = [*_EDIT, _rule(RBAC, ["roles", "rolebindings"], [*_READ, *_WRITE])]

CLUSTER_ROLES: dict[str, list[dict[str, Any]]] = {
    "cluster-admin": [_rule("*", ["*"], ["*"]), {"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "admin": _ADMIN,
    "edit": _EDIT,
    "view": _VIEW,
    "system:basic-user": _REVIEWS,
    "system:discovery": [{"verbs": ["get"], "nonResourceURLs": _DISCOVERY}],
    "system:public-info-viewer": [{"verbs": ["get"], "nonResourceURLs": _OPEN}],
}
_AGGREGATED = {"admin": "admin", "edit": "edit", "view": "view"}
CLUSTER_ROLE_BINDINGS: dict[str, tuple[str, ...]] = {
    "cluster-admin": ("system:masters",),
    "system:basic-user": ("system:authenticated",),
    "system:discovery": ("system:authenticated",),
    "system:public-info-viewer": ("system:authenticated", "system:unauthenticated"),
}


def ensure(writer: Writer, registry: Registry) -> None:
    """Create what is missing; what is there, changed or not, stays as it is."""
    for name in NAMESPACES:
        _create(
            writer, registry, "", "namespaces", {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}
        )
    version = f"{RBAC}/v1"
    for name, rules in CLUSTER_ROLES.items():
        role: dict[str, Any] = {"kind": "ClusterRole", "apiVersion": version, "metadata": _meta(name), "rules": rules}
        if name in _AGGREGATED:
            label = f"rbac.authorization.k8s.io/aggregate-to-{name}"
            role["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]}
        _create(writer, registry, RBAC, "clusterroles", role)
    for name, groups in CLUSTER_ROLE_BINDINGS.items():
        binding = {
            "kind": "ClusterRoleBinding", "apiVersion": version, "metadata": _meta(name),
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "Group", "apiGroup": RBAC, "name": group} for group in groups],
        }  # fmt: skip
        _create(writer, registry, RBAC, "clusterrolebindings", binding)


def _meta(name: str) -> dict[str, Any]:
    return {"name": name, "labels": dict(_BOOTSTRAP)}


def _create(writer: Writer, registry: Registry, group: str, plural: str, obj: dict[str, Any]) -> None:
    try:
        writer.create(Target(registry.get(group, plural)), obj, WriteOptions(manager="kube-apiserver"))
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
