"""Proving that five tenants are in sync, on demand and with nothing cached, against the script's own run without work.

On demand: a new reconcile token on the Server makes the operator read the host and the Secrets of all of its tenants
again, compare each tenant, and answer in the Server's status, once; the time runs from the token being sent until the
answer has come by a watch. What is read, each time: the Engine's lists of containers, networks and volumes, what the
names of images mean (by the list of containers, which names an image only while the name means that one), the version
of the proxy's configuration (the file itself when that has changed: ADR 0023), and from the API server every Secret
that a tenant refers to. What is compared, for each tenant: every container with its image, state, health, hash of all
that it was made with (Secrets included), networks and aliases; its networks, volumes and route; and that its status
says so. An answer that does not call all of them in sync fails the run. The script asks the docker client for each
network, volume and container, and makes none. Both see the same objects, in turns.

The figure is the median of the operator divided by that of the script. Goal: 0.05. Told beside it: the same proof
asked for tenant by tenant, by a token on each; and what the API server alone takes for the requests of either way,
when nobody looks at a host.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.bench.registry import Measure, Result
from tests.bench.tenants import TENANTS, Bench, bench, spread

TURNS = 45
TOKEN = "platform.dotmac.io/reconcile-requested-at"


def asking(token: str) -> dict[str, Any]:
    return {"metadata": {"annotations": {TOKEN: token}}}


def prove(made: Bench, token: str) -> float:
    """Seconds until the Server's status says that every tenant was found in sync, because of this token."""
    with watching(made, "Server") as objects:
        began = time.perf_counter()
        made.platform.patch("Server", "one", asking(token))
        found = next(obj for obj in objects if obj["status"].get("lastHandledReconcileAt") == token)
        taken = time.perf_counter() - began
    proof = found["status"]["proof"]
    assert proof["result"] == f"{len(TENANTS)}/{len(TENANTS)}", proof
    return taken


def prove_one_by_one(made: Bench, token: str) -> float:
    """Seconds until every tenant was looked at because of its own token."""
    left = set(TENANTS)
    with watching(made, "Instance") as objects, ThreadPoolExecutor(len(TENANTS)) as pool:
        began = time.perf_counter()
        asked = [pool.submit(made.platform.patch, "Instance", name, asking(token)) for name in TENANTS]
        while left:
            found = next(objects)
            if found["status"].get("lastHandledReconcileAt") == token and made.is_ready(found):
                left.discard(found["metadata"]["name"])
        taken = time.perf_counter() - began
        for future in asked:
            future.result()
    return taken


@contextmanager
def watching(made: Bench, kind: str) -> Iterator[Iterator[dict[str, Any]]]:
    """Each version of the kind's objects that comes from now on."""
    client, path = made.platform.plane.client, made.platform.path(kind)
    version = client.get(path, params={"limit": "1"}).json()["metadata"]["resourceVersion"]
    query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "60"}
    with client.stream("GET", path, params=query, timeout=60) as answer:
        yield (json.loads(line)["object"] for line in answer.iter_lines())


def alone(made: Bench, token: str) -> float:
    """Seconds that the API server alone takes for a proof: the same requests, while no operator runs. The Server's
    token, the Secrets, the Server's answer."""
    found = read(made, "Server", "one")
    secrets = [f"{name}-credentials" for name in TENANTS]
    with ThreadPoolExecutor(len(secrets)) as pool:
        began = time.perf_counter()
        made.platform.patch("Server", "one", asking(token))
        for asked in [pool.submit(read, made, "Secret", name) for name in secrets]:
            asked.result()
        answer(made, found, token)
        return time.perf_counter() - began


def alone_one_by_one(made: Bench, token: str) -> float:
    """As `alone`, where each tenant is asked: its token, its Secret, its answer."""
    held = {name: read(made, "Instance", name) for name in TENANTS}

    def ask(name: str) -> None:
        made.platform.patch("Instance", name, asking(token))
        read(made, "Secret", f"{name}-credentials")
        answer(made, held[name], token)

    with ThreadPoolExecutor(len(TENANTS)) as pool:
        began = time.perf_counter()
        for asked in [pool.submit(ask, name) for name in TENANTS]:
            asked.result()
        return time.perf_counter() - began


def read(made: Bench, kind: str, name: str) -> dict[str, Any]:
    sent = made.platform.plane.client.get(made.platform.path(kind, name))
    assert sent.is_success, sent.text
    found: dict[str, Any] = sent.json()
    return found


def answer(made: Bench, found: dict[str, Any], token: str) -> None:
    """Applies a status as the operator does."""
    meta = {key: found["metadata"][key] for key in ("name", "namespace", "uid")}
    body = {key: found[key] for key in ("apiVersion", "kind")} | {"metadata": meta}
    sent = made.platform.plane.client.patch(
        f"{made.platform.path(found['kind'], meta['name'])}/status",
        params={"fieldManager": "dotmac-operator", "force": "true"},
        headers={"Content-Type": "application/apply-patch+yaml"},
        content=json.dumps(body | {"status": {**found["status"], "lastHandledReconcileAt": token}}),
    )
    assert sent.is_success, sent.text


def run() -> Result:
    """Deploys once, then asks in turns."""
    ours: list[float] = []
    single: list[float] = []
    theirs: list[float] = []
    with bench() as made:
        made.deploy()
        script = made.script()
        for turn in range(TURNS + 1):
            theirs.append(made.run_script(script))
            ours.append(prove(made, f"turn-{turn}"))
            single.append(prove_one_by_one(made, f"turn-{turn}"))
        made.platform.operator.kill()
        bare = [alone(made, f"alone-{turn}") for turn in range(TURNS + 1)]
        bare_single = [alone_one_by_one(made, f"alone-{turn}") for turn in range(TURNS + 1)]
        load = os.getloadavg()[0]
    for times in (ours, single, theirs, bare, bare_single):
        del times[0]  # the first turn warms all of them up
    unit = statistics.median(theirs)

    def told(times: list[float]) -> str:
        return f"{spread(times)}: {statistics.median(times) / unit:.3f} of the script"

    notes = [
        f"script   {spread(theirs)}",
        f"operator, by one token on the Server, {told(ours)}",
        f"the API server alone, with the same {len(TENANTS) + 2} requests, {told(bare)}",
        f"operator, by a token on each tenant, {told(single)}",
        f"the API server alone, with those {len(TENANTS) * 3} requests, {told(bare_single)}",
        f"load of the machine at the end {load:.1f}",
    ]
    return Result("noop", [Measure("operator / script", statistics.median(ours) / unit, "", 0.05)], notes)
