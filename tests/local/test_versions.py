"""Definitions that change, and that serve more than one version."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tests.kits.controlplane import ControlPlane
from tests.local.widgets import CRD

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MERGE = {"Content-Type": "application/merge-patch+json"}


def definition(group: str, **spec: Any) -> dict[str, Any]:
    """The widgets' definition in a group of its own."""
    made = copy.deepcopy(CRD)
    made["metadata"]["name"] = f"widgets.{group}"
    made["spec"] |= {"group": group, **spec}
    return made


def two_versions(group: str) -> dict[str, Any]:
    """v1 is stored; v1beta1 has another default and knows no text."""
    made = definition(group)
    old = copy.deepcopy(made["spec"]["versions"][0])
    old |= {"name": "v1beta1", "storage": False}
    properties = old["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties["color"]["default"] = "blue"
    del properties["text"]
    made["spec"]["versions"].append(old)
    return made


def install(server: ControlPlane, crd: dict[str, Any]) -> None:
    answer = server.client.post(CRDS, json=crd)
    assert answer.status_code == 201, answer.text


def obj(group: str, version: str, name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{group}/{version}", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 1, **spec},
    }  # fmt: skip


def test_objects_are_the_same_in_every_version(control_plane: ControlPlane) -> None:
    client, group = control_plane.client, "two.example.com"
    install(control_plane, two_versions(group))
    new, old = (f"/apis/{group}/{version}/namespaces/default/widgets" for version in ("v1", "v1beta1"))
    assert client.post(new, json=obj(group, "v1", "w", text="hello")).status_code == 201
    seen = client.get(f"{old}/w").json()
    assert seen["apiVersion"] == f"{group}/v1beta1" and seen["spec"]["color"] == "red" and "text" not in seen["spec"]
    written = client.post(old, json=obj(group, "v1beta1", "o")).json()
    assert written["spec"]["color"] == "blue"
    assert client.get(f"{new}/o").json()["apiVersion"] == f"{group}/v1"
    listed = client.get(old).json()
    assert {item["apiVersion"] for item in listed["items"]} == {f"{group}/v1beta1"} and len(listed["items"]) == 2
    lines = client.get(old, params={"watch": "true", "timeoutSeconds": "1"}).text.splitlines()
    assert {json.loads(line)["object"]["apiVersion"] for line in lines} == {f"{group}/v1beta1"}
    patched = client.patch(f"{new}/o", json={"spec": {"size": 2}}, headers=MERGE).json()
    assert patched["spec"] == {"size": 2, "color": "blue", "replicas": 1} and patched["metadata"]["generation"] == 2


def test_the_best_version_comes_first(control_plane: ControlPlane) -> None:
    group = "order.example.com"
    crd = two_versions(group)
    for name in ("v2alpha1", "v10", "v2", "nonsense"):
        crd["spec"]["versions"].append({**copy.deepcopy(crd["spec"]["versions"][1]), "name": name})
    install(control_plane, crd)
    found = control_plane.client.get(f"/apis/{group}").json()
    names = [version["version"] for version in found["versions"]]
    assert names == ["v10", "v2", "v1", "v1beta1", "v2alpha1", "nonsense"]
    assert found["preferredVersion"]["version"] == "v10"


def test_a_new_default_shows_in_old_objects(control_plane: ControlPlane) -> None:
    client, group = control_plane.client, "change.example.com"
    crd = definition(group)
    install(control_plane, crd)
    path = f"/apis/{group}/v1/namespaces/default/widgets"
    made = client.post(path, json=obj(group, "v1", "w", text="goes")).json()
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties["shape"] = {"type": "string", "default": "round"}
    del properties["text"]
    crd["spec"]["versions"][0]["additionalPrinterColumns"] = [
        {"name": "Shape", "type": "string", "jsonPath": ".spec.shape"}
    ]
    assert client.patch(f"{CRDS}/widgets.{group}", json={"spec": crd["spec"]}, headers=MERGE).status_code == 200
    seen = client.get(f"{path}/w").json()
    assert seen["spec"]["shape"] == "round" and "text" not in seen["spec"]
    assert seen["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    table = client.get(path, headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}).json()
    assert table["rows"][0]["cells"] == ["w", "round"]


def test_a_version_no_longer_served(control_plane: ControlPlane) -> None:
    client, group = control_plane.client, "fewer.example.com"
    crd = two_versions(group)
    install(control_plane, crd)
    client.post(f"/apis/{group}/v1beta1/namespaces/default/widgets", json=obj(group, "v1beta1", "w"))
    crd["spec"]["versions"][1]["served"] = False
    assert client.patch(f"{CRDS}/widgets.{group}", json={"spec": crd["spec"]}, headers=MERGE).status_code == 200
    assert client.get(f"/apis/{group}/v1beta1/namespaces/default/widgets/w").status_code == 404
    assert client.get(f"/apis/{group}/v1/namespaces/default/widgets/w").json()["apiVersion"] == f"{group}/v1"
    assert client.get(f"/apis/{group}/v1beta1").status_code == 404


def test_names_that_are_taken(control_plane: ControlPlane) -> None:
    group = "taken.example.com"
    install(control_plane, definition(group))
    other = json.loads(json.dumps(definition(group)).replace("widgets.taken", "gadgets.taken"))
    other["spec"]["names"] = {"kind": "Gadget", "plural": "gadgets", "singular": "gadget", "shortNames": ["wid"]}
    install(control_plane, other)
    status = control_plane.client.get(f"{CRDS}/gadgets.{group}").json()["status"]
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert conditions == {"NamesAccepted": "False", "Established": "False"}
    assert control_plane.client.get(f"/apis/{group}/v1/gadgets").status_code == 404


@pytest.mark.parametrize("status", [True, False])
def test_generation_and_status_with_and_without_the_subresource(control_plane: ControlPlane, status: bool) -> None:
    client, group = control_plane.client, f"status{int(status)}.example.com"
    crd = definition(group, scope="Cluster")
    if not status:
        del crd["spec"]["versions"][0]["subresources"]
    install(control_plane, crd)
    path = f"/apis/{group}/v1/widgets"
    client.post(path, json=obj(group, "v1", "w"))
    seen = client.patch(f"{path}/w", json={"status": {"phase": "x"}}, headers=MERGE).json()
    assert seen.get("status", {}).get("phase") == (None if status else "x")
    assert seen["metadata"]["generation"] == (1 if status else 2)
    answer = client.patch(f"{path}/w/status", json={"status": {"phase": "y"}}, headers=MERGE)
    assert answer.status_code == (200 if status else 404)
    for subresource in ("scale", "log", "status/deeper"):
        expected = 200 if status and subresource == "scale" else 404
        assert client.get(f"{path}/w/{subresource}").status_code == expected, subresource
    if status:
        assert answer.json()["metadata"]["generation"] == 1 and answer.json()["status"]["phase"] == "y"
    assert "namespace" not in seen["metadata"]
    assert client.post(f"/apis/{group}/v1/namespaces/default/widgets", json=obj(group, "v1", "z")).status_code == 404


def test_selectable_fields(control_plane: ControlPlane) -> None:
    client, group = control_plane.client, "select.example.com"
    crd = definition(group)
    crd["spec"]["versions"][0]["selectableFields"] = [{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.size"}]
    install(control_plane, crd)
    path = f"/apis/{group}/v1/namespaces/default/widgets"
    for name, color in (("a", "red"), ("b", "green"), ("c", "green")):
        client.post(path, json=obj(group, "v1", name, color=color))
    found = client.get(path, params={"fieldSelector": "spec.color=green,metadata.name!=b"}).json()["items"]
    assert [item["metadata"]["name"] for item in found] == ["c"]
    assert len(client.get(path, params={"fieldSelector": "spec.size=1"}).json()["items"]) == 3
    assert client.get(path, params={"fieldSelector": "spec.text=x"}).status_code == 400
