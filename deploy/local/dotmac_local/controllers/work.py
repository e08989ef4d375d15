"""Changes to work off, one at a time, off the path of requests."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Hashable

from dotmac_local.errors import ApiError
from dotmac_local.storage import StorageFailed

log = logging.getLogger("dotmac_local")

# After a failure that nobody foresaw, so that it neither spins nor is forgotten.
_RETRY_SECONDS = 1.0


class Worker[Item: Hashable](ABC):
    """A queue that holds every item once, and the task that handles them in order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._items: dict[Item, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timers: set[asyncio.TimerHandle] = set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._work(), name=self._name)

    def stop(self) -> None:
        if self._task:
            self._task.cancel()
        for timer in self._timers:
            timer.cancel()

    def add(self, item: Item) -> None:
        self._items[item] = None
        self._wake.set()

    def add_later(self, seconds: float, item: Item) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self.add, item)
        self._timers = {t for t in self._timers if not t.cancelled() and t.when() > asyncio.get_running_loop().time()}
        self._timers.add(timer)

    @abstractmethod
    def handle(self, item: Item) -> None:
        """Do what the item needs now; a refusal by the API is no failure, the next change brings it back."""

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._items:
                item = next(iter(self._items))
                del self._items[item]
                self._try(item)
                # Requests have their turn between any two items.
                await asyncio.sleep(0)

    def _try(self, item: Item) -> None:
        try:
            self.handle(item)
        except StorageFailed:
            return
        except ApiError as error:
            log.info("%s: %s: %s", self._name, item, error)
        except Exception:
            log.exception("%s: %s failed", self._name, item)
            self.add_later(_RETRY_SECONDS, item)
