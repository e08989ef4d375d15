"""When and how an Instance may be changed: its state, its updates, its maintenance windows, its trial."""

from datetime import datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field

from dotmac_crds.base import LIST_ATOMIC, LIST_SET, Model, Seconds, Text, Timestamp, Word, rule, schema

State = Literal["Running", "Suspended", "Archived"]
Day = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]

WEEK: list[Day] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
MINUTES_OF_A_WEEK = 7 * 24 * 60


def _real_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{name!r} is no IANA time zone: write one such as Africa/Lagos or UTC") from error
    return name


def _real_moment(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no moment: write one such as 2027-01-31T23:59:59Z") from error
    return text


TimeZone = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$",
        # The function fails on a name that the API server's own zone data does not have. Go takes Local for its own.
        json_schema_extra=schema(
            [
                rule(
                    "self != 'Local' && timestamp('2025-01-01T00:00:00Z').getFullYear(self) > 0",
                    "timezone must be an IANA time zone such as Africa/Lagos or UTC",
                )
            ]
        ),
    ),
    AfterValidator(_real_zone),
]
Moment = Annotated[
    str,
    Field(
        max_length=40,
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$",
        json_schema_extra={"format": "date-time"},
    ),
    AfterValidator(_real_moment),
]


class Update(Model):
    """How a change is put in place. What is absent is taken from the class's defaults, then from here."""

    strategy: Literal["ZeroDowntime", "Recreate"] | None = None
    """ZeroDowntime (the default) starts the new containers beside the old; Recreate stops the old ones first."""
    pre_backup: bool | None = None
    """Whether the database is dumped before the Release changes; true when absent."""
    health_timeout: Seconds | None = None
    """Seconds that new containers have to become healthy; by their own health checks when absent."""
    rollback: bool | None = None
    """Whether a new version that fails gives way to the one before; true when absent. False leaves it in place."""


class MaintenanceWindow(Model):
    """A time of the week in which disruptive work may be done."""

    days: Annotated[list[Day], Field(min_length=1, max_length=7, json_schema_extra=LIST_SET)] = WEEK
    """Days of the week on which it begins; every day when absent."""
    start: Annotated[str, Field(min_length=5, max_length=5, pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    """When it begins, `HH:MM` by the clock of its time zone. In YAML, put it in quotes."""
    duration: Annotated[int, Field(ge=5, le=MINUTES_OF_A_WEEK, json_schema_extra={"format": "int32"})]
    """Minutes that it lasts; it may reach into the next days."""
    timezone: TimeZone = "UTC"
    """IANA name of the time zone of `start`."""


MaintenanceWindows = Annotated[list[MaintenanceWindow], Field(max_length=16, json_schema_extra=LIST_ATOMIC)]


class Trial(Model):
    """A tenant that is served for a limited time."""

    expires_at: Moment
    """When it ends (RFC 3339): the Instance is suspended then, and served again once this is later or absent."""


class CertificateStatus(Model):
    """A certificate that the proxy serves."""

    host: Word
    """Host name it is for."""
    not_after: Timestamp
    """When it expires."""
    issuer: Word | None = None
    """Who signed it."""


class RollbackRecord(Model):
    """The last change that failed and gave way to what served before."""

    previous: Word
    """The Release that serves again."""
    target: Word
    """The Release that failed; the same as previous when something else of the spec was changed."""
    reason: Text
    """Why it failed."""
    at: Timestamp
    """When it was taken back."""
