"""Bodies of /instances."""

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, field_validator, model_validator

from dotmac_api.gateway.writes import REQUESTED_BY
from dotmac_api.instances import windows
from dotmac_api.instances.approval import APPROVE, APPROVED_BY
from dotmac_api.instances.windows import WindowBody, WindowRead
from dotmac_api.mirror.models import InstanceRow, TransitionRow
from dotmac_api.mirror.projection import STEP_WORDS, condition
from dotmac_api.schemas import Body
from dotmac_api.servers.schemas import ConditionRead, Labels, MirroredRead, common, reconciliation
from dotmac_crds.base import GROUP, Email, EnvName, Hostname, ObjectName, SecretKey
from dotmac_crds.instance import FlagName, SettingName

StatusWord = Literal["provisioned", "deploying", "running", "trial", "suspended", "archived", "stopped", "error"]
OrgCode = Annotated[str, Field(min_length=2, max_length=40, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,38}[A-Za-z0-9]$")]
OrgName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Username = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")]
Value = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00]*$", strip_whitespace=False)]
TagKey = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")]
TagValue = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")]


class SecretKeyBody(Body):
    name: ObjectName
    key: SecretKey


class EnvBody(Body):
    """One variable: exactly one of value and secret."""

    name: EnvName
    value: Value | None = None
    secret: SecretKeyBody | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.value is None) == (self.secret is None):
            raise ValueError("send exactly one of value and secret; passwords belong into a Secret")
        return self


class DomainBody(Body):
    host: Hostname
    tls: Literal["Acme", "Internal", "Off"] | None = None


class InstanceSettings(Body):
    """What can be set on an instance, and changed later."""

    @field_validator("domains", "env", "modules")
    @classmethod
    def _unique(cls, value: list[Any] | None) -> list[Any] | None:
        names = [getattr(item, "host", None) or getattr(item, "name", None) or item for item in value or []]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is in the list twice; send each once")
        return value

    org_name: OrgName | None = None
    release: ObjectName | None = None
    plan: ObjectName | None = None
    domains: Annotated[list[DomainBody] | None, Field(max_length=32)] = None
    admin_email: Email | None = None
    admin_username: Username | None = None
    sector_type: Literal["PRIVATE", "PUBLIC", "NGO"] | None = None
    framework: Literal["IFRS", "IPSAS", "BOTH"] | None = None
    currency: Currency | None = None
    settings: Annotated[dict[SettingName, Value] | None, Field(max_length=64)] = None
    env: Annotated[list[EnvBody] | None, Field(max_length=64)] = None
    features: Annotated[dict[FlagName, bool] | None, Field(max_length=64)] = None
    modules: Annotated[list[FlagName] | None, Field(max_length=64)] = None
    deletion_policy: Literal["Retain", "Delete"] | None = None
    deletion_protected: bool | None = None
    final_backup: Annotated[bool | None, Field(description="dump the database before a deletion")] = None
    trial_expires_at: Annotated[AwareDatetime | None, Field(description="suspended then; null: no trial")] = None
    update_strategy: Literal["ZeroDowntime", "Recreate"] | None = None
    pre_backup: Annotated[bool | None, Field(description="dump the database before another release")] = None
    health_timeout: Annotated[
        int | None, Field(ge=1, le=86_400, description="seconds for new containers to become healthy")
    ] = None
    rollback: Annotated[bool | None, Field(description="whether a release that fails gives way to the last one")] = None
    maintenance_windows: Annotated[list[WindowBody] | None, Field(max_length=windows.MOST)] = None
    approval: Annotated[
        Literal["None", "Required"] | None,
        Field(description="Required: disruptive work waits for the approval of a second person"),
    ] = None
    labels: Labels | None = None

    @field_validator("trial_expires_at")
    @classmethod
    def _storable(cls, value: datetime | None) -> datetime | None:
        return value and value.astimezone(UTC).replace(microsecond=0)


