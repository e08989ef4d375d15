"""Releases and classes: nothing of them lives on a host, so all that is told is whether they can be used."""

import time
from collections.abc import Callable
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from dotmac_crds.instanceclass import InstanceClassStatus
from dotmac_crds.release import ReleaseSpec, ReleaseStatus
from dotmac_operator.core.conditions import condition, merge
from dotmac_operator.reconcile.ports import DONE, GONE, Cluster, Gone, Outcome
from dotmac_operator.reconcile.store import Resource, Store


class CatalogReconciler:
    """Writes Ready into the status of Releases and classes."""

    def __init__(self, store: Store, cluster: Cluster, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._cluster = cluster
        self._clock = clock

    def release(self, name: str) -> Outcome:
        found = self._store.release(name)
        if found is None:
            return GONE
        error = found.error or (_bad_ranges(found.spec) if found.spec else "")
        return self._report(found, error, ReleaseStatus)

    def instance_class(self, name: str) -> Outcome:
        found = self._store.instance_class(name)
        if found is None:
            return GONE
        return self._report(found, found.error, InstanceClassStatus)

    def _report(
        self, found: Resource[Any, Any], error: str, model: type[ReleaseStatus] | type[InstanceClassStatus]
    ) -> Outcome:
        made = (
            condition("Ready", not error, "Invalid" if error else "Valid", error),
            condition("Stalled", bool(error), "Invalid" if error else "Valid", error),
        )
        conditions = merge(found.status.conditions, made, found.generation, self._clock())
        status = model(observed_generation=found.generation, conditions=conditions)
        if status != found.status and not found.deleting:
            try:
                self._store.put(self._cluster.apply_status(found.ref, status.to_wire()))
            except Gone:
                return DONE
        return DONE


def _bad_ranges(spec: ReleaseSpec) -> str:
    for text in spec.upgrade_from:
        try:
            SpecifierSet(text)
        except InvalidSpecifier:
            return f"spec.upgradeFrom: {text!r} is no version range; write one such as >=6.0,<7"
    return ""
