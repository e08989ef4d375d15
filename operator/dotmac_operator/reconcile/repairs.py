"""How repaired drift is told beside the status."""

from collections.abc import Mapping

from dotmac_operator.reconcile.ports import Cluster, Meter, ObjectRef


def tell_repairs(cluster: Cluster, meter: Meter, ref: ObjectRef, repaired: Mapping[str, str]) -> None:
    """One Event, and one count for each kind. `repaired`: kind of drift -> what was found."""
    if repaired:
        cluster.event(ref, "Normal", "DriftRepaired", "; ".join(repaired.values())[:1000])
    for kind in repaired:
        meter.drift_repaired(kind)
