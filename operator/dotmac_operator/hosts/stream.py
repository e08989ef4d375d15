"""A byte stream to a host with a deadline, and HTTP/1.1 on it.

The standard library's http.client speaks the HTTP: unlike requests and httpx it lets a stream be taken over after the
response head (exec), and it adds about 0.2 ms to a round trip where they add more than the round trip itself.
"""

import http.client
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from dotmac_operator.hosts.deadline import Deadline
from dotmac_operator.hosts.port import HostError


@dataclass(frozen=True)
class Ending:
    """How the program at the other end of a stream ended."""

    exit_code: int | None
    stderr: str


class Bytes(Protocol):
    """What HTTP needs: bytes both ways. A lost connection is an OSError, the end of the stream an empty read."""

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...


class Stream(Bytes, Protocol):
    """One channel to a host."""

    deadline: Deadline
    """Of the call that uses the stream now; every blocking call respects it by raising DeadlineExceeded."""

    def shutdown_write(self) -> None:
        """The other end reads end of file; its answer can still be read."""

    def close(self) -> None: ...

    def watch(self, seconds: float, check: Callable[[], None]) -> None:
        """Calls `check` after each `seconds` of silence while reading, until it raises."""

    @property
    def stale(self) -> bool:
        """The other end has hung up, or said something unasked: nothing may be sent on it any more."""

    def ending(self) -> Ending:
        """After the end of the stream; waits a moment for the exit status."""


class _Reader(io.RawIOBase):
    """What http.client reads from. Closing it leaves the stream open: the stream outlives a response."""

    def __init__(self, stream: Bytes) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _BorrowedSocket:
    """The part of a socket that http.client uses, without the right to close it."""

    def __init__(self, stream: Bytes) -> None:
        self._stream = stream

    def sendall(self, data: Any) -> None:
        self._stream.sendall(bytes(data))

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._stream), 65536)

    def close(self) -> None:
        """The owner of the stream closes it."""


class StreamConnection(http.client.HTTPConnection):
    """HTTP/1.1 on an open stream; never dials by itself."""

    auto_open = 0

    def __init__(self, stream: Bytes) -> None:
        super().__init__("docker")
        self.sock: Any = _BorrowedSocket(stream)


def read_lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Non-empty lines of a chunked response as they arrive."""
    pending = b""
    while data := response.read1(65536):
        *lines, pending = (pending + data).split(b"\n")
        yield from (line for line in lines if line.strip())
    if pending.strip():
        yield pending


@contextmanager
def feeding(stream: Stream, data: bytes) -> Iterator[None]:
    """Sends `data` and then end of file while the caller reads, so that neither side waits for the other.

    A program may end without reading its input; what it answered then says so, not the broken pipe.
    """
    if not data:
        stream.shutdown_write()
        yield
        return

    def send() -> None:
        try:
            stream.sendall(data)
            stream.shutdown_write()
        except (OSError, HostError):
            return

    thread = threading.Thread(target=send, name="dotmac-stdin", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stream.close()
        thread.join(timeout=5)
