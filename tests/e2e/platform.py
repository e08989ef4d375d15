"""The product under test: an embedded control plane, the operator as a process of its own, and real Docker hosts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.e2e.releases import NAMESPACE, Object
from tests.kits.controlplane import PYTHONPATH, ControlPlane
from tests.kits.dockerhost import DockerHost

from dotmac_local.demo.processes import CommandFailed

HTTP_PORT, HTTPS_PORT = 8080, 8443
DIAGNOSTICS_TOKEN = "e2e-" + "d" * 40
POLL = 0.2
"""Seconds between two looks at a condition."""
PLURALS = {
    "Server": "servers",
    "Instance": "instances",
    "Release": "releases",
    "InstanceClass": "instanceclasses",
    "Backup": "backups",
    "Restore": "restores",
}
CLUSTER_SCOPED = ("Release", "InstanceClass")
GONE = 404


class Operator:
    """`dotmac-operator run` as a subprocess. Its log, JSON lines, goes to one file over all starts."""

    def __init__(self, kubeconfig: Path, log: Path, namespace: str = NAMESPACE, log_level: str = "debug") -> None:
        """`namespace` is the operator's own, where its Lease is."""
        self.log = log
        self._log_level = log_level
        self._process: subprocess.Popen[bytes] | None = None
        self._env = {
            **os.environ,
            "PYTHONPATH": PYTHONPATH,
            "KUBECONFIG": str(kubeconfig),
            "DOTMAC_OPERATOR_LEADER_ELECTION_NAMESPACE": namespace,
            # A host that was away is looked for again within seconds, so that tests need not wait out a minute.
            "DOTMAC_OPERATOR_BREAKER_SECONDS": "2",
            "DOTMAC_OPERATOR_METRICS_ADDRESS": "127.0.0.1:0",
            "DOTMAC_OPERATOR_DIAGNOSTICS_ADDRESS": "127.0.0.1:0",
            "DOTMAC_OPERATOR_DIAGNOSTICS_TOKEN": DIAGNOSTICS_TOKEN,
        }

    @property
    def pid(self) -> int:
        assert self._process is not None, "the operator was not started"
        return self._process.pid

    def start(self) -> None:
        program = Path(sys.executable).parent / "dotmac-operator"
        argv = [str(program), "run", "-n", NAMESPACE, "--log-format", "json", "--log-level", self._log_level]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(argv, env=self._env, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """kill -9: no chance to put anything away."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        self._process = None

    def stop(self) -> None:
        """SIGTERM, as a cluster sends it; it has to be gone within 20 seconds."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            code = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the operator ignored SIGTERM:\n{self.tail()}") from None
        self._process = None
        assert code == 0, f"the operator ended with {code}:\n{self.tail()}"

    def restart(self) -> None:
        self.stop()
        self.start()

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def mark(self) -> int:
        """The present end of the log, for `lines` and `text`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def text(self, since: int = 0) -> str:
        with self.log.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def lines(self, since: int = 0) -> list[dict[str, Any]]:
        """Records since a mark. A line that is no JSON (a traceback of the interpreter) becomes a message."""
        made = []
        for line in self.text(since).splitlines():
            try:
                made.append(json.loads(line))
            except ValueError:
                made.append({"message": line})
        return made

    def messages(self, instance: str, since: int = 0) -> list[str]:
        """What was logged about one Instance since a mark."""
        about = f"{NAMESPACE}/{instance}"
        return [str(line["message"]) for line in self.lines(since) if line.get("instance") == about]

    def url(self, what: str) -> str:
        """Where this start of it serves `metrics and health` or `diagnostics`."""
        said = [str(line["message"]) for line in self.lines()]
        return next(text.rpartition(" at ")[2] for text in reversed(said) if text.startswith(f"{what} at http://"))

    def tail(self, count: int = 40) -> str:
        shown = [line for line in self.lines() if line.get("level") != "DEBUG"][-count:]
        return "\n".join(
            f"{line.get('time', '')} {line.get('level', '')} {line.get('instance') or line.get('server') or ''} "
            f"{line.get('message', '')} {line.get('exc_info', '')}"
            for line in shown
        )


@dataclass
class Platform:
    """Everything a test talks to."""

    plane: ControlPlane
    operator: Operator
    hosts: dict[str, DockerHost] = field(default_factory=dict)
    _leaving: list[str] = field(default_factory=list)

    # The API, as a client sees it

    def path(self, kind: str, name: str = "") -> str:
        if kind == "Secret":
            base = f"/api/v1/namespaces/{NAMESPACE}/secrets"
        elif kind in CLUSTER_SCOPED:
            base = f"/apis/platform.dotmac.io/v1alpha1/{PLURALS[kind]}"
        else:
            base = f"/apis/platform.dotmac.io/v1alpha1/namespaces/{NAMESPACE}/{PLURALS[kind]}"
        return f"{base}/{name}" if name else base

    def apply(self, *objects: Object) -> None:
        """Server-side apply."""
        for obj in objects:
            answer = self.try_apply(obj)
            assert answer.is_success, f"{obj['kind']} {obj['metadata']['name']} was refused: {answer.text}"

    def try_apply(self, obj: Object) -> httpx.Response:
        return self.plane.client.patch(
            self.path(obj["kind"], obj["metadata"]["name"]),
            params={"fieldManager": "e2e", "force": "true"},
            headers={"Content-Type": "application/apply-patch+yaml"},
            # YAML knows no surrogate pairs, which JSON's escapes may be.
            content=json.dumps(obj, ensure_ascii=False).encode(),
        )

    def patch(self, kind: str, name: str, change: Object) -> None:
        """JSON merge patch."""
        answer = self.plane.client.patch(
            self.path(kind, name),
            headers={"Content-Type": "application/merge-patch+json"},
            content=json.dumps(change),
        )
        assert answer.is_success, answer.text

    def get(self, kind: str, name: str) -> Object | None:
        answer = self.plane.client.get(self.path(kind, name))
        if answer.status_code == GONE:
            return None
        assert answer.is_success, answer.text
        found: Object = answer.json()
        return found

    def delete(self, kind: str, name: str) -> None:
        answer = self.plane.client.delete(self.path(kind, name))
        assert answer.is_success or answer.status_code == GONE, answer.text

    def events(self, name: str) -> list[Object]:
        """Events about the object of this name, oldest first."""
        listed = self.plane.client.get(f"/api/v1/namespaces/{NAMESPACE}/events").json()["items"]
        return [event for event in listed if event["involvedObject"]["name"] == name]

    # Waiting

    def wait[T](self, told: str, look: Callable[[], T | None], seconds: float = 30, about: str = "") -> T:
        """Looks until there is something true; else fails and shows everything that could explain it."""
        deadline = time.monotonic() + seconds
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds:.0f} s: {told}\n{self.explain(about)}", pytrace=False)
            if not self.operator.alive() and self.operator._process is not None:
                pytest.fail(f"the operator ended by itself\n{self.explain(about)}", pytrace=False)
            time.sleep(POLL)

    def wait_condition(
        self, kind: str, name: str, type_: str, status: str, *, reason: str = "", seconds: float = 30
    ) -> Object:
        """Waits until a condition that is about the present generation has this status (and reason)."""

        def look() -> Object | None:
            found = self.get(kind, name)
            if found is None:
                return None
            held = condition(found, type_)
            current = held and held.get("observedGeneration") == found["metadata"]["generation"]
            matches = held and held["status"] == status and reason in ("", held["reason"])
            return found if current and matches else None

        wanted = f"{kind} {name} has {type_}={status}" + (f" because of {reason}" if reason else "")
        return self.wait(wanted, look, seconds, about=name)

    def wait_ready(self, name: str, seconds: float = 60) -> Object:
        """Waits until the Instance's present generation is in place; fails at once when it is stalled."""

        def look() -> Object | None:
            found = self.get("Instance", name)
            assert found is not None, f"Instance {name} is gone"
            if status_of(found, "Stalled", found["metadata"]["generation"]) == "True":
                pytest.fail(f"Instance {name} is stalled\n{self.explain(name)}", pytrace=False)
            ready = status_of(found, "Ready", found["metadata"]["generation"]) == "True"
            return found if ready and found["status"]["observedGeneration"] == found["metadata"]["generation"] else None

        return self.wait(f"Instance {name} is Ready", look, seconds, about=name)

    def wait_gone(self, name: str, seconds: float = 60) -> None:
        self.wait(f"Instance {name} is gone", lambda: self.get("Instance", name) is None, seconds, about=name)

    def explain(self, name: str = "") -> str:
        """What somebody needs who was not there: the object, the operator's last lines, every container."""
        parts = []
        for kind, shown in (("Instance", name), *(("Server", host) for host in self.hosts)):
            found = self.get(kind, shown) if shown else None
            if found is not None:
                parts.append(f"--- {kind} {shown}\n" + yaml.safe_dump(found.get("status")))
        parts.append("--- operator\n" + self.operator.tail())
        for host in self.hosts.values():
            listed = host.docker("ps", "--all", "--format", "{{.Names}}\t{{.Image}}\t{{.Status}}")
            parts.append(f"--- docker ps -a on {host.name}\n{listed}")
        return "\n".join(parts)

    # Tenants

    @contextmanager
    def tenant(self, obj: Object, seconds: float = 60) -> Iterator["Tenant"]:
        """Applies an Instance, waits until it is Ready, and lets it go with its data afterwards."""
        made = Tenant(self, obj["metadata"]["name"])
        try:
            self.apply(obj)
            self.wait_ready(made.name, seconds)
            yield made
        finally:
            self.let_go(made.name)

    def let_go(self, name: str) -> None:
        """Deletes an Instance with its data, without waiting: `assert_clean` does, once for all of them."""
        if self.get("Instance", name) is not None:
            self.patch("Instance", name, {"spec": {"deletion": {"policy": "Delete", "protected": False}}})
            self.delete("Instance", name)
            self._leaving.append(name)

    def assert_clean(self) -> None:
        """Waits for the deletions that are under way; then nothing but the proxies may be left on the hosts."""
        for name in self._leaving:
            self.wait_gone(name)
        self._leaving.clear()
        mine = ("--filter", "label=platform.dotmac.io/instance-uid")
        for host in self.hosts.values():
            left = [
                *host.docker("ps", "--all", *mine, "--format", "{{.Names}}").split(),
                *host.docker("network", "ls", *mine, "--format", "{{.Name}}").split(),
                *host.docker("volume", "ls", *mine, "--format", "{{.Name}}").split(),
            ]
            assert left == [], f"left behind on {host.name}: {left}"


