"""Minutes of a fleet in sync, on simulated hosts and a real one: no write to the API, no program on a host.

`DOTMAC_TEST_LONG=1 pytest tests/e2e/test_quiet.py`. CI looks for 16 s: tests/operator/serving/test_quiet.py.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e import releases
from tests.e2e.platform import Platform
from tests.e2e.test_changes import versions
from tests.e2e.test_rolling import long
from tests.kits.fakes import QUICK
from tests.kits.tenant import INSTANCE
from tests.simhost import FleetSettings, SimFleet

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.e2e, pytest.mark.docker, long]

SIMULATED, REAL = 20, 2
"""Instances."""
WINDOW = 150.0
"""Seconds; the resync, 600 s jittered by a fifth, comes once in four of them, and is not to come in it."""
HEARTBEAT = 15.0
"""Seconds between two questions to a silent event stream; see ADR 0014."""

COUNTED = (
    "dotmac_api_writes_total",
    "dotmac_host_execs_total",
    "dotmac_host_round_trips_total",
    "controller_runtime_reconcile_total",
    "rest_client_requests_total",
)
"""The Lease's renewals, heartbeats, and the GETs that compare the watches with the API are not among these."""

type Metrics = Counter[tuple[str, str]]


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimFleet]:
    with SimFleet(FleetSettings(hosts=2)) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def tenants(platform: Platform, simulated: SimFleet) -> Iterator[list[str]]:
    """All Ready, and nothing under way any more."""
    platform.apply(simulated.secret(releases.NAMESPACE), releases.resource("Release", "quick", QUICK))
    for host in simulated.hosts.values():
        platform.apply(simulated.server(host, releases.NAMESPACE))
        platform.wait_condition("Server", host.name, "Ready", "True")
    names = [f"star-{number}" for number in range(SIMULATED + REAL)]
    for number, name in enumerate(names):
        platform.apply(wanted(name, f"sim-{number % 2}" if number < SIMULATED else "two"))
    for name in names:
        platform.wait_ready(name, seconds=120)
    time.sleep(10)  # the Events of the last ones, and the passes that they wake
    yield names
    for name in names:
        platform.let_go(name)
    for name in names:
        platform.wait_gone(name, seconds=120)
    for host in simulated.hosts.values():
        platform.delete("Server", host.name)
    platform.wait("the Servers are gone", lambda: not any(platform.get("Server", name) for name in simulated.hosts))


def wanted(name: str, server: str) -> releases.Object:
    if server == "two":
        return releases.instance(name, "sample-1", serverRef={"name": server})
    spec = {**INSTANCE, "orgCode": name, "serverRef": {"name": server}, "releaseRef": {"name": "quick"}}
    return releases.instance(name, "quick", **{**spec, "classRef": {"name": "small"}})


def metrics(platform: Platform) -> Metrics:
    """(name, label that matters) -> value."""
    text = httpx.get(platform.operator.url("metrics and health") + "/metrics", timeout=10).text
    found: Metrics = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, sample.labels.get("method") or sample.labels.get("server") or ""] += int(sample.value)
    return found


def of(grown: Metrics, name: str) -> dict[str, int]:
    return {label: value for (found, label), value in grown.items() if found == name and value}


def test_minutes_without_a_write_or_a_program(platform: Platform, simulated: SimFleet, tenants: list[str]) -> None:
    calls: Counter[str] = Counter()
    for host in simulated.hosts.values():
        calls.subtract(host.calls)
    before, seen = versions(platform), metrics(platform)
    time.sleep(WINDOW)
    grown = metrics(platform)
    grown.subtract(seen)
    for host in simulated.hosts.values():
        calls.update(host.calls)

    assert versions(platform) == before, "no object has another version"
    for name in COUNTED:
        assert of(seen, name), f"{name} counts nothing, so that it could not show anything"
        assert of(grown, name) == {}
    beats = calls["GET /events"] + calls["GET /_ping"]
    assert {call for call, count in calls.items() if count} <= {"GET /events", "GET /_ping"}
    assert beats <= len(simulated.hosts) * (WINDOW / HEARTBEAT + 1)
    log.info("heartbeats in %.0f s: %s", WINDOW, of(grown, "dotmac_host_heartbeats_total"))
