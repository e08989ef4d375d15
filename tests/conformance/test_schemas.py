"""Schemas as objects meet them: values, formats, defaults, pruning, and what a changed schema means for old objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.conformance.target import Target
from tests.conformance.things import CRDS, GROUP, Things, definition, installed, ok, refusal, until

TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
INVALID, TYPE = "FieldValueInvalid", "FieldValueTypeInvalid"
TOO_MANY, TOO_LONG = "FieldValueTooMany", "FieldValueTooLong"
# Some checks of the real one name no field.
NOWHERE = "<nil>"

# A schema, values that hold, and values that do not with the reason and the place below the field.
CASES: dict[str, tuple[dict[str, Any], list[Any], list[tuple[Any, str, str]]]] = {
    "bounds": (
        {"type": "number", "minimum": 1, "maximum": 5, "exclusiveMaximum": True},
        [1, 4.5],
        [(0.5, INVALID, ""), (5, INVALID, ""), ("2", TYPE, "")],
    ),
    "int32": ({"type": "integer", "format": "int32"}, [2**31 - 1, -(2**31)], [(2**31, INVALID, NOWHERE)]),
    "whole": ({"type": "integer"}, [2, 2.0], [(2.5, TYPE, ""), (True, TYPE, ""), ("2", TYPE, "")]),
    "truth": ({"type": "boolean"}, [True, False], [(0, TYPE, ""), ("true", TYPE, "")]),
    "lengths": (
        {"type": "string", "minLength": 2, "maxLength": 3},
        ["ab", "äöü"],
        [("a", INVALID, ""), ("abcd", TOO_LONG, "")],
    ),
    "pattern": ({"type": "string", "pattern": "^a+$"}, ["aa"], [("ab", INVALID, ""), ("aa\n", INVALID, "")]),
    "unanchored": ({"type": "string", "pattern": "b"}, ["abc"], [("aa", INVALID, "")]),
    "enum": ({"type": "string", "enum": ["a", ""]}, ["a", ""], [("A", "FieldValueNotSupported", "")]),
    "number-enum": ({"type": "integer", "enum": [1, 2]}, [1], [(3, "FieldValueNotSupported", "")]),
    "items": (
        {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string", "maxLength": 1}},
        [["a"], ["a", "b"]],
        [([], INVALID, ""), (["a", "b", "c"], TOO_MANY, ""), (["a", "bb"], TOO_LONG, "[1]"), ([1], TYPE, "[0]")],
    ),
    "map-size": (
        {"type": "object", "minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "integer"}},
        [{"a": 1}],
        [({}, INVALID, ""), ({"a": 1, "b": 2, "c": 3}, TOO_MANY, ""), ({"a": "x"}, TYPE, ".a")],
    ),
    "one-of": (
        {
            "type": "object",
            "properties": {"a": TEXT, "b": TEXT},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        [{"a": "x"}, {"b": "x"}],
        [({"a": "x", "b": "x"}, INVALID, NOWHERE)],
    ),
    "not": ({"type": "string", "not": {"enum": ["root"]}}, ["a"], [("root", INVALID, NOWHERE)]),
    "all-of": (
        {"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "z$"}]},
        ["az"],
        [("ab", INVALID, "")],
    ),
    "nullable": ({"type": "string", "nullable": True}, [None, "a"], [(1, TYPE, "")]),
    "int-or-string": (
        {"x-kubernetes-int-or-string": True},
        [1, "1"],
        [(1.5, TYPE, ""), ([], TYPE, ""), (True, TYPE, "")],
    ),
    "keys": (
        {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": {
                "type": "object",
                "required": ["port"],
                "properties": {"port": NUMBER, "protocol": {**TEXT, "default": "TCP"}},
            },
        },
        [[{"port": 1}, {"port": 1, "protocol": "UDP"}]],
        [([{"port": 1}, {"port": 1, "protocol": "TCP"}], "FieldValueDuplicate", "[1]")],
    ),
}
FORMATS: dict[str, tuple[list[str], list[str]]] = {
    "date-time": (
        ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456+02:00", "2026-01-01t00:00:00z"],
        ["2026-01-01", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "x"],
    ),
    "date": (["2026-01-01"], ["2026-02-30", "01.01.2026"]),
    "duration": (["1h30m", "3 days", "0", "-5s"], ["1x", "", "5"]),
    "email": (["a@b.example"], ["a", "a@", "@b"]),
    "hostname": (["a.example", "localhost"], ["-a", "a..b", "a b"]),
    "ipv4": (["10.0.0.1", "010.0.0.1"], ["10.0.0.256", "::1"]),
    "ipv6": (["::1", "fe80::1"], ["10.0.0.1", ":::"]),
    "cidr": (["10.0.0.0/8", "::/0", "10.0.0.1/8"], ["10.0.0.0", "10.0.0.0/33"]),
    "mac": (["00:00:5e:00:53:01", "00-00-5e-00-53-01"], ["00:00", "zz:00:5e:00:53:01"]),
    "uuid": (["123e4567-e89b-12d3-a456-426614174000"], ["123e4567", "x"]),
    "uri": (["https://a/b?c#d", "/absolute", "mailto:a@b"], ["relative", ""]),
    "byte": (["YWJj"], ["*", "YWJ", ""]),
    "password": (["anything"], []),
    "made-up": (["anything"], []),
}


@pytest.fixture(scope="module")
def cases(target: Target, namespace: httpx.Client) -> Iterator[Things]:
    properties = {_name(name): schema for name, (schema, _, _) in CASES.items()}
    properties |= {_name(name): {"type": "string", "format": name} for name in FORMATS}
    with installed(target, definition("cases", "Case", {"type": "object", "properties": properties})) as made:
        yield made


def _name(case: str) -> str:
    return case.replace("-", "_")


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, (_, good, _) in CASES.items() for v in good], ids=repr)
def test_a_value_that_fits(cases: Things, name: str, value: Any) -> None:
    assert cases.send("POST", body=cases.body("x", {_name(name): value}), dryRun="All").status_code == 201


@pytest.mark.parametrize(
    ("name", "value", "reason", "below"), [(n, *row) for n, (_, _, bad) in CASES.items() for row in bad], ids=repr
)
def test_a_value_that_does_not_fit(cases: Things, name: str, value: Any, reason: str, below: str) -> None:
    answer = cases.send("POST", body=cases.body("x", {_name(name): value}), dryRun="All")
    status, _, causes = refusal(answer)
    assert status == 422, answer.text
    where = NOWHERE if below == NOWHERE else f"spec.{_name(name)}{below}"
    assert (reason, where) in causes


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [(n, v, True) for n, (good, _) in FORMATS.items() for v in good]
    + [(n, v, False) for n, (_, bad) in FORMATS.items() for v in bad],
    ids=repr,
)
def test_formats(cases: Things, name: str, value: str, fits: bool) -> None:
    answer = cases.send("POST", body=cases.body("x", {_name(name): value}), dryRun="All")
    assert answer.status_code == (201 if fits else 422), answer.text


def _changed(target: Target, things: Things, crd: dict[str, Any], spec: dict[str, Any]) -> None:
    """Give an installed kind another schema, and wait until it is in force."""
    path = f"{CRDS}/{crd['metadata']['name']}"
    live = ok(things.client.get(path))
    live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec
    live["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["marker"] = TEXT
    ok(things.client.put(path, json=live))
    probe = {**things.body("marker-probe", {}), "marker": "x"}
    until(lambda: things.send("POST", body=probe, dryRun="All", fieldValidation="Strict").status_code != 400)


def test_a_changed_schema_shows_on_old_objects(target: Target, namespace: httpx.Client) -> None:
    before = {"type": "object", "properties": {"kept": TEXT, "dropped": TEXT}}
    after = {"type": "object", "properties": {"kept": TEXT, "added": {**TEXT, "default": "new"}}}
    crd = definition("evolvings", "Evolving", before)
    with installed(target, copy.deepcopy(crd)) as things:
        made = things.create("old", {"kept": "a", "dropped": "b"})
        _changed(target, things, crd, after)
        read = things.get("old")
        assert read["spec"] == {"kept": "a", "added": "new"}
        assert read["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_what_was_wrong_before_may_stay_but_not_move(target: Target, namespace: httpx.Client) -> None:
    before = {"type": "object", "properties": {"a": TEXT, "b": NUMBER, "list": {"type": "array", "items": TEXT}}}
    after = {
        "type": "object",
        "required": ["needed"],
        "properties": {
            "a": {**TEXT, "maxLength": 2},
            "b": NUMBER,
            "needed": TEXT,
            "list": {"type": "array", "items": {**TEXT, "pattern": "^x"}},
        },
    }
    crd = definition("stricters", "Stricter", before)
    with installed(target, copy.deepcopy(crd)) as things:
        things.create("old", {"a": "long", "b": 1, "list": ["y"]})
        _changed(target, things, crd, after)
        ok(things.merge("old", {"metadata": {"labels": {"touched": "yes"}}}))
        answer = things.merge("old", {"spec": {"b": 2}})
        assert refusal(answer)[2] == [("FieldValueRequired", "spec.needed")]
        ok(things.merge("old", {"spec": {"b": 2, "needed": "x"}}))
        assert refusal(things.merge("old", {"spec": {"a": "longer"}}))[0] == 422
        assert (INVALID, "spec.list[0]") in refusal(things.merge("old", {"spec": {"list": ["y", "x"]}}))[2]
        assert GROUP in things.api_version


def test_an_embedded_resource_is_one(target: Target, namespace: httpx.Client) -> None:
    template = {"type": "object", "x-kubernetes-embedded-resource": True, "x-kubernetes-preserve-unknown-fields": True}
    with installed(
        target, definition("templates", "Template", {"type": "object", "properties": {"template": template}})
    ) as things:
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "bogus": 1}, "spec": {"any": 1}}
        made = things.create("whole", {"template": whole})
        assert made["spec"]["template"]["spec"] == {"any": 1}
        assert made["spec"]["template"]["metadata"] == {"name": "a"}
        answer = things.send("POST", body=things.body("part", {"template": {"spec": {}}}))
        assert {where for _, where in refusal(answer)[2]} >= {"spec.template.apiVersion", "spec.template.kind"}
