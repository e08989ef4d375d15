"""Pods of rendered manifests, run as containers of a Docker host with what a kubelet would give them, and no more.

A field of a pod that this does not know fails the test: nothing of a manifest is passed over in silence.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.kits.dockerhost import DockerHost
from tests.kits.relay import Relay

type Object = dict[str, Any]

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PROBES = {"livenessProbe", "readinessProbe"}
POD = {
    *("serviceAccountName", "automountServiceAccountToken", "terminationGracePeriodSeconds", "securityContext"),
    *("containers", "volumes", "restartPolicy"),
}
CONTAINER = {
    *("name", "image", "args", "envFrom", "env", "ports", "resources", "securityContext", "volumeMounts"),
    *PROBES,
}


@dataclass(frozen=True)
class Cluster:
    """An API server on this machine's loopback: `client` asks as its administrator, `ca` is a PEM file."""

    client: httpx.Client
    ca: Path
    port: int


@dataclass
class Pod:
    """One container of a pod on its host."""

    host: DockerHost
    container: str
    spec: Object
    grace: int

    def log(self) -> str:
        """Both of its streams."""
        argv = ["docker", "--host", f"unix://{self.host.docker_socket}", "logs", self.container]
        return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout

    def exec(self, *argv: str, data: bytes | None = None) -> str:
        """What `kubectl exec` would print."""
        interactive = ("--interactive",) if data is not None else ()
        return self.host.docker("exec", *interactive, self.container, *argv, data=data)

    def state(self) -> Object:
        found: Object = json.loads(self.host.docker("inspect", self.container))[0]["State"]
        return found

    def end(self, seconds: float = 60) -> int:
        """Waits for the end of a Job's pod; its exit code."""
        return int(self.host.docker("wait", self.container, timeout=seconds))

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after the grace period; the exit code."""
        self.host.docker("stop", "--time", str(self.grace), self.container, timeout=self.grace + 20)
        return int(self.state()["ExitCode"])

    def await_probe(self, name: str, seconds: float = 60) -> None:
        """Asks as the kubelet does until the probe passes."""
        path = self.spec[name]["httpGet"]["path"]
        url = f"http://{self.host.address}:{self._port(self.spec[name]['httpGet']['port'])}{path}"
        deadline = time.monotonic() + seconds
        said = "nothing"
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(url, timeout=self.spec[name].get("timeoutSeconds", 1), trust_env=False)
            except httpx.HTTPError as error:
                said = str(error)
            else:
                if answer.is_success:
                    return
                said = answer.text
            assert self.state()["Running"], f"{self.container} ended:\n{self.log()}"
            time.sleep(0.2)
        raise AssertionError(f"{name} of {self.container} failed for {seconds} s: {said}\n{self.log()[-4000:]}")

    def _port(self, told: int | str) -> int:
        named = {port["name"]: int(port["containerPort"]) for port in self.spec["ports"]}
        return told if isinstance(told, int) else named[told]


@dataclass
class Kubelet:
    """Runs pods of `objects` (rendered manifests) on a host whose loopback reaches the API server."""

    host: DockerHost
    cluster: Cluster
    objects: Iterable[Object]
    images: dict[str, str]
    scratch: Path
    _made: list[str] = field(default_factory=list)

    def run(self, kind: str, name: str, suffix: str = "") -> Pod:
        """Start the only container of a Deployment's or Job's pod."""
        owner = self._find(kind, name)
        namespace, pod = owner["metadata"]["namespace"], owner["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        unknown = {*pod, *container} - POD - CONTAINER
        assert not unknown, f"{kind} {name}: no kubelet of this kit knows {sorted(unknown)}"
        told = f"pod-{name}{suffix}"
        folder = self.scratch / told
        folder.mkdir()
        (folder / "env").write_text("".join(f"{k}={v}\n" for k, v in self._environment(container, namespace).items()))
        arguments = [*_security(pod, container), *_memory(container), *self._volumes(pod, container)]
        if pod.get("automountServiceAccountToken"):
            arguments += ["--volume", f"{self._account(pod, namespace, folder)}:{ACCOUNT}:ro"]
        arguments += [word for o in self.objects if o["kind"] == "Service" for word in _hosts_entry(o)]
        self.host.docker(
            *("run", "--detach", "--network=host", f"--name={told}", f"--env-file={folder / 'env'}"),
            *arguments,
            self.images[container["image"]],
            *container.get("args", ()),
        )
        self._made.append(told)
        return Pod(self.host, told, container, pod.get("terminationGracePeriodSeconds", 30))

    def remove_all(self) -> None:
        for container in self._made:
            self.host.docker("rm", "--force", "--volumes", container)
        self._made.clear()

    def _find(self, kind: str, name: str) -> Object:
        return next(o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name))

    def _environment(self, container: Object, namespace: str) -> dict[str, str]:
        values = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.cluster.port)}
        for source in container.get("envFrom", ()):
            if "configMapRef" in source:
                values |= self._find("ConfigMap", source["configMapRef"]["name"])["data"]
            else:
                values |= self._secret(namespace, source["secretRef"]["name"], optional=False)
        for entry in container.get("env", ()):
            if "value" in entry:
                values[entry["name"]] = entry["value"]
                continue
            wanted = entry["valueFrom"]["secretKeyRef"]
            held = self._secret(namespace, wanted["name"], optional=wanted.get("optional", False))
            if wanted["key"] in held:
                values[entry["name"]] = held[wanted["key"]]
        return values

    def _secret(self, namespace: str, name: str, *, optional: bool) -> dict[str, str]:
        answer = self.cluster.client.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        if answer.status_code == 404 and optional:
            return {}
        assert answer.is_success, answer.text
        return {key: b64decode(value).decode() for key, value in answer.json().get("data", {}).items()}

    def _account(self, pod: Object, namespace: str, folder: Path) -> Path:
        name = pod["serviceAccountName"]
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        answer = self.cluster.client.post(path, json={"spec": {"expirationSeconds": 3607}})
        assert answer.status_code == 201, answer.text
        made = folder / "account"
        made.mkdir()
        (made / "token").write_text(answer.json()["status"]["token"])
        (made / "namespace").write_text(namespace)
        (made / "ca.crt").write_bytes(self.cluster.ca.read_bytes())
        for path in made.iterdir():
            path.chmod(0o644)
        return made

    def _volumes(self, pod: Object, container: Object) -> Iterator[str]:
        sources = {volume["name"]: volume["emptyDir"] for volume in pod.get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            source = sources[mount["name"]]
            assert source["medium"] == "Memory"
            yield from ("--tmpfs", f"{mount['mountPath']}:mode=1777,size={_bytes(source['sizeLimit'])}")


def _security(pod: Object, container: Object) -> Iterator[str]:
    everybody, own = pod["securityContext"], container["securityContext"]
    assert everybody["seccompProfile"] == {"type": "RuntimeDefault"}
    yield f"--user={everybody['runAsUser']}:{everybody['runAsGroup']}"
    yield from (f"--cap-drop={name}" for name in own["capabilities"]["drop"])
    if own["readOnlyRootFilesystem"]:
        yield "--read-only"
    if own["allowPrivilegeEscalation"] is False:
        yield "--security-opt=no-new-privileges"


def _memory(container: Object) -> Iterator[str]:
    yield f"--memory={_bytes(container['resources']['limits']['memory'])}"


def _bytes(quantity: str) -> int:
    assert quantity.endswith("Mi"), quantity
    return int(quantity.removesuffix("Mi")) * 2**20


def _hosts_entry(service: Object) -> tuple[str, str]:
    return ("--add-host", f"{service['metadata']['name']}:127.0.0.1")


@contextmanager
def loopback(host: DockerHost, ports: Iterable[int]) -> Iterator[None]:
    """Lets the host's own 127.0.0.1 reach these ports of this machine's."""
    with ExitStack() as open_:
        for port in ports:
            open_.callback(Relay(port, _listen_in(host.namespace, port)).close)
        yield


def _listen_in(namespace: str, port: int) -> socket.socket:
    """A socket of another network namespace: it stays there when the thread that made it is gone."""

    def make() -> socket.socket:
        with Path(f"/run/netns/{namespace}").open("rb") as entered:
            os.setns(entered.fileno(), os.CLONE_NEWNET)
            return socket.create_server(("127.0.0.1", port))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()
