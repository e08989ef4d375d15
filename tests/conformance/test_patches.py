"""JSON, merge and strategic patches beyond the recordings."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conformance.things import JSON_PATCH, MERGE, STRATEGIC, Things, ok, refusal


def json_patch(things: Things, name: str, *operations: dict[str, Any]) -> Any:
    return things.send("PATCH", f"/{name}", list(operations), JSON_PATCH)


def test_json_patch_adds_copies_moves_and_removes(things: Things) -> None:
    things.create("json", {"steps": ["a", "b"], "labels": {"x": "1", "y/z": "2"}})
    patched = ok(
        json_patch(
            things,
            "json",
            {"op": "add", "path": "/spec/steps/-", "value": "c"},
            {"op": "add", "path": "/spec/steps/0", "value": "first"},
            {"op": "copy", "from": "/spec/labels/x", "path": "/spec/labels/copied"},
            {"op": "move", "from": "/spec/labels/y~1z", "path": "/spec/labels/moved"},
            {"op": "remove", "path": "/spec/labels/x"},
        )
    )
    assert patched["spec"]["steps"] == ["first", "a", "b", "c"]
    assert patched["spec"]["labels"] == {"copied": "1", "moved": "2"}


def test_json_patch_sets_the_status_nowhere_but_there(things: Things) -> None:
    things.create("json-status", {"size": 1})
    add = [{"op": "add", "path": "/status", "value": {"phase": "x"}}]
    assert "status" not in ok(things.send("PATCH", "/json-status", add, JSON_PATCH))
    assert ok(things.send("PATCH", "/json-status/status", add, JSON_PATCH))["status"] == {"phase": "x"}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/spec/nothing/here", "value": 1},
        {"op": "remove", "path": "/spec/steps/7"},
        {"op": "test", "path": "/metadata/name", "value": "another"},
        {"op": "add", "path": "/spec/steps/99", "value": "x"},
        {"op": "move", "from": "/none", "path": "/spec/size"},
    ],
    ids=lambda operation: operation["op"],
)
def test_an_operation_that_fails_changes_nothing(things: Things, operation: dict[str, Any]) -> None:
    name = f"failing-{operation['op']}"
    made = things.create(name, {"steps": ["a"]})
    answer = json_patch(things, name, {"op": "add", "path": "/spec/size", "value": 5}, operation)
    assert refusal(answer)[:2] == (422, "Invalid")
    assert things.get(name) == made


@pytest.mark.parametrize("body", ['{"op": "add"}', "[1]", '[{"op": "fly", "path": "/spec"}]', "nonsense", "null"])
def test_a_patch_that_is_none_is_a_bad_request(things: Things, body: str) -> None:
    things.create(f"broken-{abs(hash(body)) % 10**8}", {"size": 1})
    answer = things.send("PATCH", f"/broken-{abs(hash(body)) % 10**8}", body, JSON_PATCH)
    assert answer.status_code == (422 if "fly" in body else 200 if body == "null" else 400), answer.text


def test_merge_replaces_lists_and_removes_by_null(things: Things) -> None:
    things.create("merge", {"steps": ["a", "b"], "labels": {"x": "1"}, "size": 1})
    patched = ok(things.merge("merge", {"spec": {"steps": ["c"], "labels": None, "size": None}}))
    assert patched["spec"] == {"color": "red", "steps": ["c"]}


def test_a_null_gives_a_field_its_default_back(things: Things) -> None:
    things.create("defaulted", {"color": "green"})
    assert ok(things.merge("defaulted", {"spec": {"color": None}}))["spec"]["color"] == "red"


def test_merge_wants_an_object(things: Things) -> None:
    things.create("merge-list", {"size": 1})
    assert things.send("PATCH", "/merge-list", "[1]", MERGE).status_code == 400
    assert things.send("PATCH", "/merge-list", "nonsense", MERGE).status_code == 400


def test_the_name_and_kind_cannot_be_patched(things: Things) -> None:
    things.create("renamed", {"size": 1})
    assert things.merge("renamed", {"metadata": {"name": "other"}}).status_code == 400
    assert things.merge("renamed", {"kind": "Other"}).status_code in (400, 422)


def test_system_metadata_cannot_be_patched(things: Things) -> None:
    made = things.create("system", {"size": 1})
    patch = {"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 99, "selfLink": "/x"}}
    patched = ok(things.merge("system", patch))
    assert patched["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
    assert patched["metadata"]["generation"] == 1
    assert patched["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_the_uid_cannot_be_patched(things: Things) -> None:
    things.create("other-uid", {"size": 1})
    answer = things.merge("other-uid", {"metadata": {"uid": "11111111-1111-1111-1111-111111111111"}})
    assert refusal(answer) == (422, "Invalid", [("FieldValueInvalid", "metadata.uid")] * 2)


def test_labels_are_checked(things: Things) -> None:
    things.create("labels", {"size": 1})
    answer = things.merge("labels", {"metadata": {"labels": {"-bad": "x", "good": "not good!"}}})
    status, reason, causes = refusal(answer)
    assert (status, reason, set(causes)) == (422, "Invalid", {("FieldValueInvalid", "metadata.labels")})
    number = things.merge("labels", {"metadata": {"labels": {"n": 1}}})
    assert refusal(number) == (422, "Invalid", [("FieldValueInvalid", "patch")])


def test_a_dry_run_changes_nothing(things: Things) -> None:
    made = things.create("dry-patch", {"size": 1})
    shown = ok(things.merge("dry-patch", {"spec": {"size": 2}}, dryRun="All"))
    assert shown["spec"]["size"] == 2
    assert shown["metadata"]["generation"] == 2
    assert things.get("dry-patch") == made
    assert refusal(things.merge("dry-patch", {}, dryRun="Some")) == (
        422,
        "Invalid",
        [("FieldValueNotSupported", "dryRun")],
    )


def test_unknown_fields_in_a_patch(things: Things) -> None:
    things.create("unknown", {"size": 1})
    warned = things.merge("unknown", {"spec": {"bogus": 1}})
    assert 'unknown field \\"spec.bogus\\"' in warned.headers["warning"]
    assert things.merge("unknown", {"spec": {"bogus": 1}}, fieldValidation="Strict").status_code == 422
    assert "warning" not in things.merge("unknown", {"spec": {"bogus": 1}}, fieldValidation="Ignore").headers


def test_strategic_merges_maps_and_removes_by_null(config_maps: Things) -> None:
    ok(config_maps.send("POST", body={**config_maps.body("strategic"), "data": {"a": "1", "b": "2"}}))
    patched = ok(config_maps.send("PATCH", "/strategic", {"data": {"a": None, "c": "3"}}, STRATEGIC))
    assert patched["data"] == {"b": "2", "c": "3"}


def test_strategic_directives(config_maps: Things) -> None:
    finalizers = ["example.com/a", "example.com/b"]
    ok(config_maps.send("POST", body={**config_maps.body("directives", finalizers=finalizers), "data": {"a": "1"}}))
    added = ok(config_maps.send("PATCH", "/directives", {"metadata": {"finalizers": ["example.com/c"]}}, STRATEGIC))
    assert sorted(added["metadata"]["finalizers"]) == [*finalizers, "example.com/c"]
    delete = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}
    assert (
        "example.com/a" not in ok(config_maps.send("PATCH", "/directives", delete, STRATEGIC))["metadata"]["finalizers"]
    )
    replace = {"data": {"$patch": "replace", "z": "9"}}
    assert ok(config_maps.send("PATCH", "/directives", replace, STRATEGIC))["data"] == {"z": "9"}
    ok(config_maps.merge("directives", {"metadata": {"finalizers": None}}))


def test_strategic_merges_owner_references_by_uid(config_maps: Things) -> None:
    holder = ok(config_maps.send("POST", body=config_maps.body("holder")))["metadata"]["uid"]
    ok(config_maps.send("POST", body=config_maps.body("owned", ownerReferences=[_of(holder)])))
    patch = {"metadata": {"ownerReferences": [{**_of(holder), "blockOwnerDeletion": True}]}}
    merged = ok(config_maps.send("PATCH", "/owned", patch, STRATEGIC))
    assert merged["metadata"]["ownerReferences"] == [{**_of(holder), "blockOwnerDeletion": True}]
    drop = {"metadata": {"ownerReferences": [{"$patch": "delete", "uid": holder}]}}
    assert "ownerReferences" not in ok(config_maps.send("PATCH", "/owned", drop, STRATEGIC))["metadata"]


def _of(uid: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": "holder", "uid": uid}
