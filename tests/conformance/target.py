"""The API server under test: the embedded one, or any that a kubeconfig or a folder of binaries leads to."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.kits.apiserver import real_api_server
from tests.kits.controlplane import start


@dataclass(frozen=True)
class Target:
    """Where to send requests. `controllers`: something behind it collects garbage and ends namespaces.

    The administrator shows a token, or a certificate (`certificate`: PEM of it and its key).
    """

    url: str
    ca: str
    token: str
    certificate: bytes
    embedded: bool
    controllers: bool

    def client(self, token: str | None = None) -> httpx.Client:
        """A client with the administrator's rights, or with another token; an empty one sends none."""
        chosen = self.token if token is None else token
        headers = {"Authorization": f"Bearer {chosen}"} if chosen else {}
        tls = ssl.create_default_context(cadata=self.ca)
        if token is None and self.certificate:
            with tempfile.NamedTemporaryFile(suffix=".pem") as pair:
                pair.write(self.certificate)
                pair.flush()
                tls.load_cert_chain(pair.name)
        return httpx.Client(base_url=self.url, headers=headers, verify=tls, timeout=60)


@contextmanager
def find_target(state: Path) -> Iterator[Target]:
    """DOTMAC_TEST_KUBECONFIG, else KUBEBUILDER_ASSETS, else the embedded server."""
    if path := os.environ.get("DOTMAC_TEST_KUBECONFIG"):
        yield from_kubeconfig(Path(path))
    elif assets := os.environ.get("KUBEBUILDER_ASSETS"):
        with real_api_server(Path(assets), state) as server:
            yield Target(server.url, server.ca.read_text(), server.token, b"", embedded=False, controllers=False)
    else:
        server = start(state)
        try:
            yield Target(server.url, server.ca.read_text(), server.token, b"", embedded=True, controllers=True)
        finally:
            server.stop()


def from_kubeconfig(path: Path) -> Target:
    """The cluster of the current context; by token or by client certificate."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    certificate = b""
    if "client-certificate-data" in user or "client-certificate" in user:
        certificate = _data(user, "client-certificate") + b"\n" + _data(user, "client-key")
    ca = _data(cluster, "certificate-authority").decode()
    return Target(cluster["server"], ca, user.get("token", ""), certificate, embedded=False, controllers=True)


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def _data(entry: dict[str, Any], key: str) -> bytes:
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"])
    return Path(entry[key]).read_bytes()
