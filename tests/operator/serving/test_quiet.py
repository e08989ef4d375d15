"""A fleet in sync costs nothing: no write to the Kubernetes API, no program and no question on any host."""

import time
from collections import Counter
from pathlib import Path

import pytest
from tests.kits.observed import BASE, Observed, observed

pytestmark = pytest.mark.slow

INSTANCES = 20
WINDOW = 16.0
"""Seconds. `test_no_write_and_no_call` measures; the resync is farther away than its end."""


def versions(seen: Observed) -> dict[str, str]:
    """resourceVersion of every object that the operator may write to; the leader's Lease is counted apart."""
    get = seen.plane.client.get
    paths = [f"{BASE}/{plural}" for plural in ("instances", "servers", "releases", "instanceclasses")]
    paths += ["/api/v1/events", "/api/v1/secrets"]
    items = [(path, item["metadata"]) for path in paths for item in get(path).json()["items"]]
    return {f"{path} {meta['name']}": meta["resourceVersion"] for path, meta in items}


def calls(seen: Observed) -> Counter[str]:
    """What the hosts themselves were asked, by template."""
    made: Counter[str] = Counter()
    for host in seen.fleet.hosts.values():
        made.update(host.calls)
    return made


def test_no_write_and_no_call(tmp_path: Path) -> None:
    with observed(tmp_path, hosts=2) as seen:
        seen.populate(INSTANCES)
        seen.start()
        seen.until("all are Ready", lambda: seen.ready() == INSTANCES, 120)
        seen.until("nothing waits or runs", lambda: seen.total("workqueue_depth") == 0, 10)
        settled(seen)

        before = (versions(seen), calls(seen), seen.metrics())
        time.sleep(WINDOW)
        after = (versions(seen), calls(seen), seen.metrics())

        assert after[0] == before[0]
        # One question a quarter of a minute tells whether a silent event stream is complete; see ADR 0014.
        asked = after[1] - before[1]
        heartbeats = asked.pop("GET /events", 0) + asked.pop("GET /_ping", 0)
        assert not asked
        assert heartbeats <= len(seen.fleet.hosts) * (WINDOW / 15 + 1)
        grown = {name: value - before[2].get(name, 0) for name, value in after[2].items() if name[0].endswith("_total")}
        for name in (
            "dotmac_api_writes_total",
            "rest_client_requests_total",
            "controller_runtime_reconcile_total",
            "workqueue_adds_total",
            "dotmac_host_round_trips_total",
            "dotmac_host_execs_total",
            "dotmac_host_calls_total",
        ):
            assert sum(more for (found, _), more in grown.items() if found == name) == 0, name
        assert seen.reasons() == {}


def settled(seen: Observed, still: float = 3.0) -> None:
    """Waits until no pass has begun for a while: Events of the last deploys, and the passes that they wake."""
    last, since = -1.0, time.monotonic()
    while time.monotonic() - since < still:
        count = seen.total("controller_runtime_reconcile_total")
        if count != last:
            last, since = count, time.monotonic()
        time.sleep(0.3)
