"""Whether somebody still is who they were when a long answer began, such as a stream of events."""

import logging
import time

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from dotmac_api.auth.identity import CACHE_SECONDS, REVOKED, Identity
from dotmac_api.principal import Principal

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""How often a silent stream asks; one that has something to tell asks before it does."""
WITHOUT_REDIS_SECONDS = 1.0


class Standing:
    """Asks as a request does: Redis each time, the database when rights changed and every 30 s."""

    def __init__(self, identity: Identity, principal: Principal) -> None:
        self._identity = identity
        self._principal = principal
        self._epoch: str | None = "never asked"
        self._loaded = self._asked = float("-inf")

    async def holds(self, *, within: float = 0.0) -> bool:
        """False once the session or key has ended, or its person's rights or limits are others.

        `within`: an answer of so many seconds ago is good enough.
        """
        now = time.monotonic()
        if now - self._asked < within:
            return True
        try:
            epoch = await self._identity.epoch_of(self._principal)
        except RedisError:
            epoch = None
        if epoch == REVOKED:
            return False
        fresh = CACHE_SECONDS if epoch is not None else WITHOUT_REDIS_SECONDS
        if (epoch != self._epoch or now - self._loaded >= fresh) and not await self._load(epoch, now):
            return False
        self._asked = now
        return True

    async def _load(self, epoch: str | None, now: float) -> bool:
        try:
            found = await self._identity.again(self._principal)
        except (SQLAlchemyError, OSError) as error:
            log.warning("a stream cannot ask the database whose it is: %s", type(error).__name__)
            # Redis tells of revocations and changes of rights, so an epoch that did not move vouches for a while.
            return epoch is not None and epoch == self._epoch
        self._epoch, self._loaded = epoch, now
        return found == self._principal
