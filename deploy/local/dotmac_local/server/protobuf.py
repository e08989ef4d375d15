"""Request bodies in protobuf: kubectl sends them for built-in kinds it knows (create secret, auth can-i).

Answers are always JSON, which every client accepts beside protobuf. The tables hold the field numbers of the
`generated.proto` files of k8s.io/api and k8s.io/apimachinery for the kinds that are served here; fields that are not
listed are skipped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from dotmac_local.errors import bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# Field number -> (name, type). Types: s string, b bytes (base64 in JSON), i integer, t bool, T Time, M MicroTime, or
# the name of
# a message; "[]x" repeats, "{}x" is a map from string to x.
Fields = dict[int, tuple[str, str]]


def _fields(text: str) -> Fields:
    """`1 name s, 2 data {}b` as a table."""
    entries = (entry.split() for entry in text.split(","))
    return {int(number): (name, kind) for number, name, kind in entries}


_REVIEWED = "1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes NonResourceAttributes"
_BINDING = "1 metadata Meta, 2 subjects []Subject, 3 roleRef RoleRef"
_MESSAGES: dict[str, Fields] = {
    name: _fields(text)
    for name, text in {
        "Unknown": "1 typeMeta TypeMeta, 2 raw b, 3 contentEncoding s, 4 contentType s",
        "TypeMeta": "1 apiVersion s, 2 kind s",
        "Meta": (
            "1 name s, 2 generateName s, 3 namespace s, 5 uid s, 6 resourceVersion s, 7 generation i, 8 "
            "creationTimestamp T, 9 deletionTimestamp T, 10 deletionGracePeriodSeconds i, 11 labels {}s, 12 "
            "annotations {}s, 13 ownerReferences []OwnerReference, 14 finalizers []s"
        ),
        "OwnerReference": "1 kind s, 3 name s, 4 uid s, 5 apiVersion s, 6 controller t, 7 blockOwnerDeletion t",
        "ObjectReference": (
            "1 kind s, 2 namespace s, 3 name s, 4 uid s, 5 apiVersion s, 6 resourceVersion s, 7 fieldPath s"
        ),
        "LocalObjectReference": "1 name s",
        "Secret": "1 metadata Meta, 2 data {}b, 3 type s, 4 stringData {}s, 5 immutable t",
        "ConfigMap": "1 metadata Meta, 2 data {}s, 3 binaryData {}b, 4 immutable t",
        "Namespace": "1 metadata Meta, 2 spec NamespaceSpec",
        "NamespaceSpec": "1 finalizers []s",
        "ServiceAccount": (
            "1 metadata Meta, 2 secrets []ObjectReference, 3 imagePullSecrets []LocalObjectReference, "
            "4 automountServiceAccountToken t"
        ),
        "Event": (
            "1 metadata Meta, 2 involvedObject ObjectReference, 3 reason s, 4 message s, 5 source EventSource, 6 "
            "firstTimestamp T, 7 lastTimestamp T, 8 count i, 9 type s, 10 eventTime M, 11 series EventSeries, 12 "
            "action s, 13 related ObjectReference, 14 reportingComponent s, 15 reportingInstance s"
        ),
        "EventSource": "1 component s, 2 host s",
        "EventSeries": "1 count i, 2 lastObservedTime M",
        "Lease": "1 metadata Meta, 2 spec LeaseSpec",
        "LeaseSpec": (
            "1 holderIdentity s, 2 leaseDurationSeconds i, 3 acquireTime M, 4 renewTime M, 5 leaseTransitions i, 6 "
            "strategy s, 7 preferredHolder s"
        ),
        "Role": "1 metadata Meta, 2 rules []PolicyRule",
        "ClusterRole": "1 metadata Meta, 2 rules []PolicyRule, 3 aggregationRule AggregationRule",
        "PolicyRule": "1 verbs []s, 2 apiGroups []s, 3 resources []s, 4 resourceNames []s, 5 nonResourceURLs []s",
        "AggregationRule": "1 clusterRoleSelectors []LabelSelector",
        "LabelSelector": "1 matchLabels {}s, 2 matchExpressions []LabelRequirement",
        "LabelRequirement": "1 key s, 2 operator s, 3 values []s",
        "RoleBinding": _BINDING,
        "ClusterRoleBinding": _BINDING,
        "Subject": "1 kind s, 2 apiGroup s, 3 name s, 4 namespace s",
        "RoleRef": "1 apiGroup s, 2 kind s, 3 name s",
        "ResourceAttributes": "1 namespace s, 2 verb s, 3 group s, 4 version s, 5 resource s, 6 subresource s, 7 name "
        "s",
        "NonResourceAttributes": "1 path s, 2 verb s",
        "SelfSubjectAccessReview": "1 metadata Meta, 2 spec Reviewed",
        "SubjectAccessReview": "1 metadata Meta, 2 spec Reviewed",
        "LocalSubjectAccessReview": "1 metadata Meta, 2 spec Reviewed",
        "Reviewed": f"{_REVIEWED}, 3 user s, 4 groups []s, 6 uid s",
        "SelfSubjectRulesReview": "1 metadata Meta, 2 spec RulesSpec",
        "RulesSpec": "1 namespace s",
        "SelfSubjectReview": "1 metadata Meta",
        "TokenReview": "1 metadata Meta, 2 spec TokenReviewSpec",
        "TokenReviewSpec": "1 token s, 2 audiences []s",
        "TokenRequest": "1 metadata Meta, 2 spec TokenRequestSpec",
        "TokenRequestSpec": "1 audiences []s, 3 boundObjectRef BoundObjectReference, 4 expirationSeconds i",
        "BoundObjectReference": "1 kind s, 2 apiVersion s, 3 name s, 4 uid s",
        "DeleteOptions": (
            "1 gracePeriodSeconds i, 2 preconditions Preconditions, 3 orphanDependents t, 4 propagationPolicy s, 5 "
            "dryRun []s"
        ),
        "Preconditions": "1 uid s, 2 resourceVersion s",
    }.items()
}


def decode(body: bytes) -> dict[str, Any]:
    """A body as the JSON object it stands for; raises ApiError 400."""
    if not body.startswith(_MAGIC):
        raise bad_request("the protobuf body does not begin as Kubernetes objects do")
    try:
        envelope = _message(memoryview(body)[len(_MAGIC) :], "Unknown")
        kind = envelope.get("typeMeta", {}).get("kind", "")
        if kind not in _MESSAGES:
            raise bad_request(f"objects of kind {kind!r} are not read from protobuf here; send JSON")
        raw = base64.b64decode(envelope.get("raw", ""))
        return {**envelope["typeMeta"], **_message(memoryview(raw), kind)}
    except (IndexError, ValueError, OverflowError, OSError) as error:
        raise bad_request(f"the protobuf body cannot be read: {error}") from None


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if not byte & 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _wire(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and raw values; 64 and 32 bit fields, which none of the kinds use, are skipped."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("it ends too early")
            yield number, data[at : at + length]
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")


def _message(data: memoryview, name: str) -> dict[str, Any]:
    fields = _MESSAGES[name]
    found: dict[str, Any] = {}
    for number, raw in _wire(data):
        if number not in fields:
            continue
        key, kind = fields[number]
        if kind.startswith("[]"):
            found.setdefault(key, []).append(_value(raw, kind[2:]))
        elif kind.startswith("{}"):
            entry, value = _entry(raw, kind[2:])
            found.setdefault(key, {})[entry] = value
        elif (value := _value(raw, kind)) not in ("", None, {}):
            # Go writes empty strings and empty messages; its JSON leaves them out.
            found[key] = value
    return found


def _value(raw: int | memoryview, kind: str) -> Any:
    if isinstance(raw, int):
        if kind == "t":
            return bool(raw)
        if kind != "i":
            raise ValueError("a number where there should be none")
        return raw - (1 << 64) if raw >> 63 else raw
    if kind == "s":
        return str(raw, "utf-8")
    if kind == "b":
        return base64.b64encode(raw).decode()
    if kind in ("T", "M"):
        return _time(raw, micro=kind == "M")
    if kind not in _MESSAGES:
        raise ValueError("bytes where a number should be")
    return _message(raw, kind)


def _entry(raw: int | memoryview, kind: str) -> tuple[str, Any]:
    if isinstance(raw, int):
        raise ValueError("a number where a map entry should be")
    parts = dict(_wire(raw))
    key, value = parts.get(1, memoryview(b"")), parts.get(2, memoryview(b""))
    return str(_value(key, "s")), _value(value, kind)


def _time(raw: memoryview, *, micro: bool) -> str | None:
    """metav1.Time: seconds and nanoseconds; nothing stands for no time."""
    if not raw:
        return None
    parts = dict(_wire(raw))
    seconds, nanos = parts.get(1, 0), parts.get(2, 0)
    if not isinstance(seconds, int) or not isinstance(nanos, int):
        raise ValueError("a time that is none")
    moment = datetime.fromtimestamp(seconds - (1 << 64) if seconds >> 63 else seconds, UTC)
    shown = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{shown}.{nanos // 1000:06d}Z" if micro else f"{shown}Z"
