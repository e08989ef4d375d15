"""Steady load on a proxy by clients that never try again: a request that fails is a failure.

They speak HTTP over plain sockets, because every HTTP library hides a connection that was cut while it idled.
"""

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from tests.e2e.platform import HTTP_PORT, Tenant

ANSWER_SECONDS = 40


@dataclass
class Load:
    """What the clients saw."""

    address: str
    host: str
    answers: Counter[str] = field(default_factory=Counter)
    """Kind of client -> good answers."""
    bodies: Counter[str] = field(default_factory=Counter)
    """Body of the page -> how often it came."""
    posted: list[str] = field(default_factory=list)
    """Bodies of the POSTs that were answered."""
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    async def connect(self) -> "Client":
        return Client(self.host, *await asyncio.open_connection(self.address, HTTP_PORT))

    async def fresh(self) -> None:
        """A new connection for each request."""
        while not self.stop.is_set():
            client = await self.connect()
            self.bodies[(await client.ask("GET", "/")).decode()] += 1
            self.answers["fresh"] += 1
            client.close()
            await asyncio.sleep(0.05)

    async def kept(self) -> None:
        """One connection for as long as the server does not say `Connection: close`."""
        client = await self.connect()
        while not self.stop.is_set():
            await client.ask("GET", "/")
            self.answers["kept"] += 1
            await asyncio.sleep(0.02)
            if client.closing:
                self.answers["kept, asked to leave"] += 1
                client = await self.connect()
        client.close()

    async def posts(self) -> None:
        """As `kept`, with requests that must not be repeated by anybody."""
        client = await self.connect()
        while not self.stop.is_set():
            body = os.urandom(8).hex()
            assert (await client.ask("POST", "/", body.encode())).decode() == body
            self.posted.append(body)
            self.answers["post"] += 1
            await asyncio.sleep(0.05)
            client = await self.connect() if client.closing else client
        client.close()

    async def long(self, path: str, size: int | None = None) -> None:
        """One request that takes its time."""
        client = await self.connect()
        body = await client.ask("GET", path)
        assert size in (None, len(body)), f"{path} was cut after {len(body)} bytes"
        self.answers[path] += 1
        client.close()

    async def always(self, path: str) -> None:
        """One long request after the other, the last of them to its end."""
        while not self.stop.is_set():
            await self.long(path)

    async def websocket(self) -> None:
        """Echoes; when the connection ends, it must end by a close frame, and another one must be had at once."""
        while not self.stop.is_set():
            client = await self.connect()
            await client.upgrade()
            while not self.stop.is_set():
                word = os.urandom(4)
                await client.send_frame(word)
                kind, payload = await client.frame()
                if kind == 8:
                    assert payload[:2] == (1001).to_bytes(2, "big"), f"closed with {payload!r}"
                    self.answers["websocket closed"] += 1
                    break
                assert payload == word
                self.answers["websocket"] += 1
                await asyncio.sleep(0.05)
            client.close()

    async def _guard(self, told: str, work: Callable[[], Awaitable[None]]) -> None:
        began = time.monotonic()
        try:
            await work()
        except (OSError, EOFError, AssertionError, TimeoutError) as error:
            self.failures.append(f"{told} after {time.monotonic() - began:.1f} s: {type(error).__name__} {error}")

    async def run(self, clients: list[tuple[str, Callable[[], Awaitable[None]]]]) -> None:
        await asyncio.gather(*(self._guard(told, work) for told, work in clients))


@dataclass
class Client:
    """One connection."""

    host: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    closing: bool = False
    """The server has said that this was the last answer; the connection is closed."""

    async def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{length}\r\n".encode() + body)
        async with asyncio.timeout(ANSWER_SECONDS):
            status, headers = await self._head()
            assert status == 200, f"{method} {path} was answered {status}"
            answer = await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            self.closing = True
            self.close()
        return answer

    async def upgrade(self) -> None:
        words = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        self.writer.write("\r\n".join(["GET /ws HTTP/1.1", f"Host: {self.host}", *words, key, "", ""]).encode())
        async with asyncio.timeout(ANSWER_SECONDS):
            status, _ = await self._head()
        assert status == 101, f"the upgrade was answered {status}"

    async def send_frame(self, payload: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.writer.write(bytes([0x81, 0x80 | len(payload)]) + mask + masked)

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload; a connection that ends without a close frame is an EOFError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            first, length = await self.reader.readexactly(2)
            return first & 15, await self.reader.readexactly(length)

    def close(self) -> None:
        self.writer.close()

    async def _head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        return int(lines[0].split()[1]), headers


@contextmanager
def steady(tenant: Tenant, *, slow: float = 10, stream: int = 12, always: tuple[str, ...] = ()) -> Iterator[Load]:
    """Load from here to the end of the block and of its long requests, which begin with it; `always` are asked for
    again and again."""
    load = Load(tenant.host.address, tenant.domain)
    clients = [("fresh", load.fresh), *[("kept", load.kept)] * 4, ("post", load.posts), ("websocket", load.websocket)]
    clients.append(("slow", lambda: load.long(f"/slow?{slow}")))
    clients.append(("stream", lambda: load.long(f"/stream?{stream}", stream * 10)))
    clients += [(path, partial(load.always, path)) for path in always]
    with _running(load, clients):
        yield load


@contextmanager
def asking(tenant: Tenant, *paths: str) -> Iterator[Load]:
    """One request for each path, sent at the beginning of the block; they may take longer than it does."""
    load = Load(tenant.host.address, tenant.domain)
    with _running(load, [(path, partial(load.long, path)) for path in paths]):
        time.sleep(0.3)
        yield load


@contextmanager
def _running(load: Load, clients: list[tuple[str, Callable[[], Awaitable[None]]]]) -> Iterator[None]:
    thread = threading.Thread(target=lambda: asyncio.run(load.run(clients)), daemon=True)
    thread.start()
    try:
        yield
    finally:
        load.stop.set()
        thread.join(ANSWER_SECONDS + 5)
    assert not thread.is_alive(), "a client hangs"
