"""What the operator knows of the objects, while the watch and the answers to its own writes race."""

import json
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from dotmac_crds.instance import InstanceSpec, InstanceStatus
from dotmac_operator.core import names
from dotmac_operator.reconcile.store import GONE_KEPT, Instance, Store, parse, relevant


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


def running(number: int) -> Instance:
    """Parsed from JSON of its own, as it comes by the watch."""
    at, name = f"2026-01-01T00:00:{number % 60:02}Z", f"t{number}"
    status = {
        "observedGeneration": 1,
        "conditions": [
            {"type": f"C{n}", "status": "True", "reason": "Fine", "message": name, "lastTransitionTime": at}
            for n in range(9)
        ],
        "steps": [{"name": f"s{n}", "state": "Succeeded", "startedAt": at, "finishedAt": at} for n in range(10)],
        "images": [{"reference": f"r/{n}:1", "id": f"sha256:{n}"} for n in range(3)],
    }
    spec = {
        "orgCode": name,
        "orgName": name,
        "serverRef": {"name": "s"},
        "releaseRef": {"name": "r"},
        "classRef": {"name": "c"},
        "admin": {"email": "a@b.example"},
        "deletion": {"policy": "Delete"},
    }
    body = {**instance(number, name), "spec": spec, "status": status}
    body["metadata"]["managedFields"] = [{"manager": name, "fieldsV1": {f"f:{n}": {} for n in range(100)}}]
    parsed: Instance = parse(json.loads(json.dumps(body)))
    assert parsed.spec is not None and len(parsed.status.steps or ()) == 10
    return parsed


def test_an_instance_takes_little_memory() -> None:
    """27 KiB for this one, not 15, when each model had a set of field names of its own and the spec was kept twice."""
    running(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = [running(number) for number in range(200)]
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken / len(kept) < 20 * 1024


def test_what_instances_share_stays_theirs() -> None:
    """Which fields were given is one set for many models: a copy with more fields given must not add to it."""
    first, second = running(1), running(2)
    assert first.spec is not None and second.spec is not None
    assert first.spec.model_fields_set is second.spec.model_fields_set
    changed = first.spec.model_copy(update={"modules": ["hr"]})
    assert "modules" in changed.model_fields_set
    assert "modules" not in first.spec.model_fields_set | second.spec.model_fields_set
    status = second.status.model_copy(update={"phase": "Running"})
    assert (status.phase, first.status.phase) == ("Running", None)
    assert second.spec == InstanceSpec.model_validate(second.spec.to_wire())
    assert second.status == InstanceStatus.model_validate(second.status.to_wire())


def test_of_an_unreadable_spec_a_departure_still_knows_its_data() -> None:
    spec = {"orgCode": "acme", "deletion": {"policy": "Delete", "protected": True}}
    found: Instance = parse({**instance(1), "spec": spec})
    assert found.spec is None and "orgName" in found.error
    assert found.raw_spec == {"orgCode": "acme", "deletion": {"policy": "Delete", "protected": True}}


class Counted(Mapping[str, str]):
    """Annotations that count how often they are read."""

    reads = 0

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values_ = values

    def __getitem__(self, key: str) -> str:
        Counted.reads += 1
        return self.values_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


def restored(number: int, uid: str, told: str, namespace: str = "n") -> Instance:
    made: Instance = parse(instance(number, uid, name=f"t{number}", namespace=namespace))
    return replace(made, annotations=Counted({names.RESTORED_UID: told} if told else {}))


def test_whose_containers_are_whose_is_known_without_looking_at_the_whole_fleet() -> None:
    """Regression: after a restore from an export each Instance looked at all others: 4,000,000 reads for 2,000."""
    store, fleet = Store(), [restored(number, f"new-{number}", f"old-{number}") for number in range(2000)]
    for each in fleet:
        store.keep(each)
    Counted.reads = 0
    assert [store.uid_on_host(each) for each in fleet] == [f"old-{number}" for number in range(2000)]
    assert Counted.reads <= len(fleet)


def test_a_claim_ends_with_its_annotation_its_object_and_its_uid() -> None:
    store = Store()
    mine = restored(1, "a", "old")
    store.keep(mine)
    assert store.uid_on_host(mine) == "old"
    store.keep(restored(2, "b", "old"))
    assert store.uid_on_host(mine) == "a"  # two claim it
    store.keep(restored(2, "b", "other"))
    assert store.uid_on_host(mine) == "old"
    store.keep(restored(3, "c", "old", namespace="elsewhere"))
    assert store.uid_on_host(mine) == "old"
    store.keep(restored(4, "old", ""))
    assert store.uid_on_host(mine) == "a"  # it lives
    store.drop("Instance", "n/t4", "old")
    assert store.uid_on_host(mine) == "old"
    store.keep(restored(5, "e", "old"))
    store.keep(restored(5, "f", "", namespace="n"))  # a successor of its name, before the word that it is gone
    store.drop("Instance", "n/t5", "e")
    assert store.uid_on_host(mine) == "old"
    for index in (store._restored, store._uids):
        assert not any("5" in repr(place) and "e" == place for place in index)


def server(version: int, secret: Any, name: str = "s") -> dict[str, Any]:
    meta = {"namespace": "n", "name": name, "uid": name, "resourceVersion": str(version)}
    return {"kind": "Server", "metadata": meta, "spec": {"credentialsRef": secret}}


def test_which_server_signs_in_with_a_secret_is_known_while_it_does() -> None:
    store = Store()
    store.put(server(1, {"name": "key"}))
    store.put(server(2, {"name": "key"}, "t"))
    assert (store.signs_in("n", "key"), store.signs_in("m", "key"), store.signs_in("n", "other")) == ("s", "", "")
    store.put(server(3, {"name": "other"}))
    assert (store.signs_in("n", "key"), store.signs_in("n", "other")) == ("t", "s")
    store.drop("Server", "n/t", "t")
    assert store.signs_in("n", "key") == ""
    for broken in (None, "key", {"name": ["key"]}, {}):
        store.put(server(4, broken, f"b{broken}"))
    assert set(store._keys) == {("n", "other")}
