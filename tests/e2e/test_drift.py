"""Somebody changes a real host by hand: told by Docker's event stream, repaired within a second, recorded."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from statistics import median

import httpx
import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant, condition
from tests.kits.dockerhost import DockerHost

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "comet"
PROXY = "dotmac-proxy"
SECONDS = 1.0
"""From the end of the command to the beginning of the repair, by the operator's log; median of all."""
DELAYS: list[float] = []


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    with platform.tenant(releases.instance(NAME, "sample-1", serverRef={"name": "two"})) as made:
        yield made


type Harm = Callable[[DockerHost, str], object]

ROLES = ("web", "database")
HARMS: dict[str, tuple[Harm, str]] = {
    "killed": (lambda host, name: host.docker("kill", name), "start container "),
    "stopped": (lambda host, name: host.docker("stop", "--time", "0", name), "start container "),
    "removed": (lambda host, name: host.docker("rm", "--force", name), "run container "),
    "paused": (lambda host, name: host.docker("pause", name), "unpause container "),
    "renamed": (lambda host, name: host.docker("rename", name, "somebody"), "rename container "),
    "limited": (
        lambda host, name: host.docker("update", "--cpus", "0.5", "--memory", "64m", "--memory-swap", "64m", name),
        "set the limits ",
    ),
    "not restarted": (lambda host, name: host.docker("update", "--restart", "no", name), "set the limits "),
    "cut off": (lambda host, name: host.docker("network", "disconnect", f"dotmac-{NAME}", name), "connect "),
    "elsewhere": (lambda host, name: host.docker("network", "connect", "bridge", name), "disconnect "),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("harm", HARMS)
def test_a_change_by_hand_is_taken_back(platform: Platform, tenant: Tenant, role: str, harm: str) -> None:
    (before,) = tenant.containers(role)
    volumes, mark, events = tenant.volumes(), platform.operator.mark(), told(platform)
    harm_, began = HARMS[harm]
    harm_(tenant.host, before["Name"].lstrip("/"))
    done = time.time()
    DELAYS.append(repaired(platform, tenant, began, mark) - done)
    (after,) = tenant.containers(role)
    assert after["Name"] == before["Name"]
    assert after["State"]["Status"] == "running"
    assert list(after["NetworkSettings"]["Networks"]) == [f"dotmac-{NAME}"]
    limits = ("Memory", "NanoCpus", "PidsLimit", "RestartPolicy")
    assert [after["HostConfig"][key] for key in limits] == [before["HostConfig"][key] for key in limits]
    assert (after["Id"] == before["Id"]) == (harm != "removed")
    assert tenant.volumes() == volumes
    assert role in tenant.status["drift"]["what"]
    assert told(platform) == events + 1
    assert tenant.ask().json()["database"] is True


def told(platform: Platform) -> int:
    """Events about repairs; the API folds equal ones into one with a count."""
    return sum(event.get("count") or 1 for event in platform.events(NAME) if event["reason"] == "DriftRepaired")


def repaired(platform: Platform, tenant: Tenant, began: str, mark: int) -> float:
    """Waits until it is mended and on record; Unix seconds of the moment at which the repair began."""

    def mended() -> bool:
        done = any(line.startswith(began) for line in platform.operator.messages(NAME, mark))
        ready = condition(tenant.object, "Ready")
        return done and bool(ready and ready["status"] == "True")

    platform.wait("it is repaired", mended, 20, about=NAME)
    lines = platform.operator.lines(mark)
    times = [str(line["time"]) for line in lines if str(line["message"]).startswith(began)]
    return datetime.fromisoformat(times[0]).timestamp()


def test_repairs_begin_within_a_second() -> None:
    assert len(DELAYS) == len(ROLES) * len(HARMS)
    assert median(DELAYS) < SECONDS


def test_a_network_that_is_removed_comes_back(platform: Platform, tenant: Tenant) -> None:
    network = f"dotmac-{NAME}"
    host = tenant.host
    names = [c["Name"].lstrip("/") for c in tenant.containers() if c["State"]["Running"]]
    platform.operator.stop()
    for name in (*names, PROXY):
        host.docker("network", "disconnect", "--force", network, name)
    host.docker("network", "rm", network)
    platform.operator.start()
    platform.wait("it is served again", lambda: served(tenant), about=NAME)
    assert tenant.ask().json()["database"] is True
    assert sorted(c["Name"].lstrip("/") for c in tenant.containers() if c["State"]["Running"]) == sorted(names)


def test_a_network_that_is_removed_under_stopped_containers_comes_back(platform: Platform, tenant: Tenant) -> None:
    """Docker then keeps the id of the network that is gone in the containers."""
    network = f"dotmac-{NAME}"
    host = tenant.host
    names = [c["Name"].lstrip("/") for c in tenant.containers() if c["State"]["Running"]]
    platform.operator.stop()
    host.docker("stop", "--time", "1", *names)
    host.docker("network", "disconnect", "--force", network, PROXY)
    host.docker("network", "rm", network)
    platform.operator.start()
    platform.wait("it is served again", lambda: served(tenant), about=NAME)
    assert tenant.ask().json()["database"] is True


def served(tenant: Tenant) -> bool:
    try:
        return tenant.ask(timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
