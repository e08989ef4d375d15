"""Instance: one tenant's ERP on a Server."""

from typing import Annotated, Literal

from pydantic import Field

from dotmac_crds.base import (
    LIST_ATOMIC,
    LIST_SET,
    Conditions,
    DriftRecord,
    Email,
    EnvName,
    EnvValue,
    Hostname,
    LocalSecretRef,
    Model,
    NameRef,
    ObjectName,
    ObservedGeneration,
    Repairing,
    SecretKeyRef,
    Text,
    Timestamp,
    Word,
    list_map,
    rule,
    schema,
)
from dotmac_crds.lifecycle import CertificateStatus, MaintenanceWindows, RollbackRecord, State, Trial, Update

OrgCode = Annotated[
    str,
    Field(
        min_length=2,
        max_length=40,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,38}[A-Za-z0-9]$",
        json_schema_extra=schema(
            [
                rule(
                    "self == oldSelf",
                    "orgCode is immutable: the tenant's data carries it; create a new Instance instead",
                )
            ]
        ),
    ),
]
# A Kubernetes label key and value, for selectors.
LabelKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
    ),
]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
SettingName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
FlagName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")]


class SelectorRequirement(Model):
    """One condition of a label selector."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema(
            [
                rule(
                    "self.operator in ['In', 'NotIn'] ? (has(self.values) && size(self.values) > 0)"
                    " : (!has(self.values) || size(self.values) == 0)",
                    "In and NotIn need values; Exists and DoesNotExist take none",
                )
            ]
        ),
    }

    key: LabelKey
    """Label key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label's value is compared."""
    values: Annotated[list[LabelValue], Field(max_length=32, json_schema_extra=LIST_ATOMIC)] = []
    """Values for In and NotIn."""


class LabelSelector(Model):
    """Servers by their labels; an empty selector matches every Server of the namespace."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = {}
    """Labels that must all be equal."""
    match_expressions: Annotated[list[SelectorRequirement], Field(max_length=32, json_schema_extra=LIST_ATOMIC)] = []
    """Conditions that must all hold."""


class Placement(Model):
    """Lets the operator choose: the least loaded Server that matches and fits. The choice is kept in status.server."""

    selector: LabelSelector = LabelSelector()
    """Servers to choose among."""


class Domain(Model):
    """One host name that the proxy serves the Instance under."""

    host: Hostname
    """Fully qualified, lower case (RFC 1123)."""
    tls: Literal["Acme", "Internal", "Off"] | None = None
    """Certificates for this name; the Server's mode when absent."""


class Admin(Model):
    """The first user of the tenant."""

    email: Email
    """E-mail address."""
    username: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]*$")] = "admin"
    """Login name."""
    password_secret_ref: SecretKeyRef | None = None
    """Where the password is; generated into the Instance's credentials Secret (key `admin-password`) when absent."""


class Settings(Model):
    """Settings of the tenant, handed to the application as `from: setting.NAME`."""

    sector_type: Literal["PRIVATE", "PUBLIC", "NGO"] = "PRIVATE"
    """Kind of organisation."""
    accounting_framework: Literal["IFRS", "IPSAS", "BOTH"] = "IFRS"
    """Accounting standard."""
    currency: Annotated[str, Field(min_length=3, max_length=3, pattern=r"^[A-Z]{3}$")] = "NGN"
    """ISO 4217 code."""
    values: Annotated[dict[SettingName, EnvValue], Field(max_length=64)] = {}
    """Further settings; each name must be one that the Release takes."""


