"""The server under test, and one replay of everything on it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.conformance.replay import Replay
from tests.conformance.target import Target, find_target
from tests.conformance.things import NAMESPACE, Things, core, definition, installed, ok, until
from tests.conformance.transcript import SCENARIOS

# What the scenarios create outside their namespaces.
LEFTOVERS = (
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/trans-reader",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/trans-reader",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.widgets.example.com",
    "/api/v1/namespaces/trans",
    "/api/v1/namespaces/gc",
)


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with find_target(tmp_path_factory.mktemp("control-plane")) as found:
        yield found


@pytest.fixture(scope="session")
def namespace(target: Target) -> Iterator[httpx.Client]:
    """A namespace for the tests of behaviours, with the administrator's client."""
    with target.client() as admin:
        ok(admin.post("/api/v1/namespaces", json={"apiVersion": "v1", "kind": "Namespace", "metadata": _NAME}))
        yield admin
        admin.delete(f"/api/v1/namespaces/{NAMESPACE}")
        if target.controllers:
            until(lambda: admin.get(f"/api/v1/namespaces/{NAMESPACE}").status_code == 404)


_NAME = {"name": NAMESPACE}


@pytest.fixture(scope="module")
def things(target: Target, namespace: httpx.Client) -> Iterator[Things]:
    """A kind with all sorts of lists and maps, none of them required."""
    number = {"type": "integer"}
    text = {"type": "string"}
    port = {"type": "object", "required": ["name"], "properties": {"name": text, "number": number}}
    spec = {
        "type": "object",
        "properties": {
            "size": {**number, "maximum": 100},
            "color": {**text, "default": "red"},
            "ports": {
                "type": "array",
                "items": port,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
            "tags": {"type": "array", "items": text, "x-kubernetes-list-type": "set"},
            "steps": {"type": "array", "items": text},
            "labels": {"type": "object", "additionalProperties": text},
            "limits": {
                "type": "object",
                "properties": {"cpu": text, "memory": text},
                "x-kubernetes-map-type": "atomic",
            },
            "nested": {"type": "object", "properties": {"deep": {"type": "object", "properties": {"x": number}}}},
        },
    }
    with installed(target, definition("things", "Thing", spec)) as made:
        yield made


@pytest.fixture
def config_maps(namespace: httpx.Client) -> Things:
    return core(namespace, "configmaps", "ConfigMap")


@pytest.fixture
def secrets(namespace: httpx.Client) -> Things:
    return core(namespace, "secrets", "Secret")


@pytest.fixture(scope="session")
def replay(target: Target) -> Iterator[Replay]:
    """All scenarios, replayed in order. Refuses a cluster that has objects of the same names already."""
    with target.client() as admin:
        for path in LEFTOVERS:
            if admin.get(path).status_code != 404:
                pytest.exit(f"{target.url}{path} is there already; replay against a cluster without it", 3)
        run = Replay(target)
        try:
            for scenario in SCENARIOS:
                if target.controllers or scenario != "14-garbage-collection":
                    run.run(scenario)
            yield run
        finally:
            clean(admin)


def clean(admin: httpx.Client) -> None:
    """Remove what the scenarios made; nothing is left that waits for a finalizer."""
    everything = admin.get("/apis/widgets.example.com/v1/widgets")
    for item in everything.json()["items"] if everything.status_code == 200 else []:
        namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
        path = f"/apis/widgets.example.com/v1/namespaces/{namespace}/widgets/{name}"
        if item["metadata"].get("finalizers"):
            release = {"metadata": {"finalizers": None}}
            admin.patch(path, json=release, headers={"Content-Type": "application/merge-patch+json"})
    for path in LEFTOVERS:
        admin.delete(path)
