"""ObjectMeta: what the server fills in, what clients may not change, which names and labels are valid."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from dotmac_local.errors import bad_request
from dotmac_local.resources import ResourceType
from dotmac_local.schema import Cause

Object = dict[str, Any]

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_DNS_LABEL = re.compile(_LABEL)
_DNS_SUBDOMAIN = re.compile(_SUBDOMAIN)
_QUALIFIED_NAME = re.compile(_QUALIFIED)
_LABEL_VALUE = re.compile(rf"({_QUALIFIED})?")
_PATH_SEGMENT = re.compile(r"(?!\.{1,2}$)[^/%]+")

SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
QUALIFIED_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
# Total bytes of keys and values (Kubernetes: TotalAnnotationSizeLimitB).
ANNOTATIONS_LIMIT = 256 * 1024
# What generateName appends to; the result stays a valid name (Kubernetes: maxGeneratedNameLength 58 and five letters).
_GENERATED_BASE = 58
_GENERATED_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"

_STRINGS = (
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
)
_INTEGERS = ("generation", "deletionGracePeriodSeconds")
_STRING_MAPS = ("labels", "annotations")
_LISTS = ("finalizers", "ownerReferences", "managedFields")
_OWNER_FIELDS: Mapping[str, type] = {
    "apiVersion": str,
    "kind": str,
    "name": str,
    "uid": str,
    "controller": bool,
    "blockOwnerDeletion": bool,
}
_KNOWN = frozenset((*_STRINGS, *_INTEGERS, *_STRING_MAPS, *_LISTS))
_KINDS_WITH_ANY_NAME = frozenset({"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"})


def now() -> str:
    """Seconds are the resolution of every Kubernetes timestamp but MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def decode(obj: Object, resource: ResourceType) -> list[str]:
    """Check the types of ObjectMeta and drop what is empty or unknown, as decoding into Go's struct does.

    Returns the paths of unknown fields; raises ApiError 400 when a field has the wrong type.
    """
    meta = obj.get("metadata")
    if meta is None:
        meta = obj["metadata"] = {}
    if not isinstance(meta, dict):
        raise _wrong_type(resource, meta, "ObjectMeta", "v1.ObjectMeta")
    unknown = [f"metadata.{name}" for name in meta if name not in _KNOWN]
    for name in [name for name, value in meta.items() if value in (None, "", [], {}) or name not in _KNOWN]:
        del meta[name]
    meta.pop("selfLink", None)
    for name, value in meta.items():
        _check_type(resource, name, value)
    for reference in meta.get("ownerReferences", ()):
        unknown += _decode_owner(resource, reference)
    return unknown


def _check_type(resource: ResourceType, name: str, value: Any) -> None:
    if name in _STRINGS and not isinstance(value, str):
        raise _wrong_type(resource, value, f"ObjectMeta.{name}", "string")
    if name in _INTEGERS and (not isinstance(value, int) or isinstance(value, bool)):
        raise _wrong_type(resource, value, f"ObjectMeta.{name}", "int64")
    if name in _STRING_MAPS:
        if not isinstance(value, dict):
            raise _wrong_type(resource, value, f"ObjectMeta.{name}", "map[string]string")
        for item in value.values():
            if not isinstance(item, str):
                raise _wrong_type(resource, item, f"ObjectMeta.{name}", "string")
    if name in _LISTS:
        if not isinstance(value, list):
            raise _wrong_type(resource, value, f"ObjectMeta.{name}", f"[]{name}")
        item_type: type = str if name == "finalizers" else dict
        for item in value:
            if not isinstance(item, item_type):
                raise _wrong_type(resource, item, f"ObjectMeta.{name}", item_type.__name__)


def _decode_owner(resource: ResourceType, reference: Object) -> list[str]:
    for name, value in reference.items():
        expected = _OWNER_FIELDS.get(name)
        if expected and value is not None and not isinstance(value, expected):
            raise _wrong_type(resource, value, f"OwnerReference.metadata.ownerReferences.{name}", expected.__name__)
    return [f"metadata.ownerReferences.{name}" for name in reference if name not in _OWNER_FIELDS]


_JSON_NAMES = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}


def _wrong_type(resource: ResourceType, value: Any, field: str, expected: str) -> Exception:
    found = _JSON_NAMES.get(type(value), "null")
    return bad_request(
        f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: json: cannot '
        f"unmarshal {found} into Go struct field {field} of type {expected}"
    )


def begin(obj: Object, *, generation: bool) -> None:
    """Fill in what the server decides for a new object, whatever the client sent."""
    meta = obj["metadata"]
    for name in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
        meta.pop(name, None)
    if "name" not in meta and meta.get("generateName"):
        # Names need to differ, not to be secret.
        suffix = "".join(random.choices(_GENERATED_ALPHABET, k=5))  # noqa: S311
        meta["name"] = meta["generateName"][:_GENERATED_BASE] + suffix
    meta["uid"] = str(uuid.uuid4())
    meta["creationTimestamp"] = now()
    if generation:
        meta["generation"] = 1


