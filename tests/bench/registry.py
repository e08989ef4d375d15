"""What a benchmark is, and which there are."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import tests.bench

# Modules here that are no benchmarks.
_OTHERS = {"registry", "tenants", "engine", "hosts", "__main__"}


@dataclass(frozen=True)
class Measure:
    """One figure. `ratio` says how well the goal is met: 1 just met, 2 twice as good, 0.5 half."""

    name: str
    value: float
    unit: str
    goal: float
    lower_is_better: bool = True

    @property
    def ratio(self) -> float:
        if self.lower_is_better:
            return self.goal / self.value if self.value else float("inf")
        return self.value / self.goal


@dataclass(frozen=True)
class Result:
    """A benchmark's figures; its ratio is that of the worst, and the goal is 1."""

    name: str
    measures: Sequence[Measure]
    notes: Sequence[str] = ()
    goal: float = 1.0

    @property
    def ratio(self) -> float:
        return min(measure.ratio for measure in self.measures)

    @property
    def met(self) -> bool:
        return self.ratio >= self.goal


class Bench(Protocol):
    """A module of this package: its docstring says what is measured and how the ratio is made."""

    def run(self) -> Result: ...


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(tests.bench.__path__) if module.name not in _OTHERS)


def load(name: str) -> Bench:
    return cast(Bench, importlib.import_module(f"tests.bench.{name}"))
