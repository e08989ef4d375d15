"""Deploying five tenants by the operator, against a shell script on the host: see tests.bench.tenants.

Both run in turns on the same host, with the images present. The figure is the median of the operator divided by that of
the script. Goal: 0.75.
"""

from __future__ import annotations

import statistics

from tests.bench.registry import Measure, Result
from tests.bench.tenants import bench, spread

TURNS = 3


def run() -> Result:
    """Deploys and removes, in turns."""
    ours, theirs = [], []
    with bench() as made:
        made.deploy()  # what is loaded once, and the model for the script
        script = made.script()
        made.remove()
        for _ in range(TURNS):
            theirs.append(made.run_script(script))
            made.remove_script()
            ours.append(made.deploy())
            made.remove()
    notes = [f"operator {spread(ours)}", f"script   {spread(theirs)}"]
    ratio = statistics.median(ours) / statistics.median(theirs)
    return Result("deploy", [Measure("operator / script", ratio, "", 0.75)], notes)