class InstanceEnv(Model):
    """One environment variable of the tenant's application containers; it wins over the Release's."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema(
            [rule("has(self.value) != has(self.secretKeyRef)", "set exactly one of value and secretKeyRef")]
        ),
    }

    name: EnvName
    """Name of the variable."""
    value: EnvValue | None = None
    """Its value. Anybody who may read the Instance sees it: secrets belong into secretKeyRef."""
    secret_key_ref: SecretKeyRef | None = None
    """A key of a Secret in the same namespace."""


class EnvFrom(Model):
    """Every key of a Secret as an environment variable."""

    secret_ref: LocalSecretRef
    """The Secret; each key must be a valid variable name."""
    prefix: Annotated[str, Field(max_length=64, pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")] = ""
    """Put before each key."""


class Deletion(Model):
    """What happens when the Instance is deleted."""

    policy: Literal["Retain", "Delete"] = "Retain"
    """Retain keeps the data volumes on the host and the credentials Secret; Delete removes both for good."""
    protected: bool = False
    """True: deletion waits (condition DeletionBlocked) until this is false."""
    final_backup: bool = False
    """True: the database is dumped first, and the volume for backups stays with policy Delete too."""


class InstanceSpec(Model):
    """One tenant's ERP as it should be."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema(
            [
                rule("has(self.serverRef) != has(self.placement)", "set exactly one of serverRef and placement"),
                rule(
                    "!has(oldSelf.serverRef) || (has(self.serverRef) && self.serverRef.name == oldSelf.serverRef.name)",
                    "serverRef cannot change: the tenant's data lives on that Server",
                    path=".serverRef",
                ),
            ]
        ),
    }

    org_code: OrgCode
    """Short name of the organisation: 2 to 40 letters, digits, `_`, `-`. Immutable; unique on a Server in any case."""
    org_name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
    """Full name of the organisation."""
    server_ref: NameRef | None = None
    """The Server to live on, in the same namespace."""
    placement: Placement | None = None
    """How to choose a Server; instead of serverRef."""
    release_ref: NameRef
    """The Release to run."""
    class_ref: NameRef
    """The InstanceClass with the limits."""
    domains: Annotated[list[Domain], Field(max_length=32, json_schema_extra=list_map("host"))] = []
    """Host names; `<orgcode>.<baseDomain>` of the Server when empty. The first one is status.url."""
    admin: Admin
    """The first user."""
    settings: Settings = Settings()
    """Settings of the tenant."""
    env: Annotated[list[InstanceEnv], Field(max_length=64, json_schema_extra=list_map("name"))] = []
    """Environment of the application containers."""
    env_from: Annotated[list[EnvFrom], Field(max_length=16, json_schema_extra=LIST_ATOMIC)] = []
    """Secrets whose keys become environment variables."""
    features: Annotated[dict[FlagName, bool], Field(max_length=64)] = {}
    """Feature flags; the Release must take them (`from: features`)."""
    modules: Annotated[list[FlagName], Field(max_length=64, json_schema_extra=LIST_SET)] = []
    """Modules to activate; the Release must take them (`from: modules`)."""
    state: State = "Running"
    """Suspended stops the containers and answers 503; Archived dumps the database and removes them. Data is kept."""
    trial: Trial | None = None
    """When the tenant's trial ends; absent when it is none."""
    update: Update = Update()
    """How a change is put in place."""
    maintenance_windows: MaintenanceWindows | None = None
    """When disruptive work may be done; the class's windows when absent, at any time when there is none."""
    approval: Literal["None", "Required"] = "None"
    """Required: disruptive work waits until the annotation `platform.dotmac.io/approve` carries status.plan.hash."""
    deletion: Deletion = Deletion()
    """What happens when the Instance is deleted."""


StepState = Literal["Pending", "Running", "Succeeded", "Failed", "Skipped"]
Hash = Annotated[str, Field(max_length=64)]


class StepStatus(Model):
    """One of the ten steps."""

    name: Word
    """Name of the step."""
    state: StepState
    """How far it is."""
    started_at: Timestamp | None = None
    """When it last began to act."""
    finished_at: Timestamp | None = None
    """When it last ended."""
    message: Text | None = None
    """What it waits for, did, or why it failed."""


class PlannedAction(Model):
    """One thing that is still to be done."""

    step: Word
    """The step that does it."""
    action: Text
    """What is to be done."""
    reason: Text
    """Why."""


class PlanStatus(Model):
    """What is still to be done; empty when the host matches the spec."""

    hash: Hash
    """What an approval names: digest of the change, or of the actions where nothing that serves is disturbed."""
    started_at: Timestamp | None = None
    """When work on the change began; absent while it waits. What has begun is not interrupted by a window's end."""
    actions: Annotated[list[PlannedAction], Field(max_length=64, json_schema_extra=LIST_ATOMIC)] = []
    """The actions in order."""


class ComponentStatus(Model):
    """One container of the tenant."""

    role: Word
    """Its role."""
    container: Word
    """Its name on the host."""
    image: Annotated[str, Field(max_length=512)]
    """Reference it was made from."""
    image_id: Annotated[str, Field(max_length=128)]
    """Digest of the image it runs."""
    health: Word
    """healthy, unhealthy, starting, or Docker's own state when it has no check."""


class ReleaseProgress(Model):
    """Which Release serves, and which one is being put in its place."""

    current: Word | None = None
    """The Release that serves."""
    current_version: Word | None = None
    """Its version."""
    previous: Word | None = None
    """The Release that served before."""
    target: Word | None = None
    """The Release that is being put in place; absent when it serves."""


class BackupRecord(Model):
    """A dump of the tenant's database, kept in its volume for backups on the host."""

    file: Word
    """File name in the volume."""
    sha256: Annotated[str, Field(max_length=64)]
    """Checksum of the file."""
    size: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] = 0
    """Bytes."""
    release: Word
    """The Release that had written the data."""
    finished_at: Timestamp
    """When it ended."""


