"""Which images a host has is remembered only while its event stream tells of changes."""

from tests.kits.fakes import FakeEngine, FakeHost, deployed

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.port import HostAddress

ADDRESS = HostAddress("tenants/host-1", "192.0.2.1", 22, "root", SecretStr("key"), None, ())


def test_an_image_that_was_removed_without_a_stream_is_noticed() -> None:
    """Regression: it was remembered for good, and every container of it failed with "no such image"."""
    engine = FakeEngine(lambda: 0.0, images_={"a:1"})
    inventory = Inventory(FakeHost(ADDRESS, engine), lambda event: None)
    assert "a:1" in inventory.facts(["a:1"]).images
    engine.images_.clear()
    assert "a:1" not in inventory.facts(["a:1"]).images


def test_with_a_stream_an_image_is_asked_for_once() -> None:
    world = deployed()
    inventory = world.hosts.inventory("tenants/host-1")
    assert inventory is not None
    inventory.facts(["example/app:1"])
    reads = world.engine.reads
    inventory.facts(["example/app:1"])
    assert world.engine.reads == reads
