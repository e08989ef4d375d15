"""Plain JSON to the API server: requests, paged lists and watches over one pooled session."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
from kubernetes.aio import config
from kubernetes.aio.client.configuration import Configuration

from dotmac_api.gateway.refusals import Refused, Unreachable, from_status
from dotmac_crds.base import GROUP, VERSION

type Object = dict[str, Any]

APPLY = "application/apply-patch+yaml"
PAGE = 500
REQUEST_TIMEOUT = 15.0
WATCH_SECONDS = 240


@dataclass(frozen=True)
class ClusterAddress:
    """Where Kubernetes is: a kubeconfig, or (both None, no KUBECONFIG) the service account of the pod."""

    kubeconfig: Path | None = None
    context: str | None = None


def resource_path(plural: str, namespace: str | None = None, name: str | None = None) -> str:
    """The URL path of our group's collection or object; no namespace means all of them, or cluster scope."""
    made = f"/apis/{GROUP}/{VERSION}"
    if namespace:
        made += f"/namespaces/{namespace}"
    made += f"/{plural}"
    return f"{made}/{name}" if name else made


class KubernetesClient:
    """One API server. Safe to use from many tasks of one event loop."""

    def __init__(self, address: ClusterAddress) -> None:
        self._address = address
        self._configuration: Configuration | None = None
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> tuple[int, Object]:
        """One call; returns (HTTP status, object). Raises Refused for an answer >= 400, Unreachable without one."""
        data = None if body is None else orjson.dumps(body)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        headers = {"Content-Type": content_type} if data is not None else {}
        async with self._open(method, path, dict(params or {}), timeout, data, headers) as response:
            return response.status, _parse(await response.read())

    async def get(self, path: str) -> Object:
        """The object at `path`. Raises Refused with status 404 when there is none."""
        return (await self.request("GET", path))[1]

    async def pages(self, path: str, limit: int = PAGE) -> AsyncIterator[Object]:
        """A list in pages of one snapshot. Raises Refused (410) when the snapshot expired on the way."""
        token = ""
        while True:
            params = {"limit": str(limit)} | ({"continue": token} if token else {})
            page = (await self.request("GET", path, params=params))[1]
            yield page
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def watch(self, path: str, resource_version: str) -> AsyncIterator[list[Object]]:
        """Events after `resource_version`, in the batches they arrive in; ends when the server closes the watch.

        An empty batch comes first, once the server has accepted the watch. Raises Refused: status 410 when the
        version is too old.
        """
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, sock_connect=10)
        async with self._open("GET", path, params, timeout) as response:
            yield []
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    yield [_event(line) for line in lines if line.strip()]

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        params: dict[str, str],
        timeout: aiohttp.ClientTimeout,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            response = await self._send(method, path, params, timeout, data, headers)
        except (OSError, aiohttp.ClientError, TimeoutError) as failure:
            raise Unreachable(f"Kubernetes does not answer: {failure or type(failure).__name__}") from failure
        try:
            if response.status >= 400:
                raise from_status(response.status, _parse(await response.read()))
            yield response
        except (OSError, aiohttp.ClientError, TimeoutError) as failure:
            raise Unreachable(f"the connection to Kubernetes broke: {failure or type(failure).__name__}") from failure
        finally:
            response.close() if not response.content.at_eof() else response.release()

    async def _send(
        self,
        method: str,
        path: str,
        params: dict[str, str],
        timeout: aiohttp.ClientTimeout,
        data: bytes | None,
        headers: dict[str, str] | None,
    ) -> aiohttp.ClientResponse:
        for attempt in (1, 2):
            session, configuration = await self._ready()
            url = configuration.host.rstrip("/") + path
            auth = await _authorization(configuration)
            response = await session.request(
                method, url, params=params, data=data, headers={**(headers or {}), **auth}, timeout=timeout
            )
            if response.status != 401 or attempt == 2:
                return response
            # Tokens of exec plugins and service accounts expire; the configuration knows how to get new ones.
            response.release()
            await self._forget(session)
        raise AssertionError("unreachable")

    async def _ready(self) -> tuple[aiohttp.ClientSession, Configuration]:
        async with self._opening:
            if self._session is None or self._configuration is None:
                self._configuration = await _configuration(self._address)
                connector = aiohttp.TCPConnector(ssl=_tls(self._configuration), limit=64, socket_factory=_socket)
                self._session = aiohttp.ClientSession(connector=connector, json_serialize=_no_json)
            return self._session, self._configuration

    async def _forget(self, session: aiohttp.ClientSession) -> None:
        async with self._opening:
            if self._session is session:
                self._session = None
                # Watches still read from the old session; they end by themselves.
                asyncio.get_running_loop().call_later(
                    WATCH_SECONDS + 60, lambda: asyncio.ensure_future(session.close())
                )


async def _configuration(address: ClusterAddress) -> Configuration:
    made = Configuration()
    if address.kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
        config.load_incluster_config(client_configuration=made)  # type: ignore[no-untyped-call]
        return made
    place = str(address.kubeconfig) if address.kubeconfig else os.environ.get("KUBECONFIG") or None
    if place is not None and not any(Path(part).is_file() for part in place.split(os.pathsep)):
        raise Unreachable(f"no usable kubeconfig at {place}: there is no such file (DOTMAC_API_KUBECONFIG)")
    try:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=place, context=address.context, client_configuration=made, persist_config=False
        )
    except (config.ConfigException, OSError) as failure:
        raise Unreachable(f"no usable kubeconfig at {place or '~/.kube/config'}: {failure}") from failure
    return made


def _tls(configuration: Configuration) -> ssl.SSLContext | bool:
    if not configuration.host.startswith("https"):
        return False
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        # The kubeconfig says insecure-skip-tls-verify: its owner's decision, as for kubectl.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _authorization(configuration: Configuration) -> dict[str, str]:
    found = (await configuration.auth_settings()).get("BearerToken")
    return {"Authorization": found["value"]} if found and found["value"] else {}


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """A watch only listens, so a peer that vanished without a word is noticed by keep-alive: within 25 s."""
    family, type_, proto, _, _ = address
    made = socket.socket(family, type_, proto)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def _no_json(_: object) -> str:
    raise TypeError("bodies are encoded by the client itself")


def _parse(body: bytes) -> Object:
    try:
        made = orjson.loads(body)
    except orjson.JSONDecodeError:
        made = None
    return made if isinstance(made, dict) else {"message": body[:200].decode(errors="replace")}


def _event(line: bytes) -> Object:
    event: Object = orjson.loads(line)
    if event["type"] == "ERROR":
        status = event["object"]
        raise from_status(int(status.get("code", 500)), status)
    return event


__all__ = ["APPLY", "ClusterAddress", "KubernetesClient", "Object", "Refused", "Unreachable", "resource_path"]