class InstanceCreate(InstanceSettings):
    name: Annotated[ObjectName | None, Field(description="name of the resource; made from org_code when absent")] = None
    org_code: OrgCode
    org_name: OrgName
    release: ObjectName
    plan: ObjectName
    admin_email: Email
    server_id: uuid.UUID | None = None
    server: Annotated[ObjectName | None, Field(description="name of the server, instead of server_id")] = None
    placement: Annotated[
        Labels | None,
        Field(
            description="labels of servers to choose among, instead of a server; {}: any. Without any of the three,"
            " the setting platform.default_server_strategy decides"
        ),
    ] = None
    tags: Annotated[dict[TagKey, TagValue], Field(max_length=64)] = {}

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(value is not None for value in (self.server_id, self.server, self.placement)) > 1:
            raise ValueError("send one of server_id, server and placement")
        return self


class InstanceUpdate(InstanceSettings):
    """Only the fields that are sent change. null takes a field back to its default; lists are replaced."""

    @model_validator(mode="after")
    def _not_null(self) -> Self:
        for name in ("org_name", "release", "plan", "admin_email"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} may be left out, but not null")
        return self


class Deploy(Body):
    """A deployment: of another release, or (without one) of what is set already."""

    release: ObjectName | None = None
    force_window: Annotated[
        bool, Field(description="also outside of the maintenance windows; holds for this change, not for later ones")
    ] = False


class VersionChange(Body):
    release: ObjectName


class PlanChange(Body):
    plan: ObjectName


class FlagChange(Body):
    enabled: bool


class TagChange(Body):
    value: TagValue


TAG = f"tag.{GROUP}/"
"""What the annotations that hold tags begin with; nobody reads them but the facade."""

SPEC_PATHS: dict[str, tuple[str, ...]] = {
    "org_name": ("orgName",),
    "release": ("releaseRef", "name"),
    "plan": ("classRef", "name"),
    "domains": ("domains",),
    "admin_email": ("admin", "email"),
    "admin_username": ("admin", "username"),
    "sector_type": ("settings", "sectorType"),
    "framework": ("settings", "accountingFramework"),
    "currency": ("settings", "currency"),
    "settings": ("settings", "values"),
    "env": ("env",),
    "features": ("features",),
    "modules": ("modules",),
    "deletion_policy": ("deletion", "policy"),
    "deletion_protected": ("deletion", "protected"),
    "final_backup": ("deletion", "finalBackup"),
    "trial_expires_at": ("trial", "expiresAt"),
    "update_strategy": ("update", "strategy"),
    "pre_backup": ("update", "preBackup"),
    "health_timeout": ("update", "healthTimeout"),
    "rollback": ("update", "rollback"),
    "maintenance_windows": ("maintenanceWindows",),
    "approval": ("approval",),
}
"""Field of the body -> where it is in Instance.spec."""

FIELD_NAMES = {"spec." + ".".join(path): ours for ours, path in SPEC_PATHS.items()} | {
    "spec.releaseRef": "release",
    "spec.classRef": "plan",
    "spec.orgCode": "org_code",
    "spec.serverRef": "server",
    "spec.placement": "placement",
    "metadata.name": "name",
    "metadata.labels": "labels",
}


class StepRead(BaseModel):
    """One of the ten steps."""

    name: str
    status: Literal["pending", "running", "success", "failed", "skipped"]
    started_at: datetime | None
    finished_at: datetime | None
    message: str | None

    @classmethod
    def of(cls, step: dict[str, Any]) -> Self:
        return cls(
            name=step["name"],
            status=STEP_WORDS[step["state"]],
            started_at=step.get("startedAt"),
            finished_at=step.get("finishedAt"),
            message=step.get("message"),
        )


class EnvRead(BaseModel):
    name: str
    value: str | None
    secret: SecretKeyBody | None


class DomainRead(BaseModel):
    host: str
    tls: str | None


class CertificateRead(BaseModel):
    host: str
    not_after: Annotated[datetime, Field(validation_alias="notAfter")]
    issuer: str | None = None


class RollbackRead(BaseModel):
    """The last change that failed and gave way to what served before."""

    previous: str
    target: str
    reason: str
    at: datetime


