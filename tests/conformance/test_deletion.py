"""Deletion: preconditions, propagation, what is left standing."""

from __future__ import annotations

import pytest
from tests.conformance.target import Target
from tests.conformance.things import CRDS, Things, definition, installed, ok, refusal, until


def test_a_version_can_be_a_precondition(things: Things) -> None:
    made = things.create("version", {"size": 1})["metadata"]
    ok(things.merge("version", {"spec": {"size": 2}}))
    stale = {"preconditions": {"resourceVersion": made["resourceVersion"]}}
    assert refusal(things.delete("version", stale))[:2] == (409, "Conflict")
    ok(things.delete("version", {"preconditions": {"uid": made["uid"]}}))


def test_an_object_that_is_being_deleted_can_be_changed_not_revived(things: Things) -> None:
    things.create("dying", {"size": 1}, finalizers=["example.com/a", "example.com/b"])
    marked = ok(things.delete("dying"))
    stamp = marked["metadata"]["deletionTimestamp"]
    changed = ok(things.merge("dying", {"spec": {"size": 2}, "metadata": {"deletionTimestamp": None}}))
    assert changed["metadata"]["deletionTimestamp"] == stamp
    assert changed["spec"]["size"] == 2
    ok(things.merge("dying", {"metadata": {"finalizers": ["example.com/b"]}}))
    assert things.get("dying")["metadata"]["finalizers"] == ["example.com/b"]
    ok(things.merge("dying", {"metadata": {"finalizers": []}}))
    assert things.send("GET", "/dying").status_code == 404


def test_a_new_object_of_the_same_name_is_another(things: Things) -> None:
    first = things.create("again", {"size": 1})["metadata"]
    ok(things.delete("again"))
    second = things.create("again", {"size": 1})["metadata"]
    assert second["uid"] != first["uid"]
    assert int(second["resourceVersion"]) > int(first["resourceVersion"])
    assert second["generation"] == 1


@pytest.mark.parametrize("policy", ["Sideways", ""])
def test_a_propagation_policy_is_one_of_three(things: Things, policy: str) -> None:
    things.create(f"policy-{policy.lower() or 'none'}", {"size": 1})
    answer = things.delete(f"policy-{policy.lower() or 'none'}", {"propagationPolicy": policy})
    assert answer.status_code == 422, answer.text
    assert refusal(answer)[2] == [("FieldValueNotSupported", "propagationPolicy")]


def test_two_answers_about_dependents_are_refused(things: Things) -> None:
    things.create("both", {"size": 1})
    answer = things.delete("both", {"propagationPolicy": "Orphan", "orphanDependents": True})
    assert answer.status_code == 422, answer.text


def test_dependents_of_other_kinds_go_too(things: Things, config_maps: Things, target: Target) -> None:
    if not target.controllers:
        pytest.skip("nothing collects garbage behind this server")
    owner = things.create("owner", {"size": 1})
    reference = {"apiVersion": things.api_version, "kind": "Thing", "name": "owner", "uid": owner["metadata"]["uid"]}
    config_maps.create("dependent", ownerReferences=[reference])
    ok(things.delete("owner"))
    until(lambda: config_maps.send("GET", "/dependent").status_code == 404, 90)


def test_one_living_owner_is_enough(things: Things, config_maps: Things, target: Target) -> None:
    if not target.controllers:
        pytest.skip("nothing collects garbage behind this server")
    owners = [things.create(name, {"size": 1}) for name in ("owner-a", "owner-b")]
    references = [
        {
            "apiVersion": things.api_version,
            "kind": "Thing",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
        for owner in owners
    ]
    config_maps.create("shared", ownerReferences=references)
    ok(things.delete("owner-a"))
    left = until(lambda: _references(config_maps) == ["owner-b"], 90)
    assert left
    ok(things.delete("owner-b"))
    until(lambda: config_maps.send("GET", "/shared").status_code == 404, 90)


def _references(config_maps: Things) -> list[str]:
    return [owner["name"] for owner in config_maps.get("shared")["metadata"].get("ownerReferences", [])]


def test_a_namespace_takes_its_objects_along(target: Target) -> None:
    if not target.controllers:
        pytest.skip("nothing empties namespaces behind this server")
    with target.client() as admin:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "conformance-doomed"}}
        ok(admin.post("/api/v1/namespaces", json=body))
        maps = "/api/v1/namespaces/conformance-doomed/configmaps"
        ok(admin.post(maps, json={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "inside"}}))
        assert ok(admin.delete("/api/v1/namespaces/conformance-doomed"))["status"]["phase"] == "Terminating"
        until(lambda: admin.get("/api/v1/namespaces/conformance-doomed").status_code == 404, 90)
        assert admin.get(f"{maps}/inside").status_code == 404


def test_the_kinds_of_a_removed_definition_are_gone(target: Target, things: Things) -> None:
    with installed(target, definition("leavings", "Leaving", {"type": "object"})) as leavings:
        leavings.create("a")
        held = leavings.create("held", finalizers=["example.com/hold"])
        ok(leavings.client.delete(f"{CRDS}/leavings.conformance.example.com"))
        crd = ok(leavings.client.get(f"{CRDS}/leavings.conformance.example.com"))
        assert crd["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
        assert held["metadata"]["name"] == "held"
        until(lambda: leavings.send("GET", "/a").status_code == 404)
        ok(leavings.merge("held", {"metadata": {"finalizers": None}}))
        until(lambda: leavings.send("GET").status_code == 404)
