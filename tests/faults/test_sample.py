"""A fast sample of the fault matrix, one case of each sort; `python -m tests.faults --all` runs all of it."""

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.faults.cases import Case, differences
from tests.faults.matrix import Matrix
from tests.faults.world import lab

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("DOTMAC_FAULTS_SEED", "1"))
JOURNEYS = ("deploy", "upgrade", "delete")
KINDS = (
    "killed-before", "killed-during", "killed-after", "killed-before-record", "reset-after", "blackhole",
    "api-gone", "watch-expired", "conflict", "stale-restart", "taken-over", "edit-aba",
)  # fmt: skip


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    with lab(tmp_path_factory.mktemp("faults")) as place:
        yield Matrix(place, JOURNEYS)


def _comes_each_time(case: Case) -> bool:
    """How often health is asked for inside, and a status written, is a matter of time."""
    label, nth = case.point.label, case.point.nth
    asks = "/exec" in label and "proxy" not in label
    return nth <= 5 and not asks


@pytest.mark.timeout(280)
def test_a_case_of_each_kind_ends_as_if_nothing_had_happened(matrix: Matrix) -> None:
    dice, all_cases = random.Random(SEED), sorted(filter(_comes_each_time, matrix.cases()), key=str)
    chosen: list[Case] = [dice.choice([case for case in all_cases if case.kind.name == kind]) for kind in KINDS]
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(matrix.run, chosen))
    results = zip(chosen, outcomes, strict=True)
    told = [f"{case}: {o.result} {o.problems} {o.untaken}" for case, o in results if o.result != "passed"]
    assert told == []


def test_a_fault_that_does_nothing_is_untaken(matrix: Matrix) -> None:
    case = next(case for case in matrix.hollow() if case.kind.name == "stale-restart")
    assert matrix.run(case).result == "untaken"


def test_the_judge_sees_a_difference() -> None:
    assert differences({"phase": "Running", "volumes": ["a"]}, {"phase": "Running", "volumes": []}) == [
        "volumes: ['a'] became []"
    ]
