from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.simhost import FleetSettings, SimFleet, SimHost

from dotmac_operator.hosts.pool import SshHost, SshHostPool, SshSettings


@pytest.fixture
def fleet() -> Iterator[SimFleet]:
    """Two simulated hosts."""
    with SimFleet(FleetSettings(hosts=2)) as made:
        yield made


@pytest.fixture
def sim(fleet: SimFleet) -> SimHost:
    return fleet["sim-0"]


@pytest.fixture
def connect(fleet: SimFleet, sim: SimHost) -> Iterator[Callable[[], SshHost]]:
    """A new connection to `sim`, in a pool of its own that does not try twice."""
    with ExitStack() as pools:

        def make() -> SshHost:
            pool = SshHostPool(SshSettings(attempts=1, refusal_seconds=0.0))
            pools.callback(pool.close)
            return pool.get(fleet.address_of(sim))

        yield make


@pytest.fixture
def box(fleet: SimFleet, sim: SimHost, connect: Callable[[], SshHost]) -> tuple[SshHost, str]:
    """A connected host and a container on it that runs."""
    fleet.call(lambda: sim.engine.images.add("dotmac/tiny:1"))
    host = connect()
    host.engine.create_container("box", {"Image": "dotmac/tiny:1", "Cmd": ["sleep", "600"]})
    host.engine.start_container("box")
    return host, "box"