class InstanceRead(MirroredRead):
    instance_id: uuid.UUID
    server_id: uuid.UUID | None
    server: str | None
    org_code: str
    org_name: str
    sector_type: str
    framework: str
    currency: str
    status: StatusWord
    state: Literal["Running", "Suspended", "Archived"]
    phase: str | None
    domain: str | None
    domains: list[DomainRead]
    app_url: str | None
    admin_email: str
    admin_username: str
    plan: str
    release: str
    deployed_release: str | None
    deployed_version: str | None
    previous_release: str | None
    target_release: str | None
    settings: dict[str, str]
    env: list[EnvRead]
    features: dict[str, bool]
    modules: list[str]
    deletion_policy: str
    deletion_protected: bool
    final_backup: bool
    trial_expires_at: datetime | None
    suspended_at: datetime | None
    archived_at: datetime | None
    update_strategy: str | None
    pre_backup: bool | None
    health_timeout: int | None
    rollback: bool | None
    maintenance_windows: list[WindowRead]
    next_window: datetime | None
    approval: str
    tags: dict[str, str]
    certificates: list[CertificateRead]
    last_rollback: RollbackRead | None
    step: str | None
    steps: list[StepRead]
    conditions: list[ConditionRead]
    reconcile_requested_at: str | None
    last_handled_reconcile_at: str | None

    @classmethod
    def of(cls, row: InstanceRow) -> Self:
        """From a row, or from one that `project` made and that was never stored."""
        return cls.model_validate(
            common(row)
            | _columns(row)
            | _spec(row.spec)
            | _observed(row.observed)
            | _life(row)
            | reconciliation(row.annotations, row.observed)
        )


_COLUMNS = (
    "instance_id", "server_id", "org_code", "org_name", "sector_type", "framework", "currency", "status", "phase",
    "domain", "app_url", "admin_email", "admin_username", "release", "deployed_release", "deployed_version",
)  # fmt: skip


def _columns(row: InstanceRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _COLUMNS} | {"server": row.server_name, "plan": row.plan_id}


def _spec(spec: dict[str, Any]) -> dict[str, Any]:
    deletion = spec.get("deletion") or {}
    return {
        "domains": [{"host": d["host"], "tls": d.get("tls")} for d in spec.get("domains") or []],
        "settings": (spec.get("settings") or {}).get("values") or {},
        "env": [
            {"name": e["name"], "value": e.get("value"), "secret": e.get("secretKeyRef")} for e in spec.get("env") or []
        ],
        "features": spec.get("features") or {},
        "modules": spec.get("modules") or [],
        "deletion_policy": deletion.get("policy", "Retain"),
        "deletion_protected": deletion.get("protected", False),
        "final_backup": deletion.get("finalBackup", False),
    }


def _life(row: InstanceRow) -> dict[str, Any]:
    """The state, how changes are put in place, and what others said about it."""
    spec, observed = row.spec, row.observed
    state, update = spec.get("state", "Running"), spec.get("update") or {}
    suspended = next((c for c in observed.get("conditions") or () if c["type"] == "Suspended"), None)
    since = suspended["lastTransitionTime"] if suspended and suspended["status"] == "True" else None
    archived = suspended is not None and suspended["reason"] == "Archived"
    return {
        "state": state,
        "trial_expires_at": (spec.get("trial") or {}).get("expiresAt"),
        "suspended_at": None if archived else since,
        "archived_at": since if archived else None,
        "update_strategy": update.get("strategy"),
        "pre_backup": update.get("preBackup"),
        "health_timeout": update.get("healthTimeout"),
        "rollback": update.get("rollback"),
        "maintenance_windows": [WindowRead.of(window) for window in spec.get("maintenanceWindows") or []],
        "next_window": observed.get("nextWindow"),
        "approval": spec.get("approval", "None"),
        "tags": tags_of(row.annotations),
        "certificates": observed.get("certificates") or [],
        "last_rollback": observed.get("rollback"),
    }


def tags_of(annotations: dict[str, str]) -> dict[str, str]:
    """Tags by their keys, of the annotations that they are kept in."""
    return {k.removeprefix(TAG): v for k, v in sorted(annotations.items()) if k.startswith(TAG)}


def _observed(observed: dict[str, Any]) -> dict[str, Any]:
    release = observed.get("release") or {}
    return {
        "previous_release": release.get("previous"),
        "target_release": release.get("target"),
        "step": observed.get("step"),
        "steps": [StepRead.of(step) for step in observed.get("steps") or []],
        "conditions": observed.get("conditions") or [],
    }


