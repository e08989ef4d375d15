"""The managedFields of an object: entries on the wire, and the sets they hold."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Any

from dotmac_local.apply import fieldset
from dotmac_local.apply.fieldset import FieldSet

APPLY = "Apply"
UPDATE = "Update"
# An object keeps at most this many Update entries; the oldest are folded into one (kube-apiserver's maxUpdateManagers).
MAX_UPDATE_ENTRIES = 10
ANCIENT = "ancient-changes"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns fields. Two entries with the same owner are one; an applier owns across versions."""

    manager: str
    operation: str
    subresource: str
    api_version: str


@dataclass(frozen=True, slots=True)
class Entry:
    """The fields of one owner, at the version they are named in, and when that last changed (RFC 3339)."""

    fields: FieldSet
    api_version: str
    time: str | None


type Managed = dict[Owner, Entry]


def owner_of(manager: str, operation: str, subresource: str, api_version: str) -> Owner:
    return Owner(manager, operation, subresource, "" if operation == APPLY else api_version)


def read_managed(obj: dict[str, Any] | None) -> Managed:
    """The managedFields of an object. Entries that are not understood are dropped, as in Kubernetes."""
    out: Managed = {}
    for raw in ((obj or {}).get("metadata") or {}).get("managedFields") or []:
        if not isinstance(raw, dict) or raw.get("operation") not in (APPLY, UPDATE):
            continue
        version = raw.get("apiVersion", "")
        owner = owner_of(raw.get("manager", ""), raw["operation"], raw.get("subresource", ""), version)
        fields = fieldset.decode(raw.get("fieldsV1") or {})
        if (known := out.get(owner)) is not None:
            fields = fieldset.union(known.fields, fields)
        out[owner] = Entry(fields, version, raw.get("time"))
    return out


def write_managed(managed: Managed) -> list[dict[str, Any]]:
    """Entries for the wire: appliers first, then by time, manager, version and subresource."""
    ordered = sorted(managed.items(), key=_wire_order)
    return [_raw_entry(owner, entry) for owner, entry in ordered]


def _raw_entry(owner: Owner, entry: Entry) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "manager": owner.manager,
        "operation": owner.operation,
        "apiVersion": entry.api_version,
        "time": entry.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fieldset.encode(entry.fields),
        "subresource": owner.subresource,
    }
    return {key: value for key, value in raw.items() if value or key == "fieldsV1"}


def _wire_order(item: tuple[Owner, Entry]) -> tuple[str, int, str, str, str]:
    owner, entry = item
    return owner.operation, _seconds(entry.time), owner.manager, entry.api_version, owner.subresource


def _seconds(time: str | None) -> int:
    if not time:
        return 0
    try:
        return int(datetime.datetime.fromisoformat(time).timestamp())
    except ValueError:
        return 0


def fold_oldest(managed: Managed, version: str) -> Managed:
    """At most MAX_UPDATE_ENTRIES Update entries: the oldest of the same version become one, "ancient-changes"."""
    updates = sorted((item for item in managed.items() if item[0].operation == UPDATE), key=_wire_order)
    excess = len(updates) - MAX_UPDATE_ENTRIES
    if excess <= 0:
        return managed
    out = dict(managed)
    for owner, entry in updates[: excess + 1]:
        del out[owner]
        bucket = replace(owner, manager=ANCIENT, subresource="")
        known = out.get(bucket)
        fields = fieldset.union(known.fields, entry.fields) if known else entry.fields
        out[bucket] = Entry(fields, entry.api_version, entry.time)
    return out
