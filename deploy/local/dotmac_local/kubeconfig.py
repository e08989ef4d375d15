"""The kubeconfig of an embedded server: address, CA and token in one private file."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from dotmac_local.files import write_private

if TYPE_CHECKING:
    from dotmac_local.server.tls import Identity

NAME = "dotmac-local"


def path_in(directory: Path) -> Path:
    return directory / "kubeconfig"


def write_kubeconfig(directory: Path, identity: Identity, host: str, port: int) -> str:
    """Write it and return the server's URL."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    url = f"https://[{reachable}]:{port}" if ":" in reachable else f"https://{reachable}:{port}"
    ca = base64.b64encode(identity.ca.read_bytes()).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": NAME,
        "clusters": [{"name": NAME, "cluster": {"server": url, "certificate-authority-data": ca}}],
        "users": [{"name": NAME, "user": {"token": identity.credentials.admin_token}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": "default"}}],
    }
    write_private(path_in(directory), yaml.safe_dump(config, sort_keys=False).encode())
    return url
