"""Who does not lead writes nothing to the Kubernetes API, not even that it does not lead."""

from typing import Any

import pytest

from dotmac_operator.hosts.port import NotLeading
from dotmac_operator.kube import KubeCluster
from dotmac_operator.reconcile.ports import ObjectRef

REF = ObjectRef("Instance", "erp", "acme", "u1", "1")


class NoApi:
    """An API client that must not be used."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the API was asked: {name}")


def refuse() -> None:
    raise NotLeading("this operator does not lead")


@pytest.mark.parametrize(
    "write",
    [
        lambda cluster: cluster.apply_status(REF, {}),
        lambda cluster: cluster.set_finalizer(REF, True, []),
        lambda cluster: cluster.write_credentials(REF, "acme-credentials", "ACME", {}),
    ],
)
def test_who_does_not_lead_writes_nothing(write: Any) -> None:
    cluster = KubeCluster(NoApi(), refuse)  # type: ignore[arg-type]
    with pytest.raises(NotLeading):
        write(cluster)
    assert cluster.writes == 0


def test_nor_does_it_tell_events() -> None:
    cluster = KubeCluster(NoApi(), refuse)  # type: ignore[arg-type]
    cluster.event(REF, "Normal", "Deployed", "it runs")
    assert cluster.writes == 0
