"""`python -m tests.faults [--all | --sample N] [--seed S]`: the fault matrix, or a sample of it.

One line a case that fails, a table at the end, and a last line for programs:
`faults cases=N passed=N failed=N unreached=N seed=S`. Exit status 1 when a case failed. Repeat one with --only.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.faults.cases import Case
from tests.faults.matrix import Matrix
from tests.faults.world import lab


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="every case")
    chosen.add_argument("--sample", type=int, default=20, metavar="N", help="so many cases (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default 1)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="cases whose name contains this, such as upgrade/zombie"
    )
    parser.add_argument("--jobs", type=int, default=2, help="cases at the same time (default 2)")
    parser.add_argument("--list", action="store_true", help="name the cases, run none")
    return parser.parse_args()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="dotmac-faults-") as scratch, lab(Path(scratch)) as place:
        matrix = Matrix(place)
        cases = [case for case in matrix.cases() if options.only in str(case)]
        if not options.all and not options.only and options.sample < len(cases):
            cases = random.Random(options.seed).sample(cases, options.sample)
        if options.list:
            for case in cases:
                say(str(case))
            return 0
        return run(matrix, cases, options)


def run(matrix: Matrix, cases: list[Case], options: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    began = time.monotonic()
    say(f"{len(cases)} cases, {options.jobs} at a time")
    with ThreadPoolExecutor(options.jobs) as pool:
        under_way = {pool.submit(matrix.run, case): case for case in cases}
        for number, done in enumerate(as_completed(under_way), 1):
            case, outcome = under_way[done], done.result()
            result = "failed" if outcome.problems else "passed" if outcome.struck else "unreached"
            counts[result] += 1
            kinds.setdefault(case.kind.name, Counter())[result] += 1
            if outcome.problems:
                say(f"FAILED {case} ({outcome.seconds:.0f} s)\n  " + "\n  ".join(outcome.problems))
            elif number % 25 == 0:
                say(f"{number} of {len(cases)} after {time.monotonic() - began:.0f} s")
    for name in sorted(kinds):
        say(f"{name:24}" + "  ".join(f"{word}={count}" for word, count in sorted(kinds[name].items())))
    words = " ".join(f"{word}={counts[word]}" for word in ("passed", "failed", "unreached"))
    say(f"faults cases={len(cases)} {words} seed={options.seed}")
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
