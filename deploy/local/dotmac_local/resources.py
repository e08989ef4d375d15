"""Which resources are served: the built-in kinds, and the ones that CustomResourceDefinitions add."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dotmac_local.schema import Schema
from dotmac_local.schema.core import CORE

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
# The order in which a kube-apiserver lists the verbs of custom resources.
CUSTOM_VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")


@dataclass(frozen=True)
class ScalePaths:
    """Where `/scale` finds its numbers in a custom resource (JSON paths such as ".spec.replicas")."""

    spec: str
    status: str
    selector: str | None = None


@dataclass(frozen=True)
class Names:
    """What a resource is called: in paths (plural), for people (singular, short), as a type (kind)."""

    plural: str
    kind: str
    singular: str
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    list_kind: str = ""


@dataclass(frozen=True, eq=False)
class ResourceType:
    """One resource in one version, as it is served."""

    group: str
    version: str
    names: Names
    namespaced: bool = True
    verbs: tuple[str, ...] = ALL_VERBS
    custom: bool = False
    has_status: bool = False
    scale: ScalePaths | None = None
    openapi: dict[str, Any] = field(default_factory=dict)
    columns: tuple[dict[str, Any], ...] = ()
    fields: tuple[str, ...] = ()
    """Field selectors beside metadata.name and metadata.namespace."""
    storage_group: str | None = None
    """The group under which the objects are stored, where it is not this one."""
    tag: str = ""
    """Changes when the schema does: objects stored under another tag are pruned and defaulted when read."""

    @property
    def plural(self) -> str:
        return self.names.plural

    @property
    def kind(self) -> str:
        return self.names.kind

    @property
    def list_kind(self) -> str:
        return self.names.list_kind or f"{self.names.kind}List"

    @cached_property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @cached_property
    def qualified(self) -> str:
        """The name used in messages: "widgets.example.com", "secrets"."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @cached_property
    def storage(self) -> str:
        """The key of its objects in the store; versions share it."""
        return f"{self.group if self.storage_group is None else self.storage_group}/{self.plural}"

    @property
    def has_generation(self) -> bool:
        return self.custom or self.kind == "CustomResourceDefinition"

    @cached_property
    def schema(self) -> Schema:
        return Schema(self.openapi)

    def supports_field(self, name: str) -> bool:
        return name == "metadata.name" or (name == "metadata.namespace" and self.namespaced) or name in self.fields


EVENT_FIELDS = tuple(
    f"involvedObject.{f}" for f in "kind namespace name uid apiVersion resourceVersion fieldPath".split()
)
REGARDING_FIELDS = tuple(name.replace("involvedObject", "regarding") for name in EVENT_FIELDS)
RBAC = "rbac.authorization.k8s.io"
APIEXTENSIONS = "apiextensions.k8s.io"

_BUILT_IN: tuple[dict[str, Any], ...] = (
    {"group": "", "kind": "ConfigMap", "short": ("cm",)},
    {
        "group": "",
        "kind": "Event",
        "short": ("ev",),
        "fields": (*EVENT_FIELDS, "reason", "type", "source", "reportingComponent"),
    },
    {
        "group": "",
        "kind": "Namespace",
        "short": ("ns",),
        "namespaced": False,
        "has_status": True,
        "fields": ("status.phase", "name"),
        "verbs": tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
    },
    {"group": "", "kind": "Secret", "fields": ("type",)},
    {"group": "", "kind": "ServiceAccount", "short": ("sa",)},
    {
        "group": "events.k8s.io",
        "kind": "Event",
        "short": ("ev",),
        "storage_group": "",
        "fields": (*REGARDING_FIELDS, "reason", "type", "reportingController"),
    },
    {"group": "coordination.k8s.io", "kind": "Lease"},
    {
        "group": APIEXTENSIONS,
        "kind": "CustomResourceDefinition",
        "short": ("crd", "crds"),
        "namespaced": False,
        "has_status": True,
        "categories": ("api-extensions",),
    },
    {"group": RBAC, "kind": "ClusterRole", "namespaced": False},
    {"group": RBAC, "kind": "ClusterRoleBinding", "namespaced": False},
    {"group": RBAC, "kind": "Role"},
    {"group": RBAC, "kind": "RoleBinding"},
)


