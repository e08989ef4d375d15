"""Which images a host has is remembered only while its event stream tells of changes."""

from typing import Any

from tests.kits.fakes import FakeEngine, FakeHost, World, deployed

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


APP = "example/app:1"


def read_anew(world: World, known: str = APP) -> tuple[Any, list[str]]:
    """The image, read anew, and which images were asked for."""
    inventory = world.hosts.inventory("tenants/host-1")
    assert inventory is not None
    inventory.facts([known])
    asked: list[str] = []
    image = world.engine.image
    world.engine.image = lambda reference: (asked.append(reference), image(reference))[1]  # type: ignore[method-assign]
    try:
        return inventory.read_anew().images.get(known), asked
    finally:
        world.engine.image = image  # type: ignore[method-assign]


def test_an_image_that_a_container_is_listed_by_is_known_by_that() -> None:
    world = deployed()
    image, asked = read_anew(world)
    assert image is not None
    assert (image.id, asked) == (world.engine.of("web")[0].image_id, [])


def test_a_name_that_means_another_image_is_asked_for_and_nothing_had_to_tell() -> None:
    world = deployed()
    world.engine.ids_[APP] = "sha256:another"
    for _ in range(2):
        image, asked = read_anew(world)
        assert image.id == "sha256:another"
        assert APP in asked


def test_an_image_that_was_taken_away_is_asked_for_and_is_not_there() -> None:
    world = deployed()
    read_anew(world)
    world.engine.images_.discard(APP)  # docker image rm --force
    image, asked = read_anew(world)
    assert image is None
    assert APP in asked


def test_an_image_that_no_container_has_is_asked_for_each_time() -> None:
    world = deployed()
    world.engine.images_.add("example/app:next")
    for _ in range(2):
        image, asked = read_anew(world, "example/app:next")
        assert image is not None
        assert asked == ["example/app:next"]


def test_an_image_whose_container_went_is_asked_for() -> None:
    world = deployed()
    read_anew(world)
    boxes = world.engine.containers_
    world.engine.containers_ = {key: box for key, box in boxes.items() if box.body["Image"] != APP}
    image, asked = read_anew(world)
    assert image is not None
    assert APP in asked
