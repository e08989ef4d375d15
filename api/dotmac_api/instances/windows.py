"""Maintenance windows: their bodies, and the id by which one is taken away (the resource's list has none)."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field

from dotmac_api.schemas import Body
from dotmac_crds.lifecycle import MINUTES_OF_A_WEEK, WEEK, Day, TimeZone

MOST = 16


def _once_in_order(days: list[Day]) -> list[Day]:
    if len(set(days)) != len(days):
        raise ValueError("a day is in the list twice; send each once")
    return sorted(days, key=WEEK.index)


class WindowBody(Body):
    """A time of the week in which disruptive work may be done."""

    days: Annotated[list[Day], Field(min_length=1, max_length=7), AfterValidator(_once_in_order)] = WEEK
    start: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", description="by the clock of `timezone`")]
    duration: Annotated[int, Field(ge=5, le=MINUTES_OF_A_WEEK, description="minutes")]
    timezone: Annotated[TimeZone, Field(description="IANA name, such as Africa/Lagos")] = "UTC"


class WindowRead(BaseModel):
    id: str
    days: list[Day]
    start: str
    duration: int
    timezone: str
    inherited: Annotated[bool, Field(description="from the plan, as long as the instance has no list of its own")]

    @classmethod
    def of(cls, window: Mapping[str, Any], *, inherited: bool = False) -> Self:
        return cls(id=window_id(window), inherited=inherited, **_whole(window))


def window_id(window: Mapping[str, Any]) -> str:
    """12 hexadecimal digits of what the window says; the same for equal ones, however they are written."""
    return hashlib.sha256(json.dumps(_whole(window), sort_keys=True).encode()).hexdigest()[:12]


def _whole(window: Mapping[str, Any]) -> dict[str, Any]:
    """With the defaults of the resource, days in order."""
    days = sorted(window.get("days") or WEEK, key=WEEK.index)
    return (
        {"timezone": "UTC"} | {k: window[k] for k in ("start", "duration", "timezone") if k in window} | {"days": days}
    )
