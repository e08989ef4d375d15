"""Conditions: one list, one rule for the transition time."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from dotmac_crds.base import Condition

MESSAGE_LIMIT = 2048
TEXT_LIMIT = 1024
"""Characters of a text elsewhere in a status."""


def rfc3339(now: float) -> str:
    """Unix seconds -> `2026-11-22T10:00:00Z`."""
    return _second(int(now))


@lru_cache(64)
def _second(now: int) -> str:
    """A status tells the same second up to ten times."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(type_: str, status: bool | None, reason: str, message: str = "") -> Condition:
    """A condition without a time; `merge` gives it one. `None` is Unknown."""
    word = "Unknown" if status is None else str(status)
    return Condition(
        type=type_,
        status=word,
        reason=reason,
        message=message[:MESSAGE_LIMIT],
        last_transition_time="1970-01-01T00:00:00Z",
    )


def merge(old: Sequence[Condition], new: Iterable[Condition], generation: int, now: float) -> list[Condition]:
    """`new` with times: a condition keeps its transition time unless its status flips. Source: metav1.Condition."""
    kept = {condition.type: condition for condition in old}
    made = []
    for fresh in new:
        before = kept.get(fresh.type)
        same = before is not None and before.status == fresh.status
        time = before.last_transition_time if before is not None and same else rfc3339(now)
        made.append(fresh.model_copy(update={"last_transition_time": time, "observed_generation": generation}))
    return sorted(made, key=lambda c: c.type)


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: str) -> bool:
    found = find(conditions, type_)
    return found is not None and found.status == "True"
