"""The Engine alone: the calls that make five tenants, over its UNIX socket, with nothing around them.

What no way to deploy them can go below on this machine: neither the docker client nor SSH nor a control plane takes
part.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.e2e.releases import Object

API = "/v1.41"
CONFIG = ("Env", "StopTimeout", "Entrypoint", "Cmd", "Labels", "Image", "Healthcheck")
HOST = ("NetworkMode", "RestartPolicy", "Memory", "MemorySwap", "NanoCpus", "PidsLimit", "CapDrop", "SecurityOpt")
MORE_HOST = ("Mounts", "LogConfig")


class _Socket(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class Made:
    """One tenant as the Engine inspects it."""

    network: Object
    volumes: tuple[Object, ...]
    containers: tuple[Object, ...]
    """In the order in which they are to be started."""


class Engine:
    """Calls by several threads, each on a connection of its own that is kept."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._kept = threading.local()

    def call(self, method: str, path: str, body: Object | None = None) -> None:
        if not hasattr(self._kept, "connection"):
            self._kept.connection = _Socket(self._path)
        sent = None if body is None else json.dumps(body)
        self._kept.connection.request(method, API + path, sent, {"Content-Type": "application/json"} if sent else {})
        answer = self._kept.connection.getresponse()
        said = answer.read()
        assert answer.status < 300, f"{method} {path}: {answer.status} {said!r}"

    def make(self, tenant: Made) -> None:
        """All of one tenant, one call after the other."""
        network = tenant.network
        config = [{"Subnet": network["IPAM"]["Config"][0]["Subnet"]}]
        body = {"Name": network["Name"], "CheckDuplicate": True, "Driver": "bridge", "Labels": network["Labels"]}
        self.call("POST", "/networks/create", {**body, "IPAM": {"Config": config}})
        for volume in tenant.volumes:
            self.call("POST", "/volumes/create", {"Name": volume["Name"], "Labels": volume["Labels"]})
        for container in tenant.containers:
            name = container["Name"].lstrip("/")
            self.call("POST", f"/containers/create?name={name}", body_of(container))
            self.call("POST", f"/containers/{name}/start")


def body_of(container: Object) -> Object:
    """What makes a container like this one."""
    host = container["HostConfig"]
    network = host["NetworkMode"]
    found = container["NetworkSettings"]["Networks"][network]["Aliases"] or []
    aliases = [alias for alias in found if not container["Id"].startswith(alias)]
    made = {key: value for key, value in container["Config"].items() if key in CONFIG}
    made["HostConfig"] = {key: host[key] for key in (*HOST, *MORE_HOST) if key in host}
    made["NetworkingConfig"] = {"EndpointsConfig": {network: {"Aliases": aliases}}}
    return made


def seconds(socket_path: str, tenants: Iterable[Made], at_once: int) -> float:
    """Seconds to make them, so many tenants at a time."""
    engine = Engine(socket_path)
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        for done in [threads.submit(engine.make, tenant) for tenant in tenants]:
            done.result()
    return time.perf_counter() - began
