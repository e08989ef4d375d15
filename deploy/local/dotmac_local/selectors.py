"""Label and field selectors, in the grammar of `kubectl -l` and `--field-selector`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dotmac_local.errors import bad_request

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_SET = re.compile(rf"^\s*({_NAME})\s+(in|notin)\s*\(([^()]*)\)\s*$")
_EQUAL = re.compile(rf"^\s*({_NAME})\s*(==|=|!=)\s*([-A-Za-z0-9_.]*)\s*$")
_EXISTS = re.compile(rf"^\s*(!?)\s*({_NAME})\s*$")

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Requirement:
    """One term: `key in values`, `key notin values` (an absent key matches), or `key` / `!key` (values is None)."""

    key: str
    negated: bool
    values: frozenset[str] | None

    def matches(self, labels: Labels) -> bool:
        if self.values is None:
            return (self.key in labels) != self.negated
        return (labels.get(self.key) in self.values) != self.negated


@dataclass(frozen=True)
class Selector:
    """All requirements must hold; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __bool__(self) -> bool:
        return bool(self.requirements)


def parse_labels(text: str) -> Selector:
    """A label selector; raises ApiError 400 with the part that cannot be read."""
    return Selector(tuple(_label_requirement(term) for term in _split(text) if term.strip()))


def _split(text: str) -> list[str]:
    """At commas that are not inside parentheses."""
    return re.split(r",(?![^(]*\))", text)


def _label_requirement(term: str) -> Requirement:
    if found := _SET.match(term):
        key, operator, values = found.groups()
        return Requirement(key, operator == "notin", frozenset(value.strip() for value in values.split(",")))
    if found := _EQUAL.match(term):
        key, operator, value = found.groups()
        return Requirement(key, operator == "!=", frozenset((value,)))
    if found := _EXISTS.match(term):
        return Requirement(found[2], bool(found[1]), None)
    raise bad_request(f"unable to parse requirement: {term.strip()!r} is not KEY, !KEY, KEY=VALUE or KEY in (VALUES)")


def parse_fields(text: str, supported: Callable[[str], bool]) -> Selector:
    """A field selector over the labels that the resource supports; raises ApiError 400 for any other."""
    requirements = []
    for term in text.split(","):
        if not term.strip():
            continue
        key, operator, value = _field_term(term)
        if not supported(key):
            raise bad_request(f"field label not supported: {key}")
        requirements.append(Requirement(key, operator == "!=", frozenset((value,))))
    return Selector(tuple(requirements))


def _field_term(term: str) -> tuple[str, str, str]:
    for operator in ("!=", "==", "="):
        key, found, value = term.partition(operator)
        if found:
            return key.strip(), operator, value.strip()
    raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
