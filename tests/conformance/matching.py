"""Comparing an answer with a recorded one, whose varying values are placeholders: `<time>`, `<uid3>`, `<rv12>`, ..."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

_PLACEHOLDER = re.compile(r"<(time|uid\d+|rv\d+|continue|token)>")
_SHAPES = {
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z",
    "uid": r"[0-9a-f-]{36}",
    "rv": r"\d+",
    "continue": r".+",
    "token": r".+",
}
# Values that vary and were recorded as they are.
_VARYING = (
    (re.compile(r'"uid":"[0-9a-f-]{36}"'), '"uid":"*"'),
    (re.compile(r"JTI=[0-9a-f-]{36}"), "JTI=*"),
    (re.compile(r"\?hash=[0-9A-F]+"), "?hash=*"),
    (re.compile(r"too old resource version: \d+ \(\d+\)"), "too old resource version"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "*"),
)
_AGE = re.compile(r"(\d+[smhdy])+|<unknown>")


@dataclass
class Bindings:
    """What the placeholders of one scenario stand for on this server."""

    values: dict[str, str] = field(default_factory=dict)

    def copy(self) -> Bindings:
        return Bindings(dict(self.values))

    def fill(self, value: Any) -> Any:
        """A recorded request with this server's values."""
        if isinstance(value, dict):
            return {key: self.fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if isinstance(value, str):
            return _PLACEHOLDER.sub(lambda match: self.values.get(match.group(1), match.group(0)), value)
        return value

    def disorder(self) -> list[str]:
        """Where resourceVersions do not grow as they did in the recording."""
        versions = sorted((int(name[2:]), int(value)) for name, value in self.values.items() if name.startswith("rv"))
        return [
            f"<rv{later}> is {new}, not above <rv{earlier}>, {old}"
            for (earlier, old), (later, new) in zip(versions, versions[1:], strict=False)
            if new <= old
        ]


def differences(want: Any, got: Any, bindings: Bindings, path: str = "") -> list[str]:
    """Where `got` is not what was recorded, one line each. Binds placeholders as it meets them."""
    if isinstance(want, dict) and isinstance(got, dict):
        return _map_differences(want, got, bindings, path)
    if isinstance(want, list) and isinstance(got, list):
        if len(want) != len(got):
            return [f"{path}: {len(want)} items recorded, {len(got)} here"]
        pairs = enumerate(zip(_in_steady_order(want), _in_steady_order(got), strict=True))
        return [line for index, (w, g) in pairs for line in differences(w, g, bindings, f"{path}[{index}]")]
    if isinstance(want, str) and isinstance(got, str):
        return [] if _same_text(want, got, bindings) else [f"{path}: recorded {want!r}, here {got!r}"]
    same = want == got and type(want) is type(got)
    return [] if same else [f"{path}: recorded {want!r}, here {got!r}"]


def _map_differences(want: dict[str, Any], got: dict[str, Any], bindings: Bindings, path: str) -> list[str]:
    want, got = ({_steady(key): item for key, item in value.items()} for value in (want, got))
    if "generateName" in want and str(got.get("name", "")).startswith(want["generateName"]):
        want = {**want, "name": got["name"]}
    lines: list[str] = []
    for key in [*want, *(key for key in got if key not in want)]:
        where = f"{path}.{key}"
        if key not in got:
            lines.append(f"{where}: missing, recorded {_short(want[key])}")
        elif key not in want:
            lines.append(f"{where}: not recorded, here {_short(got[key])}")
        else:
            lines += differences(want[key], got[key], bindings, where)
    return lines


def _same_text(want: str, got: str, bindings: Bindings) -> bool:
    if _AGE.fullmatch(want) and _AGE.fullmatch(got):
        return True
    if not _PLACEHOLDER.search(want):
        return _steady(want) == _steady(got)
    names: list[str] = []

    def group(match: re.Match[str]) -> str:
        names.append(match.group(1))
        return f"({_SHAPES[match.group(1).rstrip('0123456789')]})"

    pattern = "".join(
        group(match) if (match := _PLACEHOLDER.fullmatch(part)) else re.escape(part)
        for part in re.split(r"(<(?:time|uid\d+|rv\d+|continue|token)>)", want)
    )
    found = re.fullmatch(pattern, got)
    if found is None:
        return False
    for name, value in zip(names, found.groups(), strict=True):
        if name in ("time", "continue", "token"):
            bindings.values[name] = value
        elif bindings.values.setdefault(name, value) != value:
            return False
    return True


def _steady(text: str) -> str:
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text


def _in_steady_order(items: list[Any]) -> list[Any]:
    """Causes come in no fixed order; that of managedFields depends on whether a second passed between two writes."""
    if items and all(isinstance(item, dict) and "fieldsV1" in item for item in items):
        return sorted(items, key=lambda item: (item["operation"], item["manager"], item.get("subresource", "")))
    if items and all(isinstance(item, dict) and item.keys() == {"reason", "message", "field"} for item in items):
        return sorted(items, key=lambda item: (item["field"], item["reason"]))
    return items


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else text[:100] + "..."
