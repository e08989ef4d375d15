"""What the operator knows of the objects, while the watch and the answers to its own writes race."""

from typing import Any

from dotmac_operator.reconcile.store import GONE_KEPT, Store, relevant


def instance(version: int, uid: str = "u1", **meta: Any) -> dict[str, Any]:
    metadata = {"namespace": "n", "name": "a", "uid": uid, "resourceVersion": str(version), **meta}
    return {"kind": "Instance", "metadata": metadata, "spec": {}}


def test_an_older_version_never_replaces_a_newer_one() -> None:
    store = Store()
    store.put(instance(5))
    assert store.put(instance(4))[1].ref.resource_version == "5"
    found = store.instance("n/a")
    assert found is not None and found.ref.resource_version == "5"


def test_an_answer_that_comes_after_the_deletion_makes_no_ghost() -> None:
    """Regression: the ghost was counted on its Server, and kept its orgCode and domains, until a restart."""
    store = Store()
    store.put(instance(5))
    store.drop("Instance", "n/a", "u1")
    assert not relevant(*store.put(instance(6, deletionTimestamp="2026-01-01T00:00:00Z")))
    assert store.instances() == []


def test_a_successor_of_the_same_name_is_taken_in() -> None:
    store = Store()
    store.put(instance(5))
    store.put(instance(7, "u2"))
    store.drop("Instance", "n/a", "u1")
    found = store.instance("n/a")
    assert found is not None and found.ref.uid == "u2"


def test_the_memory_of_what_is_gone_is_bounded() -> None:
    store = Store()
    for number in range(GONE_KEPT + 5):
        store.drop("Instance", "n/a", f"u{number}")
    assert len(store._gone) == GONE_KEPT
