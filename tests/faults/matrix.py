"""Every case there is: journeys, times kinds, times points."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.faults import cases
from tests.faults.cases import Case, Outcome, Point
from tests.faults.journeys import JOURNEYS, Journey
from tests.faults.kinds import KINDS, Kind
from tests.faults.world import Lab

TRIES = 3


class Matrix:
    """Made from one run of each journey without a fault."""

    def __init__(self, lab: Lab, journeys: tuple[str, ...] = tuple(JOURNEYS)) -> None:
        self._lab = lab
        self._recorded: dict[str, tuple[list[Point], Any]] = {
            name: cases.record(lab, JOURNEYS[name]) for name in journeys
        }

    def cases(self) -> Iterator[Case]:
        for name, (points, _) in self._recorded.items():
            for kind in KINDS.values():
                wanted = JOURNEYS[name].kinds
                if (name in kind.journeys or not kind.journeys) and (kind.name in wanted or not wanted):
                    yield from self._of(JOURNEYS[name], kind, points)

    @staticmethod
    def _of(journey: Journey, kind: Kind, points: list[Point]) -> Iterator[Case]:
        """At every point, or at the first of each sort."""
        seen = set()
        for point in points:
            if point.at != kind.at or kind.on not in point.label:
                continue
            if kind.everywhere or point.label not in seen:
                seen.add(point.label)
                yield Case(journey, kind, point)

    def hollow(self) -> Iterator[Case]:
        """One case of each kind whose fault does nothing: each must be untaken, or it would pass without its fault."""
        seen = set()
        for case in self.cases():
            if case.kind.name not in seen:
                seen.add(case.kind.name)
                yield replace(case, kind=replace(case.kind, strike=lambda world: None, then=None))

    def run(self, case: Case) -> Outcome:
        """Up to three times until it strikes: how often a status is written, or health asked for, differs."""
        for _ in range(TRIES):
            outcome = cases.run(self._lab, case, self._recorded[case.journey.name][1])
            if outcome.struck or outcome.problems:
                break
        return outcome
