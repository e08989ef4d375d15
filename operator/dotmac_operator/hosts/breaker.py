"""A circuit breaker: a host that keeps failing is left alone for a while, then tried once."""

import random
import time
from collections.abc import Callable


class Breaker:
    """Opens after `failures` failed cycles in a row, for `seconds` with 20 % jitter, so that hosts behind one broken
    link are not all retried at the same moment. Not locked: its owner connects under a lock of its own.
    """

    def __init__(
        self,
        failures: int = 3,
        seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._limit = failures
        self._seconds = seconds
        self._clock = clock
        self._spread = spread
        self._failed = 0
        self._open_until = 0.0

    def retry_after(self) -> float:
        """Seconds until a cycle may be tried; zero when one may be tried now."""
        return max(0.0, self._open_until - self._clock()) if self._failed >= self._limit else 0.0

    @property
    def half_open(self) -> bool:
        """The pause is over and the next attempt is the single probe that decides."""
        return self._failed >= self._limit and self.retry_after() == 0.0

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        if self._failed < self._limit:
            return "closed"
        return "open" if self.retry_after() > 0 else "half-open"

    def failed(self) -> None:
        self._failed += 1
        if self._failed >= self._limit:
            self._open_until = self._clock() + self._seconds * self._spread(0.8, 1.2)

    def succeeded(self) -> None:
        self._failed = 0
