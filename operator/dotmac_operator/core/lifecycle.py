"""When and how an Instance may be changed, as its spec, its class and its annotations say. Times are Unix seconds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from dotmac_crds.instance import InstanceSpec
from dotmac_crds.instanceclass import InstanceClassSpec
from dotmac_crds.lifecycle import WEEK, MaintenanceWindow, State
from dotmac_operator.core import names

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Policy:
    """The Instance's own word; where it has none its class's; else the default here."""

    state: State = "Running"
    expires: float | None = None
    """When the trial ends."""
    recreate: bool = False
    """Old containers stop before new ones start."""
    pre_backup: bool = True
    health_timeout: int | None = None
    """Seconds; None: by each container's own check."""
    rollback: bool = True
    windows: tuple[MaintenanceWindow, ...] = ()
    """None at all: any time is good."""
    forced: bool = False
    """Somebody has said that this change does not wait for a window."""
    approval: bool = False
    approved: str = ""
    """Hash of the change that somebody has approved."""

    def expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires

    def wanted(self, now: float) -> State:
        """The state to be in: that of the spec, but a tenant whose trial is over is suspended."""
        return "Suspended" if self.state == "Running" and self.expired(now) else self.state

    def by_trial(self, now: float) -> bool:
        """Whether it is the trial's end, and nobody's edit, that suspends the Instance."""
        return self.state == "Running" and self.expired(now)


def policy(spec: InstanceSpec, plan: InstanceClassSpec, annotations: Mapping[str, str]) -> Policy:
    own, usual = spec.update, plan.defaults.update
    windows = spec.maintenance_windows
    if windows is None:
        windows = plan.defaults.maintenance_windows or []
    return Policy(
        state=spec.state,
        expires=moment(spec.trial.expires_at) if spec.trial else None,
        recreate=(own.strategy or usual.strategy) == "Recreate",
        pre_backup=_first(own.pre_backup, usual.pre_backup, True),
        health_timeout=own.health_timeout or usual.health_timeout,
        rollback=_first(own.rollback, usual.rollback, True),
        windows=tuple(windows),
        forced=names.says_yes(annotations, names.FORCE_WINDOW),
        approval=spec.approval == "Required",
        approved=annotations.get(names.APPROVE, "").strip(),
    )


def _first(own: bool | None, usual: bool | None, default: bool) -> bool:
    return next((value for value in (own, usual) if value is not None), default)


def moment(text: str) -> float:
    """RFC 3339 -> Unix seconds."""
    return datetime.fromisoformat(text).timestamp()


def is_open(windows: Sequence[MaintenanceWindow], now: float) -> bool:
    """Whether work may be done now; without any window it may."""
    return not windows or any(start <= now < end for window in windows for start, end in _spans(window, now))


def next_opening(windows: Sequence[MaintenanceWindow], now: float) -> float | None:
    """When the next window begins; None without any."""
    return min((start for window in windows for start, _ in _spans(window, now) if start > now), default=None)


def _spans(window: MaintenanceWindow, now: float) -> Iterator[tuple[float, float]]:
    """(start, end) of a window from a week before to a week after `now`.

    The clock of its zone says when it starts, on days with 23 or 25 hours too: a time that the clock skips counts by
    the offset before the change, one that it shows twice counts the first time. The duration is elapsed time. Source:
    PEP 495.
    """
    zone = ZoneInfo(window.timezone)
    today = datetime.fromtimestamp(now, UTC).astimezone(zone).date()
    hour, minute = map(int, window.start.split(":"))
    for offset in range(-8, 9):
        day: date = today + offset * DAY
        if WEEK[day.weekday()] in window.days:
            start = datetime.combine(day, time(hour, minute), zone).timestamp()
            yield start, start + window.duration * 60
