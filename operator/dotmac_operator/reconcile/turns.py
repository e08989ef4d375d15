"""Whose turn it is to work on a tenant: an Instance, its Backups and its Restores are objects of their own, but never
two of them change a tenant at the same time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

SOON = 0.5
"""Seconds until somebody who did not get the turn comes again."""


class Turns:
    """One turn for each Instance, by its key. Nobody waits in a thread: who does not get it comes again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[str] = set()

    @contextmanager
    def take(self, instance: str) -> Iterator[bool]:
        """Whether the turn is the caller's, until the block ends."""
        with self._lock:
            mine = instance not in self._taken
            self._taken.add(instance)
        try:
            yield mine
        finally:
            if mine:
                with self._lock:
                    self._taken.discard(instance)
