"""Field ownership and patches against odd objects, and the laws that hold for all of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.local.recorded import widget_schema

from dotmac_local.apply import (
    ApplyConflict,
    PatchError,
    fieldset,
    json_patch,
    merge_patch,
    server_side_apply,
    track_update,
)
from dotmac_local.apply.managers import MAX_UPDATE_ENTRIES

NOW = "2026-01-01T00:00:00Z"
SCHEMA = widget_schema()
NAMES = st.sampled_from(["a", "b", "c"])
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "size": st.integers(1, 9),
        "color": st.sampled_from(["red", "green"]),
        "tags": st.lists(NAMES, unique=True, max_size=3),
        "labels": st.dictionaries(NAMES, NAMES, max_size=3),
        "ports": st.lists(st.fixed_dictionaries({"name": NAMES}, optional={"number": st.integers(1, 3)}), max_size=3),
        "free": st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(), max_size=2), max_size=2),
    },
).map(lambda spec: {**spec, "ports": list({port["name"]: port for port in spec.get("ports", [])}.values())})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=8,
)


def widget(spec: Any) -> dict[str, Any]:
    return {"apiVersion": "widgets.example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": spec}


def applied(live: Any, spec: Any, manager: str, *, force: bool = True) -> dict[str, Any]:
    return server_side_apply(live, widget(spec), manager=manager, force=force, subresource="", time=NOW, schema=SCHEMA)


@given(SPECS)
def test_what_is_applied_is_there(spec: dict[str, Any]) -> None:
    made = applied(None, spec, "one")
    for name, value in spec.items():
        assert made["spec"].get(name) == value


@given(SPECS, SPECS)
def test_applying_nothing_again_takes_back_what_only_one_applied(first: dict[str, Any], second: dict[str, Any]) -> None:
    alone = applied(None, second, "two")
    both = applied(alone, first, "one")
    left = applied(both, {}, "one")
    again = applied(left, second, "two")
    for name in ("size", "color", "labels"):
        if name in second:
            assert again["spec"][name] == second[name]
    # A set in another order is the same set, so an apply that changes nothing else changes nothing.
    assert sorted(again["spec"].get("tags", [])) == sorted(second.get("tags", []))


@given(SPECS, SPECS)
def test_apply_twice_is_apply_once(first: dict[str, Any], second: dict[str, Any]) -> None:
    once = applied(applied(None, first, "one"), second, "two")
    assert applied(once, second, "two") is once


@given(SPECS, SPECS)
def test_nothing_given_is_changed(first: dict[str, Any], second: dict[str, Any]) -> None:
    live = applied(None, first, "one")
    kept, patch = copy.deepcopy(live), copy.deepcopy(second)
    try:
        applied(live, second, "two", force=False)
    except ApplyConflict as conflict:
        assert conflict.causes
    assert live == kept
    assert second == patch


@given(SPECS, SPECS)
def test_an_update_owns_exactly_what_it_changed(first: dict[str, Any], second: dict[str, Any]) -> None:
    live = applied(None, first, "one")
    new = {**widget(second), "metadata": live["metadata"]}
    entries = track_update(
        live, new, manager="two", subresource="", api_version="widgets.example.com/v1", time=NOW, schema=SCHEMA
    )
    if live["spec"] == new["spec"]:
        assert entries == live["metadata"].get("managedFields", [])
    for entry in entries:
        assert fieldset.encode(fieldset.decode(entry["fieldsV1"])) == entry["fieldsV1"]


@given(st.dictionaries(st.sampled_from(["managedFields", "labels", "name"]), JSON), JSON)
def test_odd_objects_are_tracked_all_the_same(metadata: Any, spec: Any) -> None:
    metadata = {key: value for key, value in metadata.items() if key != "managedFields" or isinstance(value, list)}
    obj = {"apiVersion": "v1", "kind": "X", "metadata": metadata, "spec": spec}
    track_update(None, obj, manager="m", subresource="", api_version="v1", time=NOW, schema=None)
    track_update(obj, widget(spec), manager="m", subresource="", api_version="v1", time="never", schema=SCHEMA)


def test_old_update_managers_are_folded_into_one() -> None:
    live = widget({"labels": {}})
    for number in range(MAX_UPDATE_ENTRIES + 5):
        new = copy.deepcopy(live)
        new["spec"]["labels"][f"l{number}"] = "x"
        entries = track_update(
            live,
            new,
            manager=f"m{number}",
            subresource="",
            api_version="widgets.example.com/v1",
            time=f"2026-01-01T00:00:{number:02}Z",
            schema=SCHEMA,
        )
        live = {**new, "metadata": {**new["metadata"], "managedFields": entries}}
    managers = [entry["manager"] for entry in live["metadata"]["managedFields"]]
    assert len(managers) == MAX_UPDATE_ENTRIES
    assert "ancient-changes" in managers
    assert managers[-1] == f"m{MAX_UPDATE_ENTRIES + 4}"


@given(JSON, JSON)
def test_merge_patch_follows_its_rfc(target: Any, patch: Any) -> None:
    kept = copy.deepcopy(target)
    merged = merge_patch(target, patch)
    assert target == kept
    if isinstance(patch, dict):
        for name, value in patch.items():
            assert (name not in merged) if value is None else (name in merged)
    else:
        assert merged == patch
    assert merge_patch(merged, patch) == merged


@given(st.lists(st.dictionaries(st.sampled_from(["op", "path", "from", "value"]), JSON, max_size=4), max_size=3))
def test_any_json_patch_applies_or_is_refused(operations: list[Any]) -> None:
    target = {"a": [1, {"b": 2}]}
    try:
        json_patch(target, operations)
    except PatchError as error:
        assert error.status in (400, 422)
    assert target == {"a": [1, {"b": 2}]}


@pytest.mark.parametrize("operations", [[{"op": "test", "path": "", "value": 1}] * 10_001], ids=["too many"])
def test_a_patch_has_an_end(operations: list[Any]) -> None:
    with pytest.raises(PatchError) as refused:
        json_patch({}, operations)
    assert refused.value.status == 413
