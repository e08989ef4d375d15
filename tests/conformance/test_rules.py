"""Validation rules as objects meet them: every case is a field with a rule, a value, and whether it is let through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from tests.conformance.target import Target
from tests.conformance.things import Things, definition, installed, ok, refusal

TEXT: dict[str, Any] = {"type": "string", "maxLength": 60}
NUMBER: dict[str, Any] = {"type": "integer"}
FLOAT: dict[str, Any] = {"type": "number"}
TEXTS: dict[str, Any] = {"type": "array", "maxItems": 9, "items": TEXT}
NUMBERS: dict[str, Any] = {"type": "array", "maxItems": 9, "items": NUMBER}
PAIR: dict[str, Any] = {"type": "object", "properties": {"a": NUMBER, "b": NUMBER, "s": TEXT}}
MAP: dict[str, Any] = {"type": "object", "maxProperties": 9, "additionalProperties": NUMBER}


@dataclass(frozen=True)
class Case:
    """A rule on a field with a schema; `good` values are let through, `bad` ones refused."""

    rule: str
    schema: dict[str, Any]
    good: list[Any] = field(default_factory=list)
    bad: list[Any] = field(default_factory=list)


CASES = {
    "has": Case("!has(self.a) || self.a > 0", PAIR, [{}, {"b": 1}, {"a": 1}], [{"a": 0}]),
    "absent": Case("self.a > 0", PAIR, [{"a": 1}], [{}, {"b": 1}]),
    "or-absorbs-errors": Case("self.a > 0 || self.b > 0", PAIR, [{"b": 1}, {"a": 1}], [{}, {"b": 0}]),
    "and-absorbs-errors": Case("!(self.a > 0 && self.b > 0)", PAIR, [{"b": 0}], [{"a": 1, "b": 1}, {"a": 1}]),
    "ternary": Case("has(self.a) ? self.a > 0 : self.b > 0", PAIR, [{"a": 1}, {"b": 1}], [{"a": 0, "b": 1}, {"b": 0}]),
    "integer-division": Case("self / 2 == 1", NUMBER, [2, 3], [4, 1]),
    "negative-remainder": Case("self % 3 == -1", NUMBER, [-1, -4], [2]),
    "overflow": Case("self + 1 > 0", NUMBER, [1], [9223372036854775807]),
    "double-stays-double": Case("self * 2.0 == 3.0 && type(self) == double", FLOAT, [1.5], [2]),
    "whole-double": Case("type(self) == double && self == 2.0", FLOAT, [2, 2.0], [3]),
    "int-against-double": Case("self < 1.5", NUMBER, [1], [2]),
    "length-in-characters": Case("size(self) == 5", TEXT, ["héllo"], ["hello!"]),
    "string-functions": Case(
        "self.startsWith('a') && self.endsWith('z') && self.contains('-') && self.lowerAscii() == self",
        TEXT,
        ["a-z"],
        ["a-Z", "az"],
    ),
    "split": Case("self.split(',').map(x, x.trim()) == ['a', 'b']", TEXT, ["a, b"], ["a,b,c"]),
    "substring": Case("self.substring(1, 3) == 'bc' && self.indexOf('d') == 3", TEXT, ["abcd"], ["abxd", "a"]),
    "matches": Case(r"self.matches('^[a-z]+\\d{2}$')", TEXT, ["ab12"], ["ab1", "ab12\n"]),
    "find": Case("self.find('[0-9]+') == '42' && self.findAll('[0-9]').size() == 2", TEXT, ["a42b"], ["a4b2"]),
    "all": Case("self.all(x, x > 0)", NUMBERS, [[], [1, 2]], [[1, 0]]),
    "exists": Case("self.exists(x, x == 'a')", TEXTS, [["b", "a"]], [[], ["b"]]),
    "exists-one": Case("self.exists_one(x, x == 'a')", TEXTS, [["a", "b"]], [["a", "a"], []]),
    "map-and-filter": Case("self.filter(x, x > 1).map(x, x * 2) == [4, 6]", NUMBERS, [[1, 2, 3]], [[1, 2]]),
    "macro-over-map": Case("self.all(key, key.startsWith('k') && self[key] > 0)", MAP, [{"k": 1}, {}], [{"x": 1}]),
    "two-variables": Case("self.all(key, value, key != 'x' && value > 0)", MAP, [{"k": 1}], [{"x": 1}, {"k": 0}]),
    "in": Case("'a' in self && !('b' in self)", MAP, [{"a": 1}], [{"a": 1, "b": 1}]),
    "sorted": Case("self.isSorted()", TEXTS, [["a", "b"], []], [["b", "a"]]),
    "sum-min-max": Case("self.sum() == 6 && self.min() == 1 && self.max() == 3", NUMBERS, [[1, 2, 3]], [[6], [1, 2]]),
    "index-of": Case("self.indexOf('b') == 1 && self.lastIndexOf('b') == 2", TEXTS, [["a", "b", "b"]], [["b"]]),
    "distinct": Case("self.distinct().size() == self.size()", TEXTS, [["a", "b"]], [["a", "a"]]),
    "sets": Case("sets.contains(['a', 'b'], self)", TEXTS, [["a"], []], [["c"]]),
    "optional": Case("self.?a.orValue(5) > 4", PAIR, [{}, {"a": 5}], [{"a": 1}]),
    "optional-index": Case("self[?1].hasValue()", TEXTS, [["a", "b"]], [["a"]]),
    "duration": Case("self <= duration('90s')", {"type": "string", "format": "duration"}, ["1m30s", "90s"], ["1h"]),
    "timestamp": Case(
        "self.getFullYear() == 2026 && self < timestamp('2026-06-01T00:00:00Z')",
        {"type": "string", "format": "date-time"},
        ["2026-01-01T00:00:00Z", "2026-02-03T04:05:06.789+02:00"],
        ["2026-07-01T00:00:00Z", "2025-01-01T00:00:00Z"],
    ),
    "bytes": Case("size(self) == 3", {"type": "string", "format": "byte", "maxLength": 9}, ["YWJj"], ["YWI="]),
    "int-or-string": Case(
        "type(self) == int ? self < 10 : self.endsWith('%')", {"x-kubernetes-int-or-string": True}, [5, "5%"], [50, "5"]
    ),
    "ip": Case("isIP(self) && ip(self).family() == 4 && !ip(self).isLoopback()", TEXT, ["10.0.0.1"], ["::1", "x"]),
    "ip-forms": Case("isIP(self)", TEXT, ["fe80::1"], ["fe80::1%eth0", "10.0.0.01", "::ffff:1.2.3.4", "1.2.3"]),
    "canonical-ip": Case("ip.isCanonical(self)", TEXT, ["2001:db8::abcd"], ["2001:DB8::ABCD", "2001:db8::0:0:0:abcd"]),
    "cidr": Case("cidr('10.0.0.0/8').containsCIDR(self)", TEXT, ["10.1.0.0/16"], ["11.0.0.0/16", "10.0.0.0/7", "x"]),
    "cidr-of-ip": Case("isCIDR(self) && cidr(self).containsIP('10.1.2.3')", TEXT, ["10.1.0.0/16"], ["10.2.0.0/16"]),
    "prefix": Case("isCIDR(self) && cidr(self).prefixLength() <= 24", TEXT, ["10.0.0.0/24"], ["10.0.0.0/25"]),
    "masked": Case("isCIDR(self) && cidr(self) == cidr(self).masked()", TEXT, ["10.0.0.0/8"], ["10.0.0.1/8"]),
    "url": Case(
        "url(self).getScheme() == 'https' && url(self).getHostname() == 'a.b' && url(self).getPort() == ''",
        TEXT,
        ["https://a.b/c?d=e"],
        ["http://a.b", "https://a.b:8443", "nope"],
    ),
    "url-query": Case("url(self).getQuery()['a'] == ['1', '2']", TEXT, ["https://x/?a=1&a=2"], ["https://x/?a=1"]),
    "quantity": Case(
        "isQuantity(self) && quantity(self).isGreaterThan(quantity('1Gi')) && quantity(self).isInteger()",
        TEXT,
        ["2Gi", "2000M"],
        ["1Gi", "1G", "1.5", "x", "1 Gi"],
    ),
    "quantity-sums": Case("quantity(self).add(quantity('500m')).compareTo(quantity('2')) == 0", TEXT, ["1500m"], ["1"]),
    "semver": Case("semver(self).compareTo(semver('1.10.0')) < 0", TEXT, ["1.9.0", "1.10.0-rc.1"], ["1.10.0", "2.0.0"]),
    "format-string": Case("'%d-%s'.format([size(self), self]) == '2-ab'", TEXT, ["ab"], ["abc"]),
    "reserved-words": Case(
        "self.__namespace__ == 'x' && self.a__dash__b == 'y' && self.c__dot__d == 'z'",
        {"type": "object", "properties": {"namespace": TEXT, "a-b": TEXT, "c.d": TEXT}},
        [{"namespace": "x", "a-b": "y", "c.d": "z"}],
        [{"namespace": "x", "a-b": "y"}],
    ),
    "equal-objects": Case("self == {'a': 1} || self.a == 2", MAP, [{"a": 1}, {"a": 2}], [{"a": 3}]),
    "error-is-refusal": Case("self[3] == 'x'", TEXTS, [["", "", "", "x"]], [["a"]]),
    "division-by-zero": Case("1 / self > 0", NUMBER, [1], [0, 2]),
}


@pytest.fixture(scope="module")
def ruled(target: Target, namespace: httpx.Client) -> Iterator[Things]:
    properties = {
        _name(name): {**case.schema, "x-kubernetes-validations": [{"rule": case.rule}]} for name, case in CASES.items()
    }
    with installed(target, definition("ruleds", "Ruled", {"type": "object", "properties": properties})) as made:
        yield made


def _name(case: str) -> str:
    return case.replace("-", "_")


def _create(ruled: Things, name: str, value: Any) -> httpx.Response:
    return ruled.send("POST", body=ruled.body("x", {_name(name): value}), dryRun="All")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, case in CASES.items() for value in case.good], ids=str
)
def test_a_value_that_keeps_the_rule_is_let_through(ruled: Things, name: str, value: Any) -> None:
    answer = _create(ruled, name, value)
    assert answer.status_code == 201, answer.json()["message"]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, case in CASES.items() for value in case.bad], ids=str
)
def test_a_value_that_breaks_the_rule_is_refused(ruled: Things, name: str, value: Any) -> None:
    assert refusal(_create(ruled, name, value)) == (422, "Invalid", [("FieldValueInvalid", f"spec.{_name(name)}")])


@pytest.fixture(scope="module")
def changing(target: Target, namespace: httpx.Client) -> Iterator[Things]:
    def ruled(schema: dict[str, Any], *rules: dict[str, Any]) -> dict[str, Any]:
        return {**schema, "x-kubernetes-validations": list(rules)}

    port = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": TEXT, "number": ruled(NUMBER, {"rule": "self >= oldSelf"})},
    }
    spec = ruled(
        {
            "type": "object",
            "properties": {
                "fixed": ruled(TEXT, {"rule": "self == oldSelf", "message": "fixed"}),
                "grows": ruled(
                    NUMBER,
                    {"rule": "!oldSelf.hasValue() || self > oldSelf.value()", "optionalOldSelf": True},
                ),
                "ports": {
                    "type": "array",
                    "maxItems": 5,
                    "items": port,
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                },
                "worded": ruled(
                    NUMBER,
                    {
                        "rule": "self < 10",
                        "messageExpression": "'got ' + (self > 11 ? 'much' : 'enough')",
                        "message": "static",
                    },
                ),
                "a": NUMBER,
                "b": NUMBER,
            },
        },
        {
            "rule": "!has(self.a) || has(self.b)",
            "reason": "FieldValueRequired",
            "fieldPath": ".b",
            "message": "a needs b",
        },
        {"rule": "!has(oldSelf.b) || has(self.b)", "reason": "FieldValueForbidden", "message": "b stays"},
    )
    with installed(target, definition("changings", "Changing", spec)) as made:
        yield made


def test_a_transition_rule_needs_something_to_compare_with(changing: Things) -> None:
    changing.create("fixed", {"fixed": "a"})
    answer = changing.merge("fixed", {"spec": {"fixed": "b"}})
    assert refusal(answer)[2] == [("FieldValueInvalid", "spec.fixed")]
    ok(changing.merge("fixed", {"spec": {"fixed": None}}))
    ok(changing.merge("fixed", {"spec": {"fixed": "b"}}))


def test_an_optional_old_value_is_compared_from_the_start(changing: Things) -> None:
    changing.create("grows", {"grows": 1})
    assert refusal(changing.merge("grows", {"spec": {"grows": 1, "a": 1, "b": 1}}))[0] == 422
    ok(changing.merge("grows", {"spec": {"grows": 2}}))


def test_items_of_a_list_map_are_compared_by_key(changing: Things) -> None:
    changing.create("ports", {"ports": [{"name": "a", "number": 5}, {"name": "b", "number": 1}]})
    ok(changing.merge("ports", {"spec": {"ports": [{"name": "b", "number": 2}, {"name": "a", "number": 6}]}}))
    shrunk = changing.merge("ports", {"spec": {"ports": [{"name": "c", "number": 0}, {"name": "a", "number": 1}]}})
    assert refusal(shrunk)[2] == [("FieldValueInvalid", "spec.ports[1].number")]


def test_a_rule_names_its_reason_and_its_field(changing: Things) -> None:
    answer = changing.send("POST", body=changing.body("reason", {"a": 1}))
    assert refusal(answer)[2] == [("FieldValueRequired", "spec.b")]
    changing.create("stays", {"b": 1})
    assert refusal(changing.merge("stays", {"spec": {"b": None}}))[2] == [("FieldValueForbidden", "spec")]


def test_a_message_is_computed(changing: Things) -> None:
    answer = changing.send("POST", body=changing.body("worded", {"worded": 12}))
    assert "got much" in answer.json()["message"]
