"""What Helm makes of a chart: the real Helm library installs it into an API server that only remembers what it got."""

import asyncio
import atexit
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import helm_sdkpy
import pytest
import yaml

_RESOURCES: dict[str, tuple[tuple[str, str, bool], ...]] = {
    "v1": (
        ("ConfigMap", "configmaps", True),
        ("Namespace", "namespaces", False),
        ("Secret", "secrets", True),
        ("Service", "services", True),
        ("ServiceAccount", "serviceaccounts", True),
    ),
    "apps/v1": (("Deployment", "deployments", True),),
    "batch/v1": (("Job", "jobs", True),),
    "policy/v1": (("PodDisruptionBudget", "poddisruptionbudgets", True),),
    "networking.k8s.io/v1": (("NetworkPolicy", "networkpolicies", True),),
    "monitoring.coreos.com/v1": (("ServiceMonitor", "servicemonitors", True),),
    "apiextensions.k8s.io/v1": (("CustomResourceDefinition", "customresourcedefinitions", False),),
    "rbac.authorization.k8s.io/v1": (
        ("ClusterRole", "clusterroles", False),
        ("ClusterRoleBinding", "clusterrolebindings", False),
        ("Role", "roles", True),
        ("RoleBinding", "rolebindings", True),
    ),
}


_PROTOBUF = "application/vnd.kubernetes.protobuf"


_BATCH = {
    # Helm asks whether the server validates fields itself. It says so: other tests look at the fields.
    "openapi": "3.0.0",
    "info": {"title": "Kubernetes", "version": "v1"},
    "paths": {
        "/apis/batch/v1/namespaces/{namespace}/jobs/{name}": {
            "patch": {
                "x-kubernetes-group-version-kind": {"group": "batch", "version": "v1", "kind": "Job"},
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "responses": {},
            }
        }
    },
}


class ChartRefused(AssertionError):
    """Helm did not take the chart with these values; the message is Helm's."""


class _Memory(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict[str, dict[str, Any]]

    def _answer(self, status: int, body: dict[str, Any] | bytes) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", _PROTOBUF if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        path = self.path.partition("?")[0].strip("/")
        if path == "version":
            self._answer(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0", "platform": "linux/amd64"})
        elif path == "api":
            self._answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "apis":
            self._answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups()})
        elif (found := _resource_list(path)) is not None:
            self._answer(200, found)
        elif path in self.objects:
            self._answer(200, self.objects[path])
        elif path == "openapi/v3":
            self._answer(200, {"paths": {"apis/batch/v1": {"serverRelativeURL": "/openapi/v3/apis/batch/v1"}}})
        elif path == "openapi/v3/apis/batch/v1":
            self._answer(200, _BATCH)
        elif path.rpartition("/")[2] in {plural for kinds in _RESOURCES.values() for _, plural, _ in kinds}:
            plural = path.rpartition("/")[2]
            items = [obj for place, obj in self.objects.items() if place.rpartition("/")[0].endswith(plural)]
            if "watch=true" in self.path or "watch=1" in self.path:
                self._watch(items)
                return
            meta = {"resourceVersion": "1"}
            self._answer(200, {"kind": "List", "apiVersion": "v1", "metadata": meta, "items": items})
        else:
            self._answer(
                404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            )

    def _watch(self, items: list[dict[str, Any]]) -> None:
        lines = b"".join(json.dumps({"type": "ADDED", "object": obj}).encode() + b"\n" for obj in items)
        self._answer(200, {} if not lines else lines)

    def _keep(self, status: int, place: str) -> None:
        body = self._body()
        if _PROTOBUF in self.headers.get("Content-Type", ""):
            self._answer(status, body)  # Helm's own record of the release
            return
        obj = yaml.safe_load(body)
        if obj["kind"] == "Job":  # Helm waits for a hook to end
            obj["status"] = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
        self.objects[place.format(name=obj["metadata"]["name"])] = obj
        self._answer(status, obj)

    def do_POST(self) -> None:  # noqa: N802
        self._keep(201, self.path.partition("?")[0].strip("/") + "/{name}")

    def do_PUT(self) -> None:  # noqa: N802
        self._keep(200, self.path.partition("?")[0].strip("/"))

    do_PATCH = do_PUT  # noqa: N815 - server-side apply: the body is the whole object

    def do_DELETE(self) -> None:  # noqa: N802
        self._body()
        self.objects.pop(self.path.partition("?")[0].strip("/"), None)
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def log_message(self, format: str, *args: object) -> None:
        pass


def _groups() -> list[dict[str, Any]]:
    made = []
    for version in _RESOURCES:
        group, _, short = version.rpartition("/")
        if group:
            entry = {"groupVersion": version, "version": short}
            made.append({"name": group, "versions": [entry], "preferredVersion": entry})
    return made


def _resource_list(path: str) -> dict[str, Any] | None:
    version = path.removeprefix("apis/").removeprefix("api/")
    if version not in _RESOURCES or not path.startswith(("api/", "apis/")):
        return None
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources = [
        {"name": plural, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": verbs}
        for kind, plural, namespaced in _RESOURCES[version]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


@contextmanager
def _server() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    objects: dict[str, dict[str, Any]] = {}
    handler = type("Memory", (_Memory,), {"objects": objects})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", objects
    finally:
        server.shutdown()
        server.server_close()


@cache
def _helm() -> ProcessPoolExecutor:
    """A process with the Helm library, whose Go runtime makes folders in the home that the process was started with."""
    home = TemporaryDirectory(prefix="helm-")
    atexit.register(home.cleanup)
    with pytest.MonkeyPatch.context() as environment:
        for part in ("CACHE", "CONFIG", "DATA"):
            environment.setenv(f"HELM_{part}_HOME", f"{home.name}/{part.lower()}")
        pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        pool.submit(int).result()
    return pool


def _install(url: str, chart: str, values: dict[str, Any], namespace: str) -> str:
    """Helm's error, or nothing."""
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "memory",
        "clusters": [{"name": "memory", "cluster": {"server": url}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "memory", "context": {"cluster": "memory", "user": "nobody"}}],
    }  # fmt: skip
    try:
        with helm_sdkpy.Configuration(namespace=namespace, kubeconfig=yaml.safe_dump(config)) as cluster:
            asyncio.run(
                helm_sdkpy.Install(cluster).run(
                    "dotmac", chart, values=values, wait=False, timeout=20, server_side_apply=True
                )
            )
    except helm_sdkpy.HelmError as error:
        return str(error) or repr(error)
    return ""


def render(chart: Path, values: dict[str, Any] | None = None, namespace: str = "dotmac-system") -> list[dict[str, Any]]:
    """The objects of a chart, hooks among them, as Helm sends them to a cluster.

    Raises:
        ChartRefused: a template or the values are wrong.
    """
    with _server() as (url, objects):
        if error := _helm().submit(_install, url, str(chart), values or {}, namespace).result():
            raise ChartRefused(error)
        return list(objects.values())
