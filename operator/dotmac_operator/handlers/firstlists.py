"""The start of the operator: until all that existed has come by the watch, no pass begins.

Else an Instance could be judged before its Release was seen, or before the neighbour that has its domain. Kopf's own
barrier for that (`kopf.index`) wakes every object's task for every other object: 25 s of processor time for 2,000.
"""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds without any new object after which those that are still missing were deleted before the watch began."""


class FirstLists:
    """Counts what comes until it is all there. All calls from the event loop."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._expected: int | None = None
        self._came: set[tuple[str, str]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.complete = False
        self.on_complete: Callable[[], None] = lambda: None

    def expect(self, objects: int) -> None:
        """So many existed when the operator started."""
        self._expected = objects
        self._look()
        if self._came:
            self._wait()

    def came(self, kind: str, key: str) -> None:
        """An object came by the watch for the first time, or again."""
        if self.complete:
            return
        self._came.add((kind, key))
        self._wait()
        self._look()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._patience, self._give_up)

    def _look(self) -> None:
        if not self.complete and self._expected is not None and len(self._came) >= self._expected:
            self._end()

    def _give_up(self) -> None:
        if not self.complete and self._expected is not None:
            log.info("of %s objects %s came by the watch: the others are gone", self._expected, len(self._came))
            self._end()

    def _end(self) -> None:
        self.complete = True
        self._came.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.on_complete()
