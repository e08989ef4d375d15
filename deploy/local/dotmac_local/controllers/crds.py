"""CustomResourceDefinitions: established at once, served while they stand, emptied before they go."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from dotmac_local import metadata
from dotmac_local.kinds.rules import CRD_FINALIZER
from dotmac_local.metadata import Object
from dotmac_local.resources import APIEXTENSIONS, CUSTOM_VERBS, Names, Registry, ResourceType, ScalePaths
from dotmac_local.storage import Revision, Store
from dotmac_local.verbs.delete import DeleteOptions, Deleter
from dotmac_local.verbs.request import Target, WriteOptions
from dotmac_local.verbs.write import Writer

MANAGER = "kube-apiserver"
STORAGE = f"{APIEXTENSIONS}/customresourcedefinitions"


class CrdController:
    """Keeps the registry in step with the stored CRDs. `on_write` runs in the same turn as the write."""

    def __init__(self, store: Store, registry: Registry, writer: Writer) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._crd = registry.get(APIEXTENSIONS, "customresourcedefinitions")
        writer.hooks[STORAGE] = self.on_write

    def load(self) -> None:
        """Serve what the store already holds, after a restart."""
        for revision in self._store.select(STORAGE):
            self._serve(revision.load())

    def on_write(self, revision: Revision) -> None:
        crd = revision.load()
        group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
        if revision.deleted:
            self._registry.replace(group, plural, [])
            return
        clash = self._clash(crd)
        if self._set_conditions(revision, crd, clash):
            return  # the status was written; that write comes back here
        if not clash:
            self._serve(crd)
        if "deletionTimestamp" in crd["metadata"]:
            self._empty(revision, crd)

    def _serve(self, crd: Object) -> None:
        if not _is_true(crd, "Established"):
            return
        served = resources_of(crd)
        fresh = not any(self._registry.find(r.group, r.version, r.plural) for r in served)
        self._registry.replace(crd["spec"]["group"], crd["spec"]["names"]["plural"], served)
        for resource in served:
            self._store.collection(resource.storage, new=fresh)

    def _clash(self, crd: Object) -> str:
        """Why the names cannot be accepted: another resource of the group has one of them."""
        spec = crd["spec"]
        names = spec["names"]
        wanted = {names["plural"], names["singular"], *names.get("shortNames", [])}
        for other in self._registry.all():
            if other.group != spec["group"] or other.plural == names["plural"]:
                continue
            taken = wanted & {other.plural, other.names.singular, *other.names.short}
            if taken:
                return f'"{sorted(taken)[0]}" is already in use'
            if other.kind == names["kind"] or other.list_kind == names["listKind"]:
                return f'"{names["kind"]}" is already in use'
        return ""

    def _set_conditions(self, revision: Revision, crd: Object, clash: str) -> bool:
        """Write the status that the definition should have; False when it has it."""
        wanted = _names_conditions(clash)
        if "deletionTimestamp" in crd["metadata"]:
            message = "CustomResource deletion is in progress"
            wanted.append(_condition("Terminating", "True", "InstanceDeletionInProgress", message))
        before = {condition["type"]: condition for condition in crd["status"].get("conditions") or []}
        stored = crd["status"].get("storedVersions") or []
        current = [version["name"] for version in crd["spec"]["versions"] if version["storage"]]
        status = {
            "conditions": [_settled(condition, before.get(condition["type"])) for condition in wanted],
            "acceptedNames": crd["status"]["acceptedNames"] if clash else dict(crd["spec"]["names"]),
            "storedVersions": stored + [name for name in current if name not in stored],
        }
        if status == crd["status"]:
            return False
        # Compiling the schema may have taken a while; the first status still belongs to the moment of creation.
        time = "" if crd["status"].get("conditions") else crd["metadata"]["creationTimestamp"]
        options = WriteOptions(manager=MANAGER, time=time)
        self._writer.amend(self._crd, revision, lambda obj: obj.update(status=status), options, "status")
        return True

    def _empty(self, revision: Revision, crd: Object) -> None:
        """Delete the custom resources of a definition that is to go; let it go once there are none."""
        if CRD_FINALIZER not in crd["metadata"].get("finalizers", []):
            return
        storage = f"{crd['spec']['group']}/{crd['spec']['names']['plural']}"
        resource = self._registry.stored().get(storage)
        for instance in self._store.select(storage) if resource else ():
            self.delete_instance(resource, instance)
        if self._store.select(storage):
            return

        def release(obj: Object) -> None:
            obj["metadata"]["finalizers"] = [name for name in obj["metadata"]["finalizers"] if name != CRD_FINALIZER]

        self._writer.amend(self._crd, revision, release, WriteOptions(manager=MANAGER))

    def delete_instance(self, resource: ResourceType | None, instance: Revision) -> None:

        if resource is None or "deletionTimestamp" in instance.load()["metadata"]:
            return
        Deleter(self._writer).delete(Target(resource, instance.namespace, instance.name), DeleteOptions())

    def instance_gone(self, revision: Revision) -> None:
        """Observer: the last custom resource of a terminating definition lets it go."""
        if not revision.deleted:
            return
        group, _, plural = revision.storage.partition("/")
        found = self._store.get(STORAGE, "", f"{plural}.{group}")
        if found is not None and "deletionTimestamp" in (crd := found.load())["metadata"]:
            self._empty(found, crd)


def _names_conditions(clash: str) -> list[Object]:
    if clash:
        return [
            _condition("NamesAccepted", "False", "PluralConflict", clash),
            _condition("Established", "False", "NotAccepted", "not all names are accepted"),
        ]
    return [
        _condition("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
        _condition("Established", "True", "InitialNamesAccepted", "the initial names have been accepted"),
    ]


def _condition(kind: str, status: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def _settled(condition: Object, before: Object | None) -> Object:
    """With the time of its last flip."""
    moved = before is None or before["status"] != condition["status"]
    time = metadata.now() if moved or before is None else before["lastTransitionTime"]
    return {"type": condition["type"], "status": condition["status"], "lastTransitionTime": time,
            "reason": condition["reason"], "message": condition["message"]}  # fmt: skip


def _is_true(crd: Object, condition: str) -> bool:
    found = crd.get("status", {}).get("conditions") or []
    return any(c["type"] == condition and c["status"] == "True" for c in found)


def resources_of(crd: Object) -> list[ResourceType]:
    """The served versions of a definition."""
    return [_resource(crd["spec"], version) for version in crd["spec"]["versions"] if version["served"]]


def _resource(spec: Object, version: Object) -> ResourceType:
    names = spec["names"]
    openapi: dict[str, Any] = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
    sub = version.get("subresources") or {}
    scale = sub.get("scale")
    fingerprint = hashlib.sha256(orjson.dumps([openapi, sorted(sub)])).hexdigest()[:16]
    return ResourceType(
        group=spec["group"],
        version=version["name"],
        names=Names(
            plural=names["plural"],
            kind=names["kind"],
            singular=names["singular"],
            short=tuple(names.get("shortNames") or ()),
            categories=tuple(names.get("categories") or ()),
            list_kind=names["listKind"],
        ),
        namespaced=spec["scope"] == "Namespaced",
        verbs=CUSTOM_VERBS,
        custom=True,
        has_status="status" in sub,
        scale=ScalePaths(scale["specReplicasPath"], scale["statusReplicasPath"], scale.get("labelSelectorPath"))
        if scale
        else None,
        openapi=openapi,
        columns=tuple(version.get("additionalPrinterColumns") or ()),
        fields=tuple(field["jsonPath"].lstrip(".") for field in version.get("selectableFields") or ()),
        tag=f"{spec['group']}/{version['name']}#{fingerprint}",
    )
