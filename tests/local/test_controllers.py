"""Garbage collection, namespaces and definitions that go, beside what the recorded scenarios show."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.kits.controlplane import ControlPlane, start
from tests.local import widgets
from tests.local.widgets import PATH, make

MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(scope="module", autouse=True)
def _widgets(control_plane: ControlPlane) -> None:
    widgets.install(control_plane)


def eventually(what: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.03)


def owned_by(*owners: dict[str, Any], **more: Any) -> dict[str, Any]:
    references = [
        {
            "apiVersion": o["apiVersion"],
            "kind": o["kind"],
            "name": o["metadata"]["name"],
            "uid": o["metadata"]["uid"],
            **more,
        }
        for o in owners
    ]
    return {"ownerReferences": references}


def gone(server: ControlPlane, name: str) -> bool:
    return server.client.get(f"{PATH}/{name}").status_code == 404


def test_a_chain_of_owners_goes_from_the_top(control_plane: ControlPlane) -> None:
    top = make(control_plane, "top")
    middle = make(control_plane, "middle", **owned_by(top))
    make(control_plane, "bottom", **owned_by(middle))
    control_plane.client.delete(f"{PATH}/top")
    eventually(lambda: gone(control_plane, "middle") and gone(control_plane, "bottom"))


def test_one_of_two_owners_is_enough_to_stay(control_plane: ControlPlane) -> None:
    one, two = make(control_plane, "one"), make(control_plane, "two")
    make(control_plane, "shared", **owned_by(one, two))
    control_plane.client.delete(f"{PATH}/one")

    def left() -> list[str]:
        meta = control_plane.client.get(f"{PATH}/shared").json()["metadata"]
        return [reference["name"] for reference in meta["ownerReferences"]]

    eventually(lambda: left() == ["two"])
    control_plane.client.delete(f"{PATH}/two")
    eventually(lambda: gone(control_plane, "shared"))


def test_an_owner_of_the_same_name_is_another_owner(control_plane: ControlPlane) -> None:
    first = make(control_plane, "twin")
    control_plane.client.delete(f"{PATH}/twin")
    make(control_plane, "twin")
    make(control_plane, "child", **owned_by(first))
    eventually(lambda: gone(control_plane, "child"))
    assert not gone(control_plane, "twin")


def test_an_owner_of_an_unknown_kind_collects_nothing(control_plane: ControlPlane) -> None:
    stranger = {"apiVersion": "none.example.com/v1", "kind": "Nothing", "metadata": {"name": "x", "uid": "1-2-3"}}
    make(control_plane, "stays", **owned_by(stranger))
    time.sleep(0.5)
    assert not gone(control_plane, "stays")


def test_foreground_waits_only_for_those_that_block(control_plane: ControlPlane) -> None:
    owner = make(control_plane, "fore")
    make(control_plane, "blocks", finalizers=["example.com/hold"], **owned_by(owner, blockOwnerDeletion=True))
    make(control_plane, "lets-go", finalizers=["example.com/hold"], **owned_by(owner))
    control_plane.client.delete(f"{PATH}/fore", params={"propagationPolicy": "Foreground"})
    eventually(lambda: "deletionTimestamp" in control_plane.client.get(f"{PATH}/lets-go").json()["metadata"])
    assert not gone(control_plane, "fore")
    control_plane.client.patch(f"{PATH}/blocks", json={"metadata": {"finalizers": None}}, headers=MERGE)
    eventually(lambda: gone(control_plane, "fore"))
    assert not gone(control_plane, "lets-go")
    control_plane.client.patch(f"{PATH}/lets-go", json={"metadata": {"finalizers": None}}, headers=MERGE)


def test_a_namespace_says_what_holds_it(control_plane: ControlPlane) -> None:
    client = control_plane.client
    client.post("/api/v1/namespaces", json={"metadata": {"name": "leaving"}})
    place = PATH.replace("default", "leaving")
    client.post(place, json=widgets.widget("held", finalizers=["example.com/hold"]))
    client.post("/api/v1/namespaces/leaving/configmaps", json={"metadata": {"name": "c"}})
    client.delete("/api/v1/namespaces/leaving")

    def conditions() -> dict[str, str]:
        status = client.get("/api/v1/namespaces/leaving").json()["status"]
        return {c["type"]: c["message"] for c in status.get("conditions", []) if c["status"] == "True"}

    eventually(conditions)
    assert conditions() == {
        "NamespaceContentRemaining": (
            "Some resources are remaining: widgets.widgets.example.com has 1 resource instances"
        ),
        "NamespaceFinalizersRemaining": (
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        ),
    }
    assert client.get("/api/v1/namespaces/leaving/configmaps/c").status_code == 404
    client.patch(f"{place}/held", json={"metadata": {"finalizers": None}}, headers=MERGE)
    eventually(lambda: client.get("/api/v1/namespaces/leaving").status_code == 404)


def test_the_default_service_account_comes_back(control_plane: ControlPlane) -> None:
    path = "/api/v1/namespaces/default/serviceaccounts/default"
    first = control_plane.client.get(path).json()["metadata"]["uid"]
    control_plane.client.delete(path)
    eventually(lambda: control_plane.client.get(path).json().get("metadata", {}).get("uid", first) != first)


def test_a_definition_waits_for_its_objects(control_plane: ControlPlane) -> None:
    make(control_plane, "last", finalizers=["example.com/hold"])
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{widgets.CRD['metadata']['name']}"
    control_plane.client.delete(path)
    crd = control_plane.client.get(path).json()
    assert {c["type"]: c["status"] for c in crd["status"]["conditions"]}["Terminating"] == "True"
    control_plane.client.patch(f"{PATH}/last", json={"metadata": {"finalizers": None}}, headers=MERGE)
    eventually(lambda: control_plane.client.get(path).status_code == 404)
    assert control_plane.client.get(PATH).status_code == 404
    widgets.install(control_plane)
    assert control_plane.client.get(PATH).json()["items"] == []


@pytest.mark.slow
def test_what_a_crash_interrupted_is_taken_up(tmp_path: Any) -> None:
    server = start(tmp_path)
    widgets.install(server)
    server.client.post("/api/v1/namespaces", json={"metadata": {"name": "leaving"}})
    server.client.delete("/api/v1/namespaces/leaving")
    owner = make(server, "owner")
    make(server, "child", finalizers=["example.com/hold"], **owned_by(owner, blockOwnerDeletion=True))
    server.client.delete(f"{PATH}/owner", params={"propagationPolicy": "Foreground"})
    server.kill()
    server.restart()
    eventually(lambda: server.client.get("/api/v1/namespaces/leaving").status_code == 404)
    server.client.patch(f"{PATH}/child", json={"metadata": {"finalizers": None}}, headers=MERGE)
    eventually(lambda: gone(server, "owner") and gone(server, "child"))
    server.stop()
