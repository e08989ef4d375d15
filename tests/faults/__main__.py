"""`python -m tests.faults [--all | --sample N] [--seed S]`: the fault matrix, or a sample of it.

One line a case that fails or never came to its point, a table at the end, and a last line for programs:
`faults cases=N passed=N failed=N unreached=N seed=S`. Exit status 1 when a case failed. Repeat one with --only.
The whole takes hours on two cores: with --record FILE each result is kept there as a line of JSON, with the operator's
last words where it failed, and the same command goes on where it was interrupted.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from tests.faults.cases import Case, Outcome
from tests.faults.journeys import JOURNEYS
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
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep results there; what is there is not run")
    return parser.parse_args()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="dotmac-faults-") as scratch, lab(Path(scratch)) as place:
        named = options.only.partition("/")[0]
        matrix = Matrix(place, (named,)) if named in JOURNEYS else Matrix(place)
        cases = [case for case in matrix.cases() if options.only in str(case)]
        if options.list:
            for case in cases:
                say(str(case))
            return 0
        # All of them shuffled too: whatever part has run is a fair sample.
        wanted = len(cases) if options.all or options.only else min(options.sample, len(cases))
        return run(matrix, random.Random(options.seed).sample(cases, wanted), options)


class Tally:
    """Counts of results by kind; each is also a line of a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.known: set[str] = set()
        self.kinds: dict[str, Counter[str]] = {}
        for line in file.read_text().splitlines() if file and file.exists() else ():
            told = json.loads(line)
            self.known.add(told["case"])
            self._count(told["kind"], told["result"])

    def add(self, case: Case, outcome: Outcome) -> str:
        """Its result: passed, failed or unreached."""
        result = "failed" if outcome.problems else "passed" if outcome.struck else "unreached"
        self._count(case.kind.name, result)
        if self._file:
            told = {
                "case": str(case), "kind": case.kind.name, "result": result, "seconds": round(outcome.seconds, 1),
                "problems": outcome.problems, "log": outcome.log,
            }  # fmt: skip
            with self._file.open("a") as file:
                file.write(json.dumps(told) + "\n")
        return result

    def _count(self, kind: str, result: str) -> None:
        self.kinds.setdefault(kind, Counter())[result] += 1

    @property
    def total(self) -> Counter[str]:
        return sum(self.kinds.values(), Counter())


@contextmanager
def cases_at_once(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """When it is interrupted no case begins any more."""
    pool = ThreadPoolExecutor(jobs)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def run(matrix: Matrix, cases: list[Case], options: argparse.Namespace) -> int:
    tally = Tally(options.record)
    left = [case for case in cases if str(case) not in tally.known]
    began = time.monotonic()
    say(f"{len(cases)} cases, {len(cases) - len(left)} of them known, {options.jobs} at a time")
    with cases_at_once(options.jobs) as pool:
        under_way = {pool.submit(matrix.run, case): case for case in left}
        for number, done in enumerate(as_completed(under_way), 1):
            case, outcome = under_way[done], done.result()
            result = tally.add(case, outcome)
            if result != "passed":
                say("\n  ".join([f"{result.upper()} {case} ({outcome.seconds:.0f} s)", *outcome.problems]))
            if number % 25 == 0:
                spent = time.monotonic() - began
                say(f"{number} of {len(left)} after {spent:.0f} s, {spent / number * (len(left) - number):.0f} s to go")
    for name, counts in sorted(tally.kinds.items()):
        say(f"{name:24}" + "  ".join(f"{word}={count}" for word, count in sorted(counts.items())))
    words = " ".join(f"{word}={tally.total[word]}" for word in ("passed", "failed", "unreached"))
    say(f"faults cases={tally.total.total()} {words} seed={options.seed}")
    return int(tally.total["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
