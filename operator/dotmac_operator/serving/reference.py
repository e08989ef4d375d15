"""Writes the page about metrics and health: `python -m dotmac_operator.serving.reference > deploy/docs/metrics.md`."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from prometheus_client.metrics_core import Metric

from dotmac_operator.handlers.workers import Workers
from dotmac_operator.hosts.pool import SshHostPool
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.store import Store
from dotmac_operator.serving import health, watching
from dotmac_operator.serving.fleet import FleetCollector
from dotmac_operator.serving.metrics import Metrics
from dotmac_operator.settings import DEFAULT_METRICS_ADDRESS, Settings

_HEAD = """# Metrics and health of the operator

Written by `python -m dotmac_operator.serving.reference`; a test compares it with the code.

`DOTMAC_OPERATOR_METRICS_ADDRESS` (`host:port`, or `off`) serves `/metrics`, `/healthz` and `/readyz` without a
password: let only Prometheus and the kubelet reach it. Without the setting it is {default}, if that is free. In a
pod, use `:8081`.

## Metrics

Names of controller-runtime and client-go are used where they have one, so that their dashboards and alerts fit.
`server` is `namespace/name` of a Server. No series names an Instance: with a thousand tenants there are no more series
than with ten. Rates are per process: only the leader works, the others stand by (`leader_election_master_status`).

| metric | type | labels | meaning |
|---|---|---|---|
"""

_MIDDLE = """
Beside these stand Prometheus' own of the process (`process_*`, `python_info`).

## Health

Each path answers 200 `ok`, or 503 with one line for each reason; `?verbose` gives every check as JSON.

| path | check | fails when | what to do |
|---|---|---|---|
"""

_TAIL = """
`/readyz` fails with the checks of `/healthz` too. A host that is down is in none of them: its Server says `Ready=False`
and `dotmac_server_ready` is 0, and neither a restart nor another replica brings it back.

Kopf opens a watch anew by itself after 70 silent seconds, and the operator an event stream that has lost something, so
both checks turn good again by themselves; one that stays bad means that the way to the API or to the host is broken.
"""

_CHECKS = (
    (
        "/healthz",
        "main-loop",
        f"the event loop has not turned for {health.LOOP_SECONDS:.0f} s",
        "a restart; report it with the log",
    ),
    (
        "/healthz",
        "workers-alive",
        f"no worker was free for {health.STUCK_SECONDS:.0f} s, longer than any call to a host may take",
        "a restart; report it with the log",
    ),
    ("/healthz", "watchers", "one of Kopf's watchers has ended with an error", "a restart; the log tells why it ended"),
    ("/readyz", "lists", "the first lists of all kinds are not done", "wait; else look whether the CRDs are installed"),
    (
        "/readyz",
        "kubernetes-api",
        "the API has not answered {api:.0f} s of questions",
        "look at the API server and the network policy",
    ),
    (
        "/readyz",
        "watches",
        "a change that the API tells a second watch has not come by the first in {grace:.0f} s",
        "look at proxies and load balancers between the operator and the API",
    ),
    (
        "/readyz",
        "event-streams",
        f"a Server is Ready, but its event stream is closed or silent for {health.STREAM_SECONDS:.0f} s",
        "look at the operator's log for this host, and at its sshd and dockerd",
    ),
    (
        "/readyz",
        "workers-free",
        f"no worker was free for {health.BUSY_SECONDS:.0f} s",
        "look for slow hosts (`dotmac_host_call_seconds`), or set DOTMAC_OPERATOR_WORKERS higher",
    ),
)


def families() -> Iterator[Metric]:
    """Every metric of ours, by name, with example labels."""
    metrics, store = Metrics(), Store()
    hosts = Hosts(SshHostPool(), lambda *_: None)
    workers = Workers({}, ThreadPoolExecutor(1), 600.0)
    metrics.registry.register(FleetCollector(metrics, store, hosts, workers, lambda: 0))
    found = {family.name: family for family in metrics.registry.collect()}
    for name in sorted(found, key=lambda name: (name.startswith("dotmac_"), name)):
        if not name.startswith(("process_", "python_")):
            yield found[name]


def page() -> str:
    """The whole page, in Markdown."""
    rows = [_row(family) for family in families()]
    every = float(Settings.model_fields["watch_canary_seconds"].default)
    checks = [
        f"| `{path}` | {name} | {why.format(api=watching.PATIENCE * every, grace=watching.GRACE * every)} | {remedy} |"
        for path, name, why, remedy in _CHECKS
    ]
    head = _HEAD.format(default=DEFAULT_METRICS_ADDRESS)
    return head + "\n".join(rows) + "\n" + _MIDDLE + "\n".join(checks) + "\n" + _TAIL


def _row(family: Metric) -> str:
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    labels = ", ".join(LABELS.get(family.name, ())) or "-"
    told = family.documentation.replace("<error>", "`<error>`")
    return f"| `{family.name}{suffix}` | {family.type} | {labels} | {told} |"


LABELS = {
    "controller_runtime_reconcile": ("controller", "result"),
    "controller_runtime_reconcile_errors": ("controller",),
    "controller_runtime_reconcile_time_seconds": ("controller",),
    "controller_runtime_active_workers": ("controller",),
    "controller_runtime_max_concurrent_reconciles": ("controller",),
    **{
        f"workqueue_{name}": ("name", "controller")
        for name in (
            *("adds", "depth", "retries", "queue_duration_seconds", "work_duration_seconds"),
            *("unfinished_work_seconds", "longest_running_processor_seconds"),
        )
    },
    "rest_client_requests": ("code", "method"),
    "leader_election_master_status": ("name",),
    "dotmac_operator_build": ("version", "python"),
    "dotmac_step_duration_seconds": ("step", "outcome"),
    "dotmac_drift_repaired": ("kind",),
    "dotmac_backup_duration_seconds": ("kind", "outcome"),
    "dotmac_host_call_seconds": ("operation",),
    "dotmac_host_calls": ("server", "result"),
    "dotmac_instances": ("phase", "server"),
    "dotmac_server_ready": ("server",),
    "dotmac_host_breaker_state": ("server", "state"),
    **{
        f"dotmac_{name}": ("server",)
        for name in (
            *("host_round_trips", "host_execs", "host_heartbeats", "host_round_trip_seconds"),
            *("event_stream_up", "event_stream_silent_seconds", "event_stream_breaks"),
        )
    },
}
"""A test compares them with the labels of real series."""


if __name__ == "__main__":
    sys.stdout.write(page())
