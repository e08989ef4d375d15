"""`python -m tests.bench NAME [--strict]`: its last line is for programs, and a goal that is short can fail a run."""

import re
import sys

import pytest
from tests.bench import __main__ as bench
from tests.bench import registry
from tests.bench.registry import Measure, Result

LAST = re.compile(r"([a-z]+) ratio=([0-9.]+|inf) goal=([0-9.]+) (met|short)")
NAMES = ("deploy", "noop", "drift", "restart", "latency")


class Made:
    """A benchmark with these figures, of goal 1 second each."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = seconds

    def run(self) -> Result:
        return Result(
            "noop", [Measure(f"figure {n}", value, "s", 1.0) for n, value in enumerate(self.seconds)], ["why"]
        )


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], made: Made, *flags: str
) -> tuple[int, str]:
    """Exit code and last line."""
    monkeypatch.setattr(registry, "load", lambda name: made)
    monkeypatch.setattr(sys, "argv", ["bench", "noop", *flags])
    monkeypatch.setenv("COLUMNS", "40")
    code = bench.main()
    return code, capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("seconds", "ratio", "word"),
    [((0.5,), "2.00", "met"), ((1.0, 0.1), "1.00", "met"), ((0.1, 4.0), "0.25", "short"), ((0.0,), "inf", "met")],
)
@pytest.mark.parametrize("flags", [(), ("--strict",)])
def test_the_last_line_and_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: tuple[float, ...],
    ratio: str,
    word: str,
    flags: tuple[str, ...],
) -> None:
    code, last = run(monkeypatch, capsys, Made(*seconds), *flags)
    found = LAST.fullmatch(last)
    assert found and found.groups() == ("noop", ratio, "1", word)
    assert code == (1 if flags and word == "short" else 0)


@pytest.mark.parametrize("short", [1.003, 1.00001])
def test_what_is_short_by_a_hair_is_not_shown_as_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], short: float
) -> None:
    code, last = run(monkeypatch, capsys, Made(short), "--strict")
    found = LAST.fullmatch(last)
    assert found and (code, found[4]) == (1, "short")
    assert float(found[2]) < float(found[3])


def test_each_is_there() -> None:
    assert set(NAMES) <= set(registry.names())
