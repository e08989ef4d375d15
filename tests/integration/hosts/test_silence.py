"""A stream that delivers nothing: is nothing happening, or is nobody there?"""

import os
import signal
import subprocess
import time

import pytest
from tests.integration.hosts.test_events import Reader, create

from dotmac_operator.core import names
from dotmac_operator.hosts import engineevents
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.port import HostUnreachable

pytestmark = pytest.mark.docker


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(engineevents, "SILENCE_SECONDS", 0.5)


def dials(host) -> list[int]:
    """The programs on the host behind each channel."""
    found = subprocess.run(["pgrep", "-U", host.user, "-x", "docker"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def test_an_engine_that_tells_everything_is_never_doubted(connect, tiny, name):
    connected = connect()
    reader = Reader(connected.engine.events(0, [f"dotmac.test={name}"]))
    for number in range(8):  # changes and silences of all lengths
        create(connected.engine, tiny, name, f"{name}-{number}")
        time.sleep(0.25 * number)
    assert len([e for e in reader.rest() if e.action == "create"]) == 8
    assert reader.ended.empty()
    assert connected.heartbeats >= 3
    assert 0 < connected.latency < 0.5
    assert time.monotonic() - reader.stream.alive_at < 2


def test_a_channel_that_has_stopped_is_noticed_and_nothing_is_lost(connect, host, tiny, name):
    connected = connect()
    reader = Reader(connected.engine.events(0, [f"dotmac.test={name}"]))
    (streaming,) = dials(host)
    os.kill(streaming, signal.SIGSTOP)
    try:
        time.sleep(1.2)  # the engine counts whole seconds
        create(connected.engine, tiny, name)
        began = time.monotonic()
        lost = reader.ended.get(timeout=10)
        assert isinstance(lost, HostUnreachable) and "fallen silent" in str(lost)
        assert time.monotonic() - began < 4
        again = Reader(connected.engine.events(1, [f"dotmac.test={name}"]))
        assert [event.action for event in again.until("create")] == ["create"]
    finally:
        os.kill(streaming, signal.SIGKILL)


def test_the_inventory_counts_it_and_listens_again(connect, host, tiny, name):
    connected = connect()
    told = []
    inventory = Inventory(connected, told.append)
    inventory.start()
    deadline = time.monotonic() + 10
    while not inventory.streaming:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (streaming,) = dials(host)
    os.kill(streaming, signal.SIGSTOP)
    try:
        time.sleep(1.2)
        connected.engine.create_container(
            name, {"Image": tiny, "Cmd": ["true"], "Labels": {names.MANAGED_BY: names.OPERATOR}}
        )
        while inventory.breaks == 0 or not inventory.streaming:
            assert time.monotonic() < deadline + 10
            time.sleep(0.02)
        assert None in told  # the Server is looked at
        assert any(fact.name == name for fact in inventory.facts().containers)
        assert inventory.silent_for() < 2
    finally:
        os.kill(streaming, signal.SIGKILL)
        inventory.close()
