"""Schemas and rules against values that nobody should send, and definitions that nobody should write."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.local.recorded import widget_crd, widget_schema

from dotmac_local.schema import Schema, check_crd
from dotmac_local.schema.patterns import PatternError, compile_pattern

SCHEMA = widget_schema()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=12,
)
FIELDS = st.sampled_from(["size", "color", "owner", "ports", "tags", "labels", "when", "nullable", "quantity", "free"])
SPECS = st.dictionaries(FIELDS, JSON, max_size=5)


def widget(spec: Any) -> dict[str, Any]:
    return {"apiVersion": "widgets.example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": spec}


@given(JSON | SPECS)
def test_any_json_is_validated_or_refused_never_an_accident(spec: Any) -> None:
    obj = widget(spec)
    SCHEMA.prune(obj)
    SCHEMA.default(obj)
    for cause in SCHEMA.validate(obj, None):
        assert cause.reason.startswith("FieldValue")
        assert cause.field


@given(SPECS, SPECS)
def test_an_update_never_fails_where_nothing_changed(old: Any, new: Any) -> None:
    before, after = widget({"size": 1, **old}), widget({"size": 1, **new})
    for obj in (before, after):
        SCHEMA.prune(obj)
        SCHEMA.default(obj)
    SCHEMA.validate(after, before)
    ratcheted = [c for c in SCHEMA.validate(before, before) if c.reason != "FieldValueDuplicate"]
    assert not [c for c in ratcheted if c.field != "<nil>"]


def refused(new: dict[str, Any], old: dict[str, Any]) -> set[str]:
    """The fields; without that rules were not checked, which is no field's."""
    return {cause.field for cause in SCHEMA.validate(new, old)} - {"<nil>"}


def test_an_update_may_leave_what_is_wrong_but_not_make_it_wrong() -> None:
    """Of an object that was stored before its definition said no."""
    wrong = widget({"size": "large"})
    assert SCHEMA.validate(wrong, None)
    assert refused(wrong | {"status": {}}, wrong) == set()
    assert refused(widget({"size": "larger"}), wrong) == {"spec.size"}
    assert refused(wrong, widget({"size": 1})) == {"spec.size"}


@pytest.mark.parametrize("value", [True, 1.5, "1", None, [1], {"1": 1}])
def test_what_python_calls_equal_is_not_the_same(value: Any) -> None:
    assert refused(widget({"size": value}), widget({"size": 1})) == {"spec.size"}


def test_a_number_beyond_64_bits_is_no_accident() -> None:
    huge = widget({"size": 2**70})
    assert refused(huge, widget({"size": 1})) == {"spec.size"}
    SCHEMA.validate(huge, huge)


@given(SPECS)
def test_pruning_and_defaulting_are_idempotent(spec: Any) -> None:
    obj = widget(spec)
    SCHEMA.prune(obj)
    SCHEMA.default(obj)
    again = copy.deepcopy(obj)
    assert SCHEMA.prune(again) == []
    SCHEMA.default(again)
    assert again == obj


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4))
def test_unknown_fields_go_and_are_named(extra: dict[str, Any]) -> None:
    known = {"size": 1}
    obj = widget({**extra, **known})
    unknown = SCHEMA.prune(obj)
    assert len(unknown) >= len([name for name in extra if name not in obj["spec"] and name not in known])
    json.dumps(obj)


@pytest.mark.parametrize(
    "value",
    [2**63, -(2**63) - 1, 10**30, 1e308, "\x00", "\ud800", "a" * 100_000, [[]] * 1000],
    ids=lambda value: str(value)[:12].encode("unicode_escape").decode(),
)
def test_extreme_values_meet_rules_without_accident(value: Any) -> None:
    schema = Schema(
        {
            "type": "object",
            "properties": {
                "spec": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": True,
                    "x-kubernetes-validations": [{"rule": "self == self"}],
                }
            },
        }
    )
    schema.validate(widget({"x": value}), None)


def test_a_deep_value_is_no_accident() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = {"a": [deep]}
    obj = widget({"size": 1, "free": deep})
    assert SCHEMA.prune(obj) == []
    SCHEMA.default(obj)
    assert SCHEMA.validate(obj, None) == []


@pytest.mark.parametrize("pattern", ["(?=a)", "(?<!a)b", r"(a)\1", "(?>a)", "a++", "[", "(", "*a", "a{3,1}"])
def test_what_re2_lacks_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^a$", "a\n", False),
        (r"^\d$", "٣", False),
        (r"\w", "é", False),
        ("[[:alpha:]]+", "abc", True),
        (r"^[\w.-]+$", "a.b-c", True),
        (r"a\z", "ba", True),
        ("(?m)^b$", "a\nb", True),
        (r"^[^\]]+$", "abc", True),
        ("(?i)ABC", "abc", True),
    ],
)
def test_patterns_mean_what_they_mean_in_go(pattern: str, text: str, found: bool) -> None:
    assert (compile_pattern(pattern).search(text) is not None) is found


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["spec", "names", "versions", "group", "scope", "metadata"]), max_size=3), JSON)
def test_a_mangled_definition_is_judged_not_stumbled_over(path: list[str], value: Any) -> None:
    crd = copy.deepcopy(widget_crd())
    place: Any = crd
    for step in path[:-1]:
        place = place.get(step) if isinstance(place, dict) else None
    if isinstance(place, dict) and path:
        place[path[-1]] = value
    check_crd(crd)


@settings(max_examples=100)
@given(
    st.sampled_from(
        [
            "type",
            "properties",
            "items",
            "required",
            "enum",
            "default",
            "pattern",
            "additionalProperties",
            "anyOf",
            "not",
        ]
        + ["x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "maxLength", "minimum"]
    ),
    JSON,
)
def test_a_mangled_schema_is_judged_not_stumbled_over(keyword: str, value: Any) -> None:
    crd = copy.deepcopy(widget_crd())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for place in (spec, spec["properties"]["ports"], spec["properties"]["owner"]):
        place[keyword] = value
    check_crd(crd)


@pytest.mark.parametrize("rule", ["", "self.", "1 +", "x" * 10_000, "(" * 500, "self.all(", "'", "\x00", "💥"])
def test_a_broken_rule_is_a_cause(rule: str) -> None:
    crd = copy.deepcopy(widget_crd())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["x-kubernetes-validations"] = [{"rule": rule}]
    fields = [cause.field for cause in check_crd(crd)]
    assert any(field.endswith("x-kubernetes-validations[0].rule") for field in fields)


def test_the_definition_of_the_recordings_is_taken() -> None:
    assert check_crd(widget_crd()) == []
