"""How old the mirror is, for /health/ready."""

from prometheus_client import Gauge
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.mirror.models import CursorRow

BEHIND = Gauge("dotmac_mirror_behind_seconds", "Seconds since the mirror was last known to hold everything.")


NEVER_READ = 10 * 365 * 86400.0
"""Seconds; collections that were not listed yet count as current in 1970."""


class MirrorBehind(RuntimeError):
    """The mirror is not kept up; the message says why, with the remedy."""


async def mirror_lag(session: AsyncSession, most: float) -> float:
    """Seconds since the mirror was known to hold everything that had arrived. Raises MirrorBehind beyond `most`."""
    oldest, problem, collections = (
        await session.execute(
            select(
                func.extract("epoch", func.clock_timestamp() - func.min(CursorRow.current_at)),
                func.min(CursorRow.problem),
                func.count(),
            )
        )
    ).one()
    if not collections or oldest is None:
        raise MirrorBehind("no projector has run yet: start `dotmac-api serve`, or `dotmac-api mirror`")
    lag = max(0.0, float(oldest))
    BEHIND.set(lag)
    if lag > NEVER_READ:
        raise MirrorBehind(problem or "the mirror was not read from Kubernetes yet; is a projector running?")
    if lag > most:
        raise MirrorBehind(f"the mirror is {lag:.0f} s behind: {problem or 'no projector writes it'}")
    return lag
