"""One creation of a name at a time over all replicas: server-side apply would quietly merge two."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.gateway.writes import Target


async def one_at_a_time(session: AsyncSession, target: Target) -> None:
    """Waits for, then holds, the lock of this name until the session's transaction ends."""
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(target.path, 0))))