def carry_over(obj: Object, old: Object) -> None:
    """Keep what no client may change in an update."""
    meta, before = obj["metadata"], old["metadata"]
    for name in (
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "namespace",
        "name",
    ):
        if name in before:
            meta[name] = before[name]
        else:
            meta.pop(name, None)


def validate(obj: Object, resource: ResourceType) -> list[Cause]:
    """What is wrong with the metadata of a new or changed object."""
    meta = obj["metadata"]
    causes = _validate_name(meta, resource)
    for key, value in meta.get("labels", {}).items():
        causes += _qualified(key, "metadata.labels")
        if len(value) > 63:
            causes.append(_bad("metadata.labels", value, "must be no more than 63 bytes"))
        if not _LABEL_VALUE.fullmatch(value):
            causes.append(_bad("metadata.labels", value, VALUE_RULE))
    annotations = meta.get("annotations", {})
    for key in annotations:
        causes += _qualified(key.lower(), "metadata.annotations", key)
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > ANNOTATIONS_LIMIT:
        too_long = f"Too long: may not be more than {ANNOTATIONS_LIMIT} bytes"
        causes.append(Cause("FieldValueTooLong", too_long, "metadata.annotations"))
    for finalizer in meta.get("finalizers", ()):
        causes += _qualified(finalizer, "metadata.finalizers")
    return causes + _validate_owners(meta.get("ownerReferences", []))


def validate_update(obj: Object, old: Object) -> list[Cause]:
    """No new finalizer once an object is being deleted."""
    if "deletionTimestamp" not in old["metadata"]:
        return []
    known = old["metadata"].get("finalizers", [])
    added = [finalizer for finalizer in obj["metadata"].get("finalizers", []) if finalizer not in known]
    if not added:
        return []
    quoted = ", ".join(orjson.dumps(name).decode() for name in added)
    message = "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
    # Twice, as the real one does: it validates the metadata once for the kind and once for the schema.
    return [Cause("FieldValueForbidden", f"{message}[]string{{{quoted}}}", "metadata.finalizers")] * 2


def warnings(obj: Object) -> list[str]:
    """Advice that a kube-apiserver gives in Warning headers."""
    return [
        f'metadata.finalizers: "{name}": prefer a domain-qualified finalizer name to avoid accidental conflicts with '
        f"other "
        "finalizer writers"
        for name in obj["metadata"].get("finalizers", [])
        if "/" not in name and name not in ("orphan", "foregroundDeletion")
    ]


def _validate_name(meta: Object, resource: ResourceType) -> list[Cause]:
    name = meta.get("name", "")
    if not name:
        return [Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")]
    if resource.kind in _KINDS_WITH_ANY_NAME and not resource.custom:
        return [] if _PATH_SEGMENT.fullmatch(name) else [_bad("metadata.name", name, "may not contain '/' or '%'")]
    if resource.kind == "Namespace" and not resource.group:
        pattern, rule, limit = _DNS_LABEL, LABEL_RULE, 63
    else:
        pattern, rule, limit = _DNS_SUBDOMAIN, SUBDOMAIN_RULE, 253
    causes = []
    if len(name) > limit:
        causes.append(_bad("metadata.name", name, f"must be no more than {limit} characters"))
    if not pattern.fullmatch(name):
        causes.append(_bad("metadata.name", name, rule))
    return causes


def _qualified(name: str, field: str, shown: str | None = None) -> list[Cause]:
    shown = name if shown is None else shown
    prefix, slash, rest = name.rpartition("/")
    if slash and (not _DNS_SUBDOMAIN.fullmatch(prefix) or len(prefix) > 253):
        return [_bad(field, shown, f"prefix part {SUBDOMAIN_RULE}")]
    if not rest:
        return [_bad(field, shown, "name part must be non-empty")]
    if len(rest) > 63:
        return [_bad(field, shown, "name part must be no more than 63 bytes")]
    return [] if _QUALIFIED_NAME.fullmatch(rest) else [_bad(field, shown, QUALIFIED_RULE)]


def _validate_owners(owners: list[Object]) -> list[Cause]:
    causes = []
    for owner in owners:
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                field = f"metadata.ownerReferences.{name}"
                causes.append(Cause("FieldValueInvalid", 'Invalid value: "": must not be empty', field))
    controllers = [owner for owner in owners if owner.get("controller")]
    if len(controllers) > 1:
        first, second = controllers[:2]
        message = (
            'Only one reference can have Controller set to true. Found "true" in references for '
            f"{first.get('kind')}/{first.get('name')} and {second.get('kind')}/{second.get('name')}"
        )
        shown = orjson.dumps(owners).decode()
        causes.append(Cause("FieldValueInvalid", f"Invalid value: {shown}: {message}", "metadata.ownerReferences"))
    return causes


def _bad(field: str, value: str, why: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {orjson.dumps(value).decode()}: {why}", field)
