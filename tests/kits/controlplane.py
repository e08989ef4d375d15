"""The embedded control plane as a subprocess in a temporary directory: real HTTP, real TLS, real disk.

Use the fixtures by importing them into a conftest.py or a test module:

    from tests.kits.controlplane import control_plane  # noqa: F401

`control_plane` is one server per test module. A test that stops or kills its server starts its own with
`start(tmp_path)`.
"""

from __future__ import annotations

import atexit
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PYTHONPATH = os.pathsep.join(str(ROOT / part) for part in ("", "operator", "crds", "api", "deploy/local"))


@dataclass
class ControlPlane:
    """A running server. `client` asks as the administrator, with the base URL and the CA of the kubeconfig."""

    directory: Path
    process: subprocess.Popen[bytes]
    arguments: tuple[str, ...] = ()
    url: str = ""
    token: str = ""
    client: httpx.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._await_answer()

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def ca(self) -> Path:
        return self.directory / "tls" / "ca.crt"

    @property
    def env(self) -> dict[str, str]:
        """The environment for kubectl and other programs: this cluster, and a discovery cache of its own."""
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        return {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(home),
            "KUBECACHEDIR": str(home / "cache"),
        }

    def connect(self, token: str | None = None, **headers: str) -> httpx.Client:
        """A client as somebody else ("" for nobody)."""
        token = self.token if token is None else token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        context = ssl.create_default_context(cafile=str(self.ca))
        return httpx.Client(base_url=self.url, verify=context, headers=headers, timeout=30, trust_env=False)

    def kubectl(self, *args: str, program: str = "kubectl", stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl; returns what it prints (stdout, then stderr). Fails the test when `check` and it fails."""
        done = subprocess.run(
            [program, *args], env=self.env, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, (
            f"{' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout + done.stderr

    def apply_crds(self) -> None:
        """Install the project's own resources."""
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            self.create(yaml.safe_load(path.read_text()))

    def create(self, obj: dict[str, Any], namespace: str = "") -> dict[str, Any]:
        """POST any object; returns it as stored."""
        answer = self.client.post(self.path(obj, namespace), json=obj)
        assert answer.status_code == 201, answer.text
        created: dict[str, Any] = answer.json()
        return created

    def path(self, obj: dict[str, Any], namespace: str = "") -> str:
        """The collection an object belongs to, found by discovery as clients do."""
        group_version = obj["apiVersion"]
        base = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
        resources = self.client.get(base).json()["resources"]
        found = next(r for r in resources if r["kind"] == obj["kind"] and "/" not in r["name"])
        namespace = namespace or obj["metadata"].get("namespace") or "default"
        return f"{base}/namespaces/{namespace}/{found['name']}" if found["namespaced"] else f"{base}/{found['name']}"

    def kill(self) -> None:
        """kill -9, as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def restart(self) -> None:
        """Start again over the same state, on the same port."""
        if self.process.poll() is None:
            self.stop()
        port = self.url.rpartition(":")[2]
        self.process = _spawn(self.directory, ("--port", port, *self.arguments))
        self._await_answer()

    def stop(self) -> None:
        """SIGTERM, as `dotmac-local down` sends it."""
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server ignored SIGTERM; its log:\n{self.log}") from None

    @property
    def log(self) -> str:
        return (self.directory / "server.log").read_text()

    def _await_answer(self, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log}")
            if self._ready():
                return
            time.sleep(0.03)
        self.process.kill()
        raise AssertionError(f"the server did not answer in {seconds} s:\n{self.log}")

    def _ready(self) -> bool:
        # The pid file is claimed by this very process before the kubeconfig of an earlier run is replaced.
        if not self.kubeconfig.exists() or f"pid={self.process.pid}\n" not in self.log:
            return False
        config = yaml.safe_load(self.kubeconfig.read_text())
        self.url = config["clusters"][0]["cluster"]["server"]
        self.token = config["users"][0]["user"]["token"]
        self.client = self.connect()
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False


def _spawn(directory: Path, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
    directory.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "dotmac_local.cli", "up", "--foreground", "--dir", str(directory), *arguments]
    with (directory / "server.log").open("ab") as log:
        env = {**os.environ, "PYTHONPATH": PYTHONPATH}
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=env, cwd=directory, start_new_session=True)
    # A test that fails before it stops its server must not leave it running.
    atexit.register(process.kill)
    return process


def start(directory: Path, *arguments: str) -> ControlPlane:
    """Start a server with its state in `directory`, on a free port. The caller stops it."""
    return ControlPlane(directory, _spawn(directory, ("--port", "0", *arguments)), arguments)


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An empty embedded control plane, shared by the tests of a module."""
    server = start(tmp_path_factory.mktemp("control-plane"))
    yield server
    server.stop()
