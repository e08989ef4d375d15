"""Server-side apply beyond the recordings: what is owned, merged, given up and fought over."""

from __future__ import annotations

import yaml
from tests.conformance.things import APPLY, JSON_PATCH, Things, ok, owners, refusal


def test_a_conflict_with_an_update_names_its_version(things: Things) -> None:
    things.create("conflict-update", {"size": 1, "labels": {"a": "1", "b": "1"}})
    answer = things.apply("conflict-update", {"size": 2, "labels": {"a": "2"}}, "two")
    assert refusal(answer) == (
        409,
        "Conflict",
        [("FieldManagerConflict", ".spec.labels.a"), ("FieldManagerConflict", ".spec.size")],
    )
    version = f"using {things.api_version}"
    assert answer.json()["message"] == (
        f'Apply failed with 2 conflicts: conflicts with "python-httpx" {version}:\n- .spec.size\n- .spec.labels.a'
    )


def test_conflicts_with_several_managers_are_listed_by_manager(things: Things) -> None:
    ok(things.apply("conflict-many", {"size": 1}, "one"))
    ok(things.apply("conflict-many", {"nested": {"deep": {"x": 1}}}, "two"))
    answer = things.apply("conflict-many", {"size": 2, "nested": {"deep": {"x": 2}}}, "three")
    assert answer.json()["message"] == (
        "Apply failed with 2 conflicts: "
        'conflicts with "one":\n- .spec.size\nconflicts with "two":\n- .spec.nested.deep.x'
    )


def test_the_same_value_is_shared_without_conflict(things: Things) -> None:
    ok(things.apply("shared", {"size": 1}, "one"))
    both = ok(things.apply("shared", {"size": 1}, "two"))
    assert owners(both).keys() == {("one", "Apply"), ("two", "Apply")}
    left = ok(things.apply("shared", {}, "one"))
    assert left["spec"]["size"] == 1
    gone = ok(things.apply("shared", {}, "two"))
    assert "size" not in gone.get("spec", {})


def test_an_atomic_list_is_owned_and_replaced_whole(things: Things) -> None:
    ok(things.apply("atomic", {"steps": ["a", "b"], "limits": {"cpu": "1", "memory": "2"}}, "one"))
    answer = things.apply("atomic", {"steps": ["a"], "limits": {"cpu": "1"}}, "two")
    assert [field for _, field in refusal(answer)[2]] == [".spec.limits", ".spec.steps"]
    forced = ok(things.apply("atomic", {"steps": ["a"], "limits": {"cpu": "1"}}, "two", force="true"))
    assert forced["spec"]["steps"] == ["a"]
    assert forced["spec"]["limits"] == {"cpu": "1"}
    assert owners(forced)["two", "Apply"] == {"f:spec": {"f:limits": {}, "f:steps": {}}}


def test_sets_are_merged_by_item(things: Things) -> None:
    ok(things.apply("sets", {"tags": ["a", "b"]}, "one"))
    merged = ok(things.apply("sets", {"tags": ["c", "b"]}, "two"))
    assert sorted(merged["spec"]["tags"]) == ["a", "b", "c"]
    reduced = ok(things.apply("sets", {"tags": ["b"]}, "one"))
    assert sorted(reduced["spec"]["tags"]) == ["b", "c"]
    assert owners(reduced)["one", "Apply"] == {"f:spec": {"f:tags": {'v:"b"': {}}}}


def test_the_order_of_a_list_map_follows_the_applied_one(things: Things) -> None:
    ok(things.apply("order", {"ports": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}, "one"))
    merged = ok(things.apply("order", {"ports": [{"name": "c"}, {"name": "d"}, {"name": "a"}]}, "two"))
    assert [port["name"] for port in merged["spec"]["ports"]] == ["b", "c", "d", "a"]


def test_a_repeated_key_in_the_configuration_is_refused(things: Things) -> None:
    answer = things.apply("repeated", {"ports": [{"name": "a"}, {"name": "a"}]}, "one")
    assert answer.status_code == 500
    assert 'duplicate entries for key [name="a"]' in answer.json()["message"]


def test_a_map_is_merged_key_by_key(things: Things) -> None:
    ok(things.apply("maps", {"labels": {"a": "1"}}, "one"))
    merged = ok(things.apply("maps", {"labels": {"b": "2"}}, "two"))
    assert merged["spec"]["labels"] == {"a": "1", "b": "2"}
    assert owners(merged)["two", "Apply"] == {"f:spec": {"f:labels": {"f:b": {}}}}
    reduced = ok(things.apply("maps", {}, "one"))
    assert reduced["spec"]["labels"] == {"b": "2"}


def test_an_empty_map_is_owned_itself_an_empty_set_is_not(things: Things) -> None:
    made = ok(things.apply("empty", {"labels": {}, "tags": []}, "one"))
    assert made["spec"]["labels"] == {}
    assert owners(made)["one", "Apply"] == {"f:spec": {"f:labels": {}}}


def test_an_update_takes_fields_from_an_applier(things: Things) -> None:
    ok(things.apply("taken", {"size": 1, "labels": {"a": "1"}}, "one"))
    patched = ok(things.merge("taken", {"spec": {"size": 2}}, fieldManager="edit"))
    assert owners(patched)["one", "Apply"] == {"f:spec": {"f:labels": {"f:a": {}}}}
    assert owners(patched)["edit", "Update"] == {"f:spec": {"f:size": {}}}


