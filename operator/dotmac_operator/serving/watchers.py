"""Kopf's own tasks: it never starts a watcher again that ended with an error, and the process lives on without it."""

import asyncio
import threading

from dotmac_crds.base import GROUP

PREFIX = "watcher for "
"""How Kopf names them. Should it change that, this check finds nothing and says nothing; a test tells."""


class Watchers:
    """Notices a watcher that was there and is no more."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._known: set[str] = set()

    def alive(self) -> set[str]:
        """Names of the watchers of our kinds that run now. Thread-safe."""
        if self._loop.is_closed():
            return set()
        names = {task.get_name() for task in asyncio.all_tasks(self._loop) if not task.done()}
        return {name for name in names if name.startswith(PREFIX) and GROUP in name}

    def check(self) -> str:
        alive = self.alive()
        with self._lock:
            gone = sorted(self._known - alive)
            self._known |= alive
        if not gone:
            return ""
        return f"ended and never started again: {', '.join(gone)}; the log tells why, a restart starts them"