@dataclass
class Tenant:
    """One Instance and what it has on its host."""

    platform: Platform
    name: str
    server: str = ""
    """Name of its Server, once it was looked for: the Instance may be gone before what it left is."""

    @property
    def object(self) -> Object:
        found = self.platform.get("Instance", self.name)
        assert found is not None, f"Instance {self.name} is gone"
        return found

    @property
    def status(self) -> Object:
        found: Object = self.object.get("status", {})
        return found

    @property
    def host(self) -> DockerHost:
        found = self.platform.get("Instance", self.name) or {}
        fixed = found.get("spec", {}).get("serverRef", {}).get("name", "")
        self.server = found.get("status", {}).get("server", "") or fixed or self.server
        return self.platform.hosts[self.server]

    @property
    def domain(self) -> str:
        return f"{self.name}.{self.status['server']}.example"

    @property
    def url(self) -> str:
        return f"http://{self.host.address}:{HTTP_PORT}"

    def ask(self, path: str = "/", **options: Any) -> httpx.Response:
        """A request through the host's proxy, by plain HTTP."""
        method = options.pop("method", "GET")
        options.setdefault("timeout", 30)
        headers = {"Host": self.domain, **options.pop("headers", {})}
        return httpx.request(method, f"{self.url}{path}", headers=headers, trust_env=False, **options)

    def credentials(self) -> dict[str, str]:
        """The generated secrets."""
        from base64 import b64decode

        found = self.platform.get("Secret", f"{self.name}-credentials")
        assert found is not None, f"Secret {self.name}-credentials does not exist"
        return {key: b64decode(value).decode() for key, value in found["data"].items()}

    def containers(self, role: str = "") -> list[Object]:
        """What `docker inspect` says of the tenant's containers, by name."""
        return sorted(
            (c for c in self._inspect("container") if role in ("", c["Config"]["Labels"]["platform.dotmac.io/role"])),
            key=lambda c: str(c["Name"]),
        )

    def ids(self) -> dict[str, str]:
        """Name -> id and start of each container: the same as before means nobody touched it."""
        return {c["Name"]: f"{c['Id']} {c['State']['StartedAt']}" for c in self.containers()}

    def networks(self) -> list[Object]:
        return self._inspect("network")

    def volumes(self) -> dict[str, str]:
        """Name -> inode and birth of its directory: the same as before means the same data. (CreatedAt moves when
        the owner is set.)"""
        return {v["Name"]: birth(v["Mountpoint"]) for v in self._inspect("volume")}

    def runs(self) -> list[str]:
        """The lines that migrate and bootstrap of sample-web left in the data volume."""
        return self.exec("web", "cat", "/data/runs").splitlines()

    def exec(self, role: str, *argv: str) -> str:
        running = [c["Id"] for c in self.containers(role) if c["State"]["Running"]]
        assert running, f"no container of role {role} runs"
        return self.host.docker("exec", running[0], *argv)

    def _inspect(self, kind: str) -> list[Object]:
        # By name and namespace, not by uid: what an earlier Instance of this name left behind counts too.
        mine = ("--filter", f"label=platform.dotmac.io/instance={self.name}")
        every = ("--all",) if kind == "container" else ()
        host = self.host
        for _ in range(5):
            found = host.docker(kind, "ls", *every, "--quiet", *mine).split()
            try:
                listed: list[Object] = json.loads(host.docker(kind, "inspect", *found)) if found else []
            except CommandFailed as error:
                if "No such" not in str(error):
                    raise
                continue  # one went between the two calls
            return listed
        raise AssertionError(f"the {kind}s of {self.name} come and go")


def birth(directory: str) -> str:
    return subprocess.run(["stat", "--format=%i %w", directory], capture_output=True, text=True, check=True).stdout


def condition(obj: Object, type_: str) -> Object | None:
    conditions = obj.get("status", {}).get("conditions", [])
    return next((held for held in conditions if held["type"] == type_), None)


def status_of(obj: Object, type_: str, generation: int) -> str:
    """Status of a condition, or "" when it is absent or about another generation."""
    held = condition(obj, type_)
    return str(held["status"]) if held and held.get("observedGeneration") == generation else ""
