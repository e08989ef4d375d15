"""`python -m tests.faults [--all | --sample N] [--seed S]`: the fault matrix, or a sample of it.

One line a case that did not pass, a table by kind at the end, and a last line for programs:
`faults cases=N passed=N failed=N untaken=N unreached=N seed=S`. A case is untaken when nothing shows that its fault
was really met, and unreached when its point never came. Exit status 1 when one failed or was untaken. Repeat: --only.
The whole takes about an hour on two cores: with --record FILE each result is kept there as a line of JSON, with the
operator's last words where it did not pass, and the same command goes on where it was interrupted; what another commit
has made is run again. --part 2/4 is the second of four parts that have nothing in common.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

from tests.faults.cases import Case, Outcome
from tests.faults.journeys import JOURNEYS
from tests.faults.matrix import Matrix
from tests.faults.world import lab

RESULTS = ("passed", "failed", "untaken", "unreached")


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
    parser.add_argument("--part", type=part, default=(1, 1), metavar="I/N", help="only the I-th of N parts")
    parser.add_argument("--hollow", action="store_true", help="faults that do nothing: each kind must notice")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep results there; what is there is not run")
    return parser.parse_args()


def part(text: str) -> tuple[int, int]:
    """`2/4`, as numbers."""
    number, _, parts = text.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError("two numbers, such as 2/4")
    return int(number), int(parts)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="dotmac-faults-") as scratch, lab(Path(scratch)) as place:
        named = options.only.partition("/")[0]
        matrix = Matrix(place, (named,)) if named in JOURNEYS else Matrix(place)
        chosen = matrix.hollow() if options.hollow else matrix.cases()
        cases = [case for case in chosen if options.only in str(case) and in_part(case, *options.part)]
        if options.list:
            for case in cases:
                say(str(case))
            return 0
        # All of them shuffled too: whatever part has run is a fair sample.
        some = not (options.all or options.only or options.hollow)
        wanted = min(options.sample, len(cases)) if some else len(cases)
        return run(matrix, random.Random(options.seed).sample(cases, wanted), options)


def in_part(case: Case, number: int, parts: int) -> bool:
    """By its name: how often a status is written, and with it the number of cases, differs from run to run."""
    return crc32(str(case).encode()) % parts == number - 1


def commit() -> str:
    """Of the code that is tested; empty outside of a clone."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)  # noqa: S607
    return asked.stdout.strip()


class Tally:
    """Counts of results by kind; each is also a line of a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._commit = file, commit()
        self.known: set[str] = set()
        self.kinds: dict[str, Counter[str]] = {}
        for line in file.read_text().splitlines() if file and file.exists() else ():
            told = json.loads(line)
            if told.get("commit") != self._commit or told["case"] in self.known:
                continue
            self.known.add(told["case"])
            self._count(told["kind"], told["result"])

    def add(self, case: Case, outcome: Outcome) -> str:
        """Its result."""
        result = outcome.result
        self._count(case.kind.name, result)
        if self._file:
            told = {
                "case": str(case), "kind": case.kind.name, "result": result, "seconds": round(outcome.seconds, 1),
                "problems": outcome.problems, "untaken": outcome.untaken, "log": outcome.log, "commit": self._commit,
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
                why = [*outcome.problems, *outcome.untaken]
                say("\n  ".join([f"{result.upper()} {case} ({outcome.seconds:.0f} s)", *why]))
            if number % 25 == 0:
                spent = time.monotonic() - began
                say(f"{number} of {len(left)} after {spent:.0f} s, {spent / number * (len(left) - number):.0f} s to go")
    say(table(tally))
    total = tally.total
    words = " ".join(f"{word}={total[word]}" for word in RESULTS)
    say(f"faults cases={total.total()} {words} seed={options.seed}")
    if options.hollow:
        return int(total["untaken"] < total.total())
    return int(total["failed"] + total["untaken"] > 0)


def table(tally: Tally) -> str:
    """A row for each kind, and one for all of them."""
    rows: list[tuple[str, ...]] = [("kind", "cases", *RESULTS)]
    for name, counts in [*sorted(tally.kinds.items()), ("all", tally.total)]:
        rows.append((name, str(counts.total()), *(str(counts[word]) for word in RESULTS)))
    return "\n".join(f"{row[0]:22}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
