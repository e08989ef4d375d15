"""The demo's control plane: the embedded one or a cluster of the user's, the CRDs, and the example resources."""

import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config, dynamic
from kubernetes.dynamic.exceptions import NotFoundError, ResourceNotFoundError

from dotmac_local.demo.images import ROOT
from dotmac_local.demo.processes import CommandFailed, run
from dotmac_local.demo.sshd import Sshd
from dotmac_local.demo.state import CONTROL_PLANE, EXAMPLES, Settings

NAMESPACE = "default"
API_VERSION = "platform.dotmac.io/v1alpha1"
RECONCILE_REQUESTED_AT = "platform.dotmac.io/reconcile-requested-at"
FIELD_MANAGER = "dotmac-demo"
INSTANCES = ("acme", "globex")
SERVER = "demo"
SSH_SECRET = "demo-ssh"  # noqa: S105 - the name of a Secret

type Object = dict[str, Any]


def start_embedded() -> None:
    """Start the embedded control plane unless it runs."""
    run([sys.executable, "-m", "dotmac_local.cli", "up", "--dir", str(CONTROL_PLANE)], timeout=60)


def stop_embedded() -> None:
    """Stop it and delete what it keeps."""
    run([sys.executable, "-m", "dotmac_local.cli", "down", "--dir", str(CONTROL_PLANE), "--purge"], timeout=60)


def embedded_status() -> str:
    """One line about it."""
    command = [sys.executable, "-m", "dotmac_local.cli", "status", "--dir", str(CONTROL_PLANE)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "not running"


class Cluster:
    """A Kubernetes API as the demo uses it."""

    def __init__(self, kubeconfig: Path) -> None:
        if not kubeconfig.is_file():
            raise FileNotFoundError(f"there is no kubeconfig {kubeconfig}")
        try:
            self._api = config.new_client_from_config(str(kubeconfig))
        except config.ConfigException as wrong:
            raise CommandFailed(f"{kubeconfig} is not a usable kubeconfig: {wrong}") from wrong
        self._dynamic: Any = None

    def version(self) -> str:
        """The server's version; raises when it cannot be reached."""
        return str(client.VersionApi(self._api).get_code(_request_timeout=10).git_version)

    def get(self, kind: str, name: str) -> Object | None:
        """One object, or None."""
        try:
            found: Object = self._resource(kind).get(name=name, namespace=self._namespace(kind)).to_dict()
        except (NotFoundError, ResourceNotFoundError):
            return None
        return found

    def all_of(self, kind: str) -> list[Object]:
        """All objects of a kind in the demo's namespace."""
        try:
            answer: Object = self._resource(kind).get(namespace=self._namespace(kind)).to_dict()
        except (NotFoundError, ResourceNotFoundError):
            return []
        return list(answer.get("items") or [])

    def apply(self, body: Object) -> Object:
        """Server-side apply; the object as it is now."""
        kind = body["kind"]
        made: Object = (
            self._resource(kind)
            .server_side_apply(
                body=body,
                name=body["metadata"]["name"],
                namespace=self._namespace(kind),
                field_manager=FIELD_MANAGER,
                force_conflicts=True,
            )
            .to_dict()
        )
        return made

    def merge(self, kind: str, name: str, body: Object) -> None:
        """Merge a change into an object; nothing happens when it is not there."""
        try:
            self._resource(kind).patch(
                body=body, name=name, namespace=self._namespace(kind), content_type="application/merge-patch+json"
            )
        except (NotFoundError, ResourceNotFoundError):
            return

    def delete(self, kind: str, name: str) -> None:
        """Ask for an object's deletion; nothing happens when it is not there."""
        try:
            self._resource(kind).delete(name=name, namespace=self._namespace(kind))
        except (NotFoundError, ResourceNotFoundError):
            return

    def apply_crds(self) -> list[str]:
        """Install or update the CRDs and wait until they are served; the names of those that were not there."""
        fresh = []
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            body = yaml.safe_load(path.read_text())
            name = body["metadata"]["name"]
            if self.get("CustomResourceDefinition", name) is None:
                fresh.append(name)
            self.apply(body)
        deadline = time.monotonic() + 30
        while waiting := [name for name in self._crd_names() if not self._established(name)]:
            if time.monotonic() > deadline:
                raise CommandFailed(f"not established after 30 s: {', '.join(waiting)}")
            time.sleep(0.2)
        self._dynamic = None
        return fresh

    def _crd_names(self) -> Iterator[str]:
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            yield yaml.safe_load(path.read_text())["metadata"]["name"]

    def _established(self, name: str) -> bool:
        found = self.get("CustomResourceDefinition", name) or {}
        conditions = (found.get("status") or {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    def _resource(self, kind: str) -> Any:
        if self._dynamic is None:
            self._dynamic = dynamic.DynamicClient(self._api)  # type: ignore[no-untyped-call]
        versions = {"Secret": "v1", "CustomResourceDefinition": "apiextensions.k8s.io/v1"}
        return self._dynamic.resources.get(api_version=versions.get(kind, API_VERSION), kind=kind)

    @staticmethod
    def _namespace(kind: str) -> str | None:
        return NAMESPACE if kind in ("Secret", "Server", "Instance") else None


def example_objects(settings: Settings, sshd: Sshd) -> list[Object]:
    """deploy/examples with this machine's host in place of the documented one, and the Secret with the demo's key."""
    key = base64.b64encode(sshd.private_key.encode()).decode()
    objects: list[Object] = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SSH_SECRET, "namespace": NAMESPACE},
            "type": "kubernetes.io/ssh-auth",
            "data": {"ssh-privatekey": key},
        }
    ]
    for path in sorted(EXAMPLES.glob("*.yaml")):
        objects += [body for body in yaml.safe_load_all(path.read_text()) if body]
    for body in objects:
        if body["kind"] == "Server":
            body["spec"] |= {
                "address": sshd.settings.address,
                "port": sshd.settings.port,
                "user": sshd.settings.user,
                "hostKeys": [sshd.host_key],
            }
            if settings.network_pool:
                body["spec"]["capacity"] = {**body["spec"].get("capacity", {}), "networkPool": settings.network_pool}
            body["spec"]["proxy"] |= {"httpPort": settings.http_port, "httpsPort": settings.https_port}
        if body["kind"] in ("Server", "Instance"):
            body["metadata"]["namespace"] = NAMESPACE
    return objects


