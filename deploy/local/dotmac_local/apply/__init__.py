"""Field ownership: what a write changes in managedFields, server-side apply, and the other kinds of patches.

Pure functions of JSON objects; none changes its arguments, results share unchanged parts with them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dotmac_local.apply import fieldset
from dotmac_local.apply.configuration import check_configuration
from dotmac_local.apply.fieldset import FieldSet
from dotmac_local.apply.managers import (
    APPLY,
    UPDATE,
    Entry,
    Managed,
    Owner,
    fold_oldest,
    owner_of,
    read_managed,
    write_managed,
)
from dotmac_local.apply.patches import PatchError, json_patch, merge_patch
from dotmac_local.apply.strategic import strategic_merge
from dotmac_local.apply.typed import Comparison, all_fields, compare, field_set, merge, remove
from dotmac_local.schema import Schema
from dotmac_local.schema.causes import Cause
from dotmac_local.schema.metadata import OBJECT_META
from dotmac_local.schema.node import Node, compile_node

__all__ = [
    "ApplyConflict",
    "PatchError",
    "check_configuration",
    "json_patch",
    "merge_patch",
    "server_side_apply",
    "strategic_merge",
    "track_update",
]

# Owned by the API server, so by no manager. Not recursive: metadata.labels and the like have owners.
_UNOWNED = fieldset.decode(
    {
        "f:apiVersion": {},
        "f:kind": {},
        "f:metadata": {
            ".": {},
            "f:name": {},
            "f:namespace": {},
            "f:creationTimestamp": {},
            "f:selfLink": {},
            "f:uid": {},
            "f:clusterName": {},
            "f:generation": {},
            "f:managedFields": {},
            "f:resourceVersion": {},
        },
    }
)
_SCHEMALESS = Node(raw={}, preserve=True, properties={"metadata": compile_node(OBJECT_META)})


class ApplyConflict(Exception):  # noqa: N818 - the name kubectl and the API use for it
    """An apply without force that would change fields of others.

    `causes` has one FieldManagerConflict per field (`field` is `.spec.size`), `message` is that of the 409.
    """

    def __init__(self, causes: list[Cause]) -> None:
        self.causes = causes
        count = f"{len(causes)} conflict{'s' if len(causes) > 1 else ''}"
        self.message = f"Apply failed with {count}: {_listed(causes)}"
        super().__init__(self.message)


def _listed(causes: list[Cause]) -> str:
    """One conflict in a line; several grouped by manager, one field a line."""
    if len(causes) == 1:
        return f"{causes[0].message}: {causes[0].field}"
    groups: dict[str, list[str]] = {}
    for cause in causes:
        groups.setdefault(cause.message, []).append(f"- {cause.field}")
    blocks = (["conflicts" + message.removeprefix("conflict") + ":", *fields] for message, fields in groups.items())
    return "\n".join(line for block in blocks for line in block)


def track_update(
    live: dict[str, Any] | None,
    new: dict[str, Any],
    *,
    manager: str,
    subresource: str,
    api_version: str,
    time: str,
    schema: Schema | None,
) -> list[dict[str, Any]]:
    """The managedFields of `new` after a create, update or patch (not apply) that makes it of `live` (None: nothing).

    Takes the existing entries from `new`, as a client may edit them away, or from `live` where `new` has none. `new`
    is the object as it will be stored: pruned, defaulted, and reset where this (sub)resource may not write.
    """
    managed = read_managed(new) if _has_managed(new) else read_managed(live)
    before = _baseline(live, new, schema)
    node = schema.node if schema is not None else _SCHEMALESS
    comparison = compare(_without_managed(before), _without_managed(new), node)
    managed = _take(managed, comparison, taker=None)
    taken = fieldset.difference(fieldset.union(comparison.modified, comparison.added), _UNOWNED)
    if taken:
        owner = owner_of(manager, UPDATE, subresource, api_version)
        known = managed.get(owner)
        fields = fieldset.union(known.fields, taken) if known else taken
        managed = fold_oldest({**managed, owner: Entry(fields, api_version, time)}, api_version)
    return write_managed(managed)


def server_side_apply(
    live: dict[str, Any] | None,
    patch: dict[str, Any],
    *,
    manager: str,
    force: bool,
    subresource: str,
    time: str,
    schema: Schema | None,
) -> dict[str, Any]:
    """`live` with the configuration `patch` applied in the name of `manager`, managedFields included.

    Fields that the manager applied before, applies no more, and nobody else owns are removed. Returns `live` itself,
    the same object, when nothing changes. The caller fills in defaults, and validates.
    Raises ApplyConflict when the patch would change fields of others and `force` is not set.
    """
    node = schema.node if schema is not None else _SCHEMALESS
    version = str(patch.get("apiVersion", ""))
    managed = _managed_so_far(live, node, time)
    owner = owner_of(manager, APPLY, subresource, version)
    base = _without_managed(_baseline(live, patch, schema))
    stated = _writable(fieldset.difference(field_set(_without_managed(patch), node), _UNOWNED), subresource, schema)
    last = managed.get(owner)
    result = merge(base, _without_managed(_writable_part(patch, subresource)), node)
    after = {**managed, owner: Entry(stated, version, time)}
    if last is not None and fieldset.difference(last.fields, stated):
        result = _drop_unclaimed(result, last.fields, after, node)
    comparison = compare(base, result, node)
    if not force:
        _refuse_conflicts(managed, comparison, owner)
    after = _take(after, comparison, taker=owner)
    if last is not None and last.fields == stated and last.api_version == version:
        after[owner] = last
    if not stated:
        after.pop(owner, None)
    if live is not None and not comparison and after == managed:
        return live
    metadata = {**(result.get("metadata") or {}), "managedFields": write_managed(after)}
    return {**result, "metadata": metadata}


def _managed_so_far(live: dict[str, Any] | None, node: Node, time: str) -> Managed:
    """The owners of an object. Where nobody owns anything, all of it counts as written before the first apply."""
    managed = read_managed(live)
    if managed or live is None:
        return managed
    version = str(live.get("apiVersion", ""))
    everything = all_fields(_without_managed(live), node)
    fields = fieldset.difference({key: below for key, below in everything.items() if key != fieldset.MEMBER}, _UNOWNED)
    return {owner_of("before-first-apply", UPDATE, "", version): Entry(fields, version, time)} if fields else {}


def _drop_unclaimed(merged: Any, last: FieldSet, after: Managed, node: Node) -> Any:
    """Remove what the manager's last configuration stated and no entry of `after` claims."""
    pruned = remove(merged, fieldset.named_as_members(last), node)
    claimed: FieldSet = {}
    for entry in after.values():
        claimed = fieldset.union(claimed, entry.fields)
    whole = fieldset.named_as_members(field_set(merged, node))
    rest = fieldset.named_as_members(field_set(pruned or {}, node))
    doomed = fieldset.difference(fieldset.difference(whole, rest), fieldset.named_as_members(claimed))
    return remove(merged, fieldset.intersection(doomed, fieldset.named_as_members(last)), node) or {}


