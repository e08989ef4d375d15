"""The bits of HTTP between ASGI and the verbs: a request with its parsed path, and sending answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from itertools import batched
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
import yaml

from dotmac_local.server.bodies import too_large
from dotmac_local.server.negotiation import Form

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
# How many parts are sent at once.
_BATCH = 64

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass
class Request:
    """One request. `parts` is the path, split and unquoted."""

    method: str
    path: str
    parts: list[str]
    query: dict[str, str]
    headers: dict[str, str]
    receive: Receive
    multi: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, scope: Scope, receive: Receive) -> Request:
        headers: dict[str, str] = {}
        multi: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            headers[key] = value.decode("latin-1")
            multi.setdefault(key, []).append(value.decode("latin-1"))
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        raw = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
        parts = [unquote(part) for part in raw.split("/") if part]
        return cls(scope["method"], raw, parts, query, headers, receive, multi)

    async def body(self) -> bytes:
        """The whole body; raises ApiError 413 beyond the limit."""
        chunks, length = [], 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            chunks.append(message.get("body", b""))
            length += len(chunks[-1])
            if error := too_large(length):
                raise error
            if not message.get("more_body"):
                return b"".join(chunks)


@dataclass
class Response:
    """An answer that is complete. A long one comes in `parts`, which go out before `body`."""

    code: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)


@dataclass
class Streaming:
    """An answer that goes on: a watch."""

    chunks: AsyncIterator[bytes]
    content_type: str = "application/json"


def document(code: int, content: Any, form: Form | None = None) -> Response:
    """A JSON (or YAML) document."""
    form = form or Form()
    raw = content if isinstance(content, bytes) else orjson.dumps(content) + b"\n"
    if form.media_type == "application/yaml":
        text = yaml.dump(orjson.loads(raw), Dumper=yaml.CSafeDumper, default_flow_style=False, allow_unicode=True)
        return Response(code, text.encode(), form.content_type)
    return Response(code, raw, form.content_type)


def text(code: int, content: str) -> Response:
    return Response(code, content.encode(), "text/plain; charset=utf-8")


async def send_response(send: Send, response: Response) -> None:
    length = len(response.body) + sum(len(part) for part in response.parts)
    headers = [(b"content-type", response.content_type.encode()), (b"content-length", str(length).encode())]
    headers += [(name.lower().encode(), _header(value)) for name, value in response.headers.items()]
    await send({"type": "http.response.start", "status": response.code, "headers": headers})
    # A list of a large fleet is never in memory as one document: its objects go out in batches, as fast as they are
    # read.
    for batch in batched(response.parts, _BATCH):
        await send({"type": "http.response.body", "body": b"".join(batch), "more_body": True})
    await send({"type": "http.response.body", "body": response.body})


def _header(value: str) -> bytes:
    """Header values are one line of latin-1, whatever a client made us quote."""
    return value.replace("\r", " ").replace("\n", " ").encode("latin-1", "replace")


async def send_stream(send: Send, response: Streaming) -> None:
    headers = [(b"content-type", response.content_type.encode()), (b"cache-control", b"no-cache, private")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    # An empty chunk makes the head go out now: clients wait for it before they count a watch as begun.
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    async for chunk in response.chunks:
        if chunk:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