class Progress(BaseModel):
    """How far a deployment is, and since when that is known."""

    generation: int
    observed_generation: Annotated[int, Field(serialization_alias="observedGeneration")]
    mirrored_at: Annotated[datetime | None, Field(serialization_alias="mirroredAt")]

    @staticmethod
    def marks(row: InstanceRow) -> dict[str, Any]:
        return {
            "generation": row.generation,
            "observed_generation": row.observed_generation,
            "mirrored_at": row.mirrored_at,
        }


class StepsRead(Progress):
    """A deployment, for those who poll: it has ended when `outcome` is no longer running."""

    outcome: Annotated[
        Literal["running", "waiting", "succeeded", "failed"],
        Field(description="waiting: for a maintenance window, an approval, or while it is paused"),
    ]
    step: str | None
    steps: list[StepRead]

    @classmethod
    def of(cls, row: InstanceRow) -> Self:
        steps = [StepRead.of(step) for step in row.observed.get("steps") or []]
        return cls(**cls.marks(row), outcome=_outcome(row), step=row.observed.get("step"), steps=steps)


def _outcome(row: InstanceRow) -> Literal["running", "waiting", "succeeded", "failed"]:
    observed = row.observed
    asked = reconciliation(row.annotations, observed)
    taken_up = asked["reconcile_requested_at"] in (None, asked["last_handled_reconcile_at"])
    if row.observed_generation < row.generation or not taken_up:
        return "running"
    if condition(observed, "Stalled") == "True":
        return "failed"
    if observed.get("nextWindow") or any(condition(observed, c) == "True" for c in ("ApprovalNeeded", "Paused")):
        return "waiting"
    if condition(observed, "InSync") == "True" and condition(observed, "Reconciling") != "True":
        return "succeeded"
    return "running"


class PlannedActionRead(BaseModel):
    step: str
    action: str
    reason: str


class PlanRead(Progress):
    """What is still to be done; empty when the host matches the spec."""

    hash: str
    actions: list[PlannedActionRead]
    approval_needed: Annotated[
        bool, Field(description="waits for POST .../approvals/{hash}/approve by somebody who did not ask for it")
    ]
    approved_by: str | None
    requested_by: Annotated[str | None, Field(description="who wrote last")]
    next_window: Annotated[datetime | None, Field(description="when the work that waits for a window may begin")]

    @classmethod
    def of(cls, row: InstanceRow) -> Self:
        plan = row.observed.get("plan") or {}
        approved = plan.get("hash") and row.annotations.get(APPROVE) == plan["hash"]
        return cls(
            **cls.marks(row),
            hash=plan.get("hash", ""),
            actions=plan.get("actions") or [],
            approval_needed=condition(row.observed, "ApprovalNeeded") == "True" and not approved,
            approved_by=row.annotations.get(APPROVED_BY) if approved else None,
            requested_by=row.annotations.get(REQUESTED_BY),
            next_window=row.observed.get("nextWindow"),
        )


class DriftRead(Progress):
    """Whether the host matches the spec, and what was repaired last."""

    in_sync: bool | None
    reason: str
    message: str
    last_repaired: str | None
    last_repaired_at: datetime | None

    @classmethod
    def of(cls, row: InstanceRow) -> Self:
        word = condition(row.observed, "InSync")
        found = next((c for c in row.observed.get("conditions") or () if c["type"] == "InSync"), None) or {}
        drift = row.observed.get("drift") or {}
        return cls(
            **cls.marks(row),
            in_sync={"True": True, "False": False}.get(word),
            reason=found.get("reason", ""),
            message=found.get("message", ""),
            last_repaired=drift.get("what"),
            last_repaired_at=drift.get("repairedAt"),
        )


class TransitionRead(BaseModel):
    """One thing that changed."""

    id: int
    event: str
    at: datetime
    uid: Annotated[uuid.UUID, Field(description="of the instance, or of its backup or restore that this is about")]
    name: str
    subject: str
    before: str | None
    after: str | None
    reason: str
    message: str
    generation: int
    resource_version: str

    @classmethod
    def of(cls, row: TransitionRow) -> Self:
        names = ("id", "event", "at", "uid", "name", "subject", "before", "after", "reason", "message", "generation")
        values = {name: getattr(row, name) for name in names}
        return cls.model_validate(values | {"resource_version": str(row.resource_version)})
