"""Five tenants of plain containers on one real host: by the operator, and by a shell script with the docker client.

Each tenant has a network, three volumes and four containers that are running and healthy as soon as they are started:
what is measured is the way there. The script runs on the host itself and makes the very objects that the operator
makes, with the same limits and options; the operator goes through its control plane and SSH, and besides that generates
secrets, routes the tenant through the proxy and asks it there.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import releases
from tests.e2e.conftest import server
from tests.e2e.platform import Operator, Platform
from tests.kits import controlplane
from tests.kits.dockerhost import DockerHost
from tests.kits.tinyimage import ensure_plain_image

TENANTS = tuple(f"plain-{number}" for number in range(1, 6))
RELEASE = "plain"
ROLES = ("database", "cache", "web", "worker")


def release(image: str) -> releases.Object:
    web = {
        "name": "web",
        "image": "caddy",
        "command": ["caddy", "respond", "--listen", ":8000", "ok"],
        "port": 8000,
        "expose": True,
    }
    spec = {
        "version": "1.0",
        "images": {"plain": image, "caddy": releases.CADDY},
        "database": {"image": "plain"},
        "cache": {"image": "plain"},
        "roles": [web, {"name": "worker", "image": "plain"}],
        "volumes": [{"name": "files", "mountPath": "/files", "roles": ["web", "worker"]}],
    }
    return releases.resource("Release", RELEASE, spec)


def tenant(name: str) -> releases.Object:
    return releases.instance(name, RELEASE)


@dataclass
class Bench:
    """A host, the operator that looks after it, and the script that does the same."""

    host: DockerHost
    platform: Platform
    directory: Path

    def deploy(self) -> float:
        """Seconds from the first Instance applied until the last is Ready."""
        began = time.perf_counter()
        self.platform.apply(*(tenant(name) for name in TENANTS))
        self.wait(lambda obj: self.is_ready(obj), TENANTS)
        return time.perf_counter() - began

    @staticmethod
    def is_ready(obj: releases.Object) -> bool:
        status = obj.get("status", {})
        held = [c for c in status.get("conditions", []) if c["type"] == "Ready"]
        return bool(held) and held[0]["status"] == "True"

    def wait(self, true: Callable[[releases.Object], bool], names: tuple[str, ...], seconds: float = 120) -> None:
        """By a watch, as a client would: polling would take from the processors what is measured."""
        left = set(names)
        path = self.platform.path("Instance")
        listed = self.platform.plane.client.get(path).json()
        left -= {obj["metadata"]["name"] for obj in listed["items"] if true(obj)}
        version = listed["metadata"]["resourceVersion"]
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(int(seconds))}
        with self.platform.plane.client.stream("GET", path, params=query, timeout=seconds) as answer:
            lines = answer.iter_lines()
            while left:
                event = json.loads(next(lines))
                if event["type"] in ("ADDED", "MODIFIED") and true(event["object"]):
                    left.discard(event["object"]["metadata"]["name"])

    def remove(self) -> None:
        for name in TENANTS:
            self.platform.let_go(name)
        self.platform.assert_clean()

    def script(self) -> Path:
        """The script, made from what the operator has just deployed."""
        lines = ["#!/bin/sh", "set -eu"]
        for name in TENANTS:
            lines += self._script_of(name)
        path = self.directory / "deploy.sh"
        path.write_text("\n".join(lines) + "\n")
        return path

    def run_script(self, path: Path) -> float:
        env = {**os.environ, "DOCKER_HOST": f"unix://{self.host.docker_socket}"}
        began = time.perf_counter()
        subprocess.run(["sh", str(path)], env=env, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    def remove_script(self) -> None:
        mine = ("--filter", "name=dotmac-plain")
        containers = self.host.docker("ps", "-aq", *mine).split()
        self.host.docker("rm", "-fv", *containers)
        self.host.docker("network", "rm", *self.host.docker("network", "ls", "-q", *mine).split())
        self.host.docker("volume", "rm", *self.host.docker("volume", "ls", "-q", *mine).split())

    def _script_of(self, name: str) -> Iterator[str]:
        """Each object is made unless it is there, as a careful person writes it."""
        label = ("--filter", f"label=platform.dotmac.io/instance={name}")
        (network,) = json.loads(self.host.docker("network", "inspect", f"dotmac-{name}"))
        yield from _made(
            "network",
            network["Name"],
            ["--subnet", network["IPAM"]["Config"][0]["Subnet"], *_labels(network["Labels"])],
        )
        for volume in sorted(self.host.docker("volume", "ls", "-q", *label).split()):
            (found,) = json.loads(self.host.docker("volume", "inspect", volume))
            yield from _made("volume", volume, _labels(found["Labels"]))
        ids = self.host.docker("ps", "-q", *label).split()
        found = {
            c["Config"]["Labels"]["platform.dotmac.io/role"]: c for c in json.loads(self.host.docker("inspect", *ids))
        }
        for role in ROLES:
            yield from _run(found[role])


def _made(kind: str, name: str, options: list[str]) -> list[str]:
    create = shlex.join(["docker", kind, "create", *options, name])
    return [f"docker {kind} inspect {name} >/dev/null 2>&1 || {create}"]


def _labels(labels: dict[str, str]) -> list[str]:
    return [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]


def _run(container: releases.Object) -> list[str]:
    """`docker run` of a container like this one."""
    config, host, name = container["Config"], container["HostConfig"], container["Name"].lstrip("/")
    words = ["docker", "run", "-d", "--name", name, "--network", host["NetworkMode"], "--restart", "unless-stopped"]
    words += ["--memory", str(host["Memory"]), "--memory-swap", str(host["MemorySwap"])]
    words += ["--cpus", str(host["NanoCpus"] / 1e9), "--pids-limit", str(host["PidsLimit"])]
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--stop-timeout", str(config["StopTimeout"])]
    words += ["--log-opt", "max-size=10m", "--log-opt", "max-file=3", *_labels(config["Labels"])]
    aliases = container["NetworkSettings"]["Networks"][host["NetworkMode"]]["Aliases"]
    for alias in aliases:
        if not container["Id"].startswith(alias):
            words += ["--network-alias", alias]
    for variable in config["Env"]:
        words += ["--env", variable]
    for mount in host.get("Mounts") or ():
        words += ["--mount", f"type=volume,source={mount['Source']},target={mount['Target']}"]
    check = config.get("Healthcheck") or {}
    if check.get("Test", ["NONE"])[0] == "NONE":
        words.append("--no-healthcheck")
    else:
        words += ["--health-cmd", check["Test"][1], "--health-interval", f"{check['Interval'] // 10**9}s"]
    entry, command = config.get("Entrypoint") or [], config.get("Cmd") or []
    rest = [*entry[1:], *command]
    if entry:
        words += ["--entrypoint", entry[0]]
    run = shlex.join([*words, config["Image"], *rest])
    return [f"docker container inspect {name} >/dev/null 2>&1 || {run}"]


@contextmanager
def bench() -> Iterator[Bench]:
    """A host and an operator for one benchmark."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as directory:
        base = Path(directory)
        base.chmod(0o755)  # the host's user asks how full its disk is
        host = DockerHost("bench", base)
        plane = controlplane.start(base / "control-plane")
        operator = Operator(plane.kubeconfig, base / "operator.log")
        try:
            host.start()
            host.load_images(releases.CADDY)
            platform = Platform(plane, operator, {"one": host})
            plane.apply_crds()
            plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": releases.NAMESPACE}})
            platform.apply(
                releases.small_class(),
                release(ensure_plain_image(host)),
                releases.secret("one-ssh", **{"ssh-privatekey": host.private_key}),
                server("one", host, proxy={"httpPort": 8080, "httpsPort": 8443, "tls": {"mode": "Off"}}),
            )
            operator.start()
            platform.wait_condition("Server", "one", "Ready", "True")
            yield Bench(host, platform, base)
        finally:
            if operator.alive():
                operator.kill()
            plane.stop()
            host.close()


def spread(values: list[float], unit: str = "s") -> str:
    """The median and the extremes, for a note."""
    shown = f"{statistics.median(values):.3g} {unit} (of {len(values)}: {min(values):.3g} to {max(values):.3g})"
    return shown
