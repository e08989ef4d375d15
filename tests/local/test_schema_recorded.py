"""Validation as a real API server recorded it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.local.recorded import steps, widget_schema

SCHEMA = widget_schema()


def refused(obj: dict[str, Any], old: dict[str, Any] | None) -> list[tuple[str, str]]:
    return sorted((cause.reason, cause.field) for cause in SCHEMA.validate(obj, old))


@pytest.mark.parametrize("step", steps("04-validation"), ids=lambda step: step["about"])
def test_the_causes_are_those_of_the_recording(step: dict[str, Any]) -> None:
    obj = copy.deepcopy(step["request"]["body"])
    if obj["spec"].get("when") == "<time>":
        obj["spec"]["when"] = "2026-01-01T00:00:00Z"
    SCHEMA.prune(obj)
    SCHEMA.default(obj)
    causes = step["response"]["body"].get("details", {}).get("causes", [])
    assert refused(obj, None) == sorted((cause["reason"], cause["field"]) for cause in causes)


@pytest.mark.parametrize(
    ("spec", "field"),
    [({"size": 2, "owner": "you"}, "spec.owner"), ({"size": 2}, "spec")],
    ids=["changed", "removed"],
)
def test_transition_rules_see_the_stored_object(spec: dict[str, Any], field: str) -> None:
    old = {"apiVersion": "widgets.example.com/v1", "kind": "Widget", "spec": {"size": 2, "owner": "me"}}
    assert refused({**old, "spec": spec}, old) == [("FieldValueInvalid", field)]
    assert refused(old, old) == []
    assert refused({**old, "spec": spec}, None) == []
