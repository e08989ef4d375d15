"""Changes of one host's proxy: one load at a time, and everything that waits for it goes with the next one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from dotmac_operator.core.proxy import Config
from dotmac_operator.hosts.port import HostError

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
    """A load takes about a second, so fifty Instances that wait for one each must not wait for fifty."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the configuration is read, changed and loaded."""
    _waiting: list[_Ticket] = field(default_factory=list)
    _queue: threading.Lock = field(default_factory=threading.Lock)

    def apply(self, change: Change, load: Load) -> None:
        """Has the change loaded, together with those that wait already; returns when it is.

        `load` gets changes and raises when they were refused or the host did not answer. What is refused together is
        loaded one by one, so that nobody pays for another one's mistake.
        """
        ticket = _Ticket(change)
        with self._queue:
            self._waiting.append(ticket)
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
