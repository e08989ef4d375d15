"""Objects over HTTP: what a client that writes without thinking, or twice at once, gets to see."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from tests.kits.controlplane import ControlPlane
from tests.local import widgets
from tests.local.widgets import PATH, make, widget


@pytest.fixture(scope="module", autouse=True)
def _crd(control_plane: ControlPlane) -> None:
    widgets.install(control_plane)


def events(server: ControlPlane, count: int, **query: str) -> list[dict[str, Any]]:
    """The first events of a watch."""
    found: list[dict[str, Any]] = []
    with server.client.stream("GET", PATH, params={"watch": "true", "timeoutSeconds": "5", **query}) as answer:
        for line in answer.iter_lines():
            found.append(json.loads(line))
            if len(found) == count:
                break
    return found


def test_two_writers_with_the_same_resource_version_one_wins(control_plane: ControlPlane) -> None:
    made = make(control_plane, "race")
    codes: list[int] = []

    def write(size: int) -> None:
        changed = {**made, "spec": {**made["spec"], "size": size}}
        codes.append(control_plane.client.put(f"{PATH}/race", json=changed).status_code)

    threads = [threading.Thread(target=write, args=(size,)) for size in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200] + [409] * 7


@pytest.mark.parametrize("subresource", ["", "/status"])
def test_an_apply_to_an_old_version_is_refused(control_plane: ControlPlane, subresource: str) -> None:
    """As a kube-apiserver 1.36.2 answers, for `/status` too."""
    name = f"old{len(subresource)}"
    made = make(control_plane, name)
    old = made["metadata"]["resourceVersion"]
    control_plane.client.patch(
        f"{PATH}/{name}", json={"spec": {"size": 5}}, headers={"Content-Type": "application/merge-patch+json"}
    )
    body = {key: made[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": name, "resourceVersion": old}}
    apply = {"Content-Type": "application/apply-patch+yaml"}
    place = f"{PATH}/{name}{subresource}?fieldManager=test&force=true"
    assert control_plane.client.patch(place, content=json.dumps(body), headers=apply).status_code == 409
    now = control_plane.client.get(f"{PATH}/{name}").json()
    body["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"]
    assert control_plane.client.patch(place, content=json.dumps(body), headers=apply).status_code == 200


def test_a_watch_resumes_where_it_was_told(control_plane: ControlPlane) -> None:
    first = make(control_plane, "resume")
    control_plane.client.patch(
        f"{PATH}/resume", json={"spec": {"size": 5}}, headers={"Content-Type": "application/merge-patch+json"}
    )
    control_plane.client.delete(f"{PATH}/resume")
    seen = events(control_plane, 2, resourceVersion=first["metadata"]["resourceVersion"])
    assert [event["type"] for event in seen] == ["MODIFIED", "DELETED"]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in seen]
    assert versions == sorted(versions) and versions[0] > int(first["metadata"]["resourceVersion"])


def test_a_watch_from_the_future_is_told_so(control_plane: ControlPlane) -> None:
    seen = events(control_plane, 1, resourceVersion="99999999")
    assert seen[0]["type"] == "ERROR" and seen[0]["object"]["code"] == 504
    assert seen[0]["object"]["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_pages_show_the_moment_of_the_first(control_plane: ControlPlane) -> None:
    for index in range(5):
        make(control_plane, f"page{index}", labels={"paged": "yes"})
    query = {"limit": "2", "labelSelector": "paged=yes"}
    page = control_plane.client.get(PATH, params=query).json()
    control_plane.client.delete(f"{PATH}/page3")
    control_plane.client.patch(
        f"{PATH}/page2", json={"spec": {"size": 9}}, headers={"Content-Type": "application/merge-patch+json"}
    )
    make(control_plane, "page25", labels={"paged": "yes"})
    names, sizes = [], []
    while True:
        names += [item["metadata"]["name"] for item in page["items"]]
        sizes += [item["spec"]["size"] for item in page["items"]]
        if not page["metadata"]["continue"]:
            break
        page = control_plane.client.get(PATH, params={**query, "continue": page["metadata"]["continue"]}).json()
    assert names == [f"page{index}" for index in range(5)]
    assert sizes == [1] * 5


def raw(metadata: Any, spec: Any = None) -> str:
    return json.dumps({"kind": "Widget", "apiVersion": "widgets.example.com/v1", "metadata": metadata, "spec": spec})


JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("{", JSON),
        ("[]", JSON),
        ('"text"', JSON),
        ("null", JSON),
        ("", JSON),
        ("a: [", "application/yaml"),
        ("&a [*a, *a]", "application/yaml"),
        ("a: &a {b: 1}\nc: *a\n", "application/yaml"),
        ("spec: !!binary aGVsbG8=\n", "application/yaml"),
        ("spec: !!python/object/apply:os.system [id]\n", "application/yaml"),
        (raw({"name": "deep"}, json.loads("[" * 800 + "]" * 800)), JSON),
        ("[" * 100000, JSON),
        ("[" * 5000 + "]" * 5000, "application/yaml"),
        ('{"kind": 5, "apiVersion": {}}', JSON),
        (raw("x"), JSON),
        (raw({"name": 5}), JSON),
        (raw({"labels": ["a"]}), JSON),
        (raw({"name": "z", "labels": {"a": 1}}), JSON),
        (raw({"name": "z", "finalizers": "x"}), JSON),
        (raw({"name": "z", "ownerReferences": [5]}), JSON),
        (raw({"name": "z", "managedFields": [5]}), JSON),
        (raw({"name": "z"}, [1]), JSON),
        (raw({"name": "../x"}, {"size": 1}), JSON),
        (raw({"name": "z" * 300}, {"size": 1}), JSON),
        (raw({"name": "z", "labels": {"a b": "c"}}, {"size": 1}), JSON),
        (raw({"name": "z", "annotations": {"a": "b" * 300000}}, {"size": 1}), JSON),
    ],
)
def test_what_is_not_an_object_is_refused_not_a_crash(
    control_plane: ControlPlane, body: str, content_type: str
) -> None:
    answer = control_plane.client.post(PATH, content=body, headers={"Content-Type": content_type})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["kind"] == "Status"


def test_a_field_that_comes_twice(control_plane: ControlPlane) -> None:
    body = json.dumps(widget("twice")).replace('"size": 1', '"size": 1, "size": 2')
    strict = control_plane.client.post(PATH, params={"fieldValidation": "Strict"}, content=body)
    assert strict.status_code == 400 and 'duplicate field "spec.size"' in strict.json()["message"]
    warned = control_plane.client.post(PATH, content=body)
    assert warned.status_code == 201 and 'duplicate field \\"spec.size\\"' in warned.headers["warning"]
    assert warned.json()["spec"]["size"] == 2


def test_a_body_over_the_limit_is_refused(control_plane: ControlPlane) -> None:
    answer = control_plane.client.post(PATH, content=b" " * (4 * 1024 * 1024))
    assert answer.status_code == 413


def test_a_definition_takes_its_objects_with_it(control_plane: ControlPlane) -> None:
    crd = json.loads(json.dumps(widgets.CRD).replace("idget", "adget"))
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert control_plane.client.post(path, json=crd).status_code == 201
    gadget = json.loads(json.dumps(widget("g")).replace("idget", "adget"))
    control_plane.create(gadget)
    marked = control_plane.client.delete(f"{path}/{crd['metadata']['name']}").json()
    assert marked["metadata"]["deletionTimestamp"]
    assert control_plane.client.get(f"{path}/{crd['metadata']['name']}").status_code == 404
    assert control_plane.client.get("/apis/wadgets.example.com/v1/wadgets").status_code == 404
