"""A restart of the operator over a fleet in sync: 2,000 Instances on 50 simulated hosts, six containers each.

Measured from the start of the process until each Instance's plan has been found empty once: seconds, processor seconds,
resident memory at the peak, and writes to the Kubernetes API until then and for 5 s after. API server, simulated hosts
(real SSH, a process of their own) and operator share the machine.

The fleet is not deployed: objects, statuses and containers are computed by the operator's own core (tests/simhost/
synced.py). A first start of the operator brings in line what differs and is not measured; the second one is.

In the same run a bare Kopf takes in 5,000 trivial objects, to show what the machine gives today: Kopf alone, without a
host, a Secret or a plan.

Goals: 30 s, no write, 300 MiB. The ratio of a measure is goal/value; for writes it is 0 when there is any.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
import time
from pathlib import Path

import aiohttp
from tests.bench.registry import Measure, Result
from tests.kits import controlplane
from tests.kits.controlplane import ControlPlane
from tests.local import widgets
from tests.simhost.process import Notes, noted, operator, simhosts
from tests.simhost.synced import Shape, SyncedFleet, in_turns

BARE_OBJECTS = 5000
PATIENCE = 400.0
QUIET_SECONDS = 5.0


def measure(shape: Shape, directory: Path, quiet: float = QUIET_SECONDS) -> tuple[Notes, float, float]:
    """Note at the end of the restart, MiB at the peak, seconds that making the fleet took."""
    plane = controlplane.start(directory / "control-plane")
    try:
        plane.apply_crds()
        plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": shape.namespace}})
        with simhosts(directory / "hosts", shape.hosts, shape.namespace) as control:
            began = time.monotonic()
            SyncedFleet(plane, control, shape).make()
            made = time.monotonic() - began
            count = shape.hosts * shape.tenants
            with operator(plane.kubeconfig, directory / "first", shape.namespace) as first:
                first.wait(count, PATIENCE)
                time.sleep(quiet)
            with operator(plane.kubeconfig, directory / "second", shape.namespace) as second:
                found = second.wait(count, PATIENCE)
                time.sleep(quiet)
                return found | {"writes": second.last()["writes"]}, second.memory(), made
    finally:
        plane.stop()


def bare_kopf(objects: int, directory: Path) -> tuple[Notes, float]:
    plane = controlplane.start(directory / "bare")
    try:
        widgets.install(plane)
        asyncio.run(_widgets(plane, objects))
        variables = {"KUBECONFIG": str(plane.kubeconfig), "OBJECTS": f"{widgets.GROUP}/v1/widgets"}
        with noted("tests.kits.bare_kopf", directory / "bare-notes", NAMESPACE="default", **variables) as kopf:
            return kopf.wait(objects, PATIENCE), kopf.memory()
    finally:
        plane.stop()


async def _widgets(plane: ControlPlane, count: int) -> None:
    context = ssl.create_default_context(cafile=str(plane.ca))
    headers = {"Authorization": f"Bearer {plane.token}"}
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(plane.url, connector=connector, headers=headers) as session:

        async def create(number: int) -> None:
            async with session.post(widgets.PATH, json=widgets.widget(f"w{number}")) as answer:
                assert answer.status == 201, await answer.text()

        await in_turns(create(number) for number in range(count))


def run() -> Result:
    shape = Shape()
    with tempfile.TemporaryDirectory(prefix="bench-restart-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        bare, bare_memory = bare_kopf(BARE_OBJECTS, Path(name))
        found, memory, made = measure(shape, Path(name))
    return Result(
        "restart",
        [
            Measure("until all are known in sync", found["at"], "s", 30),
            Measure("resident memory, peak", memory, "MiB", 300),
            Measure("writes to the API", found["writes"], "", 0),
        ],
        [
            f"{shape.hosts * shape.tenants:,} Instances on {shape.hosts} hosts: {found['cpu']:.1f} s of processor, "
            f"{found['requests']} Engine requests, {found['execs']} programs on the hosts",
            f"bare Kopf, {BARE_OBJECTS:,} trivial objects: {bare['at']:.1f} s, {bare['cpu']:.1f} s of processor, "
            f"{bare_memory:.0f} MiB; the operator takes {found['cpu'] / bare['cpu']:.1f} times its processor time",
            f"making the fleet took {made:.0f} s; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}",
        ],
    )
