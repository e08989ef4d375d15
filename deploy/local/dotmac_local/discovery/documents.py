"""The discovery documents, plain and aggregated (apidiscovery.k8s.io)."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from dotmac_local.resources import Registry, ResourceType

Object = dict[str, Any]

# Served by handlers of their own, not by the store: group, plural, kind, namespaced.
REVIEWS = (
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", False),
    ("authentication.k8s.io", "tokenreviews", "TokenReview", False),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", True),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", False),
)
REVIEW_GROUPS = ("authentication.k8s.io", "authorization.k8s.io")
# Subresources of built-in kinds beside status: plural, name, group, version, kind, verbs.
_EXTRA = {
    "namespaces": (("finalize", "", "", "Namespace", ("update",)),),
    "serviceaccounts": (("token", "authentication.k8s.io", "v1", "TokenRequest", ("create",)),),
}
_STATUS_VERBS = ("get", "patch", "update")


def api_versions(address: str) -> Object:
    """`/api`."""
    client = {"clientCIDR": "0.0.0.0/0", "serverAddress": address}
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [client]}


def _groups(registry: Registry) -> list[str]:
    built_in = [*REVIEW_GROUPS, *(group for group in registry.groups() if not _is_custom(registry, group))]
    custom = [group for group in registry.groups() if _is_custom(registry, group)]
    return [*sorted(built_in), *sorted(custom)]


def _is_custom(registry: Registry, group: str) -> bool:
    return any(r.custom for version in registry.versions(group) for r in registry.resources(group, version))


def _versions(registry: Registry, group: str) -> list[str]:
    return registry.versions(group) or (["v1"] if group in REVIEW_GROUPS else [])


def api_group(registry: Registry, group: str) -> Object | None:
    """`/apis/<group>`; None when there is no such group."""
    versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in _versions(registry, group)]
    if not versions:
        return None
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": group,
        "versions": versions,
        "preferredVersion": versions[0],
    }


def api_group_list(registry: Registry) -> Object:
    """`/apis`."""
    found = [api_group(registry, group) for group in _groups(registry)]
    groups = [{k: v for k, v in group.items() if k not in ("kind", "apiVersion")} for group in found if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def resource_list(registry: Registry, group: str, version: str) -> Object | None:
    """`/api/v1` and `/apis/<group>/<version>`; None when it is not served."""
    if version not in _versions(registry, group):
        return None
    resources: list[Object] = []
    for review_group, plural, kind, namespaced in REVIEWS:
        if review_group == group:
            resources.append(
                {
                    "name": plural,
                    "singularName": kind.lower(),
                    "namespaced": namespaced,
                    "kind": kind,
                    "verbs": ["create"],
                }
            )
    for resource in registry.resources(group, version):
        resources += _entries(resource)
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def _entries(resource: ResourceType) -> list[Object]:
    entry: Object = {
        "name": resource.plural,
        "singularName": resource.names.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.names.short:
        entry["shortNames"] = list(resource.names.short)
    if resource.names.categories:
        entry["categories"] = list(resource.names.categories)
    entry["storageVersionHash"] = _storage_hash(resource)
    entries = [entry]
    for name, group, version, kind, verbs in subresources(resource):
        below: Object = {
            "name": f"{resource.plural}/{name}",
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": kind,
        }
        if group and group != resource.group:
            below |= {"group": group, "version": version}
        entries.append(below | {"verbs": list(verbs)})
    return entries


def subresources(resource: ResourceType) -> list[tuple[str, str, str, str, tuple[str, ...]]]:
    """Name, group, version, kind and verbs of each subresource."""
    found: list[tuple[str, str, str, str, tuple[str, ...]]] = []
    if resource.has_status:
        found.append(("status", resource.group, resource.version, resource.kind, _STATUS_VERBS))
    if resource.scale:
        found.append(("scale", "autoscaling", "v1", "Scale", _STATUS_VERBS))
    if not resource.custom:
        found += _EXTRA.get(resource.plural, ())
    return found


def _storage_hash(resource: ResourceType) -> str:
    """Eight bytes of the SHA-256 of group/version/kind in base64, as Kubernetes computes it."""
    digest = hashlib.sha256(f"{resource.group}/{resource.version}/{resource.kind}".encode()).digest()
    return base64.b64encode(digest[:8]).decode()


def aggregated(registry: Registry, *, core: bool, version: str) -> Object:
    """`/api` (core) or `/apis` as one APIGroupDiscoveryList in apidiscovery.k8s.io/<version>."""
    groups = [""] if core else _groups(registry)
    items = []
    for group in groups:
        versions = [
            {"version": served, "resources": _aggregated_resources(registry, group, served), "freshness": "Current"}
            for served in _versions(registry, group)
        ]
        meta = {"name": group} if group else {"creationTimestamp": None}
        items.append({"metadata": meta, "versions": versions})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _aggregated_resources(registry: Registry, group: str, version: str) -> list[Object]:
    resources: list[Object] = []
    for review_group, plural, kind, namespaced in REVIEWS:
        if review_group == group:
            resources.append(
                _aggregated(plural, _response_kind(group, version, kind), namespaced, kind.lower(), ("create",))
            )
    for resource in registry.resources(group, version):
        # Built-in kinds leave their own group and version out; custom resources name them.
        response = (
            _response_kind(group, version, resource.kind) if resource.custom else _response_kind("", "", resource.kind)
        )
        entry = _aggregated(resource.plural, response, resource.namespaced, resource.names.singular, resource.verbs)
        if resource.names.short:
            entry["shortNames"] = list(resource.names.short)
        if resource.names.categories:
            entry["categories"] = list(resource.names.categories)
        below = [
            {"subresource": name, "responseKind": _response_kind(g, v, kind), "verbs": list(verbs)}
            for name, g, v, kind, verbs in subresources(resource)
        ]
        resources.append(entry | ({"subresources": below} if below else {}))
    return resources


def _aggregated(plural: str, response: Object, namespaced: bool, singular: str, verbs: tuple[str, ...]) -> Object:
    scope = "Namespaced" if namespaced else "Cluster"
    return {
        "resource": plural,
        "responseKind": response,
        "scope": scope,
        "singularResource": singular,
        "verbs": list(verbs),
    }


def _response_kind(group: str, version: str, kind: str) -> Object:
    return {"group": group, "version": version, "kind": kind}
