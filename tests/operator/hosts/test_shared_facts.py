"""What is read of a host is kept, so that what is said of thousands of things is kept once."""

import json
import tracemalloc
from dataclasses import replace

from tests.kits.fakes import FakeEngine, FakeHost

from dotmac_operator.core.facts import ContainerFact, VolumeFact
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.enginefacts import container_fact, volume_fact
from dotmac_operator.hosts.inventory import Inventory, Same
from dotmac_operator.hosts.port import HostAddress

ADDRESS = HostAddress("tenants/host-1", "192.0.2.1", 22, "root", SecretStr("key"), None, ())
TENANTS = 40


def told(tenant: int, role: int) -> tuple[ContainerFact, VolumeFact]:
    """As the Engine's JSON tells them: each text and each set of labels is one of its own."""
    labels = {f"platform.example/label-{n}": f"value-{n}-of-tenant-{tenant}" for n in range(10)}
    network = {"IPAddress": "10.0.0.2", "NetworkID": f"id-of-the-network-of-{tenant}"}
    container = {
        "Id": f"{tenant}-{role}",
        "Names": [f"/t{tenant}-{role}"],
        "Image": "registry.example/app@sha256:" + "a" * 64,
        "ImageID": "sha256:" + "b" * 64,
        "State": "running",
        "Status": "Up 1 second",
        "Labels": {**labels, "role": f"role-{role}"},
        "NetworkSettings": {"Networks": {f"network-{tenant}": network}},
    }
    volume = {"Name": f"t{tenant}-{role}", "Labels": labels}
    return container_fact(json.loads(json.dumps(container))), volume_fact(json.loads(json.dumps(volume)))


class ToldEngine(FakeEngine):
    def containers(self, labels: object = ()) -> list[ContainerFact]:
        return [told(tenant, role)[0] for tenant in range(TENANTS) for role in range(6)]

    def volumes(self, labels: object = ()) -> list[VolumeFact]:
        return [told(tenant, role)[1] for tenant in range(TENANTS) for role in range(6)]


def test_facts_of_a_host_take_little_memory() -> None:
    """4.4 KiB for a container and its volume, not 1.7, when each had labels of its own."""
    inventory = Inventory(FakeHost(ADDRESS, ToldEngine(lambda: 0.0)), lambda event: None)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        facts = inventory.facts()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(facts.containers) == 6 * TENANTS
    assert taken / len(facts.containers) < 2.0 * 1024


def test_sharing_changes_nothing_that_is_said() -> None:
    inventory = Inventory(FakeHost(ADDRESS, ToldEngine(lambda: 0.0)), lambda event: None)
    facts = inventory.facts()
    for number, container in enumerate(facts.containers):
        expected = told(number // 6, number % 6)[0]
        # A network that the host does not have is left out; see Inventory.
        assert container == replace(expected, networks={})
    assert [volume.labels for volume in facts.volumes] == [told(n // 6, n % 6)[1].labels for n in range(6 * TENANTS)]


def test_labels_that_differ_in_one_value_stay_apart() -> None:
    same = Same()
    first, second, third = ({"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"b": "x", "a": "1"})
    assert [same.labels(each) for each in (first, second, third)] == [first, second, third]
    assert same.labels(dict(first)) is same.labels(first) is not same.labels(second)
