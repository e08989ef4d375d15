"""The server under test, and one replay of everything on it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from tests.conformance.replay import Replay
from tests.conformance.target import Target, find_target
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
