"""Changes of one host's proxy: one load at a time, and everything that waits for it goes with the next one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from dotmac_operator.core.proxy import Config
from dotmac_operator.hosts.port import HostError

GATHER = 0.4
"""Seconds that a load waits for those who are about to ask for one: the next load takes longer than that."""

type Change = Callable[[Config], Config]
type Load = Callable[[list[Change]], None]


class ProxyRefused(HostError):
    """The proxy did not take its configuration."""

    reason = "ProxyRefused"


@dataclass(eq=False)
class _Ticket:
    change: Change
    done: bool = False
    error: BaseException | None = None


@dataclass
class Routing:
    """A load takes about a second, so fifty Instances that wait for one each must not wait for fifty, and five that are
    deployed together not for two."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the configuration is read, changed and loaded."""
    _waiting: list[_Ticket] = field(default_factory=list)
    _queue: threading.Condition = field(default_factory=threading.Condition)
    _coming: set[str] = field(default_factory=set)

    def expect(self, owner: str) -> None:
        """This Instance will ask for a change soon: its last step before that is under way."""
        with self._queue:
            self._coming.add(owner)

    def expect_no_more(self, owner: str) -> None:
        """It will not, or it has."""
        with self._queue:
            self._coming.discard(owner)
            self._queue.notify_all()

    def apply(self, owner: str, change: Change, load: Load, *, patient: bool = False) -> None:
        """Has this Instance's change loaded, together with those that wait already; returns when it is. `patient`: and
        with those that are expected, which is not for a switch whose time was noted.

        `load` gets changes and raises when they were refused or the host did not answer. What is refused together is
        loaded one by one, so that nobody pays for another one's mistake.
        """
        ticket = _Ticket(change)
        with self._queue:
            self._waiting.append(ticket)
            self._coming.discard(owner)
            self._queue.notify_all()
            if patient:
                self._queue.wait_for(lambda: ticket.done or not self._coming, GATHER)
        with self.lock:
            if not ticket.done:
                with self._queue:
                    batch, self._waiting = self._waiting, []
                _load(batch, load)
        if ticket.error is not None:
            raise ticket.error


def _load(batch: list[_Ticket], load: Load) -> None:
    try:
        load([ticket.change for ticket in batch])
    except ProxyRefused as error:
        if len(batch) == 1:
            batch[0].error = error
            return
        for ticket in batch:
            _load([ticket], load)
    except BaseException as error:  # each of those that wait must hear of it, and raises it in its own thread
        for ticket in batch:
            ticket.error = error
    finally:
        for ticket in batch:
            ticket.done = True
