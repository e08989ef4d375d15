"""A fleet in sync costs nothing: no write to the Kubernetes API, no program and no question on any host."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from tests.kits.observed import BASE, TOKEN, Observed, observed
from tests.simhost.faults import Error, Rule

pytestmark = pytest.mark.slow

INSTANCES = 20
HEARTBEAT = 17.0
"""Seconds, after which each host was asked once whether its silent event stream is complete."""
WINDOW = 16.0
"""Seconds. `test_no_write_and_no_call` measures; the resync is farther away than its end."""

COUNTED = (
    "dotmac_api_writes_total",
    "rest_client_requests_total",
    "controller_runtime_reconcile_total",
    "workqueue_adds_total",
    "dotmac_host_round_trips_total",
    "dotmac_host_execs_total",
    "dotmac_host_calls_total",
)


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


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Twenty Instances on two hosts, all in place."""
    with observed(tmp_path_factory.mktemp("quiet"), hosts=2) as made:
        made.populate(INSTANCES)
        made.start()
        made.until("all are Ready", lambda: made.ready() == INSTANCES, 120)
        settled(made, HEARTBEAT)  # the first one makes a channel where the deploys have left none
        yield made


def counted(seen: Observed) -> dict[str, float]:
    metrics = seen.metrics()
    return {name: sum(value for (found, _), value in metrics.items() if found == name) for name in COUNTED}


def test_no_write_and_no_call(seen: Observed) -> None:
    before = (versions(seen), calls(seen), counted(seen))
    time.sleep(WINDOW)
    after = (versions(seen), calls(seen), counted(seen))

    assert after[0] == before[0]
    # One question a quarter of a minute tells whether a silent event stream is complete; see ADR 0014.
    asked = after[1] - before[1]
    heartbeats = asked.pop("GET /events", 0) + asked.pop("GET /_ping", 0)
    assert not asked
    assert 0 < heartbeats <= len(seen.fleet.hosts) * (WINDOW / 15 + 1)
    assert after[2] == before[2]
    assert seen.reasons() == {}


def test_a_fleet_that_is_not_in_sync_is_counted(seen: Observed) -> None:
    """So that the test above can fail: one edit is seen by every counter."""
    before = (versions(seen), calls(seen), counted(seen))
    seen.edit("org-0", env=[{"name": "NEW", "value": "1"}])
    seen.until("a write", lambda: seen.total("dotmac_api_writes_total") > before[2]["dotmac_api_writes_total"])
    seen.until("it is Ready again", lambda: seen.ready() == INSTANCES, 60)
    settled(seen)
    assert versions(seen) != before[0] and calls(seen) - before[1]
    assert all(value > before[2][name] for name, value in counted(seen).items())
    assert seen.total("dotmac_step_duration_seconds_count") > 0


PROMISED = {
    # As controller-runtime and client-go call them.
    "controller_runtime_active_workers",
    "controller_runtime_max_concurrent_reconciles",
    "controller_runtime_reconcile_errors_total",
    "controller_runtime_reconcile_time_seconds_bucket",
    "controller_runtime_reconcile_total",
    "leader_election_master_status",
    "rest_client_requests_total",
    "workqueue_adds_total",
    "workqueue_depth",
    "workqueue_longest_running_processor_seconds",
    "workqueue_queue_duration_seconds_bucket",
    "workqueue_retries_total",
    "workqueue_unfinished_work_seconds",
    "workqueue_work_duration_seconds_bucket",
    # Steps, drift, latency of hosts, breakers: nobody else has them.
    "dotmac_step_duration_seconds_bucket",
    "dotmac_drift_repaired_total",
    "dotmac_host_call_seconds_bucket",
    "dotmac_host_round_trip_seconds",
    "dotmac_host_breaker_state",
    "dotmac_event_stream_up",
}


def test_what_dashboards_ask_for_is_there_under_its_usual_name(seen: Observed) -> None:
    """After a deploy, a repair and a failure."""
    host = seen.fleet["sim-0"]
    web = next(c for c in host.engine.containers.values() if c.name.startswith("dotmac-org0-web-"))
    seen.fleet.call(lambda: host.engine.kill(web))
    seen.until("it is repaired", lambda: seen.total("dotmac_drift_repaired_total") == 1)
    host.rules.add(Rule(Error(500), "POST", "/containers/create"))
    seen.edit("org-2", env=[{"name": "NEW", "value": "2"}])
    seen.until("the failure is counted", lambda: seen.total("workqueue_retries_total"))
    seen.until("it is Ready again", lambda: seen.ready() == INSTANCES, 60)
    settled(seen)
    assert PROMISED - {name for name, _ in seen.metrics()} == set()


def test_diagnostics_have_a_connection_of_their_own(seen: Observed) -> None:
    """Asked as the facade asks; what the passes count on this host does not move."""
    host = seen.fleet["sim-1"]
    before = (host.connections, counted(seen))
    lines = [json.loads(text) for text in seen.diagnose("org-1/logs").text.splitlines()]
    assert {("migrate", "migrate done"), ("bootstrap", "bootstrap done")} == {
        (line["role"], line["line"]) for line in lines
    }
    usage = seen.diagnose("org-1/usage").json()
    assert {made["role"] for made in usage["containers"]} == {"database", "cache", "web", "worker"}
    assert {volume["name"].rpartition("-")[2] for volume in usage["volumes"]} == {"database", "backups", "files"}
    health = seen.diagnose("org-1/health").json()
    states = {made["role"]: (made["state"], made["health"]) for made in health["components"]}
    assert states["web"] == ("running", "healthy") and health["phase"] == "Running"
    assert host.connections == before[0] + 1
    moved = {name for name, value in counted(seen).items() if value != before[1][name]}
    assert moved <= {"rest_client_requests_total"}  # the Secrets were read, to mask what is in them


def test_followed_logs_leave_the_passes_alone(seen: Observed) -> None:
    url = f"{seen.addresses()['diagnostics']}/internal/v1/instances/default/org-1/logs?follow=true&role=web"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with ExitStack() as open_:
        for _ in range(4):
            answer = open_.enter_context(httpx.stream("GET", url, headers=headers, timeout=30))
            assert answer.status_code == 200
        assert httpx.get(url, headers=headers, timeout=10).status_code == 429
        began = time.monotonic()
        # All streams are open and nobody reads them: the next change is made as quickly as any other.
        seen.edit("org-1", env=[{"name": "NEW", "value": "1"}])
        seen.until("it is begun", lambda: seen.ready() < INSTANCES, 10)
        seen.until("it is Ready again", lambda: seen.ready() == INSTANCES, 60)
        assert time.monotonic() - began < 30


def settled(seen: Observed, still: float = 3.0) -> None:
    """Waits until no pass has begun for a while: Events of the last deploys, and the passes that they wake."""
    last, since = -1.0, time.monotonic()
    while time.monotonic() - since < still:
        count = seen.total("controller_runtime_reconcile_total")
        if count != last:
            last, since = count, time.monotonic()
        time.sleep(0.3)
