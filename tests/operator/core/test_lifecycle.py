"""Policies and maintenance windows: whose word counts, and what the clocks of the world make of `22:30`."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.kits.tenant import instance_of

from dotmac_crds.instanceclass import InstanceClassSpec
from dotmac_crds.lifecycle import MaintenanceWindow
from dotmac_operator.core.lifecycle import Policy, is_open, moment, next_opening, policy

CLASS = InstanceClassSpec.model_validate(
    {
        "defaults": {
            "update": {"strategy": "Recreate", "preBackup": False, "healthTimeout": 600, "rollback": False},
            "maintenanceWindows": [{"start": "01:00", "duration": 60}],
        }
    }
)


def window(start: str, minutes: int, *days: str, zone: str = "UTC") -> MaintenanceWindow:
    made: dict[str, Any] = {"start": start, "duration": minutes, "timezone": zone} | ({"days": days} if days else {})
    return MaintenanceWindow.model_validate(made)


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def test_nobody_says_anything() -> None:
    assert policy(instance_of(), InstanceClassSpec(), {}) == Policy()


def test_the_classs_word_counts_where_the_instance_has_none() -> None:
    made = policy(instance_of(), CLASS, {})
    assert (made.recreate, made.pre_backup, made.health_timeout, made.rollback) == (True, False, 600, False)
    assert [w.start for w in made.windows] == ["01:00"]


def test_the_instances_word_wins_field_by_field() -> None:
    own = instance_of(update={"strategy": "ZeroDowntime", "rollback": True}, maintenanceWindows=[])
    made = policy(own, CLASS, {})
    assert (made.recreate, made.pre_backup, made.health_timeout, made.rollback) == (False, False, 600, True)
    assert made.windows == (), "an empty list is a word: at any time"


@pytest.mark.parametrize(
    ("value", "forced"), [("true", True), ("Yes", True), ("1", True), ("false", False), ("", False)]
)
def test_annotations(value: str, forced: bool) -> None:
    notes = {"platform.dotmac.io/force-window": value, "platform.dotmac.io/approve": " 0123456789ab\n"}
    made = policy(instance_of(approval="Required"), CLASS, notes)
    assert (made.forced, made.approval, made.approved) == (forced, True, "0123456789ab")


def test_a_trial_suspends_what_would_run_and_nothing_else() -> None:
    end = moment("2027-01-31T23:59:59+01:00")
    assert end == at("2027-01-31T22:59:59")
    for state, after in (("Running", "Suspended"), ("Suspended", "Suspended"), ("Archived", "Archived")):
        made = policy(instance_of(state=state, trial={"expiresAt": "2027-01-31T23:59:59+01:00"}), CLASS, {})
        assert made.wanted(end - 0.001) == state
        assert made.wanted(end) == after
        assert made.by_trial(end) == (state == "Running")


def test_without_windows_any_time_is_good() -> None:
    assert is_open((), 0.0)
    assert next_opening((), 0.0) is None


# 2026-11-23 is a Monday.
CASES: list[tuple[str, MaintenanceWindow, str, bool, str]] = [
    ("before", window("22:30", 120), "2026-11-23T22:29:59", False, "2026-11-23T22:30:00"),
    ("its first second", window("22:30", 120), "2026-11-23T22:30:00", True, "2026-11-24T22:30:00"),
    ("its last second, the next day", window("22:30", 120), "2026-11-24T00:29:59", True, "2026-11-24T22:30:00"),
    ("after", window("22:30", 120), "2026-11-24T00:30:00", False, "2026-11-24T22:30:00"),
    ("another day", window("22:30", 120, "Sat", "Sun"), "2026-11-23T22:31:00", False, "2026-11-28T22:30:00"),
    ("a night that begins on Sunday", window("22:00", 240, "Sun"), "2026-11-23T01:00:00", True, "2026-11-29T22:00:00"),
    ("a whole week", window("00:00", 10080, "Mon"), "2026-11-29T23:59:59", True, "2026-11-30T00:00:00"),
    ("a day of 48 hours", window("00:00", 2880, "Sat"), "2026-11-29T23:59:59", True, "2026-12-05T00:00:00"),
    ("over the new year", window("23:00", 120, "Thu"), "2027-01-01T00:30:00", True, "2027-01-07T23:00:00"),
    ("a leap day", window("12:00", 60, "Tue"), "2028-02-29T12:30:00", True, "2028-03-07T12:00:00"),
]


@pytest.mark.parametrize(("why", "given", "now", "open_", "next_"), CASES, ids=[row[0] for row in CASES])
def test_windows(why: str, given: MaintenanceWindow, now: str, open_: bool, next_: str) -> None:
    assert is_open([given], at(now)) is open_
    assert next_opening([given], at(now)) == at(next_)


def test_several_windows_are_one_calendar() -> None:
    both = [window("01:00", 60, "Tue"), window("05:00", 60, "Mon")]
    assert is_open(both, at("2026-11-23T05:30:00"))
    assert next_opening(both, at("2026-11-23T05:30:00")) == at("2026-11-24T01:00:00")


def test_a_window_is_told_by_the_clock_of_its_zone() -> None:
    lagos = window("01:00", 60, "Mon", zone="Africa/Lagos")  # UTC+1 all year
    assert is_open([lagos], at("2026-11-23T00:30:00"))
    auckland = window("01:00", 60, "Mon", zone="Pacific/Auckland")  # Monday begins there on UTC's Sunday
    assert is_open([auckland], at("2026-11-22T12:30:00"))
    assert next_opening([auckland], at("2026-11-22T11:00:00")) == at("2026-11-22T12:00:00")


def test_a_start_that_the_clock_skips_is_not_skipped() -> None:
    """In Berlin, on 2027-03-28, 02:00 is followed by 03:00."""
    berlin = window("02:30", 60, "Sun", zone="Europe/Berlin")
    assert next_opening([berlin], at("2027-03-28T00:00:00", "Europe/Berlin")) == at("2027-03-28T01:30:00")
    assert is_open([berlin], at("2027-03-28T03:45:00", "Europe/Berlin"))
    assert not is_open([berlin], at("2027-03-28T04:30:00", "Europe/Berlin"))


def test_a_start_that_the_clock_shows_twice_counts_once() -> None:
    """In Berlin, on 2026-10-25, 02:30 comes twice; the window lasts an hour, not two."""
    berlin = window("02:30", 60, "Sun", zone="Europe/Berlin")
    first, second = at("2026-10-25T02:30:00", "Europe/Berlin"), at("2026-10-25T02:30:00", "Europe/Berlin", fold=1)
    assert second - first == 3600
    assert (is_open([berlin], first), is_open([berlin], second - 1), is_open([berlin], second)) == (True, True, False)
    assert next_opening([berlin], first) == at("2026-11-01T02:30:00", "Europe/Berlin")


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe"])
def test_every_day_of_a_year_has_its_window_and_it_lasts_as_long_as_it_says(zone: str) -> None:
    given = [window("02:15", 90, zone=zone)]
    now, count = at("2026-11-23T00:00:00", zone), 0
    end = at("2027-11-23T00:00:00", zone)
    while (now := next_opening(given, now) or end) < end:
        count += 1
        assert (is_open(given, now - 1), is_open(given, now + 90 * 60 - 1), is_open(given, now + 90 * 60)) == (
            False, True, False,
        )  # fmt: skip
    assert count == 365
