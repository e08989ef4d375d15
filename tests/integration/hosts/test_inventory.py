"""The inventory on a real host: one read serves all, events keep it fresh, and it lets go when it is closed."""

import time

import pytest

from dotmac_operator.core import names
from dotmac_operator.hosts.inventory import Inventory

pytestmark = pytest.mark.docker


def wait_for(check, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_quiet_host_is_not_asked_again_and_a_change_is_seen_at_once(connect, tiny, name):
    host = connect()
    inventory = Inventory(host, lambda event: None)
    inventory.start()
    wait_for(lambda: inventory._streaming)
    inventory.facts()
    before = host.round_trips
    for _ in range(10):
        inventory.facts()
    assert host.round_trips == before
    host.engine.create_container(name, {"Image": tiny, "Cmd": ["true"], "Labels": {names.MANAGED_BY: names.OPERATOR}})
    wait_for(lambda: any(fact.name == name for fact in inventory.facts().containers), 2)
    inventory.close()


def test_a_successor_can_listen_at_once(connect):
    host = connect()
    for _ in range(3):
        inventory = Inventory(host, lambda event: None)
        inventory.start()
        wait_for(lambda inventory=inventory: inventory._streaming, 3)
        inventory.close()
        thread = inventory._thread
        assert thread is not None
        thread.join(5)
        assert not thread.is_alive()


def test_a_lost_stream_wakes_the_reader_and_is_opened_again(connect, host):
    told: list[object] = []
    inventory = Inventory(connect(), told.append)
    inventory.start()
    wait_for(lambda: inventory._streaming)
    host.restart_sshd()
    wait_for(lambda: None in told)
    wait_for(lambda: inventory._streaming)
    inventory.close()


def test_the_list_of_containers_tells_what_a_tag_means(connect, host, tiny, name):
    """Nothing listens here, so that nothing but the reading can tell that the tag was moved, or is gone."""
    tag, other = f"dotmac/{name}:1", f"dotmac/{name}:other"
    host.docker("tag", tiny, tag)
    reached = connect()
    labels = {names.MANAGED_BY: names.OPERATOR}
    container = reached.engine.create_container(name, {"Image": tag, "Cmd": ["true"], "Labels": labels})
    inventory = Inventory(reached, lambda event: None)
    try:
        before = inventory.facts([tag]).images[tag]
        trips = reached.round_trips
        assert inventory.read_anew().images[tag] == before
        assert reached.round_trips == trips + 4, "the lists and the version of a file"
        host.docker("commit", container, other)
        host.docker("tag", other, tag)
        moved = inventory.read_anew().images[tag]
        assert moved.id == reached.engine.image(other).id != before.id
        host.docker("rmi", "--force", tag)
        assert tag not in inventory.read_anew().images
    finally:
        host.docker("rm", "--force", container)
        host.docker("rmi", "--force", other)
