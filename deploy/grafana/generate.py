"""Writes dashboard.json: `python deploy/grafana/generate.py > deploy/grafana/dashboard.json`."""

import json
import sys
from collections.abc import Iterator
from typing import Any

WIDTH, HEIGHT = 8, 8
# (title, what it means, kind, unit, [(query, legend)])
PANELS: tuple[tuple[str, str, str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Leaders",
        "Operators that hold the Lease: one. None: nothing is deployed or repaired.",
        "stat",
        "none",
        (("sum(leader_election_master_status)", ""),),
    ),
    (
        "Servers ready",
        "Docker hosts that can be used, of all that there are.",
        "stat",
        "none",
        (("sum(dotmac_server_ready)", "ready"), ("count(dotmac_server_ready)", "all")),
    ),
    (
        "Instances that need somebody",
        "In the phase Stalled: the condition of that name says why, and what to do.",
        "stat",
        "none",
        (('sum(dotmac_instances{phase="Stalled"}) or vector(0)', ""),),
    ),
    (
        "Instances by phase",
        "Where the tenants are in their life; Running is the rest.",
        "timeseries",
        "none",
        (('sum by (phase) (dotmac_instances{server=~"$server"})', "{{phase}}"),),
    ),
    (
        "Drift repaired in 5 min",
        "What somebody or something changed on the hosts, by kind, and the operator set back.",
        "timeseries",
        "none",
        (("sum by (kind) (increase(dotmac_drift_repaired_total[5m]))", "{{kind}}"),),
    ),
    (
        "Steps of deploys, 95th percentile",
        "How long a step takes from its first action to its end.",
        "timeseries",
        "s",
        (
            (
                "histogram_quantile(0.95, sum by (le, step) (rate(dotmac_step_duration_seconds_bucket[15m])))",
                "{{step}}",
            ),
        ),
    ),
    (
        "Steps that failed in 15 min",
        "A failed change is rolled back; a failed first deploy is tried again.",
        "timeseries",
        "none",
        (('sum by (step) (increase(dotmac_step_duration_seconds_count{outcome="failed"}[15m]))', "{{step}}"),),
    ),
    (
        "Round trip to the hosts",
        "The last measured round trip to the Docker engine of each host, through SSH.",
        "timeseries",
        "s",
        (('dotmac_host_round_trip_seconds{server=~"$server"}', "{{server}}"),),
    ),
    (
        "Calls to hosts, 95th percentile",
        "Time of a call with the wait for its turn: a slow host, or too few turns.",
        "timeseries",
        "s",
        (
            (
                "histogram_quantile(0.95, sum by (le, operation) (rate(dotmac_host_call_seconds_bucket[5m])))",
                "{{operation}}",
            ),
        ),
    ),
    (
        "Calls to hosts that fail",
        "Answers that were errors, and connections that broke.",
        "timeseries",
        "reqps",
        (('sum by (server) (rate(dotmac_host_calls_total{result="error",server=~"$server"}[5m]))', "{{server}}"),),
    ),
    (
        "Event streams: silent for",
        "A live stream proves itself by events or heartbeats; without it drift is found by the slow resync only.",
        "timeseries",
        "s",
        (('dotmac_event_stream_silent_seconds{server=~"$server"}', "{{server}}"),),
    ),
    (
        "Passes",
        "Looks at objects, by what came of them.",
        "timeseries",
        "ops",
        (("sum by (controller, result) (rate(controller_runtime_reconcile_total[5m]))", "{{controller}} {{result}}"),),
    ),
    (
        "Queue: depth, and wait at the 95th percentile",
        "Objects that wait for a pass, and how long they have waited.",
        "timeseries",
        "none",
        (
            ("sum by (name) (workqueue_depth)", "{{name}} waiting"),
            (
                "histogram_quantile(0.95, sum by (le, name) (rate(workqueue_queue_duration_seconds_bucket[5m])))",
                "{{name}} seconds",
            ),
        ),
    ),
    (
        "Writes to the API (a fleet in sync: none)",
        "Without the leader's Lease.",
        "timeseries",
        "ops",
        (("sum(rate(dotmac_api_writes_total[5m]))", "writes"),),
    ),
    (
        "Requests to the API by code",
        "What the Kubernetes API answered; <error> is no answer.",
        "timeseries",
        "reqps",
        (("sum by (code) (rate(rest_client_requests_total[5m]))", "{{code}}"),),
    ),
)


def overrides(targets: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """The unit of a query whose legend says that it is another one than the panel's."""
    for target in targets:
        if target["legendFormat"].endswith(" seconds"):
            matcher = {"id": "byFrameRefID", "options": target["refId"]}
            yield {"matcher": matcher, "properties": [{"id": "unit", "value": "s"}]}


def panels() -> Iterator[dict[str, Any]]:
    """Three in a row."""
    for number, (title, meaning, kind, unit, queries) in enumerate(PANELS):
        targets = [
            {"refId": chr(ord("A") + n), "expr": expr, "legendFormat": legend or "__auto"}
            for n, (expr, legend) in enumerate(queries)
        ]
        yield {
            "id": number + 1,
            "type": kind,
            "title": title,
            "description": meaning,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"h": HEIGHT, "w": WIDTH, "x": WIDTH * (number % 3), "y": HEIGHT * (number // 3)},
            "fieldConfig": {"defaults": {"unit": unit}, "overrides": list(overrides(targets))},
            "targets": targets,
        }


def dashboard() -> dict[str, Any]:
    """The whole dashboard, in the form that Grafana imports."""
    servers = "label_values(dotmac_server_ready, server)"
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    server = {
        "name": "server",
        "type": "query",
        "label": "Server",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": servers, "refId": "servers"},
        "definition": servers,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "uid": "dotmac-operator",
        "title": "DotMac Operator",
        "tags": ["dotmac"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, server]},
        "panels": list(panels()),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=2) + "\n")
