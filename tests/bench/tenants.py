"""Five tenants of plain containers on one real host: by the operator, and by a shell script with the docker client.

Each tenant has a network, three volumes and four containers that are running and healthy as soon as they are started:
what is measured is the way there. The script runs on the host itself, is written as one writes such a script (one
docker command after the other, each object made unless it is there), and does what the operator does:

- it makes the very same objects, with the same limits and options,
- waits for database and cache by their own checks, once they were started, before it starts the application,
- connects the proxy to the tenant's network,
- loads the proxy's configuration, once, when the last tenant runs, and only if it differs from what was loaded last,
- and then asks for each tenant through the proxy.

`Parts.OBJECTS` is the same script with the first of these only: objects that were started, and nobody knows whether
they work. Besides all that the operator goes through its control plane and SSH, generates secrets, and tells about each
step. It runs as it is installed, at its usual log level.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.bench import engine
from tests.e2e import releases
from tests.e2e.conftest import server
from tests.e2e.platform import HTTP_PORT, HTTPS_PORT, Operator, Platform
from tests.kits import controlplane
from tests.kits.dockerhost import DockerHost
from tests.kits.tinyimage import ensure_plain_image

from dotmac_crds.server import Proxy
from dotmac_local.demo.processes import CommandFailed
from dotmac_operator.core import names, proxy

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


class Parts(Enum):
    """How much of the way the script goes."""

    OBJECTS = "objects"
    ALL = "all"


PROXY = Proxy.model_validate({"httpPort": HTTP_PORT, "httpsPort": HTTPS_PORT, "tls": {"mode": "Off"}})


@dataclass
class Bench:
    """A host, the operator that looks after it, and the script that does the same."""

    host: DockerHost
    platform: Platform
    directory: Path

    def __post_init__(self) -> None:
        self.loaded = self.directory / "proxy-loaded.json"

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

    def script(self, parts: Parts = Parts.ALL) -> Path:
        """The script, made from what the operator has just deployed."""
        lines = ["#!/bin/sh", "set -eu"]
        for name in TENANTS:
            lines += self._script_of(name, parts)
        if parts is Parts.ALL:
            lines += self._routes()
        path = self.directory / f"deploy-{parts.value}.sh"
        path.write_text("\n".join(lines) + "\n")
        return path

    def _routes(self) -> list[str]:
        """Loads the configuration that the operator has made, unless it is loaded, and then asks for each tenant."""
        wanted, loaded = self.directory / "proxy.json", self.loaded
        wanted.write_text(self.host.docker("exec", names.PROXY_CONTAINER, "cat", proxy.AUTOSAVE))
        reload = shlex.join(["docker", "exec", "-i", names.PROXY_CONTAINER, *proxy.RELOAD_ARGV])
        hosts = [f"{name}.one.example" for name in TENANTS]
        asked = [f"curl -fsS -o {os.devnull} -H 'Host: {host}' http://127.0.0.1:{HTTP_PORT}/" for host in hosts]
        return [
            f"if ! cmp -s {wanted} {loaded}; then",
            f"{reload} <{wanted} >/dev/null 2>&1",
            *asked,
            f"cp {wanted} {loaded}",
            "fi",
        ]

    def made(self) -> list[engine.Made]:
        """The tenants as the Engine has them now."""
        return [self._made(name) for name in TENANTS]

    def _made(self, name: str) -> engine.Made:
        label = ("--filter", f"label=platform.dotmac.io/instance={name}")
        (network,) = json.loads(self.host.docker("network", "inspect", f"dotmac-{name}"))
        volumes = sorted(self.host.docker("volume", "ls", "-q", *label).split())
        found = json.loads(self.host.docker("volume", "inspect", *volumes))
        ids = self.host.docker("ps", "-q", *label).split()
        boxes = {c["Config"]["Labels"][names.ROLE]: c for c in json.loads(self.host.docker("inspect", *ids))}
        return engine.Made(network, tuple(found), tuple(boxes[role] for role in ROLES))

    def run_script(self, path: Path) -> float:
        env = {**os.environ, "DOCKER_HOST": f"unix://{self.host.docker_socket}"}
        began = time.perf_counter()
        # In the host's network, where its loopback address is.
        subprocess.run([*self.host.prefix, "sh", str(path)], env=env, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    def run_engine(self, tenants: list[engine.Made], at_once: int) -> float:
        """Seconds that the Engine alone takes for the objects of the tenants."""
        return engine.seconds(self.host.docker_socket, tenants, at_once)

    def remove_script(self) -> None:
        """What a script, or the Engine alone, has made; the proxy's routes too."""
        if self.loaded.exists():
            self.loaded.unlink()
            empty = proxy.render(proxy.turned(proxy.base_config(PROXY)))
            self.host.docker("exec", "-i", names.PROXY_CONTAINER, *proxy.RELOAD_ARGV, data=empty)
        mine = ("--filter", "name=dotmac-plain")
        containers = self.host.docker("ps", "-aq", *mine).split()
        self.host.docker("rm", "-fv", *containers)
        for network in self.host.docker("network", "ls", "-q", *mine).split():
            with suppress(CommandFailed):  # the Engine alone connects nothing
                self.host.docker("network", "disconnect", "--force", network, names.PROXY_CONTAINER)
        self.host.docker("network", "rm", *self.host.docker("network", "ls", "-q", *mine).split())
        self.host.docker("volume", "rm", *self.host.docker("volume", "ls", "-q", *mine).split())

    def _script_of(self, name: str, parts: Parts) -> Iterator[str]:
        """Each object is made unless it is there, as a careful person writes it."""
        made, whole = self._made(name), parts is Parts.ALL
        network = made.network["Name"]
        subnet = ["--subnet", made.network["IPAM"]["Config"][0]["Subnet"], *_labels(made.network["Labels"])]
        connect = f"docker network connect {network} {names.PROXY_CONTAINER}" if whole else ""
        yield _unless("network", network, ["network", "create", *subnet, network], connect)
        for volume in made.volumes:
            yield _unless("volume", volume["Name"], ["volume", "create", *_labels(volume["Labels"]), volume["Name"]])
        for container in made.containers:
            box = container["Name"].lstrip("/")
            check = (container["Config"].get("Healthcheck") or {}).get("Test", ["NONE"])
            healthy = shlex.join(["docker", "exec", box, "/bin/sh", "-c", check[1]]) if check[0] == "CMD-SHELL" else ""
            wait = f"until {healthy} >/dev/null 2>&1; do sleep 0.1; done" if healthy and whole else ""
            yield _unless("container", box, _run(container), wait)


