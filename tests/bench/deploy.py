"""Deploying five tenants by the operator, against a shell script on the host: see tests.bench.tenants.

Both run in turns on the same host, with the images present. The figure is the median of the operator divided by that of
the script that does the same. Goal: 0.75.

Told beside it: the script that only makes the objects, and the Engine alone (see tests.bench.engine), tenants one after
the other and four at a time. What the operator takes beyond the latter is its own.
"""

from __future__ import annotations

import os
import statistics

from tests.bench.registry import Measure, Result
from tests.bench.tenants import Parts, bench, spread

TURNS = 3
AT_ONCE = 4
"""The Engine is not faster with more."""


def run() -> Result:
    """Deploys and removes, in turns."""
    ours: list[float] = []
    whole: list[float] = []
    bare: list[float] = []
    alone: dict[int, list[float]] = {1: [], AT_ONCE: []}
    with bench() as made:
        made.deploy()  # what is loaded once, and the model for the others
        script, objects, tenants = made.script(), made.script(Parts.OBJECTS), made.made()
        made.remove()
        for turn in range(TURNS):
            whole.append(made.run_script(script))
            made.remove_script()
            ours.append(made.deploy())
            made.remove()
            if turn < TURNS - 1:  # they are told, not judged
                bare.append(made.run_script(objects))
                made.remove_script()
                at_once = (1, AT_ONCE)[turn % 2]
                alone[at_once].append(made.run_engine(tenants, at_once))
                made.remove_script()
        load = os.getloadavg()[0]
    ratio = statistics.median(ours) / statistics.median(whole)
    notes = [
        f"operator {spread(ours)}",
        f"script   {spread(whole)}",
        f"script that only makes the objects {spread(bare)}: "
        f"operator / that = {statistics.median(ours) / statistics.median(bare):.2f}",
        *(f"engine alone, {number} at a time, {spread(taken)}" for number, taken in alone.items()),
        f"load of the machine at the end {load:.1f}",
    ]
    return Result("deploy", [Measure("operator / script", ratio, "", 0.75)], notes)