def built_in() -> Iterator[ResourceType]:
    """The kinds that need no CustomResourceDefinition."""
    for entry in _BUILT_IN:
        spec = dict(entry)
        group, kind = spec.pop("group"), spec.pop("kind")
        names = Names(
            plural=f"{kind.lower()}s",
            kind=kind,
            singular=kind.lower(),
            short=spec.pop("short", ()),
            categories=spec.pop("categories", ()),
        )
        openapi = CORE.get((group, "v1", kind), {"type": "object", "x-kubernetes-preserve-unknown-fields": True})
        yield ResourceType(group=group, version="v1", names=names, openapi=openapi, tag=f"{group}/v1", **spec)


class Registry:
    """The resources that are served now. CRDs come and go; whoever caches by `revision` sees it."""

    def __init__(self) -> None:
        self._types: dict[tuple[str, str, str], ResourceType] = {}
        self._versions: dict[str, list[str]] = {}
        self.revision = 0
        self.listeners: list[Callable[[], None]] = []
        for resource in built_in():
            self._types[(resource.group, resource.version, resource.plural)] = resource
            self._versions.setdefault(resource.group, ["v1"])

    def find(self, group: str, version: str, plural: str) -> ResourceType | None:
        return self._types.get((group, version, plural))

    def get(self, group: str, plural: str) -> ResourceType:
        """A built-in resource; KeyError when there is none."""
        return self._types[(group, "v1", plural)]

    def by_kind(self, api_version: str, kind: str) -> ResourceType | None:
        """The resource of an object's apiVersion and kind, as owner references name it."""
        group, _, version = api_version.rpartition("/")
        for resource in self._types.values():
            if (resource.group, resource.version, resource.kind) == (group, version, kind):
                return resource
        return None

    def any_version(self, group: str, kind: str) -> ResourceType | None:
        """The resource of a kind in whatever version is served."""
        found = (r for r in self._types.values() if (r.group, r.kind) == (group, kind))
        return next(found, None)

    def stored(self) -> dict[str, ResourceType]:
        """One served type for every place in the store."""
        own = (resource for resource in self._types.values() if resource.storage_group is None)
        return {
            resource.storage: resource
            for resource in sorted(own, key=lambda r: version_priority(r.version), reverse=True)
        }

    def groups(self) -> list[str]:
        """Group names, without the core group."""
        return [group for group in self._versions if group]

    def versions(self, group: str) -> list[str]:
        """Served versions, the preferred one first."""
        return self._versions.get(group, [])

    def resources(self, group: str, version: str) -> list[ResourceType]:
        """Ordered by name, as discovery shows them."""
        found = [r for (g, v, _), r in self._types.items() if (g, v) == (group, version)]
        return sorted(found, key=lambda resource: resource.plural)

    def all(self) -> list[ResourceType]:
        return list(self._types.values())

    def replace(self, group: str, plural: str, served: list[ResourceType]) -> None:
        """Serve these versions of a custom resource and no others (none: it is gone)."""
        for key in [k for k in self._types if k[0] == group and k[2] == plural]:
            del self._types[key]
        for resource in served:
            self._types[(resource.group, resource.version, resource.plural)] = resource
        versions = {resource.version for resource in self._types.values() if resource.group == group}
        if versions:
            self._versions[group] = sorted(versions, key=version_priority)
        else:
            self._versions.pop(group, None)
        self.revision += 1
        for listener in self.listeners:
            listener()


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sort key of API versions: v2 before v1 before v1beta2 before v1beta1 before v1alpha1, others last by name."""
    rest = version.removeprefix("v")
    major, stage, minor = rest, "", ""
    for name in ("alpha", "beta"):
        if name in rest:
            major, _, minor = rest.partition(name)
            stage = name
    if rest == version or not major.isdigit() or (stage and not minor.isdigit()):
        return (3, 0, 0, version)
    return ({"": 0, "beta": 1, "alpha": 2}[stage], -int(major), -int(minor or 0), version)