def test_a_removed_field_leaves_every_owner(things: Things) -> None:
    ok(things.apply("removed", {"nested": {"deep": {"x": 1}}, "size": 1}, "one"))
    patched = ok(things.merge("removed", {"spec": {"nested": None}}, fieldManager="edit"))
    assert owners(patched)["one", "Apply"] == {"f:spec": {"f:size": {}}}
    assert ("edit", "Update") not in owners(patched)


def test_nothing_applied_gives_everything_up(things: Things) -> None:
    ok(things.apply("given-up", {"size": 1}, "one"))
    ok(things.apply("given-up", {"steps": ["a"]}, "two"))
    left = ok(things.apply("given-up", None, "one"))
    assert "size" not in left["spec"]
    assert ("one", "Apply") not in owners(left)


def test_a_no_op_apply_keeps_the_version(things: Things) -> None:
    ok(things.apply("no-op", {"size": 1}, "one"))
    settled = ok(things.apply("no-op", {"size": 1}, "one"))
    again = ok(things.apply("no-op", {"size": 1}, "one"))
    assert again["metadata"]["resourceVersion"] == settled["metadata"]["resourceVersion"]


def test_apply_with_a_stale_version_is_a_conflict(things: Things) -> None:
    things.create("stale", {"size": 1})
    body = things.body("stale", {"size": 1}, resourceVersion="1")
    answer = things.send("PATCH", "/stale", body, APPLY, fieldManager="one")
    assert refusal(answer)[:2] == (409, "Conflict")


def test_apply_reads_yaml(things: Things) -> None:
    text = yaml.safe_dump(things.body("yaml", {"size": 4}))
    made = ok(things.send("PATCH", "/yaml", text, APPLY, fieldManager="one"))
    assert made["spec"]["size"] == 4


def test_apply_validates_and_prunes(things: Things) -> None:
    assert refusal(things.apply("invalid", {"size": 1000}, "one")) == (
        422,
        "Invalid",
        [("FieldValueInvalid", "spec.size")],
    )
    answer = things.apply("invalid", {"size": 1, "bogus": 1}, "one", fieldValidation="Strict")
    assert answer.status_code == 500
    assert "field not declared in schema" in answer.json()["message"], answer.text


def test_apply_dry_run_stores_nothing(things: Things) -> None:
    made = ok(things.apply("dry", {"size": 1}, "one", dryRun="All"))
    assert made["spec"] == {"color": "red", "size": 1}
    assert things.send("GET", "/dry").status_code == 404


def test_force_belongs_to_apply(things: Things) -> None:
    things.create("forced", {"size": 1})
    answer = things.merge("forced", {"spec": {"size": 2}}, force="true")
    assert refusal(answer) == (422, "Invalid", [("FieldValueForbidden", "force")])


def test_the_name_of_a_manager_is_limited(things: Things) -> None:
    assert refusal(things.apply("manager", {"size": 1}, "x" * 129)) == (
        422,
        "Invalid",
        [("FieldValueTooLong", "fieldManager")],
    )


def test_managed_fields_can_be_cleared(things: Things) -> None:
    things.create("cleared", {"size": 1})
    patch = [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]
    cleared = ok(things.send("PATCH", "/cleared", patch, JSON_PATCH))
    assert "managedFields" not in cleared["metadata"]
    applied = ok(things.apply("cleared", {"size": 2}, "one", force="true"))
    assert owners(applied) == {
        ("before-first-apply", "Update"): {"f:spec": {".": {}, "f:color": {}}},
        ("one", "Apply"): {"f:spec": {"f:size": {}}},
    }


def test_managed_fields_left_out_of_an_update_stay(things: Things) -> None:
    obj = things.create("left-out", {"size": 1})
    del obj["metadata"]["managedFields"]
    obj["metadata"]["labels"] = {"a": "b"}
    updated = ok(things.put(obj, fieldManager="other"))
    assert owners(updated).keys() == {("python-httpx", "Update"), ("other", "Update")}


def test_config_maps_are_applied_too(config_maps: Things) -> None:
    body = {**config_maps.body("applied"), "data": {"a": "1"}}
    ok(config_maps.send("PATCH", "/applied", body, APPLY, fieldManager="one"))
    other = {**config_maps.body("applied"), "data": {"b": "2"}}
    merged = ok(config_maps.send("PATCH", "/applied", other, APPLY, fieldManager="two"))
    assert merged["data"] == {"a": "1", "b": "2"}
    conflict = config_maps.send("PATCH", "/applied", {**other, "data": {"a": "9"}}, APPLY, fieldManager="two")
    assert refusal(conflict)[2] == [("FieldManagerConflict", ".data.a")]


def test_secrets_own_data_even_when_given_as_strings(secrets: Things) -> None:
    body = {**secrets.body("applied"), "stringData": {"a": "1"}}
    made = ok(secrets.send("PATCH", "/applied", body, APPLY, fieldManager="one"))
    assert made["data"] == {"a": "MQ=="}


def test_metadata_is_owned_by_its_parts(things: Things) -> None:
    body = things.body("meta", {"size": 1}, labels={"a": "1"}, annotations={"b": "2"}, finalizers=["example.com/f"])
    made = ok(things.send("PATCH", "/meta", body, APPLY, fieldManager="one"))
    assert owners(made)["one", "Apply"]["f:metadata"] == {
        "f:annotations": {"f:b": {}},
        "f:finalizers": {'v:"example.com/f"': {}},
        "f:labels": {"f:a": {}},
    }
    gone = ok(things.apply("meta", {"size": 1}, "one"))
    assert not {"labels", "annotations", "finalizers"} & gone["metadata"].keys()
