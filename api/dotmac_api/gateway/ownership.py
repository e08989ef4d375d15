"""Which fields of an object a field manager owns, read from its managedFields.

Server-side apply takes away what a manager owned and no longer sends. So a change of one field is sent together with
all that the manager already owns: extract, change, apply. Source: Kubernetes, "Server-Side Apply"; client-go does the
same in its Extract functions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

type Fields = Mapping[str, Any]


def owned(obj: Mapping[str, Any], manager: str) -> dict[str, Any]:
    """The part of `obj` that `manager` owns by server-side apply, as a configuration that can be applied again."""
    made: Any = {}
    for entry in _entries(obj):
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            made = _pick(obj, entry.get("fieldsV1") or {})
    metadata = dict(made.get("metadata") or {})
    metadata["name"] = obj["metadata"]["name"]
    if obj["metadata"].get("namespace"):
        metadata["namespace"] = obj["metadata"]["namespace"]
    return {**made, "apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata}


def other_owners(obj: Mapping[str, Any], path: tuple[str, ...], manager: str) -> list[str]:
    """Managers but `manager` that own the field at `path` (in the notation of managedFields, such as `f:spec`)."""
    found = set()
    for entry in _entries(obj):
        if entry.get("manager") == manager or entry.get("subresource"):
            continue
        if _owns(entry.get("fieldsV1") or {}, path):
            found.add(str(entry.get("manager")))
    return sorted(found)


def _entries(obj: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from obj["metadata"].get("managedFields") or ()


def _owns(fields: Fields, path: tuple[str, ...]) -> bool:
    here: Any = fields
    for step in path:
        if step not in here:
            return False
        here = here[step]
        if not here:
            return True
    return True


def _pick(value: Any, fields: Fields) -> Any:
    inner = {key: sub for key, sub in fields.items() if key != "."}
    if not inner and "." not in fields:
        return value
    if isinstance(value, list):
        # In the order of the list, which may mean something; managedFields are sorted by key.
        return [made for item in value for made in _picked(item, inner)]
    if isinstance(value, dict):
        named = ((key.removeprefix("f:"), sub) for key, sub in inner.items() if key.startswith("f:"))
        return {name: _pick(value[name], sub) for name, sub in named if name in value}
    return value


def _picked(item: Any, fields: Fields) -> Iterator[Any]:
    for key, sub in fields.items():
        if key.startswith("k:") and isinstance(item, dict):
            wanted = orjson.loads(key[2:])
            if all(item.get(name) == value for name, value in wanted.items()):
                yield {**wanted, **_pick(item, sub)}
        elif key.startswith("v:") and orjson.loads(key[2:]) == item:
            yield item
