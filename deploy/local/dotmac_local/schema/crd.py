"""Whether a CustomResourceDefinition may be stored: names, versions, columns, and the schemas with their rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dotmac_local.schema import causes
from dotmac_local.schema.causes import Cause
from dotmac_local.schema.cel.check import check_rules
from dotmac_local.schema.keywords import ill_typed
from dotmac_local.schema.structural import check_structure

type Object = dict[str, Any]

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NOT_A_LABEL = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_NOT_A_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_APPROVED = "api-approved.kubernetes.io"


def check_crd(crd: Object) -> list[Cause]:
    """Why a CustomResourceDefinition (apiextensions.k8s.io/v1) is refused; empty when it is not."""
    if misfits := list(ill_typed(crd)):
        return misfits
    spec = crd.get("spec") or {}
    versions = [version for version in spec.get("versions") or [] if isinstance(version, dict)]
    found = _check_identity(crd, spec)
    found += _check_names(spec.get("names") or {})
    found += _check_versions(versions)
    found += _check_conversion(spec)
    for part, check in _PARTS.items():
        values = [_part(version, part) for version in versions]
        # What all versions share is reported once, at the place it had before there were versions.
        shared = all(value == values[0] for value in values)
        for index, value in enumerate(values[:1] if shared else values):
            base = "spec" if shared else f"spec.versions[{index}]"
            found += check(value, base, shared)
    return found


def _part(version: Object, part: str) -> Any:
    if part == "selectableFields":
        return version.get(part), (version.get("schema") or {}).get("openAPIV3Schema")
    return version.get(part)


def _check_identity(crd: Object, spec: Object) -> list[Cause]:
    found: list[Cause] = []
    group, plural = spec.get("group") or "", (spec.get("names") or {}).get("plural") or ""
    metadata = crd.get("metadata") or {}
    if metadata.get("name") != f"{plural}.{group}":
        found.append(causes.invalid("metadata.name", metadata.get("name"), 'must be spec.names.plural+"."+spec.group'))
    if not group:
        found.append(causes.required("spec.group"))
    elif not _SUBDOMAIN.fullmatch(group):
        found.append(causes.invalid("spec.group", group, _NOT_A_SUBDOMAIN))
    elif "." not in group:
        found.append(causes.invalid("spec.group", group, "should be a domain with at least one dot"))
    elif group.endswith((".k8s.io", ".kubernetes.io")) and not (metadata.get("annotations") or {}).get(_APPROVED):
        why = f'protected groups must have approval annotation "{_APPROVED}", see {_APPROVAL_RULE}'
        found.append(causes.required(f"metadata.annotations[{_APPROVED}]", why))
    if not spec.get("scope"):
        found.append(causes.required("spec.scope"))
    elif spec["scope"] not in ("Namespaced", "Cluster"):
        found.append(causes.not_supported("spec.scope", spec["scope"], ["Cluster", "Namespaced"]))
    if spec.get("preserveUnknownFields"):
        why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        found.append(causes.invalid("spec.preserveUnknownFields", True, why))
    return found


_APPROVAL_RULE = "https://github.com/kubernetes/enhancements/pull/1111"


def _check_names(names: Object) -> list[Cause]:
    found: list[Cause] = []
    kind = names.get("kind") or ""
    singular = names.get("singular") or kind.lower()
    list_kind = names.get("listKind") or (f"{kind}List" if kind else "")
    for field, value, folded in (
        ("plural", names.get("plural") or "", False),
        ("singular", singular, False),
        ("kind", kind, True),
        ("listKind", list_kind, True),
    ):
        where = f"spec.names.{field}"
        if not value:
            found.append(causes.required(where))
        elif not _LABEL.fullmatch(value.lower() if folded else value):
            prefix = "may have mixed case, but should otherwise match: " if folded else ""
            found.append(causes.invalid(where, value, prefix + _NOT_A_LABEL))
    if kind and kind == list_kind:
        found.append(causes.invalid("spec.names.listKind", list_kind, "kind and listKind may not be the same"))
    for field in ("shortNames", "categories"):
        for index, value in enumerate(names.get(field) or []):
            if not _LABEL.fullmatch(value):
                found.append(causes.invalid(f"spec.names.{field}[{index}]", value, _NOT_A_LABEL))
    return found


def _check_versions(versions: list[Object]) -> list[Cause]:
    found: list[Cause] = []
    names = [str(version.get("name") or "") for version in versions]
    for index, name in enumerate(names):
        if not _LABEL.fullmatch(name):
            found.append(causes.invalid(f"spec.versions[{index}].name", name, _NOT_A_LABEL))
            if index == 0:
                found.append(causes.invalid("spec.version", name, _NOT_A_LABEL))
    if len(set(names)) != len(names):
        found.append(causes.invalid("spec.versions", versions, "must contain unique version names"))
    storage = [name for name, version in zip(names, versions, strict=True) if version.get("storage")]
    if len(storage) != 1:
        why = "must have exactly one version marked as storage version"
        found.append(causes.invalid("spec.versions", versions, why))
        why = f"must have the storage version {storage[-1]}" if storage else "must have at least one stored version"
        found.append(causes.invalid("status.storedVersions", storage[:1] or None, why))
    return found


def _check_conversion(spec: Object) -> list[Cause]:
    conversion = spec.get("conversion") or {}
    strategy = conversion.get("strategy")
    if strategy == "Webhook":
        webhook = conversion.get("webhook") or {}
        found = []
        if not webhook.get("clientConfig"):
            why = "required when strategy is set to Webhook"
            found.append(causes.required("spec.conversion.webhookClientConfig", why))
        if not webhook.get("conversionReviewVersions"):
            found.append(causes.required("spec.conversion.conversionReviewVersions"))
        return found
    if strategy not in (None, "None"):
        return [causes.not_supported("spec.conversion.strategy", strategy, ["None", "Webhook"])]
    return []


def _check_validation(value: Any, base: str, shared: bool) -> list[Cause]:
    schema = value.get("openAPIV3Schema") if isinstance(value, dict) else None
    if not isinstance(schema, dict):
        where = "spec.versions[0]" if shared else base
        return [causes.required(f"{where}.schema.openAPIV3Schema")]
    field = f"{base}.{'validation' if shared else 'schema'}.openAPIV3Schema"
    return check_structure(schema, field) or check_rules(schema, field)


def _check_columns(value: Any, base: str, shared: bool) -> list[Cause]:
    found: list[Cause] = []
    for index, column in enumerate(value or []):
        where = f"{base}.additionalPrinterColumns[{index}]"
        if not column.get("name"):
            found.append(causes.required(f"{where}.name"))
        if not column.get("type"):
            found.append(causes.required(f"{where}.type"))
        elif column["type"] not in _COLUMN_TYPES:
            found.append(causes.invalid(f"{where}.type", column["type"], f"must be one of {','.join(_COLUMN_TYPES)}"))
        if column.get("format") and column["format"] not in _COLUMN_FORMATS:
            why = f"must be one of {','.join(_COLUMN_FORMATS)}"
            found.append(causes.invalid(f"{where}.format", column["format"], why))
        path = column.get("jsonPath") or ""
        if not path:
            found.append(causes.required(f"{where}.JSONPath"))
        elif not path.startswith("."):
            found.append(causes.invalid(f"{where}.JSONPath", path, "must be a simple json path starting with ."))
    return found


def _check_subresources(value: Any, base: str, shared: bool) -> list[Cause]:
    scale = (value or {}).get("scale")
    if scale is None:
        return []
    found: list[Cause] = []
    for name, part in (("specReplicasPath", "spec"), ("statusReplicasPath", "status")):
        where, path = f"{base}.subresources.scale.{name}", scale.get(name) or ""
        if not path:
            found.append(causes.required(where))
        elif not path.startswith(f".{part}."):
            found.append(causes.invalid(where, path, f"should be a json path under .{part}"))
    return found


def _check_selectable(version: Any, base: str, shared: bool) -> list[Cause]:
    """Selectable fields are scalars of the schema."""
    fields, schema = version
    found: list[Cause] = []
    for index, field in enumerate(fields or []):
        path = field.get("jsonPath") or ""
        node: Any = schema
        for name in path.removeprefix(".").split("."):
            node = (node.get("properties") or {}).get(name) if isinstance(node, dict) else None
        if not isinstance(node, dict) or node.get("type") not in ("string", "integer", "boolean"):
            why = "is an invalid path: does not refer to a valid field"
            found.append(causes.invalid(f"{base}.selectableFields[{index}].jsonPath", path, why))
    return found


_PARTS: dict[str, Callable[[Any, str, bool], list[Cause]]] = {
    "schema": _check_validation,
    "additionalPrinterColumns": _check_columns,
    "subresources": _check_subresources,
    "selectableFields": _check_selectable,
}