class OneShotRecord(Model):
    """A migrate or bootstrap run that succeeded."""

    name: Word
    """migrate or bootstrap."""
    hash: Hash
    """Digest of what it was made of; a change of it runs it again."""
    finished_at: Timestamp
    """When it ended."""


class ImagePin(Model):
    """An image that the tenant's containers run, whatever its reference points to by now."""

    reference: Annotated[str, Field(max_length=512)]
    """As the Release gives it."""
    id: Annotated[str, Field(max_length=128)]
    """`sha256:...`, the image's own id on the host."""


class FailureRecord(Model):
    """A change that failed and is not tried again until the generation or the reconcile token changes."""

    generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]
    """Generation of the spec that failed."""
    hash: Hash
    """Digest of everything that the failed attempt was made of."""
    step: Word
    """The step that failed."""
    message: Annotated[str, Field(max_length=2048)]
    """Why, with the last lines of the container's log, secrets masked."""


class QuotaStatus(Model):
    """What the plan grants."""

    max_users: Annotated[int, Field(ge=0, json_schema_extra={"format": "int32"})] | None = None
    """Users; unlimited when absent."""
    max_storage: Word | None = None
    """Storage; unlimited when absent."""


class InstanceStatus(Model):
    """One tenant's ERP as it was last seen."""

    observed_generation: ObservedGeneration = -1
    """The generation that this status is about; -1 until it was first looked at."""
    conditions: Conditions = []
    """Ready, Reconciling, Stalled, Suspended, ApprovalNeeded, Scheduled, DatabaseReady, AppHealthy, RouteReady, ..."""
    phase: Word | None = None
    """One word for people; programs read the conditions."""
    state: State | None = None
    """The state of spec.state that was last reached."""
    server: ObjectName | None = None
    """The Server it lives on."""
    url: Annotated[str, Field(max_length=512)] | None = None
    """Where it is served."""
    release: ReleaseProgress | None = None
    """Which Release serves."""
    components: Annotated[list[ComponentStatus], Field(max_length=256, json_schema_extra=LIST_ATOMIC)] | None = None
    """The tenant's containers."""
    credentials_ref: LocalSecretRef | None = None
    """Secret with the tenant's generated secrets, the admin's password among them."""
    plan: PlanStatus | None = None
    """What is still to be done."""
    steps: Annotated[list[StepStatus], Field(max_length=16, json_schema_extra=list_map("name"))] | None = None
    """The ten steps."""
    step: Word | None = None
    """Steps that are done, of all, such as 7/10."""
    last_backup: BackupRecord | None = None
    """The last dump."""
    one_shots: Annotated[list[OneShotRecord], Field(max_length=8, json_schema_extra=list_map("name"))] | None = None
    """Migrate and bootstrap runs that succeeded."""
    drift: DriftRecord | None = None
    """The last difference that was repaired."""
    repairing: Repairing | None = None
    """What is being repaired; told in `drift` once it is, by another operator too."""
    failure: FailureRecord | None = None
    """A change that failed and is not tried again by itself."""
    rollback: RollbackRecord | None = None
    """The last change that failed and gave way to what served before."""
    next_window: Timestamp | None = None
    """When the work that waits for a maintenance window may begin; absent when none waits."""
    certificates: (
        Annotated[list[CertificateStatus], Field(max_length=32, json_schema_extra=list_map("host"))] | None
    ) = None
    """Certificates that the proxy serves the tenant's domains with."""
    serving: Annotated[list[Word], Field(max_length=160, json_schema_extra=LIST_ATOMIC)] | None = None
    """Containers of the version that was last verified; a failed change goes back to them."""
    applied_hash: Hash | None = None
    """Digest of the desired state that the host last matched."""
    volumes: Annotated[list[Word], Field(max_length=32, json_schema_extra=LIST_ATOMIC)] | None = None
    """Volumes that the version which serves keeps its data in; one that goes missing is not made anew."""
    images: Annotated[list[ImagePin], Field(max_length=32, json_schema_extra=list_map("reference"))] | None = None
    """Images of the version that serves; a container is made again from these, not from a tag that has moved."""
    applied_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = None
    """The generation of the spec that the host last matched."""
    quota: QuotaStatus | None = None
    """What the plan grants."""
    last_handled_restart_at: Text | None = None
    """The last value of the restart-requested-at annotation that the application's containers were replaced for."""
    last_handled_reconcile_at: Text | None = None
    """The last value of the reconcile-requested-at annotation that was acted on."""
