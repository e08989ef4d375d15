"""Request bodies: JSON, YAML as Go reads it, protobuf."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import yaml

from dotmac_local.errors import ApiError, bad_request, unsupported_media_type
from dotmac_local.server import protobuf

# Kubernetes: --max-request-bytes of etcd and the limit of the API server's request bodies.
BODY_LIMIT = 3 * 1024 * 1024


class _Loader(yaml.CSafeLoader):
    """YAML 1.1 as sigs.k8s.io/yaml reads it: y and n are booleans, timestamps stay text."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^[yYnN]$"), list("yYnN"))
_Loader.bool_values = {**yaml.CSafeLoader.bool_values, "y": True, "n": False}


def decode(body: bytes, content_type: str, kind: str) -> Any:
    """The document in a body; raises ApiError 400 or 415. `kind` names what was expected."""
    media_type = content_type.partition(";")[0].strip() or "application/json"
    if media_type in ("application/json", "*/*") or media_type.endswith("+json"):
        return _json(body, kind)
    if media_type in ("application/yaml", "application/apply-patch+yaml"):
        return _yaml(body, kind)
    if media_type == protobuf.MEDIA_TYPE:
        return protobuf.decode(body)
    raise unsupported_media_type(["application/json", "application/yaml", protobuf.MEDIA_TYPE])


def _json(body: bytes, kind: str) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(_unreadable(kind, f"json parse error: {error}")) from None


def _yaml(body: bytes, kind: str) -> Any:
    if body.lstrip().startswith((b"{", b"[")):
        # Server-side apply calls its JSON YAML.
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
    try:
        if b"*" in body and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(body, yaml.CSafeLoader)):
            # A few lines of aliases of aliases stand for gigabytes.
            raise bad_request(_unreadable(kind, "yaml parse error: aliases are not accepted"))
        # A subclass of the safe loader: it makes plain values only.
        loaded = yaml.load(body, Loader=_Loader)  # noqa: S506
        # Keys that are numbers become text, and what JSON has no word for is refused.
        return orjson.loads(orjson.dumps(loaded, option=orjson.OPT_NON_STR_KEYS))
    except (yaml.YAMLError, orjson.JSONEncodeError, ValueError, RecursionError) as error:
        raise bad_request(_unreadable(kind, f"yaml parse error: {_first_line(error)}")) from None


def _unreadable(kind: str, why: str) -> str:
    # Bodies hold secrets, so the part that cannot be read is not repeated.
    return f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; {why}"


def _first_line(error: Exception) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]


class _Pairs(dict[str, Any]):
    """A JSON object that remembers which of its names came twice."""

    repeated: tuple[str, ...] = ()


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    found = _Pairs(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        found.repeated = tuple(sorted({name for name in names if names.count(name) > 1}))
    return found


def duplicate_fields(body: bytes) -> list[str]:
    """Paths of the fields that a JSON body has more than once ("spec.size"); the last of each counts."""
    found: list[str] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, _Pairs):
            found.extend(f"{path}.{name}".lstrip(".") for name in value.repeated)
            for name, child in value.items():
                walk(child, f"{path}.{name}")
        elif isinstance(value, list):
            for index, child in enumerate(value):
                walk(child, f"{path}[{index}]")

    walk(json.loads(body, object_pairs_hook=_pairs), "")
    return found


def as_object(document: Any, kind: str) -> dict[str, Any]:
    """A decoded body that has to be an object; raises ApiError 400."""
    if not isinstance(document, dict):
        raise bad_request(_unreadable(kind, "cannot unmarshal into an object"))
    return document


def too_large(length: int) -> ApiError | None:
    if length <= BODY_LIMIT:
        return None
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {BODY_LIMIT}")
