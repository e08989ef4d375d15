"""Garbage collection by owner references: background, foreground and orphan, as kube-controller-manager does it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dotmac_local import views
from dotmac_local.controllers.work import Worker
from dotmac_local.metadata import Object
from dotmac_local.resources import Registry, ResourceType
from dotmac_local.storage import Revision, Store
from dotmac_local.verbs.delete import DeleteOptions, Deleter
from dotmac_local.verbs.request import Target, WriteOptions
from dotmac_local.verbs.write import Writer

MANAGER = "kube-controller-manager"
FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


@dataclass(frozen=True)
class Ref:
    """An object by its place in the store."""

    storage: str
    namespace: str
    name: str


class Owner(Enum):
    """What an owner reference points to."""

    SOLID = "is there"
    DANGLING = "is gone, or another object by now"
    WAITING = "waits for its dependents to go"
    UNKNOWN = "is of a kind that is not served: nothing can be said"


class GarbageCollector(Worker[Ref]):
    """Looks at every object that has owners, whenever it or one of them changes."""

    def __init__(self, store: Store, registry: Registry, writer: Writer) -> None:
        super().__init__("garbage collector")
        self._store = store
        self._registry = registry
        self._writer = writer
        self._deleter = Deleter(writer)
        self._dependents: dict[str, set[Ref]] = {}
        self._owners: dict[Ref, frozenset[str]] = {}

    def load(self) -> None:
        """Take up what an earlier run left."""
        for storage in self._store.storages():
            for revision in self._store.select(storage):
                self.observe(revision)

    def observe(self, revision: Revision) -> None:
        ref = Ref(revision.storage, revision.namespace, revision.name)
        owned = not revision.deleted and b'"ownerReferences"' in revision.data
        if owned or ref in self._owners:
            self._index(ref, revision, owned)
        if revision.deleted:
            for dependent in self._dependents.get(revision.load()["metadata"]["uid"], ()):
                self.add(dependent)
        elif owned or b'"deletionTimestamp"' in revision.data:
            self.add(ref)

    def _index(self, ref: Ref, revision: Revision, owned: bool) -> None:
        before = self._owners.pop(ref, frozenset())
        references = revision.load()["metadata"].get("ownerReferences", []) if owned else []
        now = frozenset(reference["uid"] for reference in references)
        for uid in before - now:
            self._dependents[uid].discard(ref)
            if not self._dependents[uid]:
                del self._dependents[uid]
            self._look_at_owner(revision, uid)
        for uid in now - before:
            self._dependents.setdefault(uid, set()).add(ref)
        if now:
            self._owners[ref] = now

    def _look_at_owner(self, dependent: Revision, uid: str) -> None:
        """A dependent has let go: an owner in foreground deletion may be done."""
        source = dependent.previous if dependent.deleted and dependent.previous else dependent
        for revision in (dependent, source):
            for reference in revision.load()["metadata"].get("ownerReferences", []):
                if reference["uid"] == uid and (owner := self._owner(reference, dependent.namespace)):
                    self.add(Ref(owner.storage, owner.namespace, owner.name))

    def handle(self, item: Ref) -> None:
        revision = self._store.get(item.storage, item.namespace, item.name)
        resource = self._registry.stored().get(item.storage)
        if revision is None or resource is None:
            return
        obj = views.as_object(revision, resource)
        finalizers = obj["metadata"].get("finalizers", [])
        if "deletionTimestamp" in obj["metadata"]:
            if ORPHAN in finalizers:
                self._orphan(resource, revision, obj)
            elif FOREGROUND in finalizers:
                self._foreground(resource, revision, obj)
            return
        if obj["metadata"].get("ownerReferences"):
            self._collect(resource, revision, obj)

    # The three ways to go

    def _orphan(self, resource: ResourceType, revision: Revision, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        for ref in sorted(self._dependents.get(uid, ()), key=lambda r: (r.storage, r.namespace, r.name)):
            self._drop_references(ref, {uid})
        self._release(resource, revision, ORPHAN)

    def _foreground(self, resource: ResourceType, revision: Revision, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        blocking = False
        for ref in list(self._dependents.get(uid, ())):
            dependent = self._store.get(ref.storage, ref.namespace, ref.name)
            if dependent is None:
                continue
            meta = dependent.load()["metadata"]
            if "deletionTimestamp" not in meta:
                self.add(ref)
            blocking |= any(r["uid"] == uid and r.get("blockOwnerDeletion") for r in meta["ownerReferences"])
        if not blocking:
            self._release(resource, revision, FOREGROUND)

    def _collect(self, resource: ResourceType, revision: Revision, obj: Object) -> None:
        """Delete an object whose owners are all gone or going; drop references that lead nowhere."""
        references = obj["metadata"]["ownerReferences"]
        states = [(reference, self._state(reference, revision.namespace)) for reference in references]
        kinds = {state for _, state in states}
        if Owner.UNKNOWN in kinds:
            return
        if Owner.SOLID in kinds:
            stale = {reference["uid"] for reference, state in states if state is not Owner.SOLID}
            if stale:
                self._drop_references(Ref(revision.storage, revision.namespace, revision.name), stale)
            return
        uid = obj["metadata"]["uid"]
        in_front = Owner.WAITING in kinds and bool(self._dependents.get(uid))
        policy = "Foreground" if in_front else "Background"
        target = Target(resource, revision.namespace, revision.name)
        self._deleter.delete(target, DeleteOptions(policy=policy, uid=uid))

    def _state(self, reference: Object, namespace: str) -> Owner:
        if self._resource(reference) is None:
            return Owner.UNKNOWN
        owner = self._owner(reference, namespace)
        if owner is None:
            return Owner.DANGLING
        meta = owner.load()["metadata"]
        if meta["uid"] != reference["uid"]:
            return Owner.DANGLING
        waiting = "deletionTimestamp" in meta and FOREGROUND in meta.get("finalizers", [])
        return Owner.WAITING if waiting else Owner.SOLID

    def _resource(self, reference: Object) -> ResourceType | None:
        group = reference["apiVersion"].rpartition("/")[0]
        found = self._registry.by_kind(reference["apiVersion"], reference["kind"])
        return found or self._registry.any_version(group, reference["kind"])

    def _owner(self, reference: Object, namespace: str) -> Revision | None:
        """Owners live in the namespace of their dependents, or are cluster-scoped."""
        resource = self._resource(reference)
        if resource is None:
            return None
        return self._store.get(resource.storage, namespace if resource.namespaced else "", reference["name"])

    def _drop_references(self, ref: Ref, uids: set[str]) -> None:
        revision = self._store.get(ref.storage, ref.namespace, ref.name)
        resource = self._registry.stored().get(ref.storage)
        if revision is None or resource is None:
            return

        def drop(obj: Object) -> None:
            kept = [r for r in obj["metadata"].get("ownerReferences", []) if r["uid"] not in uids]
            if kept:
                obj["metadata"]["ownerReferences"] = kept
            else:
                obj["metadata"].pop("ownerReferences", None)

        self._writer.amend(resource, revision, drop, WriteOptions(manager=MANAGER))

    def _release(self, resource: ResourceType, revision: Revision, finalizer: str) -> None:
        def release(obj: Object) -> None:
            obj["metadata"]["finalizers"] = [name for name in obj["metadata"]["finalizers"] if name != finalizer]
            if not obj["metadata"]["finalizers"]:
                del obj["metadata"]["finalizers"]

        self._writer.amend(resource, revision, release, WriteOptions(manager=MANAGER))
