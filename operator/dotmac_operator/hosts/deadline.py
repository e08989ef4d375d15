"""The time that a whole call may take, however many round trips it needs."""

import time

from dotmac_operator.hosts.port import DeadlineExceeded, HostBusy


class Deadline:
    """Counts down from `seconds`. `what` names the call in the error, such as `demo/alpha: stop web-1`."""

    __slots__ = ("_at", "_seconds", "what")

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds = seconds
        self._at = time.monotonic() + seconds
        self.what = what

    def left(self) -> float:
        """Seconds left; zero when there are none."""
        return max(0.0, self._at - time.monotonic())

    def remaining(self) -> float:
        """Seconds left, always positive, for a blocking call to take; raises DeadlineExceeded when there are none."""
        left = self.left()
        if left <= 0:
            raise self.exceeded()
        return left

    def busy(self) -> HostBusy:
        return HostBusy(
            f"{self.what}: waited {self._seconds:g} s for its turn, nothing was done: other calls to the host take "
            "long, or spec.maxConcurrentOperations is too small"
        )

    def exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.what}: not finished after {self._seconds:g} s. Whether it took effect is unknown: "
            "the host is observed again before the next attempt"
        )
