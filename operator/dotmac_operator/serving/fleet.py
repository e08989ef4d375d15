"""What is looked up when Prometheus asks: instances, hosts, event streams, queues. Nothing is asked of anybody else."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dotmac_operator.handlers.workers import Queue, Workers
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.store import Store, server_name
from dotmac_operator.serving.metrics import CONTROLLERS, Metrics

BREAKER = ("closed", "half-open", "open")


@dataclass(frozen=True)
class Leadership:
    """Who leads, for leader_election_master_status."""

    name: str
    leading: Callable[[], bool]


class FleetCollector(Collector):
    """Reads the shared state; each family is one look at it."""

    def __init__(
        self,
        metrics: Metrics,
        store: Store,
        hosts: Hosts,
        workers: Workers,
        writes: Callable[[], int],
        leadership: Leadership | None = None,
    ) -> None:
        """`writes` counts what was written to the Kubernetes API by passes."""
        self._metrics = metrics
        self._store = store
        self._hosts = hosts
        self._workers = workers
        self._writes = writes
        self._leadership = leadership
        self._known: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        yield from self._queues()
        yield from self._instances()
        yield from self._servers()
        yield from self._connections()
        yield CounterMetricFamily(
            "dotmac_api_writes",
            "Writes of passes to the Kubernetes API; a fleet in sync makes none. The leader's Lease is not among them.",
            value=self._writes(),
        )
        yield from self._leader()

    def _leader(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "leader_election_master_status", "1 while this process holds the Lease of this name.", labels=["name"]
        )
        if self._leadership is not None:
            family.add_metric([self._leadership.name], float(self._leadership.leading()))
        yield family

    def _queues(self) -> Iterator[Metric]:
        labels = ["name", "controller"]
        depth = GaugeMetricFamily("workqueue_depth", "Objects that wait for a pass.", labels=labels)
        unfinished = GaugeMetricFamily(
            "workqueue_unfinished_work_seconds", "Time that the passes that run now have taken, summed.", labels=labels
        )
        longest = GaugeMetricFamily(
            "workqueue_longest_running_processor_seconds", "Time of the pass that runs longest now.", labels=labels
        )
        found = self._workers.queues()
        for controller in CONTROLLERS:
            queue = found.get(controller, Queue())
            depth.add_metric([controller, controller], queue.waiting)
            unfinished.add_metric([controller, controller], sum(queue.running))
            longest.add_metric([controller, controller], max(queue.running, default=0.0))
        yield from (depth, unfinished, longest)

    def _instances(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "dotmac_instances",
            "Instances by phase and Server (empty before one is chosen).",
            labels=["phase", "server"],
        )
        counted: Counter[tuple[str, str]] = Counter()
        for instance in self._store.instances():
            name = server_name(instance)
            server = f"{instance.ref.namespace}/{name}" if name else ""
            counted[(instance.status.phase or "Pending", server)] += 1
        for (phase, server), count in sorted(counted.items()):
            family.add_metric([phase, server], count)
        yield family

    def _servers(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "dotmac_server_ready", "1 while the Server's condition Ready is true.", labels=["server"]
        )
        for server in sorted(self._store.all_servers(), key=lambda s: s.key):
            ready = any(c.type == "Ready" and c.status == "True" for c in server.status.conditions)
            family.add_metric([server.key], float(ready))
        yield family

    def _connections(self) -> Iterator[Metric]:
        connected = self._hosts.connected()
        keys = {key for key, _ in connected}
        self._metrics.forget_servers(self._known - keys)
        self._known = keys
        for name, text, kind, value in _PER_HOST:
            family = kind(name, text, labels=["server"])
            for key, inventory in connected:
                found = value(inventory)
                if found is not None:
                    family.add_metric([key], found)
            yield family
        state = GaugeMetricFamily(
            "dotmac_host_breaker_state", "1 for the state that a host's breaker is in.", labels=["server", "state"]
        )
        for key, inventory in connected:
            now = getattr(inventory.host, "breaker_state", "closed")
            for each in BREAKER:
                state.add_metric([key, each], float(each == now))
        yield state


def _attribute(name: str) -> Callable[[Inventory], float | None]:
    return lambda inventory: getattr(inventory.host, name, None)


_PER_HOST: Iterable[tuple[str, str, Any, Callable[[Inventory], float | None]]] = (
    (
        "dotmac_host_round_trips",
        "Requests to the host's Docker engine, without heartbeats.",
        CounterMetricFamily,
        _attribute("round_trips"),
    ),
    (
        "dotmac_host_execs",
        "Programs started on the host or in its containers.",
        CounterMetricFamily,
        _attribute("execs"),
    ),
    (
        "dotmac_host_heartbeats",
        "Questions whether a silent event stream is still alive and complete.",
        CounterMetricFamily,
        _attribute("heartbeats"),
    ),
    (
        "dotmac_host_round_trip_seconds",
        "Time of the last round trip to the host's Docker engine that was measured.",
        GaugeMetricFamily,
        _attribute("latency"),
    ),
    (
        "dotmac_event_stream_up",
        "1 while the host's event stream is open.",
        GaugeMetricFamily,
        lambda inventory: float(inventory.streaming),
    ),
    (
        "dotmac_event_stream_silent_seconds",
        "Since the host's event stream last proved to be alive, by an event or a heartbeat.",
        GaugeMetricFamily,
        lambda inventory: inventory.silent_for() if inventory.streaming else None,
    ),
    (
        "dotmac_event_stream_breaks",
        "Times that the host's event stream ended or fell silent and was opened again.",
        CounterMetricFamily,
        lambda inventory: inventory.breaks,
    ),
)
