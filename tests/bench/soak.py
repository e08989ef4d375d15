"""An operator that works for a long time: does it grow, and is everything in place at the end?

A hundred tenants on ten simulated hosts (real SSH), and somebody who never leaves them alone: edits, removed
containers, suspensions, tenants that come and go, cut connections, restarts of the engine; one act after the other,
drawn by a seed. Resident memory, threads and open files of the operator's process are read all the time.

The figure is the median memory of the last fifth divided by that of the second fifth, the first one being the warm-up
in which caches fill; threads and open files likewise. At the end everything must be Ready, or the run fails.

`DOTMAC_BENCH_MINUTES` says how long, 10 unless told; `DOTMAC_BENCH_SEED` draws other acts.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.registry import Measure, Result
from tests.kits.observed import BASE, Observed, observed
from tests.kits.tenant import INSTANCE

from dotmac_operator.core import names

HOSTS, TENANTS = 10, 100
PACE = 1.0
"""Seconds between two acts: what two processors take with the hosts and the API server beside the operator."""
PATIENCE = 300.0


@dataclass(frozen=True)
class Reading:
    memory: float
    """MiB, resident."""
    threads: int
    files: int


def reading(pid: int) -> Reading:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    memory = int(found["VmRSS"].split()[0]) / 1024
    return Reading(memory, int(found["Threads"]), len(os.listdir(f"/proc/{pid}/fd")))


@dataclass
class Unrest:
    """Draws an act and does it."""

    seen: Observed
    random: random.Random
    done: Counter[str] = field(default_factory=Counter)
    guests: list[str] = field(default_factory=list)
    """Tenants that came and will go."""

    def act(self) -> None:
        acts: dict[Callable[[], None], int] = {
            self.edit: 30,
            self.remove_container: 30,
            self.suspend_or_resume: 12,
            self.come_or_go: 20,
            self.cut_connections: 6,
            self.restart_engine: 2,
        }
        act = self.random.choices(list(acts), list(acts.values()))[0]
        self.done[act.__name__.replace("_", " ")] += 1
        act()

    def edit(self) -> None:
        self.seen.edit(self._tenant(), env=[{"name": "TURN", "value": str(self.random.random())}])

    def remove_container(self) -> None:
        host = self._host()

        def remove() -> None:
            ours = [c for c in host.engine.containers.values() if names.INSTANCE_UID in c.labels and c.alive]
            if ours:
                host.engine.remove(self.random.choice(ours), force=True)

        self.seen.fleet.call(remove)

    def suspend_or_resume(self) -> None:
        self.seen.edit(self._tenant(), state=self.random.choice(["Suspended", "Running", "Running"]))

    def come_or_go(self) -> None:
        if len(self.guests) < self.random.randrange(1, 8):
            name = f"guest-{self.done['come or go']}"
            spec = {
                **INSTANCE,
                "orgCode": name,
                "serverRef": {"name": self._host().name},
                "deletion": {"policy": "Delete"},
            }
            self.seen.create("Instance", name, spec)
            self.guests.append(name)
        else:
            name = self.guests.pop(self.random.randrange(len(self.guests)))
            answer = self.seen.plane.client.delete(f"{BASE}/namespaces/default/instances/{name}")
            assert answer.is_success, answer.text

    def cut_connections(self) -> None:
        self.seen.fleet.call(self._host().drop_connections)

    def restart_engine(self) -> None:
        host = self._host()
        self.seen.fleet.call(lambda: host.restart_engine(self.random.random()))

    def _tenant(self) -> str:
        return f"org-{self.random.randrange(TENANTS)}"

    def _host(self) -> Any:
        return self.seen.fleet[f"sim-{self.random.randrange(HOSTS)}"]

    def end(self) -> int:
        """Everything asked to run again; returns how many Instances there are."""
        for number in range(TENANTS):
            self.seen.edit(f"org-{number}", state="Running")
        return TENANTS + len(self.guests)


def measure(seconds: float, seed: int, directory: Path) -> tuple[list[Reading], Counter[str]]:
    with observed(directory, HOSTS) as seen:
        seen.populate(TENANTS)
        seen.start()
        seen.until("all are Ready", lambda: seen.ready() == TENANTS, PATIENCE)
        assert seen.process is not None
        unrest = Unrest(seen, random.Random(seed))  # noqa: S311 - draws acts, guards nothing
        found, until = [], time.monotonic() + seconds
        while time.monotonic() < until:
            unrest.act()
            time.sleep(PACE)
            found.append(reading(seen.process.pid))
        expected = unrest.end()
        seen.until(
            "everything is Ready and the guests are gone",
            lambda: seen.ready() == len(seen.items("instances")) == expected,
            PATIENCE,
        )
        return found, unrest.done


def growth(values: list[float]) -> float:
    """Median of the last fifth over that of the second one."""
    fifth = len(values) // 5
    return statistics.median(values[-fifth:]) / statistics.median(values[fifth : 2 * fifth])


def run() -> Result:
    minutes = float(os.environ.get("DOTMAC_BENCH_MINUTES", "10"))
    seed = int(os.environ.get("DOTMAC_BENCH_SEED", "1"))
    with tempfile.TemporaryDirectory(prefix="bench-soak-", dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        found, done = measure(minutes * 60, seed, Path(name))
    memory = [each.memory for each in found]
    threads = [float(each.threads) for each in found]
    files = [float(each.files) for each in found]
    return Result(
        "soak",
        [
            Measure("memory, last fifth / second fifth", growth(memory), "", 1.1),
            Measure("threads, last fifth / second fifth", growth(threads), "", 1.1),
            Measure("open files, last fifth / second fifth", growth(files), "", 1.1),
        ],
        [
            f"{minutes:g} minutes, seed {seed}: " + ", ".join(f"{what} {count}" for what, count in done.most_common()),
            f"memory in MiB, by fifths: {_fifths(memory)}; threads {_fifths(threads)}; open files {_fifths(files)}",
        ],
    )


def _fifths(values: list[float]) -> str:
    fifth = len(values) // 5
    return ", ".join(f"{statistics.median(values[n * fifth : (n + 1) * fifth]):.0f}" for n in range(5))
