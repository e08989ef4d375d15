"""What is counted while the operator works, under controller-runtime's names where it has one.

Labels are bounded: kinds, steps, outcomes and operations are closed sets, and only Servers are named, never Instances.
`python -m dotmac_operator.serving.reference` writes the page about them.
"""

import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from dotmac_operator.reconcile.ports import Outcome
from dotmac_operator.reconcile.store import JOBS

# Those of controller-runtime and of client-go, so that their dashboards fit.
# Sources: sigs.k8s.io/controller-runtime, pkg/internal/controller/metrics and pkg/metrics/workqueue.go.
RECONCILE_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    *(1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 60),
)
QUEUE_BUCKETS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 5, 10, 60, 300, 1000)
STEP_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

JOB_BUCKETS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
SIZE_BUCKETS = tuple(float(10**power) for power in range(5, 13))

CONTROLLERS = ("instance", "server", "release", "instanceclass", "backup", "restore")
type Result = Literal["success", "error", "requeue", "requeue_after"]


class Metrics:
    """The metrics of one process, in a registry of its own. Thread-safe.

    Implements `reconcile.ports.Meter`, `handlers.workers.PassMeter` and `hosts.pool.Observer`.
    """

    def __init__(self) -> None:
        # Else a time stamp stands beside each counter: twice the series, for nobody.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        info = Info("dotmac_operator_build", "Version of the operator and of Python.", registry=registry)
        info.info({"version": version("dotmac-operator"), "python": platform.python_version()})

        by_controller = ("controller",)
        self._reconciles = Counter(
            "controller_runtime_reconcile",
            "Passes by result: success, error, requeue (at once) or requeue_after.",
            ("controller", "result"),
            registry=registry,
        )
        self._errors = Counter(
            "controller_runtime_reconcile_errors", "Passes that failed.", by_controller, registry=registry
        )
        self._seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Time of a pass.",
            by_controller,
            buckets=RECONCILE_BUCKETS,
            registry=registry,
        )
        self._active = Gauge(
            "controller_runtime_active_workers", "Passes that run now.", by_controller, registry=registry
        )
        self._most = Gauge(
            "controller_runtime_max_concurrent_reconciles",
            "Passes that may run at once; all controllers share these threads.",
            by_controller,
            registry=registry,
        )
        by_queue = ("name", "controller")
        self._adds = Counter(
            "workqueue_adds", "Wake-ups that put an object into the queue.", by_queue, registry=registry
        )
        self._waited = Histogram(
            "workqueue_queue_duration_seconds",
            "From the wake-up of an object to the beginning of its pass.",
            by_queue,
            buckets=QUEUE_BUCKETS,
            registry=registry,
        )
        self._worked = Histogram(
            "workqueue_work_duration_seconds", "Time of a pass.", by_queue, buckets=QUEUE_BUCKETS, registry=registry
        )
        self._retries = Counter(
            "workqueue_retries", "Passes that are repeated after a failure.", by_queue, registry=registry
        )
        self._requests = Counter(
            "rest_client_requests",
            "Requests to the Kubernetes API by status code (<error> without an answer) and method; the watch's are not "
            "among them.",
            ("code", "method"),
            registry=registry,
        )
        self._steps = Histogram(
            "dotmac_step_duration_seconds",
            "From the moment a deploy step had something to do to its end, by outcome: succeeded or failed.",
            ("step", "outcome"),
            buckets=STEP_BUCKETS,
            registry=registry,
        )
        self._drift = Counter(
            "dotmac_drift_repaired",
            "Differences on a host that no change of a spec explains and that were repaired, by kind.",
            ("kind",),
            registry=registry,
        )
        self._jobs = Histogram(
            "dotmac_backup_duration_seconds",
            "From the beginning of a Backup or Restore to its end, by outcome: succeeded or failed.",
            ("kind", "outcome"),
            buckets=JOB_BUCKETS,
            registry=registry,
        )
        self._sizes = Histogram(
            "dotmac_backup_size_bytes",
            "Size of the Backups that are complete, all files together.",
            buckets=SIZE_BUCKETS,
            registry=registry,
        )
        self._calls = Histogram(
            "dotmac_host_call_seconds",
            "Time of a call to a host, with the wait for its turn, by operation.",
            ("operation",),
            buckets=CALL_BUCKETS,
            registry=registry,
        )
        self._results = Counter(
            "dotmac_host_calls",
            "Calls to a host by result: success or error.",
            ("server", "result"),
            registry=registry,
        )
        for controller in CONTROLLERS:
            self._reconciles.labels(controller, "success")
            self._active.labels(controller)
        for kind in JOBS:  # an increase from nothing to the first failure would be none
            self._jobs.labels(kind, "failed")

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    # ---- passes

    def workers(self, count: int) -> None:
        for controller in CONTROLLERS:
            self._most.labels(controller).set(count)

    def added(self, kind: str) -> None:
        self._adds.labels(kind.lower(), kind.lower()).inc()

    def began(self, kind: str, waited: float) -> None:
        self._waited.labels(kind.lower(), kind.lower()).observe(waited)
        self._active.labels(kind.lower()).inc()

    def ended(self, kind: str, outcome: Outcome, seconds: float) -> None:
        name = kind.lower()
        self._active.labels(name).dec()
        self._seconds.labels(name).observe(seconds)
        self._worked.labels(name, name).observe(seconds)
        self._reconciles.labels(name, _result(outcome)).inc()
        if outcome.failed:
            self._errors.labels(name).inc()
            self._retries.labels(name, name).inc()

    # ---- what passes do

    def step_finished(self, step: str, outcome: str, seconds: float) -> None:
        self._steps.labels(step, outcome).observe(max(0.0, seconds))

    def drift_repaired(self, kind: str) -> None:
        self._drift.labels(kind).inc()

    def job_finished(self, kind: str, outcome: str, seconds: float, size: int) -> None:
        self._jobs.labels(kind, outcome).observe(seconds)
        if kind == "Backup" and outcome == "succeeded":
            self._sizes.observe(size)

    def host_called(self, host: str, operation: str, seconds: float, succeeded: bool) -> None:
        self._calls.labels(operation).observe(seconds)
        self._results.labels(host, "success" if succeeded else "error").inc()

    def requested(self, code: str, method: str) -> None:
        self._requests.labels(code, method).inc()

    def forget_servers(self, gone: Iterable[str]) -> None:
        """Drops the series of Servers that are no more."""
        for server in gone:
            for result in ("success", "error"):
                self._results.remove(server, result)


def _result(outcome: Outcome) -> Result:
    if outcome.failed:
        return "error"
    if outcome.after is None:
        return "success"
    return "requeue_after" if outcome.after > 0 else "requeue"
