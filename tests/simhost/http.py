"""HTTP/1.1 of the server's side on a byte channel: one request after the other, and streams that take it over."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

import httptools
import orjson


class Pipe(Protocol):
    """One channel, from the server's side."""

    async def read(self) -> bytes:
        """Empty at the end of what the client sends."""

    async def write(self, data: bytes) -> None:
        """Raises ConnectionError when the client is gone."""

    async def hung_up(self) -> None:
        """Returns when the client sends no more, without taking anything that it has sent."""


@dataclass
class Request:
    method: str
    path: str
    """Without the version, decoded."""
    query: Mapping[str, str]
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        return orjson.loads(self.body) if self.body.strip() else {}

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("1", "true")


@dataclass
class Reply:
    """`body` is JSON, bytes as they are, or None for nothing at all."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Streamed:
    """Chunks, sent as they come."""

    chunks: AsyncIterator[bytes]
    content_type: str = "application/json"


class Parser:
    """Takes bytes in, gives requests out."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._body = b"", b""
        self._headers: dict[str, str] = {}
        self._done: list[Request] = []
        self.rest = b""
        """What came after a request for an upgrade: raw already."""

    def feed(self, data: bytes) -> list[Request]:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.rest = data[upgrade.args[0] :]
        done, self._done = self._done, []
        return done

    def on_message_begin(self) -> None:
        self._url, self._body, self._headers = b"", b"", {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode(errors="replace")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode().partition("?")
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        method = self._parser.get_method().decode()
        given = dict(parse_qsl(query, keep_blank_values=True))
        self._done.append(Request(method, unquote(path), given, self._body, self._headers))


def head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{key}: {value}" for key, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def render(reply: Reply, common: Mapping[str, str]) -> bytes:
    if reply.body is None:
        length = {} if reply.status in (204, 304) else {"Content-Length": "0"}
        return head(reply.status, {**common, **reply.headers, **length})
    raw = isinstance(reply.body, bytes)
    body = reply.body if raw else orjson.dumps(reply.body) + b"\n"
    kind = {} if "Content-Type" in reply.headers else {"Content-Type": "text/plain" if raw else "application/json"}
    return head(reply.status, {**common, **kind, **reply.headers, "Content-Length": str(len(body))}) + body


async def send_chunks(pipe: Pipe, streamed: Streamed, common: Mapping[str, str]) -> None:
    """Ends when the chunks end, or when the client hangs up: a stream that tells nothing would not notice."""
    headers = {**common, "Content-Type": streamed.content_type, "Transfer-Encoding": "chunked"}
    await pipe.write(head(200, headers))
    sending = asyncio.ensure_future(_send_all(pipe, streamed.chunks))
    hanging_up = asyncio.ensure_future(pipe.hung_up())
    try:
        await asyncio.wait((sending, hanging_up), return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            raise ConnectionResetError("the client hung up in the middle of a stream")
        await sending
    finally:
        for task in (sending, hanging_up):
            task.cancel()
        await asyncio.gather(sending, hanging_up, return_exceptions=True)


async def _send_all(pipe: Pipe, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        await pipe.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
    await pipe.write(b"0\r\n\r\n")
