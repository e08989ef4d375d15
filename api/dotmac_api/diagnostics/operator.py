"""A client of the operator's internal endpoint (ADR 0014): JSON with deadlines, and log lines as a stream."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import orjson
from pydantic import SecretStr

from dotmac_api.errors import ApiError, Conflict, Invalid, NotFound, TooManyRequests, Unavailable

TAIL_MOST = 2_000
"""Lines of one answer that is not followed."""
LONGEST_LINE = 256 * 1024
LARGEST_ANSWER = 4 * 1024 * 1024
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 20.0
"""The operator samples for half a second, and waits up to two for the sizes of volumes."""

_REMEDY = "set DOTMAC_API_OPERATOR_URL and DOTMAC_API_OPERATOR_TOKEN as the operator has its diagnostics endpoint"


class LogStream:
    """An answer with log lines that is being read. Close it."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.truncated = response.headers.get("x-truncated") == "true"
        """Whether older lines were left out, because of their size."""

    async def lines(self) -> AsyncIterator[Mapping[str, Any]]:
        """{container, role, time, stream, line} each, as they come. Raises Unavailable when the operator breaks off."""
        rest = b""
        try:
            async for chunk in self._response.aiter_bytes():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield _parsed(line)
                if len(rest) > LONGEST_LINE:
                    raise Unavailable("the operator sent a line that is too long", code="operator_failed")
        except httpx.HTTPError as failure:
            raise _unreachable(failure) from failure

    async def aclose(self) -> None:
        await self._response.aclose()


class Operator:
    """One operator. Nothing is connected before it is asked."""

    def __init__(self, url: str | None, token: SecretStr | None) -> None:
        self._client: httpx.AsyncClient | None = None
        if url and token:
            self._client = httpx.AsyncClient(
                base_url=url.rstrip("/") + "/internal/v1/instances/",
                headers={"Authorization": f"Bearer {token.get_secret_value()}"},
                timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
                limits=httpx.Limits(max_connections=64, max_keepalive_connections=8),
                trust_env=False,
            )

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def ask[R](self, where: str, read: Callable[[dict[str, Any]], R], seconds: float = ANSWER_SECONDS) -> R:
        """What `read` makes of the answer; `where` is such as `default/acme/usage`.

        Raises NotFound, Conflict, TooManyRequests, Unavailable.
        """
        response = await self._send(where, {}, seconds)
        try:
            made = orjson.loads(await _whole(response))
            if not isinstance(made, dict):
                raise ValueError("not an object")
            return read(made)
        except ValueError as failure:
            # Not JSON, or not what was agreed on; pydantic's ValidationError is one, too.
            text = "the operator's answer cannot be read; do the versions of facade and operator fit?"
            raise Unavailable(text, code="operator_failed") from failure
        finally:
            await response.aclose()

    async def logs(self, namespace: str, name: str, query: Mapping[str, str]) -> LogStream:
        """Log lines; with `follow=true` also those to come. Raises as `ask` does, and Invalid."""
        patience = None if query.get("follow") == "true" else ANSWER_SECONDS
        return LogStream(await self._send(f"{namespace}/{name}/logs", query, patience))

    async def _send(self, path: str, query: Mapping[str, str], seconds: float | None) -> httpx.Response:
        if self._client is None:
            text = f"this facade is not told where its operator is: {_REMEDY}"
            raise Unavailable(text, code="operator_not_configured")
        patience = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        request = self._client.build_request("GET", path, params=dict(query), timeout=patience)
        try:
            response = await self._client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            raise _unreachable(failure) from failure
        if response.status_code != httpx.codes.OK:
            try:
                raise _refusal(response.status_code, await _whole(response))
            finally:
                await response.aclose()
        return response


async def _whole(response: httpx.Response) -> bytes:
    body = b""
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > LARGEST_ANSWER:
                raise Unavailable("the operator's answer is too large", code="operator_failed")
    except httpx.HTTPError as failure:
        raise _unreachable(failure) from failure
    return body


def _unreachable(failure: Exception) -> Unavailable:
    text = f"the operator does not answer ({type(failure).__name__}); is it running, and DOTMAC_API_OPERATOR_URL right?"
    return Unavailable(text, code="operator_unreachable", headers={"Retry-After": "5"})


def _refusal(status: int, body: bytes) -> ApiError:
    """What the operator's {code, message} means for a client of the facade."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = {}
    told = told if isinstance(told, dict) else {}
    message = str(told.get("message") or f"the operator answered {status}")
    code = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(told.get("code") or "operator_failed")).lower()
    if status in (401, 403):
        remedy = "DOTMAC_API_OPERATOR_TOKEN must be the operator's DOTMAC_OPERATOR_DIAGNOSTICS_TOKEN"
        return Unavailable(f"the operator refuses the facade's token: {remedy}", code="operator_refused")
    known: dict[int, type[ApiError]] = {400: Invalid, 404: NotFound, 409: Conflict, 429: TooManyRequests}
    if status in known:
        return known[status](message, code=code, headers={"Retry-After": "2"} if status == 429 else {})
    return Unavailable(message, code=code, headers={"Retry-After": "5"})


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        made = orjson.loads(line)
    except orjson.JSONDecodeError as failure:
        raise Unavailable("the operator sent a line that cannot be read", code="operator_failed") from failure
    names = ("container", "role", "time", "stream", "line")
    if not isinstance(made, dict):
        raise Unavailable("the operator sent a line that cannot be read", code="operator_failed")
    return {name: str(made.get(name) or "") for name in names}
