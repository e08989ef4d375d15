"""Metrics: what is counted where, under the names that others know, and no series for each Instance."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kubernetes import client
from prometheus_client.parser import text_string_to_metric_families
from tests.kits.fakes import World, deployed, unreachable

from dotmac_operator.handlers.workers import Workers
from dotmac_operator.hosts.breaker import Breaker
from dotmac_operator.reconcile.ports import AGAIN, DONE, Outcome
from dotmac_operator.serving.fleet import FleetCollector, Leadership
from dotmac_operator.serving.kubeapi import count_requests
from dotmac_operator.serving.metrics import Metrics

type Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(metrics: Metrics) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def value(found: Metrics | Samples, name: str, /, **labels: str) -> float | None:
    read = samples(found) if isinstance(found, Metrics) else found
    return read.get((name, frozenset(labels.items())))


def collecting(world: World, workers: Workers | None = None, **more: Any) -> Metrics:
    metrics = Metrics()
    workers = workers or Workers({}, ThreadPoolExecutor(1), 600.0)
    collector = FleetCollector(metrics, world.store, world.hosts, workers, lambda: 17, **more)
    metrics.registry.register(collector)
    return metrics


async def test_passes_are_counted_by_result() -> None:
    metrics = Metrics()
    outcomes = {"ok": DONE, "soon": AGAIN, "later": Outcome(after=50.0), "bad": Outcome(failed=True)}
    with ThreadPoolExecutor(2) as pool:
        workers = Workers({"Instance": lambda key: outcomes[key]}, pool, 600.0, metrics)
        workers.start(asyncio.get_running_loop())
        for key in ("ok", "later", "bad"):
            workers.wake("Instance", key)
        await asyncio.sleep(0.3)
        await workers.stop()
    found = samples(metrics)
    for result, count in (("success", 1), ("requeue_after", 1), ("error", 1)):
        assert value(found, "controller_runtime_reconcile_total", controller="instance", result=result) == count
    assert value(found, "controller_runtime_reconcile_errors_total", controller="instance") == 1
    assert value(found, "controller_runtime_active_workers", controller="instance") == 0
    both = {"name": "instance", "controller": "instance"}
    assert value(found, "workqueue_adds_total", **both) == 3
    assert value(found, "workqueue_retries_total", **both) == 1
    assert value(found, "workqueue_queue_duration_seconds_count", **both) == 3
    assert value(found, "controller_runtime_reconcile_time_seconds_count", controller="instance") == 3


async def test_the_queue_is_as_deep_as_objects_wait() -> None:
    go_on = threading.Event()
    world = deployed()
    with ThreadPoolExecutor(1) as pool:

        def pass_(_: str) -> Outcome:
            go_on.wait(5)
            return DONE

        workers = Workers({"Instance": pass_}, pool, 600.0)
        workers.start(asyncio.get_running_loop())
        metrics = collecting(world, workers)
        for key in "abcd":
            workers.wake("Instance", key)
        await asyncio.sleep(0.3)
        found = samples(metrics)
        both = {"name": "instance", "controller": "instance"}
        assert value(found, "workqueue_depth", **both) == 3
        assert 0.1 < (value(found, "workqueue_longest_running_processor_seconds", **both) or 0) < 5
        go_on.set()
        await asyncio.sleep(0.3)
        assert value(metrics, "workqueue_depth", **both) == 0
        await workers.stop()
    world.hosts.close()


def test_the_fleet_is_counted_by_phase_and_server() -> None:
    world = deployed()
    spec = world.cluster.get("Instance", "tenants/acme")["spec"]
    for number in range(5):
        world.create("Instance", f"new-{number}", {**spec, "orgCode": f"N{number}", "releaseRef": {"name": "absent"}})
    metrics = collecting(world)
    found = samples(metrics)
    assert value(found, "dotmac_instances", phase="Running", server="tenants/host-1") == 1
    assert value(found, "dotmac_instances", phase="Pending", server="tenants/host-1") == 5
    assert value(found, "dotmac_server_ready", server="tenants/host-1") == 1
    assert value(found, "dotmac_api_writes_total") == 17
    assert (value(found, "dotmac_host_round_trips_total", server="tenants/host-1") or 0) > 10
    assert value(found, "dotmac_event_stream_up", server="tenants/host-1") is not None
    world.hosts.close()


def test_no_series_names_an_instance() -> None:
    world = deployed()
    assert b"acme" not in collecting(world).text()
    world.hosts.close()


def test_a_server_that_is_gone_leaves_no_series() -> None:
    world = deployed()
    metrics = collecting(world)
    metrics.host_called("tenants/host-1", "ping", 0.01, True)
    assert value(metrics, "dotmac_host_calls_total", server="tenants/host-1", result="success") == 1
    world.hosts.detach("tenants/host-1")
    metrics.text()
    assert b'server="tenants/host-1"' not in b"".join(
        line for line in metrics.text().splitlines() if b"dotmac_host" in line or b"dotmac_event" in line
    )


def test_calls_to_hosts_are_timed_by_operation() -> None:
    metrics = Metrics()
    metrics.host_called("tenants/a", "containers", 0.02, True)
    metrics.host_called("tenants/b", "containers", 0.02, False)
    assert value(metrics, "dotmac_host_call_seconds_count", operation="containers") == 2
    assert value(metrics, "dotmac_host_calls_total", server="tenants/b", result="error") == 1


def test_steps_and_drift() -> None:
    metrics = Metrics()
    metrics.step_finished("start", "succeeded", 12.0)
    metrics.step_finished("start", "failed", -0.1)  # a clock that was set back
    metrics.drift_repaired("ContainerMissing")
    assert value(metrics, "dotmac_step_duration_seconds_sum", step="start", outcome="succeeded") == 12.0
    assert value(metrics, "dotmac_step_duration_seconds_sum", step="start", outcome="failed") == 0.0
    assert value(metrics, "dotmac_drift_repaired_total", kind="ContainerMissing") == 1


def test_who_leads() -> None:
    world = deployed()
    leading = [True]
    metrics = collecting(world, leadership=Leadership("dotmac-operator", lambda: leading[0]))
    assert value(metrics, "leader_election_master_status", name="dotmac-operator") == 1
    leading[0] = False
    assert value(metrics, "leader_election_master_status", name="dotmac-operator") == 0
    world.hosts.close()


def test_requests_to_the_api_are_counted_with_and_without_an_answer() -> None:
    metrics = Metrics()
    api = client.ApiClient(client.Configuration(host="http://127.0.0.1:9"))

    class Answer:
        status = 409

    def ask(method: str, *_: object, **__: object) -> Answer:
        if method == "GET":
            raise unreachable()
        return Answer()

    api.rest_client.request = ask
    count_requests(api, metrics.requested)
    api.rest_client.request("PATCH", "/x")
    try:
        api.rest_client.request("GET", "/x")
    except Exception as error:
        assert "no route" in str(error)
    assert value(metrics, "rest_client_requests_total", code="409", method="PATCH") == 1
    assert value(metrics, "rest_client_requests_total", code="<error>", method="GET") == 1


def test_a_breaker_tells_its_state() -> None:
    now = [0.0]
    breaker = Breaker(2, 10.0, lambda: now[0], lambda a, b: 1.0)
    states = [breaker.state]
    for _ in range(2):
        breaker.failed()
        states.append(breaker.state)
    now[0] = 11.0
    states.append(breaker.state)
    breaker.succeeded()
    assert [*states, breaker.state] == ["closed", "closed", "open", "half-open", "closed"]
