"""An SSH channel as a pipe: what arrives waits here until it is read; what is sent waits for the client's window."""

import asyncio
from collections import deque
from typing import Any

import asyncssh


class Flow:
    """The common part of a session's channel and of a forwarded connection's."""

    def __init__(self) -> None:
        self._chan: Any = None
        self._arrived: deque[bytes] = deque()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._over = asyncio.Event()
        self._lost = False
        self.task: asyncio.Task[None] | None = None
        """What serves the channel; it ends with the connection."""

    # what asyncssh calls

    def connection_made(self, chan: Any) -> None:
        self._chan = chan

    def data_received(self, data: bytes, datatype: Any) -> None:
        self._arrived.append(data)
        self._readable.set()

    def eof_received(self) -> bool:
        self._over.set()
        self._readable.set()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        self._over.set()
        self._readable.set()
        self._writable.set()
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # what a server calls

    async def read(self) -> bytes:
        while not self._arrived and not self._over.is_set():
            self._readable.clear()
            await self._readable.wait()
        return self._arrived.popleft() if self._arrived else b""

    async def read_all(self) -> bytes:
        made = b""
        while data := await self.read():
            made += data
        return made

    async def write(self, data: bytes) -> None:
        await self._writable.wait()
        if self._lost:
            raise ConnectionResetError("the client is gone")
        if data:
            self._chan.write(data)

    async def hung_up(self) -> None:
        await self._over.wait()

    def reset(self) -> None:
        """Resets the whole SSH connection."""
        self._chan.get_connection().abort()

    def hang_up(self) -> None:
        if self._chan is not None and not self._lost:
            self._chan.close()


class TcpFlow(Flow, asyncssh.SSHTCPSession[bytes]):
    """A connection that the client has the host make."""

    def connection_made(self, chan: Any) -> None:
        Flow.connection_made(self, chan)

    def eof_received(self) -> bool:
        return Flow.eof_received(self)

    def connection_lost(self, error: Exception | None) -> None:
        Flow.connection_lost(self, error)
