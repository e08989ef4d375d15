"""A resource as Kubernetes sends it -> the row that mirrors it. Pure."""

import base64
import binascii
import hashlib
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from dotmac_api.gateway.client import Object
from dotmac_crds.server import ServerSpec

Row = dict[str, Any]

# kubectl keeps a whole copy of the object there; it says nothing new.
_NOISE = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})

INSTANCE_WORDS = {
    "Pending": "provisioned",
    "Deploying": "deploying",
    "Updating": "deploying",
    "Running": "running",
    "Failing": "error",
    "Stalled": "error",
    "Unreachable": "error",
    "Deleting": "stopped",
    "Suspending": "deploying",
    "Archiving": "deploying",
    "Resuming": "deploying",
    "Restoring": "deploying",
    "Suspended": "suspended",
    "Archived": "archived",
}
"""status.phase -> the earlier platform's word. Paused and Waiting tell nothing of the tenant: the conditions decide."""

WORK_WORDS = {"Pending": "pending", "Running": "running", "Completed": "completed", "Failed": "failed"}
"""status.phase of a Backup or a Restore -> the word of its row; none yet: pending."""

TYPE_WORDS = {"Full": "full", "Database": "db_only"}
"""spec.type of a Backup -> the earlier platform's word."""

STEP_WORDS = {
    "Pending": "pending",
    "Running": "running",
    "Succeeded": "success",
    "Failed": "failed",
    "Skipped": "skipped",
}


def project(obj: Object) -> Row:
    """All columns but `change`, `mirrored_at`, `deleted_at` and what another row decides.

    Those are an Instance's `server_id`, and `instance_id`, `org_code` and `backup_id` of what belongs to an Instance.
    """
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    spec, status = storable(spec), storable(status)
    notes = {k: v for k, v in (meta.get("annotations") or {}).items() if k not in _NOISE}
    common: Row = {
        "namespace": meta.get("namespace", ""),
        "name": meta["name"],
        "labels": meta.get("labels") or {},
        "annotations": storable(notes),
        "spec": spec,
        "observed": status,
        "resource_version": int(meta["resourceVersion"]),
        "generation": meta.get("generation", 1),
        "observed_generation": status.get("observedGeneration", -1),
        "created_at": parse_time(meta["creationTimestamp"]),
        "deletion_requested_at": optional_time(meta.get("deletionTimestamp")),
    }
    return common | _OWN[obj["kind"]](uuid.UUID(meta["uid"]), spec, status)


def storable(value: Any) -> Any:
    """`value` without NUL characters, which JSON can hold and PostgreSQL cannot; each becomes U+FFFD."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd") if "\x00" in value else value
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return value


def condition(status: Mapping[str, Any], type_: str) -> str:
    """True, False or Unknown; Unknown when the condition is absent."""
    return next((c["status"] for c in status.get("conditions") or () if c["type"] == type_), "Unknown")


def instance_word(status: Mapping[str, Any]) -> str:
    """The earlier platform's word for the state of an Instance."""
    known = INSTANCE_WORDS.get(status.get("phase") or "")
    if known:
        return known
    if condition(status, "Ready") == "True" or (status.get("release") or {}).get("current"):
        return "running"
    return "error" if condition(status, "Stalled") == "True" else "provisioned"


def server_word(status: Mapping[str, Any]) -> str:
    """connected, unreachable or unknown."""
    return {"True": "connected", "False": "unreachable"}.get(condition(status, "Reachable"), "unknown")


def parse_time(value: str) -> datetime:
    """RFC 3339 -> an aware datetime."""
    return datetime.fromisoformat(value)


def optional_time(value: str | None) -> datetime | None:
    return parse_time(value) if value else None


def fingerprint(key: str) -> str | None:
    """An OpenSSH key line or a fingerprint -> `SHA256:...`, as ssh-keygen prints it."""
    if key.startswith("SHA256:"):
        return key.rstrip("=")
    try:
        blob = base64.b64decode(key.split()[1], validate=True)
    except (IndexError, binascii.Error):
        return None
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _server(uid: uuid.UUID, spec: Mapping[str, Any], status: Mapping[str, Any]) -> Row:
    keys = spec.get("hostKeys") or status.get("hostKeys") or []
    word = server_word(status)
    return {
        "server_id": uid,
        "hostname": spec.get("address", ""),
        "ssh_port": spec.get("port", ServerSpec.model_fields["port"].default),
        "ssh_user": spec.get("user", ServerSpec.model_fields["user"].default),
        "ssh_host_key_fingerprint": fingerprint(keys[0]) if keys else None,
        "base_domain": spec.get("baseDomain"),
        "status": word,
        "last_connected": optional_time(status.get("lastProbeTime")) if word == "connected" else None,
    }


def _instance(uid: uuid.UUID, spec: Mapping[str, Any], status: Mapping[str, Any]) -> Row:
    settings, admin = spec.get("settings") or {}, spec.get("admin") or {}
    release = status.get("release") or {}
    url = status.get("url")
    domains = spec.get("domains") or []
    word = instance_word(status)
    return {
        "instance_id": uid,
        "server_name": status.get("server") or (spec.get("serverRef") or {}).get("name"),
        "org_code": spec.get("orgCode", ""),
        "org_name": spec.get("orgName", ""),
        "sector_type": settings.get("sectorType", "PRIVATE"),
        "framework": settings.get("accountingFramework", "IFRS"),
        "currency": settings.get("currency", "NGN"),
        "domain": domains[0]["host"] if domains else (urlsplit(url).hostname if url else None),
        "app_url": url,
        "admin_email": admin.get("email", ""),
        "admin_username": admin.get("username", "admin"),
        "status": "trial" if word == "running" and spec.get("trial") else word,
        "phase": status.get("phase"),
        "plan_id": (spec.get("classRef") or {}).get("name", ""),
        "release": (spec.get("releaseRef") or {}).get("name", ""),
        "deployed_release": release.get("current"),
        "deployed_version": release.get("currentVersion"),
    }


def _release(uid: uuid.UUID, spec: Mapping[str, Any], _status: Mapping[str, Any]) -> Row:
    return {"release_id": uid, "version": spec.get("version", ""), "yanked": bool(spec.get("yanked"))}


def _plan(uid: uuid.UUID, spec: Mapping[str, Any], _status: Mapping[str, Any]) -> Row:
    quotas = spec.get("quotas") or {}
    return {"plan_uid": uid, "max_users": quotas.get("maxUsers"), "max_storage": _text(quotas.get("maxStorage"))}


def _backup(uid: uuid.UUID, spec: Mapping[str, Any], status: Mapping[str, Any]) -> Row:
    type_ = TYPE_WORDS[spec.get("type", "Full")]
    return {"backup_id": uid, "type": type_, "size_bytes": status.get("size"), **_of_instance(spec, status)}


def _restore(uid: uuid.UUID, spec: Mapping[str, Any], status: Mapping[str, Any]) -> Row:
    return {"restore_id": uid, "backup_name": spec["backupRef"]["name"], **_of_instance(spec, status)}


def _of_instance(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Row:
    return {
        "instance_name": spec["instanceRef"]["name"],
        "status": WORK_WORDS[status.get("phase") or "Pending"],
        "started_at": optional_time(status.get("startedAt")),
        "finished_at": optional_time(status.get("finishedAt")),
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


_OWN: dict[str, Callable[[uuid.UUID, Mapping[str, Any], Mapping[str, Any]], Row]] = {
    "Server": _server,
    "Instance": _instance,
    "Release": _release,
    "InstanceClass": _plan,
    "Backup": _backup,
    "Restore": _restore,
}
