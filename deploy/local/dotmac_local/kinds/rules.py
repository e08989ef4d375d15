"""The rules of the built-in kinds, one class each; everything else follows the plain `KindRules`."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import orjson

from dotmac_local.errors import bad_request
from dotmac_local.resources import APIEXTENSIONS, RBAC, ResourceType
from dotmac_local.schema import Cause, check_crd

Object = dict[str, Any]

CRD_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
# Kubernetes: MaxSecretSize.
_SECRET_LIMIT = 1024 * 1024
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_IMMUTABLE = "Forbidden: field is immutable when `immutable` is set"


class KindRules:
    """No particular rules. `old` is None when the object is new."""

    def prepare(self, obj: Object, old: Object | None) -> None:
        """Fill in or convert fields before validation; may raise ApiError 400 for what cannot be decoded."""

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        """Causes beyond those of metadata and schema."""
        return []

    def begin_deletion(self, obj: Object) -> bool:
        """Change an object that somebody asks to delete; True when it has to stay until a controller releases it."""
        return False

    def released(self, obj: Object) -> bool:
        """Whether nothing but metadata.finalizers may hold a deleted object."""
        return True


def _drop_empty(obj: Object, *names: str) -> None:
    for name in names:
        if name in obj and not obj[name]:
            del obj[name]


def _immutable(name: str, value: Any) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {orjson.dumps(value).decode()}: field is immutable", name)


def _frozen_data(obj: Object, old: Object | None, *names: str) -> list[Cause]:
    if not old or not old.get("immutable"):
        return []
    causes = [Cause("FieldValueForbidden", _IMMUTABLE, name) for name in names if obj.get(name) != old.get(name)]
    if not obj.get("immutable"):
        causes.append(Cause("FieldValueForbidden", _IMMUTABLE, "immutable"))
    return causes


def _data_keys(obj: Object, *names: str) -> list[Cause]:
    rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
    return [
        Cause("FieldValueInvalid", f"Invalid value: {orjson.dumps(key).decode()}: {rule}", f"{name}[{key}]")
        for name in names
        for key in obj.get(name) or {}
        if not _DATA_KEY.fullmatch(key) or key in (".", "..")
    ]


class SecretRules(KindRules):
    _REQUIRED = {
        "kubernetes.io/ssh-auth": ("ssh-privatekey",),
        "kubernetes.io/tls": ("tls.crt", "tls.key"),
        "kubernetes.io/dockercfg": (".dockercfg",),
        "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    }

    def prepare(self, obj: Object, old: Object | None) -> None:
        for key, value in (obj.get("data") or {}).items():
            _check_base64(key, value)
        plain = obj.pop("stringData", None) or {}
        if plain:
            encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
            obj["data"] = (obj.get("data") or {}) | encoded
        obj.setdefault("type", old["type"] if old else "Opaque")
        _drop_empty(obj, "data", "immutable")

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        data = obj.get("data", {})
        causes = _data_keys(obj, "data")
        if sum(len(value) * 3 // 4 for value in data.values()) > _SECRET_LIMIT:
            causes.append(Cause("FieldValueTooLong", f"Too long: may not be more than {_SECRET_LIMIT} bytes", "data"))
        for key in self._REQUIRED.get(obj["type"], ()):
            if key not in data:
                causes.append(Cause("FieldValueRequired", "Required value", f"data[{key}]"))
        if obj["type"] == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
            causes += [
                Cause("FieldValueRequired", "Required value", f"data[{key}]") for key in ("username", "password")
            ]
        if old and obj["type"] != old["type"]:
            causes.append(_immutable("type", obj["type"]))
        return causes + _frozen_data(obj, old, "data")


def _check_base64(key: str, value: Any) -> None:
    try:
        if not isinstance(value, str):
            raise bad_request(
                'Secret in version "v1" cannot be handled as a Secret: json: cannot unmarshal into Go struct field '
                "Secret.data of type []uint8"
            )
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        at = next((i for i, c in enumerate(value) if not re.match(r"[A-Za-z0-9+/=]", c)), len(value))
        message = f'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte {at}'
        # The value may be the secret itself: neither it nor the decoder's error is passed on.
        raise bad_request(message) from (None if error else error)


class ConfigMapRules(KindRules):
    def prepare(self, obj: Object, old: Object | None) -> None:
        _drop_empty(obj, "data", "binaryData")

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        return _data_keys(obj, "data", "binaryData") + _frozen_data(obj, old, "data", "binaryData")


class NamespaceRules(KindRules):
    def prepare(self, obj: Object, old: Object | None) -> None:
        meta = obj["metadata"]
        if "name" in meta:
            meta["labels"] = {**meta.get("labels", {}), "kubernetes.io/metadata.name": meta["name"]}
        if old is None:
            obj["spec"] = {"finalizers": ["kubernetes"]}
            obj["status"] = {"phase": "Active"}
        else:
            obj["spec"] = old.get("spec", {})

    def begin_deletion(self, obj: Object) -> bool:
        obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        return bool(obj["spec"].get("finalizers"))

    def released(self, obj: Object) -> bool:
        return not obj.get("spec", {}).get("finalizers")


class EventRules(KindRules):
    def prepare(self, obj: Object, old: Object | None) -> None:
        obj.setdefault("eventTime", None)
        obj.setdefault("source", {})
        obj.setdefault("reportingComponent", "")
        obj.setdefault("reportingInstance", "")
        for name in ("firstTimestamp", "lastTimestamp"):
            obj.setdefault(name, None)

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        involved = obj.get("involvedObject") or {}
        namespace = obj["metadata"].get("namespace", "")
        if involved.get("namespace", "") in (namespace, "") or not namespace:
            return []
        shown = orjson.dumps(involved.get("namespace", "")).decode()
        why = "does not match event.namespace"
        return [Cause("FieldValueInvalid", f"Invalid value: {shown}: {why}", "involvedObject.namespace")]


class LeaseRules(KindRules):
    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        spec = obj.get("spec") or {}
        causes = []
        if spec.get("leaseDurationSeconds") is not None and spec["leaseDurationSeconds"] <= 0:
            shown = f"Invalid value: {spec['leaseDurationSeconds']}: must be greater than 0"
            causes.append(Cause("FieldValueInvalid", shown, "spec.leaseDurationSeconds"))
        if spec.get("leaseTransitions") is not None and spec["leaseTransitions"] < 0:
            shown = f"Invalid value: {spec['leaseTransitions']}: must be greater than or equal to 0"
            causes.append(Cause("FieldValueInvalid", shown, "spec.leaseTransitions"))
        return causes


class BindingRules(KindRules):
    def prepare(self, obj: Object, old: Object | None) -> None:
        for subject in obj.get("subjects") or []:
            if subject.get("kind") in ("User", "Group"):
                subject.setdefault("apiGroup", RBAC)
        if isinstance(obj.get("roleRef"), dict):
            obj["roleRef"].setdefault("apiGroup", RBAC)

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        role = obj.get("roleRef") or {}
        causes = []
        if old and role != old.get("roleRef"):
            shown = orjson.dumps(
                {k[0].upper() + k[1:] if k != "apiGroup" else "APIGroup": v for k, v in role.items()}
            ).decode()
            causes.append(Cause("FieldValueInvalid", f"Invalid value: {shown}: cannot change roleRef", "roleRef"))
        allowed = ("ClusterRole",) if obj.get("kind") == "ClusterRoleBinding" else ("Role", "ClusterRole")
        if role.get("kind") not in allowed:
            supported = ", ".join(f'"{kind}"' for kind in allowed)
            shown = f"Unsupported value: {orjson.dumps(role.get('kind')).decode()}: supported values: {supported}"
            causes.append(Cause("FieldValueNotSupported", shown, "roleRef.kind"))
        if not role.get("name"):
            causes.append(Cause("FieldValueRequired", "Required value", "roleRef.name"))
        for index, subject in enumerate(obj.get("subjects") or []):
            if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
                causes.append(Cause("FieldValueRequired", "Required value", f"subjects[{index}].namespace"))
        return causes


class RoleRules(KindRules):
    def prepare(self, obj: Object, old: Object | None) -> None:
        obj.setdefault("rules", None if obj.get("kind") == "ClusterRole" else [])

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes = []
        for index, rule in enumerate(obj.get("rules") or []):
            if not rule.get("verbs"):
                message = "Required value: verbs must contain at least one value"
                causes.append(Cause("FieldValueRequired", message, f"rules[{index}].verbs"))
        return causes


class CrdRules(KindRules):
    def prepare(self, obj: Object, old: Object | None) -> None:
        spec = obj.get("spec") or {}
        names = spec.get("names")
        if isinstance(names, dict) and isinstance(names.get("kind"), str):
            names.setdefault("singular", names["kind"].lower())
            names.setdefault("listKind", names["kind"] + "List")
        if isinstance(spec, dict):
            spec.setdefault("conversion", {"strategy": "None"})
        if old is None:
            versions = spec.get("versions")
            stored = [v.get("name") for v in versions if v.get("storage")] if isinstance(versions, list) else []
            obj["status"] = {
                "conditions": None, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored,
            }  # fmt: skip

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        causes = check_crd(obj)
        if old:
            for path in ("group", "scope"):
                if obj["spec"].get(path) != old["spec"].get(path):
                    causes.append(_immutable(f"spec.{path}", obj["spec"].get(path)))
            for path in ("kind", "plural"):
                if obj["spec"]["names"].get(path) != old["spec"]["names"].get(path):
                    causes.append(_immutable(f"spec.names.{path}", obj["spec"]["names"].get(path)))
        return causes

    def begin_deletion(self, obj: Object) -> bool:
        finalizers = obj["metadata"].setdefault("finalizers", [])
        if CRD_FINALIZER not in finalizers:
            finalizers.append(CRD_FINALIZER)
        return True


_PLAIN = KindRules()
_RULES: dict[tuple[str, str], KindRules] = {
    ("", "Secret"): SecretRules(),
    ("", "ConfigMap"): ConfigMapRules(),
    ("", "Namespace"): NamespaceRules(),
    ("", "Event"): EventRules(),
    ("coordination.k8s.io", "Lease"): LeaseRules(),
    (RBAC, "Role"): RoleRules(),
    (RBAC, "ClusterRole"): RoleRules(),
    (RBAC, "RoleBinding"): BindingRules(),
    (RBAC, "ClusterRoleBinding"): BindingRules(),
    (APIEXTENSIONS, "CustomResourceDefinition"): CrdRules(),
}


def rules_for(resource: ResourceType) -> KindRules:
    """The rules of a resource's kind; custom resources have their schema and no others."""
    return _PLAIN if resource.custom else _RULES.get((resource.group, resource.kind), _PLAIN)