def _unless(kind: str, name: str, create: list[str], then: str = "") -> str:
    """A line that makes an object when it is not there, and then does what belongs to that."""
    work = shlex.join(["docker", *create])
    return f"docker {kind} inspect {name} >/dev/null 2>&1 || {f'{{ {work}; {then}; }}' if then else work}"


def _labels(labels: dict[str, str]) -> list[str]:
    return [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]


def _run(container: releases.Object) -> list[str]:
    """Arguments of docker for a container like this one, started."""
    config, host, name = container["Config"], container["HostConfig"], container["Name"].lstrip("/")
    words = ["run", "-d", "--name", name, "--network", host["NetworkMode"], "--restart", "unless-stopped"]
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
    return [*words, config["Image"], *rest]


@contextmanager
def bench() -> Iterator[Bench]:
    """A host and an operator for one benchmark."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=os.environ.get("TMPDIR", "/var/tmp")) as directory:
        base = Path(directory)
        base.chmod(0o755)  # the host's user asks how full its disk is
        host = DockerHost("bench", base)
        plane = controlplane.start(base / "control-plane")
        operator = Operator(plane.kubeconfig, base / "operator.log", log_level="info")
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
                server("one", host, proxy={"httpPort": HTTP_PORT, "httpsPort": HTTPS_PORT, "tls": {"mode": "Off"}}),
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
