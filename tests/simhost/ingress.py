"""What answers behind the TCP connections that a host makes for its client: containers, and the proxy in front."""

import json
from typing import Any

from tests.simhost.engine import Engine
from tests.simhost.http import Parser, Pipe, Reply, Request, render
from tests.simhost.objects import Container, Json

from dotmac_operator.core.proxy import AUTOSAVE

LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")  # noqa: S104 - compared, not bound


def behind(engine: Engine, address: str, port: int) -> tuple[Container, int] | None:
    """The container that listens there and the port within it; None where nobody does."""
    for container in engine.containers.values():
        if not container.listens():
            continue
        if any(end.address == address for end in container.endpoints.values()):
            return container, port
        inner = _published(container, address, port)
        if inner is not None:
            return container, inner
    return None


def _published(container: Container, address: str, port: int) -> int | None:
    for name, bindings in (container.host_config.get("PortBindings") or {}).items():
        for one in bindings or ():
            here = address in LOOPBACK or address == one.get("HostIp")
            if here and int(one.get("HostPort") or 0) == port:
                return int(name.partition("/")[0])
    return None


def is_proxy(engine: Engine, container: Container) -> bool:
    return any(mount.target == "/config" for mount in container.mounts) and engine.read(container, AUTOSAVE) is not None


async def serve(engine: Engine, container: Container, port: int, pipe: Pipe) -> None:
    """HTTP on one connection, until the client ends it."""
    parser = Parser()
    while data := await pipe.read():
        for request in parser.feed(data):
            reply = respond(engine, container, port, request)
            await pipe.write(render(reply, {"Server": "sim"}))


def respond(engine: Engine, container: Container, port: int, request: Request) -> Reply:
    if is_proxy(engine, container):
        return _proxied(engine, container, port, request)
    return Reply(container.behaviour.http_status, f"{container.name}\n".encode())


def _proxied(engine: Engine, proxy: Container, port: int, request: Request) -> Reply:
    config = json.loads(engine.read(proxy, AUTOSAVE) or b"{}")
    host = request.headers.get("host", "").partition(":")[0]
    for server in config.get("apps", {}).get("http", {}).get("servers", {}).values():
        if any(listen.endswith(f":{port}") for listen in server.get("listen", ())):
            return _routed(engine, proxy, server.get("routes", ()), host) or Reply(200, b"")
    return Reply(200, b"")


def _routed(engine: Engine, proxy: Container, routes: Any, host: str) -> Reply | None:
    for route in routes:
        wanted = [name for match in route.get("match", ()) for name in match.get("host", ())]
        if not route.get("match") or host in wanted:
            for handler in route.get("handle", ()):
                reply = _handled(engine, proxy, handler, host)
                if reply is not None:
                    return reply
    return None


def _handled(engine: Engine, proxy: Container, handler: Json, host: str) -> Reply | None:
    kind = handler.get("handler")
    if kind == "static_response":
        headers = {key: values[0] for key, values in (handler.get("headers") or {}).items()}
        return Reply(int(handler.get("status_code") or 200), str(handler.get("body") or "").encode(), headers)
    if kind == "subroute":
        return _routed(engine, proxy, handler.get("routes", ()), host)
    if kind != "reverse_proxy":
        return None
    for upstream in handler.get("upstreams", ()):
        target = engine.find(upstream["dial"].rpartition(":")[0])
        if target is not None and target.listens() and set(target.endpoints) & set(proxy.endpoints):
            return Reply(target.behaviour.http_status, f"{target.name}\n".encode())
    return Reply(502, b"")
