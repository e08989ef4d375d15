"""Namespaces: each has its default service account, and takes everything in it along when it goes."""

from __future__ import annotations

from collections import Counter

from dotmac_local import metadata
from dotmac_local.controllers.work import Worker
from dotmac_local.metadata import Object
from dotmac_local.resources import Registry
from dotmac_local.storage import Revision, Store
from dotmac_local.verbs.delete import DeleteOptions, Deleter
from dotmac_local.verbs.request import Target, WriteOptions
from dotmac_local.verbs.write import Writer

MANAGER = "kube-controller-manager"
NAMESPACES = "/namespaces"
SERVICE_ACCOUNTS = "/serviceaccounts"
# Kubernetes waits five seconds, for caches that lag; one is enough here to see the namespace terminating.
DELAY_SECONDS = 1.0


class NamespaceController(Worker[str]):
    """Items are names of namespaces."""

    def __init__(self, store: Store, registry: Registry, writer: Writer) -> None:
        super().__init__("namespace controller")
        self._store = store
        self._registry = registry
        self._writer = writer
        self._deleter = Deleter(writer)
        self._namespaces = registry.get("", "namespaces")
        self._service_accounts = registry.get("", "serviceaccounts")
        self._terminating: set[str] = set()

    def load(self) -> None:
        """Take up what an earlier run left."""
        for revision in self._store.select(NAMESPACES):
            self.observe(revision)

    def observe(self, revision: Revision) -> None:
        if revision.storage == NAMESPACES:
            self._observe_namespace(revision)
        elif revision.namespace in self._terminating and revision.deleted:
            self.add(revision.namespace)
        elif revision.storage == SERVICE_ACCOUNTS and revision.deleted and revision.name == "default":
            self.add(revision.namespace)

    def _observe_namespace(self, revision: Revision) -> None:
        if revision.deleted:
            self._terminating.discard(revision.name)
        elif b'"deletionTimestamp"' not in revision.data:
            self.add(revision.name)
        elif revision.name not in self._terminating:
            self._terminating.add(revision.name)
            self.add_later(DELAY_SECONDS, revision.name)

    def handle(self, item: str) -> None:
        revision = self._store.get(NAMESPACES, "", item)
        if revision is None:
            return
        if "deletionTimestamp" in revision.load()["metadata"]:
            self._empty(item, revision)
        elif self._store.get(SERVICE_ACCOUNTS, item, "default") is None:
            account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
            self._writer.create(Target(self._service_accounts, item), account, WriteOptions(manager=MANAGER))

    def _empty(self, namespace: str, revision: Revision) -> None:
        remaining: Counter[str] = Counter()
        finalizers: Counter[str] = Counter()
        for storage, resource in self._registry.stored().items():
            if not resource.namespaced:
                continue
            for found in self._store.select(storage, namespace):
                if "deletionTimestamp" not in found.load()["metadata"]:
                    self._deleter.delete(Target(resource, namespace, found.name), DeleteOptions())
            for left in self._store.select(storage, namespace):
                remaining[resource.qualified] += 1
                finalizers.update(left.load()["metadata"].get("finalizers", []))
        target = Target(self._namespaces, "", namespace)
        if not remaining:
            kept = [name for name in revision.load()["spec"].get("finalizers", []) if name != "kubernetes"]
            self._writer.finalize_namespace(target, revision, kept, WriteOptions(manager=MANAGER))
            return
        self._report(revision, remaining, finalizers)

    def _report(self, revision: Revision, remaining: Counter[str], finalizers: Counter[str]) -> None:
        """Say in the status what still holds the namespace."""
        before = {c["type"]: c for c in revision.load().get("status", {}).get("conditions", [])}
        conditions = []
        for kind, status, reason, message in _conditions(remaining, finalizers):
            known = before.get(kind)
            time = known["lastTransitionTime"] if known and known["status"] == status else metadata.now()
            conditions.append(
                {"type": kind, "status": status, "lastTransitionTime": time, "reason": reason, "message": message}
            )

        def report(obj: Object) -> None:
            obj["status"] = {**obj.get("status", {}), "conditions": conditions}

        self._writer.amend(self._namespaces, revision, report, WriteOptions(manager=MANAGER), "status")


def _conditions(remaining: Counter[str], finalizers: Counter[str]) -> list[tuple[str, str, str, str]]:
    left = ", ".join(f"{name} has {count} resource instances" for name, count in sorted(remaining.items()))
    held = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
    content = "All content successfully deleted, may be waiting on finalization"
    return [
        ("NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "All resources successfully discovered"),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        ("NamespaceDeletionContentFailure", "False", "ContentDeleted", content),
        ("NamespaceContentRemaining", "True", "SomeResourcesRemain", f"Some resources are remaining: {left}"),
        (
            "NamespaceFinalizersRemaining",
            "True" if finalizers else "False",
            "SomeFinalizersRemain" if finalizers else "ContentHasNoFinalizers",
            f"Some content in the namespace has finalizers remaining: {held}"
            if finalizers
            else "All content-preserving finalizers finished",
        ),
    ]