def _refuse_conflicts(managed: Managed, comparison: Comparison, owner: Owner) -> None:
    changed = fieldset.union(comparison.modified, comparison.added)
    causes: list[Cause] = []
    for other, entry in sorted(managed.items(), key=lambda item: item[0].manager):
        if other == owner:
            continue
        for path in fieldset.members(fieldset.intersection(entry.fields, changed)):
            causes.append(
                Cause("FieldManagerConflict", f"conflict with {_described(other, entry)}", fieldset.shown(path))
            )
    if causes:
        raise ApplyConflict(causes)


def _described(owner: Owner, entry: Entry) -> str:
    text = f'"{owner.manager}"'
    if owner.subresource:
        text += f' with subresource "{owner.subresource}"'
    if owner.operation == UPDATE:
        text += f" using {entry.api_version}"
    return text


def _take(managed: Managed, comparison: Comparison, taker: Owner | None) -> Managed:
    """The entries after a change: everyone but `taker` loses what was changed, added or removed."""
    changed = fieldset.union(comparison.modified, comparison.added)
    if not changed and not comparison.removed:
        return dict(managed)
    out: Managed = {}
    for owner, entry in managed.items():
        fields = entry.fields
        if owner != taker:
            fields = fieldset.recursive_difference(fieldset.difference(fields, changed), comparison.removed)
        if fields:
            out[owner] = entry if fields is entry.fields else replace(entry, fields=fields)
    return out


def _has_managed(obj: dict[str, Any]) -> bool:
    return "managedFields" in (obj.get("metadata") or {})


def _without_managed(obj: dict[str, Any]) -> dict[str, Any]:
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict) or "managedFields" not in metadata:
        return obj
    return {**obj, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


def _baseline(live: dict[str, Any] | None, new: dict[str, Any], schema: Schema | None) -> dict[str, Any]:
    """What a change is measured against: the stored object, or an empty one of the kind."""
    if live is not None:
        return live
    empty: dict[str, Any] = {key: new[key] for key in ("apiVersion", "kind") if key in new}
    empty["metadata"] = {}
    return {**(schema.zero() if schema is not None else {}), **empty}


def _writable_part(patch: dict[str, Any], subresource: str) -> dict[str, Any]:
    """What an apply through a subresource may state: through `status`, the status."""
    if subresource != "status":
        return patch
    return {key: value for key, value in patch.items() if key in ("apiVersion", "kind", "status")}


def _writable(fields: FieldSet, subresource: str, schema: Schema | None) -> FieldSet:
    if subresource == "status":
        return {key: below for key, below in fields.items() if key == "f:status"}
    return fields
