"""Whether a CustomResourceDefinition may be stored: its names, its versions, and that its schemas are structural."""

from __future__ import annotations

import re
from typing import Any

from dotmac_local.schema import causes
from dotmac_local.schema.causes import Cause
from dotmac_local.schema.patterns import PatternError, compile_pattern

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SCHEMA = "openAPIV3Schema"


def check_crd(crd: dict[str, Any]) -> list[Cause]:
    """Why a CustomResourceDefinition (apiextensions.k8s.io/v1, defaults filled in) is refused; empty when it is not."""
    spec = crd.get("spec") or {}
    found = _check_names(crd, spec)
    versions = spec.get("versions") or []
    found += _check_versions(versions)
    for index, version in enumerate(versions):
        base = "spec.validation" if len(versions) == 1 else f"spec.versions[{index}].schema"
        schema = (version.get("schema") or {}).get(_SCHEMA)
        if schema is None:
            found.append(causes.required(f"spec.versions[{index}].schema.{_SCHEMA}", "schemas are required"))
        else:
            found += check_schema(schema, f"{base}.{_SCHEMA}")
    return found


def _check_names(crd: dict[str, Any], spec: dict[str, Any]) -> list[Cause]:
    found: list[Cause] = []
    names, group = spec.get("names") or {}, spec.get("group") or ""
    for field in ("plural", "kind"):
        if not names.get(field):
            found.append(causes.required(f"spec.names.{field}"))
    if not group:
        found.append(causes.required("spec.group"))
    elif not all(_DNS_LABEL.fullmatch(part) for part in group.split(".")):
        found.append(causes.invalid("spec.group", group, "a lowercase RFC 1123 subdomain is needed"))
    elif "." not in group:
        found.append(causes.invalid("spec.group", group, "should be a domain with at least one dot"))
    if spec.get("scope") not in ("Namespaced", "Cluster"):
        if not spec.get("scope"):
            found.append(causes.required("spec.scope"))
        else:
            found.append(causes.not_supported("spec.scope", spec["scope"], ["Cluster", "Namespaced"]))
    wanted = f"{names.get('plural')}.{group}"
    name = (crd.get("metadata") or {}).get("name")
    if names.get("plural") and group and name != wanted:
        found.append(causes.invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    return found


def _check_versions(versions: list[dict[str, Any]]) -> list[Cause]:
    if sum(bool(version.get("storage")) for version in versions) != 1:
        detail = "must have exactly one version marked as storage version"
        return [causes.invalid("spec.versions", versions, detail)]
    return []


def check_schema(schema: dict[str, Any], field: str) -> list[Cause]:
    """The structural rules, for one schema and all below it. `field` is where it stands in the definition."""
    found: list[Cause] = []
    open_type = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not schema.get("type") and not open_type:
        place = "specified object fields" if field.endswith("]") else "the schema"
        place = "specified array items" if field.endswith(".items") else place
        found.append(causes.required(f"{field}.type", f"must not be empty for {place}"))
    if schema.get("type") == "array" and not schema.get("items"):
        found.append(causes.required(f"{field}.items", "must be specified"))
    if schema.get("pattern"):
        try:
            compile_pattern(schema["pattern"])
        except PatternError as error:
            found.append(causes.invalid(f"{field}.pattern", schema["pattern"], str(error)))
    for name, child in (schema.get("properties") or {}).items():
        found += check_schema(child, f"{field}.properties[{name}]")
    if isinstance(schema.get("additionalProperties"), dict):
        found += check_schema(schema["additionalProperties"], f"{field}.additionalProperties")
    if isinstance(schema.get("items"), dict):
        found += check_schema(schema["items"], f"{field}.items")
    return found
