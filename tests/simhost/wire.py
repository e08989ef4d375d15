"""Between TCP and SSH: where packets are late, lost or never answered."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

type MakeSession = Callable[[str, int], Any]


@dataclass
class Link:
    """What the network to one host is like. May be changed while connections live."""

    delay_in: float = 0.0
    """Seconds from the client to the host."""
    delay_out: float = 0.0
    blackholed: bool = False
    """Connections are accepted, and nothing ever comes back."""
    refused: bool = False
    """New connections are closed at once, as behind a host that is down."""
    lost: int = 0
    """Pieces of data that went into the black hole."""


class _Late:
    """Passes data on after a delay, in order."""

    def __init__(self, delay: Callable[[], float], deliver: Callable[[bytes], None]) -> None:
        self._delay = delay
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def send(self, data: bytes) -> None:
        seconds = self._delay()
        if seconds <= 0 and not self._queue:
            self._deliver(data)
            return
        self._queue.append((self._loop.time() + seconds, data))
        if self._timer is None:
            self._timer = self._loop.call_at(self._queue[0][0], self._due)

    def _due(self) -> None:
        self._timer = None
        # A timer may come a moment early, by the resolution of the clock.
        while self._queue and self._queue[0][0] <= self._loop.time() + 0.0005:
            self._deliver(self._queue.popleft()[1])
        if self._queue:
            self._timer = self._loop.call_at(self._queue[0][0], self._due)

    def drop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()


class Wire(asyncio.Protocol):
    """One TCP connection. To the SSH server above it is the transport."""

    def __init__(self, link: Link, make: MakeSession, wires: "set[Wire]") -> None:
        self._link = link
        self._make = make
        self._wires = wires
        self._session: Any = None
        self._tcp: asyncio.Transport
        self._in = _Late(lambda: link.delay_in, self._take)
        self._out = _Late(lambda: link.delay_out, self._put)

    # the side of TCP

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = transport  # type: ignore[assignment]
        if self._link.refused:
            self._tcp.abort()
            return
        self._wires.add(self)
        if not self._link.blackholed:
            peer = transport.get_extra_info("peername") or ("", 0)
            self._session = self._make(peer[0], peer[1])
            self._session.connection_made(self)

    def data_received(self, data: bytes) -> None:
        self._link.lost += self._link.blackholed
        if self._session is not None and not self._link.blackholed:
            self._in.send(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._wires.discard(self)
        self._in.drop()
        self._out.drop()
        session, self._session = self._session, None
        if session is not None:
            session.connection_lost(error)

    def pause_writing(self) -> None:
        if self._session is not None:
            self._session.pause_writing()

    def resume_writing(self) -> None:
        if self._session is not None:
            self._session.resume_writing()

    # the side of SSH

    def write(self, data: bytes) -> None:
        self._link.lost += self._link.blackholed
        if not self._link.blackholed:
            self._out.send(bytes(data))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tcp.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._tcp.is_closing()

    def close(self) -> None:
        self._tcp.close()

    def abort(self) -> None:
        """A reset, as far as the other side can tell."""
        self._tcp.abort()

    # in between

    def _take(self, data: bytes) -> None:
        if self._session is not None and not self._link.blackholed:
            self._session.data_received(data)

    def _put(self, data: bytes) -> None:
        if not self._tcp.is_closing():
            self._tcp.write(data)


class Listener:
    """Stands where asyncssh expects a tunnel: makes the TCP server, with a wire in each connection."""

    def __init__(self, link: Link, wires: set[Wire]) -> None:
        self._link = link
        self._wires = wires

    async def create_server(self, make: MakeSession, host: str, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Wire(self._link, make, self._wires), host, port, backlog=256)
