"""`python -m tests.bench NAME [--strict]`: run one benchmark, print its table and a last line for programs."""

from __future__ import annotations

import argparse
import math
import sys

from rich.console import Console
from rich.table import Table
from tests.bench import registry
from tests.bench.registry import Result


def show(result: Result) -> None:
    console = Console()
    table = Table(title=result.name)
    for column in ("measure", "value", "goal", "ratio", ""):
        table.add_column(column, justify="left" if column in ("measure", "") else "right")
    for measure in result.measures:
        sign = "<" if measure.lower_is_better else ">"
        table.add_row(
            measure.name,
            f"{measure.value:,.3g} {measure.unit}" if measure.value < 100 else f"{measure.value:,.0f} {measure.unit}",
            f"{sign} {measure.goal:,g} {measure.unit}",
            f"{measure.ratio:.2f}",
            "met" if measure.ratio >= 1 else "short",
        )
    console.print(table)
    for note in result.notes:
        console.print(note)
    word = "met" if result.met else "short"
    # Rounded down, so that what is short by a hair does not read as met.
    ratio = math.floor(result.ratio * 100) / 100 if math.isfinite(result.ratio) else result.ratio
    # Flushed last and bare: scripts read this line.
    console.print(f"{result.name} ratio={ratio:.2f} goal={result.goal:g} {word}", highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", choices=registry.names())
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is not met")
    options = parser.parse_args()
    result = registry.load(options.name).run()
    show(result)
    return int(options.strict and not result.met)


if __name__ == "__main__":
    sys.exit(main())
