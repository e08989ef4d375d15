"""Bodies of /servers."""

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dotmac_api.mirror.models import ServerRow
from dotmac_api.schemas import Body
from dotmac_crds.base import Email, Hostname, ImageReference, Memory, ObjectName, Port
from dotmac_crds.server import Address4, HostKey, Pool4

Address = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")]
SshUser = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z_][a-z0-9_-]*\$?$")]
LabelKey = Annotated[
    str,
    Field(max_length=317, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"),
]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]


class CapacityBody(Body):
    max_instances: Annotated[int | None, Field(ge=0, le=1000)] = None
    reserved_memory: Memory | None = None
    network_pool: Pool4 | None = None


class ProxyTlsBody(Body):
    mode: Literal["Acme", "Internal", "Off"] | None = None
    email: Email | None = None
    acme_directory: Annotated[str | None, Field(max_length=512, pattern=r"^https://[^\s\x00-\x1f]+$")] = None


class ProxyBody(Body):
    image: ImageReference | None = None
    bind_address: Address4 | None = None
    http_port: Port | None = None
    https_port: Port | None = None
    tls: ProxyTlsBody | None = None


class ServerSettings(Body):
    """What can be set on a server, and changed later."""

    ssh_port: Port | None = None
    ssh_user: SshUser | None = None
    credentials_secret: Annotated[
        ObjectName | None, Field(description="Secret of type kubernetes.io/ssh-auth with the SSH key")
    ] = None
    host_keys: Annotated[
        list[HostKey] | None, Field(max_length=16, description="OpenSSH public keys or SHA256 fingerprints, pinned")
    ] = None
    host_key_policy: Literal["Pinned", "TrustOnFirstUse"] | None = None
    base_domain: Hostname | None = None
    schedulable: bool | None = None
    max_concurrent_operations: Annotated[int | None, Field(ge=1, le=16)] = None
    capacity: CapacityBody | None = None
    proxy: ProxyBody | None = None
    labels: Labels | None = None

    @field_validator("host_keys")
    @classmethod
    def _unique(cls, value: list[str] | None) -> list[str] | None:
        if len(set(value or [])) != len(value or []):
            raise ValueError("a key is in the list twice; send each once")
        return value


class ServerCreate(ServerSettings):
    name: Annotated[ObjectName, Field(description="name of the resource")]
    hostname: Address
    credentials_secret: Annotated[
        ObjectName, Field(description="Secret of type kubernetes.io/ssh-auth with the SSH key")
    ]


class ServerUpdate(ServerSettings):
    """Only the fields that are sent change. null takes a field back to its default."""

    hostname: Address | None = None

    @model_validator(mode="after")
    def _not_null(self) -> Self:
        for name in ("hostname", "credentials_secret"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} may be left out, but not null")
        return self


SPEC_FIELDS = {
    "hostname": "address",
    "ssh_port": "port",
    "ssh_user": "user",
    "host_keys": "hostKeys",
    "host_key_policy": "hostKeyPolicy",
    "base_domain": "baseDomain",
    "schedulable": "schedulable",
    "max_concurrent_operations": "maxConcurrentOperations",
    "capacity": "capacity",
    "proxy": "proxy",
}
"""Field of the body -> field of Server.spec, where the value is taken over (camelCase inside)."""

FIELD_NAMES = {f"spec.{theirs}": ours for ours, theirs in SPEC_FIELDS.items()} | {
    "spec.credentialsRef": "credentials_secret",
    "metadata.name": "name",
    "metadata.labels": "labels",
}


class ConditionRead(BaseModel):
    """One aspect of the state, as Kubernetes shows it."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: Annotated[datetime, Field(validation_alias="lastTransitionTime")]


class MirroredRead(BaseModel):
    """What every mirrored resource shows."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    name: str
    namespace: str
    labels: dict[str, str]
    generation: int
    observed_generation: Annotated[int, Field(alias="observedGeneration")]
    resource_version: str
    created_at: datetime
    deletion_requested_at: datetime | None
    deleted_at: datetime | None
    mirrored_at: Annotated[
        datetime | None, Field(alias="mirroredAt", description="null: straight from Kubernetes, not mirrored yet")
    ]


class ServerRead(MirroredRead):
    server_id: uuid.UUID
    hostname: str
    ssh_port: int
    ssh_user: str
    ssh_host_key_fingerprint: str | None
    base_domain: str | None
    status: Literal["connected", "unreachable", "unknown"]
    last_connected: datetime | None
    schedulable: bool
    credentials_secret: str | None
    facts: dict[str, Any]
    allocated: dict[str, Any]
    conditions: list[ConditionRead]
    reconcile_requested_at: str | None
    last_handled_reconcile_at: str | None

    @classmethod
    def of(cls, row: ServerRow) -> Self:
        """From a row, or from one that `project` made and that was never stored."""
        return cls.model_validate(
            common(row)
            | {
                "server_id": row.server_id,
                "hostname": row.hostname,
                "ssh_port": row.ssh_port,
                "ssh_user": row.ssh_user,
                "ssh_host_key_fingerprint": row.ssh_host_key_fingerprint,
                "base_domain": row.base_domain,
                "status": row.status,
                "last_connected": row.last_connected,
                "schedulable": row.spec.get("schedulable", True),
                "credentials_secret": (row.spec.get("credentialsRef") or {}).get("name"),
                "facts": row.observed.get("facts") or {},
                "allocated": row.observed.get("allocated") or {},
                "conditions": row.observed.get("conditions") or [],
            }
            | reconciliation(row.annotations, row.observed)
        )


def common(row: Any) -> dict[str, Any]:
    """The fields of MirroredRead."""
    names = ("name", "namespace", "labels", "generation", "observed_generation", "created_at", "deletion_requested_at")
    return {name: getattr(row, name) for name in (*names, "deleted_at", "mirrored_at")} | {
        "resource_version": str(row.resource_version)
    }


def reconciliation(annotations: dict[str, str], observed: dict[str, Any]) -> dict[str, str | None]:
    """What was asked for last, and what the operator has taken up: equal when it has."""
    return {
        "reconcile_requested_at": annotations.get("platform.dotmac.io/reconcile-requested-at"),
        "last_handled_reconcile_at": observed.get("lastHandledReconcileAt"),
    }