def apply_examples(cluster: Cluster, settings: Settings, sshd: Sshd) -> Settings:
    """Apply them; the settings with the uids of what has objects in the Engine.

    A Release, class or Instance that is there already stays as it is: its user may have tried something with it.
    """
    uids = list(settings.uids)
    for body in example_objects(settings, sshd):
        kept = body["kind"] not in ("Secret", "Server") and cluster.get(body["kind"], body["metadata"]["name"])
        made = kept or cluster.apply(body)
        if body["kind"] in ("Server", "Instance") and made["metadata"]["uid"] not in uids:
            uids.append(made["metadata"]["uid"])
    return replace(settings, uids=uids)


def request_reconcile(cluster: Cluster) -> str:
    """Have the operator look at both Instances now; the token that their status repeats once it has."""
    token = datetime.now(UTC).isoformat(timespec="milliseconds")
    for name in INSTANCES:
        cluster.merge("Instance", name, {"metadata": {"annotations": {RECONCILE_REQUESTED_AT: token}}})
    return token


def remove_examples(cluster: Cluster, *, timeout: float) -> list[str]:
    """Delete the Instances with their data, then the rest; the names of what is still there after `timeout` seconds."""
    for name in INSTANCES:
        cluster.merge("Instance", name, {"spec": {"deletion": {"policy": "Delete", "protected": False}}})
        cluster.delete("Instance", name)
    left = _wait_gone(cluster, "Instance", INSTANCES, timeout)
    cluster.delete("Server", SERVER)
    left += _wait_gone(cluster, "Server", (SERVER,), timeout / 3)
    for kind, name in (("Release", "tryton"), ("Release", "tryton-6.0.1"), ("InstanceClass", "starter")):
        cluster.delete(kind, name)
    for name in (SSH_SECRET, *(f"{instance}-credentials" for instance in INSTANCES)):
        cluster.delete("Secret", name)
    return left


def _wait_gone(cluster: Cluster, kind: str, names: tuple[str, ...], timeout: float) -> list[str]:
    """Wait until the finalizers have run; `kind name` of those that are still there."""
    deadline = time.monotonic() + timeout
    while (left := [name for name in names if cluster.get(kind, name) is not None]) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [f"{kind} {name}" for name in left]


def drop_finalizers(cluster: Cluster) -> None:
    """Let go of objects whose operator could not finish: the demo removes what they stand for by itself."""
    for kind, names in (("Instance", INSTANCES), ("Server", (SERVER,))):
        for name in names:
            cluster.merge(kind, name, {"metadata": {"finalizers": None}})


def remove_crds(cluster: Cluster, names: list[str]) -> None:
    """Delete the CRDs that the demo has brought, unless somebody has made objects of their own with them."""
    kinds = ("Server", "Release", "InstanceClass", "Instance", "Backup", "Restore")
    if not any(cluster.all_of(kind) for kind in kinds):
        for name in names:
            cluster.delete("CustomResourceDefinition", name)
