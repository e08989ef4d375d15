"""Round trips to a host that a fresh deploy and a no-op take, with 0, 10 and 50 ms of delay in the transport.

The operator's reconcilers and its SSH adapter work on one simulated host; the delay lies between TCP and SSH, half of
it each way. A deploy is a tenant of four containers with network, volumes, migrate and bootstrap, images present, on a
host whose proxy runs. A no-op reads that host anew, nothing cached but the connections, and finds nothing to do.

Round trips are what the wall time grows by for the delay: (time at 50 ms - time at 0 ms) / 50 ms, so that calls under
way at the same time count once. The Engine requests are told beside them.

Goal: a no-op takes at most 2 round trips; the ratio is goal/value. What a deploy takes is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.registry import Measure, Result
from tests.simhost import FleetSettings, SimFleet
from tests.simhost.oneoperator import OneOperator

DELAYS = (0.0, 0.010, 0.050)
"""Seconds there and back."""
NOOPS = 5


@dataclass(frozen=True)
class Taken:
    """Of one kind of work at one delay."""

    seconds: float
    requests: int


def measured(operator: OneOperator, work: Callable[[], object]) -> Taken:
    before, began = operator.requests, time.perf_counter()
    work()
    return Taken(time.perf_counter() - began, operator.requests - before)


def at(delay: float) -> tuple[Taken, Taken]:
    """(deploy, median no-op)."""
    with SimFleet(FleetSettings(hosts=1, delay=delay / 2)) as fleet, OneOperator(fleet) as operator:
        operator.deploy("first")  # The proxy, the images and the connections are there for the second one.
        deploy = measured(operator, lambda: operator.deploy("second"))
        operator.prove("second")
        noops = [measured(operator, lambda: operator.prove("second")) for _ in range(NOOPS)]
    return deploy, sorted(noops, key=lambda taken: taken.seconds)[NOOPS // 2]


def trips(found: dict[float, Taken]) -> float:
    first, last = DELAYS[0], DELAYS[-1]
    return (found[last].seconds - found[first].seconds) / (last - first)


def run() -> Result:
    deploys, noops = {}, {}
    for delay in DELAYS:
        deploys[delay], noops[delay] = at(delay)
    notes = [f"round trips of a fresh deploy: {trips(deploys):.0f}"]
    for delay in DELAYS:
        deploy, noop = deploys[delay], noops[delay]
        notes.append(
            f"{delay * 1000:3.0f} ms: deploy {deploy.seconds:.2f} s with {deploy.requests} Engine requests, "
            f"no-op {noop.seconds * 1000:.0f} ms with {noop.requests}"
        )
    return Result("latency", [Measure("round trips of a no-op", max(trips(noops), 0.01), "", 2)], notes)
