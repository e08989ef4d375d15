"""Rate limits in Redis, the same on every replica: moving windows for sign-in, a cheap counter for other requests."""

import hashlib
import logging
import time

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.exceptions import RedisError

from dotmac_api.domains.store import SettingsStore
from dotmac_api.errors import TooManyRequests, Unavailable
from dotmac_api.settings import Settings

log = logging.getLogger(__name__)


def too_many(seconds: float) -> TooManyRequests:
    """The refusal that says when to come back (whole seconds, at least 1)."""
    wait = max(1, int(seconds + 0.999))
    return TooManyRequests(f"too many requests; try again in {wait} s", headers={"Retry-After": str(wait)})


class AuthLimits:
    """The limits of sign-in, refresh, reset and second factors. Without Redis they refuse (fail closed)."""

    def __init__(self, settings: Settings, store: SettingsStore) -> None:
        self._store = store
        storage = RedisStorage(
            f"async+{settings.redis_url.get_secret_value()}",
            implementation="redispy",
            key_prefix="dotmac:limit",
            socket_timeout=settings.redis_timeout,
            socket_connect_timeout=settings.redis_timeout,
        )
        self._windows = MovingWindowRateLimiter(storage)

    async def hit(self, action: str, *, address: str, account: str) -> None:
        """Count one `action` (login, refresh, reset, mfa) of an address and of an account.

        Raises TooManyRequests with Retry-After, or Unavailable when Redis cannot be asked.
        """
        times = await self._store.integer("auth", f"{action}_rate_max")
        seconds = await self._store.integer("auth", f"{action}_rate_window_seconds")
        item = RateLimitItemPerSecond(times, seconds)
        try:
            for subject in (f"address:{address}", f"account:{_digest(account)}"):
                if not await self._windows.hit(item, action, subject):
                    raise too_many(await self._wait(item, action, subject))
        except (RedisError, OSError) as error:
            log.error("rate limits are not available, refusing %s: %s", action, type(error).__name__)
            raise Unavailable(
                "sign-in is closed while Redis is not available; try again", headers={"Retry-After": "5"}
            ) from None

    async def _wait(self, item: RateLimitItem, *identifiers: str) -> float:
        stats = await self._windows.get_window_stats(item, *identifiers)
        return float(stats.reset_time) - time.time()


def _digest(account: str) -> str:
    return hashlib.sha256(account.strip().lower().encode(errors="surrogatepass")).hexdigest()[:32]
