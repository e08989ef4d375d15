"""get and list: selections, pages, and reading at a resourceVersion."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from dotmac_local import views
from dotmac_local.errors import ApiError, bad_request, expired, invalid_options, timed_out
from dotmac_local.resources import ResourceType
from dotmac_local.schema import Cause
from dotmac_local.selectors import Selector, parse_fields, parse_labels
from dotmac_local.storage import Revision, Store, TooOld

# How long a read waits for a resourceVersion that is not there yet, as a watch cache does.
_FUTURE_TIMEOUT = 3.0


@dataclass(frozen=True)
class Selection:
    """Which objects of a resource are meant."""

    resource: ResourceType
    namespace: str | None
    """None: all namespaces (or a cluster-scoped resource)."""
    labels: Selector = field(default_factory=Selector)
    fields: Selector = field(default_factory=Selector)

    @classmethod
    def parse(cls, resource: ResourceType, namespace: str | None, query: Mapping[str, str]) -> Selection:
        """Raises ApiError 400 for selectors that cannot be read."""
        labels = parse_labels(query.get("labelSelector", ""))
        fields = parse_fields(query.get("fieldSelector", ""), resource.supports_field)
        return cls(resource, namespace, labels, fields)

    def __contains__(self, revision: Revision) -> bool:
        if self.namespace is not None and revision.namespace != self.namespace:
            return False
        if self.labels and not self.labels.matches(revision.labels):
            return False
        return not self.fields or self.fields.matches(self._field_values(revision))

    def _field_values(self, revision: Revision) -> dict[str, str]:
        values = {"metadata.name": revision.name, "metadata.namespace": revision.namespace}
        extra = [requirement.key for requirement in self.fields.requirements if requirement.key not in values]
        if extra:
            obj = views.as_object(revision, self.resource)
            values |= {name: _field(obj, name) for name in extra}
        return values


def _field(obj: dict[str, Any], name: str) -> str:
    if name == "source":
        return str((obj.get("source") or {}).get("component") or obj.get("reportingComponent") or "")
    found: Any = obj if name != "name" else obj["metadata"]
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, bool):
        return str(found).lower()
    return "" if found is None else str(found)


@dataclass(frozen=True)
class ListQuery:
    """How much of a selection, and as of when."""

    limit: int = 0
    start: tuple[str, str] | None = None
    at: int | None = None
    """Read exactly this resourceVersion; None: the present."""
    at_least: int = 0
    timeout: float = _FUTURE_TIMEOUT

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> ListQuery:
        """Raises ApiError 400 or 422."""
        limit = integer(query, "limit")
        rv, match, token = (
            query.get("resourceVersion", ""),
            query.get("resourceVersionMatch", ""),
            query.get("continue", ""),
        )
        causes = _check_match(rv, match, token)
        if causes:
            raise invalid_options("ListOptions", causes)
        version = resource_version(rv)
        timeout = min(_FUTURE_TIMEOUT, _seconds(query.get("timeout", "")) or _FUTURE_TIMEOUT)
        if token:
            if rv and rv != "0":
                raise bad_request("specifying resource version is not allowed when using continue")
            at, start = decode_token(token)
            # A token of a compacted list goes on in the present.
            return cls(limit, start, at if at > 0 else None, timeout=timeout)
        exact = match == "Exact" or (not match and limit and version)
        return cls(limit, None, version if exact else None, version, timeout)


def _check_match(rv: str, match: str, token: str) -> list[Cause]:
    if not match:
        return []
    if match not in ("Exact", "NotOlderThan"):
        shown = f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan"'
        return [Cause("FieldValueNotSupported", shown, "resourceVersionMatch")]
    if token:
        why = "Forbidden: resourceVersionMatch is forbidden when continue is provided"
        return [Cause("FieldValueForbidden", why, "resourceVersionMatch")]
    if not rv:
        why = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        return [Cause("FieldValueForbidden", why, "resourceVersionMatch")]
    if match == "Exact" and rv == "0":
        why = 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        return [Cause("FieldValueForbidden", why, "resourceVersionMatch")]
    return []


def resource_version(text: str) -> int:
    """Raises ApiError 400 when it is no number."""
    if text and not text.isdecimal():
        why = f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        raise bad_request(f"invalid resource version: {why}")
    return int(text or 0)


def integer(query: Mapping[str, str], name: str) -> int:
    """A whole number >= 0 from the query; raises ApiError 400."""
    text = query.get(name, "")
    if text and not text.removeprefix("-").isdecimal():
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return max(0, int(text or 0))


def _seconds(duration: str) -> float:
    unit = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for suffix in ("ms", "s", "m", "h"):
        number = duration.removesuffix(suffix)
        if number != duration and number.replace(".", "", 1).isdecimal():
            return float(number) * unit[suffix]
    return 0.0


def encode_token(rv: int, last: tuple[str, str]) -> str:
    """A continue token: the snapshot and the last key that was shown."""
    document = orjson.dumps({"v": "meta.k8s.io/v1", "rv": rv, "start": "/".join(last) + "\0"})
    return base64.urlsafe_b64encode(document).decode().rstrip("=")


def decode_token(token: str) -> tuple[int, tuple[str, str]]:
    """Raises ApiError 400."""
    try:
        document = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = document["start"].removesuffix("\0").partition("/")
        return int(document["rv"]), (namespace, name)
    except (binascii.Error, orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {error}") from error


@dataclass(frozen=True)
class Page:
    """What a list answers: objects, the resourceVersion they are true at, and how to go on."""

    revisions: list[Revision]
    rv: int
    token: str = ""
    remaining: int | None = None


async def wait_for(store: Store, rv: int, timeout: float = _FUTURE_TIMEOUT) -> None:  # noqa: ASYNC109
    """Wait until the store is at least at `rv`; raises ApiError 504 as a kube-apiserver does."""
    deadline = asyncio.get_running_loop().time() + timeout
    while store.durable < rv:
        if asyncio.get_running_loop().time() >= deadline:
            error = timed_out()
            error.content_type = "text/plain; charset=utf-8"
            raise error
        await asyncio.sleep(0.05)


async def select(store: Store, selection: Selection, query: ListQuery) -> Page:
    """The page of a list; raises ApiError 410 when its snapshot is compacted, 504 when it lies in the future."""
    await wait_for(store, query.at or query.at_least, query.timeout)
    rv = query.at or store.head
    storage = selection.resource.storage
    try:
        found = store.select(storage, selection.namespace, query.at)
    except TooOld as error:
        raise _expired_page(query, store) from error
    if query.start:
        found = [revision for revision in found if revision.key > query.start]
    chosen = [revision for revision in found if revision in selection]
    if not query.limit or len(chosen) <= query.limit:
        return Page(chosen, rv)
    page = chosen[: query.limit]
    remaining = None if selection.labels or selection.fields else len(chosen) - query.limit
    return Page(page, rv, encode_token(rv, page[-1].key), remaining)


def _expired_page(query: ListQuery, store: Store) -> ApiError:
    if not query.start:
        return expired(f"The provided resource version is too old. The oldest that can be read is {store.compacted}")
    error = expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
        "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
        "modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )
    error.continue_token = encode_token(-1, query.start)
    return error


def list_head(resource: ResourceType, page: Page) -> dict[str, Any]:
    """ListMeta; custom resources show an empty `continue` too."""
    meta: dict[str, Any] = {"resourceVersion": str(page.rv)}
    if page.token or resource.custom:
        meta = {"continue": page.token} | meta
    if page.remaining is not None:
        meta["remainingItemCount"] = page.remaining
    return meta


def render_list(resource: ResourceType, page: Page) -> list[bytes]:
    """The list document in parts, put together from the stored bytes."""
    head = b'{"kind":%s,"apiVersion":%s,"metadata":%s,"items":[' % (
        orjson.dumps(resource.list_kind),
        orjson.dumps(resource.api_version),
        orjson.dumps(list_head(resource, page)),
    )
    parts = [head]
    prefix = views.item_prefix(resource)
    for index, revision in enumerate(page.revisions):
        item = views.as_bytes(revision, resource)
        if not resource.custom:
            # Built-in kinds leave apiVersion and kind out of the items of a list.
            item = b"{" + item.removeprefix(prefix)
        if index:
            parts.append(b",")
        parts.append(item)
    parts.append(b"]}\n")
    return parts
