"""A container killed and removed until its replacement runs, by the engine's own clock.

The time runs from the `die` event to the start of the replacement. From its median is taken what the engine itself
needs to create and start such a container, by its socket and in the same run. Goal: less than a second is left.
"""

from __future__ import annotations

import json
import statistics
import time
from datetime import datetime
from typing import Any

import httpx
from tests.bench.registry import Measure, Result
from tests.bench.tenants import Bench, bench, spread, tenant

ROUNDS = 9
NAME = "plain-1"


def worker(made: Bench) -> dict[str, Any]:
    """The running worker of the tenant; empty while there is none."""
    mine = ("--filter", f"label=platform.dotmac.io/instance={NAME}", "--filter", "label=platform.dotmac.io/role=worker")
    found = made.host.docker("ps", "-q", *mine, "--filter", "status=running").split()
    inspected: dict[str, Any] = json.loads(made.host.docker("inspect", found[0]))[0] if found else {}
    return inspected


def repaired(made: Bench) -> float:
    """Kills the worker; seconds from its death to the start of another one."""
    victim = worker(made)["Id"]
    began = time.time()
    made.host.docker("rm", "--force", victim)
    deadline = time.monotonic() + 30
    while (found := worker(made)).get("Id", victim) == victim:
        assert time.monotonic() < deadline, "it did not come back"
        time.sleep(0.1)
    died = made.host.docker(
        "events", "--since", f"{began - 1:.3f}", "--until", f"{time.time():.3f}", "--format", "{{.TimeNano}}",
        "--filter", f"container={victim}", "--filter", "event=die",
    )  # fmt: skip
    started = datetime.fromisoformat(found["State"]["StartedAt"][:26] + "+00:00").timestamp()
    return started - int(died.split()[0]) / 1e9


def own(made: Bench, like: dict[str, Any]) -> float:
    """Seconds that the engine needs to create and start a container like this one."""
    body = {
        key: like["Config"][key] for key in ("Image", "Env", "Cmd", "Labels", "Healthcheck") if key in like["Config"]
    }
    body["Labels"] = {}  # nobody's, so that nobody acts on it
    body["HostConfig"] = like["HostConfig"]
    transport = httpx.HTTPTransport(uds=made.host.docker_socket)
    with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as client:
        began = time.perf_counter()
        client.post("/containers/create", params={"name": "like-it"}, json=body).raise_for_status()
        client.post("/containers/like-it/start").raise_for_status()
        taken = time.perf_counter() - began
        client.delete("/containers/like-it", params={"force": "1"}).raise_for_status()
    return taken


def run() -> Result:
    """Deploys one tenant and kills its worker again and again."""
    ours, engine = [], []
    with bench() as made:
        made.platform.apply(tenant(NAME))
        made.wait(made.is_ready, (NAME,))
        for _ in range(ROUNDS):
            made.platform.wait_ready(NAME)
            engine.append(own(made, worker(made)))
            ours.append(repaired(made))
        made.platform.wait_ready(NAME)
    beyond = statistics.median(ours) - statistics.median(engine)
    notes = [f"killed to running {spread(ours)}", f"the engine's own create and start {spread(engine)}"]
    return Result("drift", [Measure("beyond the engine's own time", max(beyond, 0.001), "s", 1.0)], notes)
