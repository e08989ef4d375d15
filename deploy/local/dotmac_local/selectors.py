"""Label and field selectors, in the grammar of `kubectl -l` and `--field-selector`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dotmac_local.errors import bad_request

_PART = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)"
_KEY = re.compile(rf"(?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_PART}")
_VALUE = re.compile(rf"{_PART}?")
_SET = re.compile(r"([^\s,!=<>()]+)\s+(in|notin)\s*\(([^()]*)\)")
_COMPARED = re.compile(r"([^\s,!=<>()]+)\s*(==|=|!=|>|<)\s*([^\s,!=<>()]*)")
_EXISTS = re.compile(r"(!?)\s*([^\s,!=<>()]+)")

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Requirement:
    """One term: `key in values`, `key notin values` (an absent key matches), `key` / `!key` (values is None), or
    `key > bound` / `key < bound`, which holds for whole numbers only.
    """

    key: str
    negated: bool
    values: frozenset[str] | None
    above: int | None = None
    below: int | None = None

    def matches(self, labels: Labels) -> bool:
        if self.above is not None or self.below is not None:
            return self._within(labels.get(self.key, ""))
        if self.values is None:
            return (self.key in labels) != self.negated
        return (labels.get(self.key) in self.values) != self.negated

    def _within(self, value: str) -> bool:
        if not value.removeprefix("-").isdecimal():
            return False
        number = int(value)
        return (self.above is None or number > self.above) and (self.below is None or number < self.below)


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
    return Selector(tuple(_label_requirement(term.strip()) for term in _split(text))) if text.strip() else Selector()


def _split(text: str) -> list[str]:
    """At commas that are not inside parentheses."""
    return re.split(r",(?![^(]*\))", text)


def _label_requirement(term: str) -> Requirement:
    if found := _SET.fullmatch(term):
        key, operator, values = found.groups()
        return _checked(Requirement(key, operator == "notin", frozenset(value.strip() for value in values.split(","))))
    if found := _COMPARED.fullmatch(term):
        key, operator, value = found.groups()
        if operator in "<>":
            return _checked(_bounded(key, operator, value))
        return _checked(Requirement(key, operator == "!=", frozenset((value,))))
    if found := _EXISTS.fullmatch(term):
        return _checked(Requirement(found[2], bool(found[1]), None))
    raise bad_request(f"unable to parse requirement: {term!r} is not KEY, !KEY, KEY=VALUE or KEY in (VALUES)")


def _bounded(key: str, operator: str, value: str) -> Requirement:
    if not value.removeprefix("-").isdecimal():
        why = "for 'Gt', 'Lt' operators, the value must be an integer"
        raise bad_request(f'unable to parse requirement: values[0]: Invalid value: "{value}": {why}')
    bound = int(value)
    if operator == ">":
        return Requirement(key, False, None, above=bound)
    return Requirement(key, False, None, below=bound)


def _checked(requirement: Requirement) -> Requirement:
    """Keys and values must be ones that labels can have."""
    if not _KEY.fullmatch(requirement.key):
        raise bad_request(f'unable to parse requirement: <nil>: Invalid value: "{requirement.key}": not a label key')
    for value in requirement.values or ():
        if not _VALUE.fullmatch(value):
            where = f"values[0][{requirement.key}]"
            raise bad_request(f'unable to parse requirement: {where}: Invalid value: "{value}": not a valid label')
    return requirement


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
