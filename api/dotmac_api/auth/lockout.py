"""Five failures lock an account for 15 minutes; an unknown username looks just the same."""

import hashlib
import uuid

from redis.asyncio import Redis
from sqlalchemy import case, func, text, update

from dotmac_api.auth.models import UserCredential
from dotmac_api.database import Sessions
from dotmac_api.errors import Locked

MAX_FAILURES = 5
LOCK_MINUTES = 15
# Failures of a real account are counted until it signs in; those of an unknown one cannot be kept for ever.
UNKNOWN_SECONDS = 7 * 86_400


def locked() -> Locked:
    return Locked(
        f"the account is locked after {MAX_FAILURES} failures; wait {LOCK_MINUTES} minutes or ask an administrator",
        headers={"Retry-After": str(LOCK_MINUTES * 60)},
    )


async def record_failure(sessions: Sessions, credential_id: uuid.UUID) -> bool:
    """Count a wrong password in a transaction of its own; True when the account is locked by it."""
    lapsed = UserCredential.locked_until <= func.now()
    failures = case((lapsed, 1), else_=UserCredential.failed_attempts + 1)
    until = case(
        (failures >= MAX_FAILURES, func.now() + text(f"interval '{LOCK_MINUTES} minutes'")),
        (lapsed, None),
        else_=UserCredential.locked_until,
    )
    async with sessions.begin() as session:
        locked_now = await session.scalar(
            update(UserCredential)
            .where(UserCredential.id == credential_id)
            .values(failed_attempts=failures, locked_until=until)
            .returning(UserCredential.locked_until > func.now())
            .execution_options(synchronize_session=False)
        )
    return bool(locked_now)


async def record_unknown(redis: Redis, username: str) -> bool:
    """Count a failure of a username that nobody has; True when it is locked, by the same rules as a real one.

    Raises RedisError.
    """
    subject = hashlib.sha256(username.lower().encode(errors="surrogatepass")).hexdigest()[:32]
    counter, lock = f"dotmac:unknown:{subject}", f"dotmac:unknown-locked:{subject}"
    if await redis.exists(lock):
        return True
    async with redis.pipeline() as pipe:
        pipe.incr(counter)
        pipe.expire(counter, UNKNOWN_SECONDS)
        count, _ = await pipe.execute()
    if int(count) >= MAX_FAILURES:
        # Attempts during the lock make it no longer, and the next ones count afresh: as with a row of the table.
        async with redis.pipeline() as pipe:
            pipe.set(lock, "1", ex=LOCK_MINUTES * 60)
            pipe.delete(counter)
            await pipe.execute()
    return False
