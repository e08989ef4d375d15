"""The JSONPath of Kubernetes, as far as printer columns use it: fields, quoted fields, indexes, `*`, and filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

Step = Callable[[Any], Iterable[Any]]

_TOKEN = re.compile(
    r"""\.\.(?P<deep>[-\w]+)
    |\.(?P<field>(?:[-\w$/]|\\.)+)
    |\.?\[\s*'(?P<quoted>[^']*)'\s*\]|\.?\[\s*"(?P<dquoted>[^"]*)"\s*\]
    |\.?\[\s*\?\(\s*@(?P<left>[^=!<>)]*?)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<right>"[^"]*"|'[^']*'|[-\w.]+)\s*)?\)\s*\]
    |\.?\[\s*(?P<index>-?\d+)\s*\]
    |\.?(?P<all>\[\s*\*\s*\]|\.\*)
    |(?P<dot>\.)$""",
    re.VERBOSE,
)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    ">": lambda a, b: bool(a > b),
    "<=": lambda a, b: bool(a <= b),
    ">=": lambda a, b: bool(a >= b),
}


class BadPath(ValueError):
    """A path this dialect has no word for."""


@lru_cache(maxsize=1024)
def compile_path(path: str) -> tuple[Step, ...]:
    """The steps of a path such as `.status.conditions[?(@.type=="Ready")].status`; raises BadPath."""
    steps: list[Step] = []
    position = 0
    path = path.strip()
    if path.startswith("{") and path.endswith("}"):
        path = path[1:-1]
    path = path.removeprefix("$")
    while position < len(path):
        found = _TOKEN.match(path, position)
        if found is None:
            raise BadPath(f"cannot read {path!r} from position {position}")
        steps.append(_step(found))
        position = found.end()
    return tuple(steps)


def find(obj: Any, path: str) -> list[Any]:
    """All values at a path; none when any part of it is absent."""
    values = [obj]
    for step in compile_path(path):
        values = [found for value in values for found in step(value)]
    return values


def _step(found: re.Match[str]) -> Step:
    groups = found.groupdict()
    if groups["dot"]:
        return lambda value: [value]
    if groups["deep"]:
        return lambda value: _descend(value, groups["deep"])
    if groups["all"]:
        return lambda value: value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if groups["index"] is not None:
        return _index(int(groups["index"]))
    if groups["left"] is not None:
        return _filter(groups["left"], groups["op"], groups["right"])
    name = next(n for n in (groups["field"], groups["quoted"], groups["dquoted"]) if n is not None)
    return _field(re.sub(r"\\(.)", r"\1", name))


def _field(name: str) -> Step:
    return lambda value: (value[name],) if isinstance(value, dict) and name in value else ()


def _index(index: int) -> Step:
    return lambda value: (value[index],) if isinstance(value, list) and -len(value) <= index < len(value) else ()


def _filter(left: str, operator: str | None, right: str | None) -> Step:
    wanted = _literal(right) if right is not None else None

    def holds(item: Any) -> bool:
        found = find(item, left)
        if operator is None:
            return bool(found)
        try:
            return any(_OPERATORS[operator](value, wanted) for value in found)
        except TypeError:
            return False

    return lambda value: [item for item in value if holds(item)] if isinstance(value, list) else ()


def _literal(text: str) -> Any:
    if text[0] in "\"'":
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        return float(text) if re.fullmatch(r"-?\d+\.\d+", text) else text


def _descend(value: Any, name: str) -> Iterable[Any]:
    if isinstance(value, dict):
        if name in value:
            yield value[name]
        for child in value.values():
            yield from _descend(child, name)
    elif isinstance(value, list):
        for child in value:
            yield from _descend(child, name)
