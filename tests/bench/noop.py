"""Proving that five tenants are in sync, on demand and with nothing cached, against the script's own run without work.

On demand: a new reconcile token on each Instance makes the operator read the host and the tenants' Secrets again,
compare, and answer in the status; the time runs from the first token written until the last answer has come by a watch.
The script asks the docker client for each network, volume and container, and makes none. Both see the same objects, in
turns.

The figure is the median of the operator divided by that of the script. Goal: 0.05. Told beside it: what the API server
alone takes for the requests that this way of asking makes, when nobody looks at a host.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from tests.bench.registry import Measure, Result
from tests.bench.tenants import TENANTS, Bench, bench, spread

TURNS = 7
TOKEN = "platform.dotmac.io/reconcile-requested-at"


def prove(made: Bench, token: str) -> float:
    """Seconds until every tenant was looked at because of this token."""
    client, path = made.platform.plane.client, made.platform.path("Instance")
    version = client.get(path, params={"limit": "1"}).json()["metadata"]["resourceVersion"]
    query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "60"}
    left = set(TENANTS)
    with client.stream("GET", path, params=query, timeout=60) as answer, ThreadPoolExecutor(len(TENANTS)) as pool:
        began = time.perf_counter()
        asked = [
            pool.submit(made.platform.patch, "Instance", name, {"metadata": {"annotations": {TOKEN: token}}})
            for name in TENANTS
        ]
        lines = answer.iter_lines()
        while left:
            found = json.loads(next(lines))["object"]
            if found["status"].get("lastHandledReconcileAt") == token and made.is_ready(found):
                left.discard(found["metadata"]["name"])
        taken = time.perf_counter() - began
        for future in asked:
            future.result()
    return taken


def alone(made: Bench, token: str) -> float:
    """Seconds that the API server alone takes for it: the same requests, while no operator runs. Each tenant's token,
    its Secret, its answer."""
    client, path = made.platform.plane.client, made.platform.path("Instance")
    held = {obj["metadata"]["name"]: obj for obj in client.get(path).json()["items"]}

    def ask(name: str) -> None:
        made.platform.patch("Instance", name, {"metadata": {"annotations": {TOKEN: token}}})
        assert client.get(made.platform.path("Secret", f"{name}-credentials")).is_success
        found = held[name]
        meta = {key: found["metadata"][key] for key in ("name", "namespace", "uid")}
        body = {key: found[key] for key in ("apiVersion", "kind")} | {"metadata": meta}
        answer = client.patch(
            f"{path}/{name}/status",
            params={"fieldManager": "dotmac-operator", "force": "true"},
            headers={"Content-Type": "application/apply-patch+yaml"},
            content=json.dumps(body | {"status": {**found["status"], "lastHandledReconcileAt": token}}),
        )
        assert answer.is_success, answer.text

    with ThreadPoolExecutor(len(TENANTS)) as pool:
        began = time.perf_counter()
        for asked in [pool.submit(ask, name) for name in TENANTS]:
            asked.result()
        return time.perf_counter() - began


def run() -> Result:
    """Deploys once, then asks in turns."""
    ours, theirs = [], []
    with bench() as made:
        made.deploy()
        script = made.script()
        for turn in range(TURNS + 1):
            theirs.append(made.run_script(script))
            ours.append(prove(made, f"turn-{turn}"))
        made.platform.operator.kill()
        bare = [alone(made, f"alone-{turn}") for turn in range(TURNS + 1)]
        load = os.getloadavg()[0]
    ours, theirs, bare = ours[1:], theirs[1:], bare[1:]  # the first turn warms all of them up
    ratio = statistics.median(ours) / statistics.median(theirs)
    notes = [
        f"operator {spread(ours)}",
        f"script   {spread(theirs)}",
        f"the API server alone, with the same 15 requests, {spread(bare)}: "
        f"that / script = {statistics.median(bare) / statistics.median(theirs):.2f}",
        f"load of the machine at the end {load:.1f}",
    ]
    return Result("noop", [Measure("operator / script", ratio, "", 0.05)], notes)
