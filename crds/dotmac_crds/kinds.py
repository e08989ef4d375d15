"""The kinds of the group, and their CustomResourceDefinitions."""

from dataclasses import dataclass
from typing import Any, Literal

from dotmac_crds.backup import BackupSpec, BackupStatus, RestoreSpec, RestoreStatus
from dotmac_crds.base import GROUP, VERSION, Model
from dotmac_crds.instance import InstanceSpec, InstanceStatus
from dotmac_crds.instanceclass import InstanceClassSpec, InstanceClassStatus
from dotmac_crds.openapi import structural
from dotmac_crds.release import ReleaseSpec, ReleaseStatus
from dotmac_crds.server import ServerSpec, ServerStatus


@dataclass(frozen=True)
class Column:
    """One printer column of kubectl. Priority 0 is always shown, 1 with `-o wide`."""

    name: str
    path: str
    description: str
    type: str = "string"
    priority: int = 0


def _condition(type_: str, field: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{type_}")].{field}'


AGE = Column("Age", ".metadata.creationTimestamp", "Time since the object was created.", "date")
MESSAGE = Column("Message", _condition("Ready", "message"), "Why it is ready, or why not.", priority=1)


@dataclass(frozen=True)
class Kind:
    """One kind: its names, its models and what kubectl prints of it."""

    name: str
    plural: str
    short: str
    scope: Literal["Namespaced", "Cluster"]
    description: str
    spec: type[Model]
    status: type[Model]
    columns: tuple[Column, ...]

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"

    def crd(self) -> dict[str, Any]:
        """The CustomResourceDefinition, ready for the API server."""
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": self.crd_name, "labels": {"app.kubernetes.io/part-of": "dotmac-operator"}},
            "spec": {
                "group": GROUP,
                "names": {
                    "kind": self.name,
                    "listKind": f"{self.name}List",
                    "plural": self.plural,
                    "singular": self.name.lower(),
                    "shortNames": [self.short],
                    "categories": ["dotmac"],
                },
                "scope": self.scope,
                "versions": [self._version()],
            },
        }

    def _version(self) -> dict[str, Any]:
        status = structural(self.status)
        # GitOps tools tell "not looked at yet" from "in sync" by this value.
        status["default"] = {"observedGeneration": -1}
        schema = {
            "type": "object",
            "description": self.description,
            "required": ["spec"],
            "properties": {
                "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
                "kind": {"type": "string", "description": "Kind of this object."},
                "metadata": {"type": "object"},
                "spec": structural(self.spec),
                "status": status,
            },
        }
        return {
            "name": VERSION,
            "served": True,
            "storage": True,
            "subresources": {"status": {}},
            "additionalPrinterColumns": [self._column(column) for column in self.columns],
            "schema": {"openAPIV3Schema": schema},
        }

    @staticmethod
    def _column(column: Column) -> dict[str, Any]:
        made: dict[str, Any] = {
            "name": column.name,
            "type": column.type,
            "jsonPath": column.path,
            "description": column.description,
        }
        return made | ({"priority": column.priority} if column.priority else {})


SERVER = Kind(
    "Server", "servers", "srv", "Namespaced", "A Docker host reached over SSH.", ServerSpec, ServerStatus,
    (
        Column("Ready", _condition("Ready"), "Whether Instances can be deployed to it."),
        Column("Address", ".spec.address", "Where it is."),
        Column("Instances", ".status.allocated.instances", "Instances that live on it.", "integer"),
        Column("Mem", ".status.allocated.memory", "Memory given to Instances."),
        Column("Disk", ".status.facts.diskFree", "Free disk space for Docker's data."),
        Column("Docker", ".status.facts.dockerVersion", "Version of the engine."),
        AGE,
        Column("Proven", ".status.proof.result", "Instances in sync, of all, when somebody last asked.", priority=1),
        MESSAGE,
    ),
)  # fmt: skip

RELEASE = Kind(
    "Release", "releases", "rel", "Cluster", "One version of an ERP: images, roles, migrate, bootstrap, health.",
    ReleaseSpec, ReleaseStatus,
    (
        Column("Ready", _condition("Ready"), "Whether it can be deployed."),
        Column("Version", ".spec.version", "Version of the application."),
        Column("Yanked", ".spec.yanked", "True when nothing may move to it.", "boolean"),
        AGE,
    ),
)  # fmt: skip

INSTANCE_CLASS = Kind(
    "InstanceClass", "instanceclasses", "icl", "Cluster", "A plan: limits and quotas.",
    InstanceClassSpec, InstanceClassStatus,
    (
        Column("Users", ".spec.quotas.maxUsers", "Users that the plan grants.", "integer"),
        Column("Storage", ".spec.quotas.maxStorage", "Storage that the plan grants."),
        AGE,
    ),
)  # fmt: skip

INSTANCE = Kind(
    "Instance", "instances", "inst", "Namespaced", "One tenant's ERP on a Server.", InstanceSpec, InstanceStatus,
    (
        Column("Ready", _condition("Ready"), "Whether the tenant is served as the spec says."),
        Column("Phase", ".status.phase", "One word for people."),
        Column("Release", ".status.release.current", "The Release that serves."),
        Column("Server", ".status.server", "The Server it lives on."),
        Column("URL", ".status.url", "Where it is served."),
        Column("Step", ".status.step", "Steps that are done, of all."),
        AGE,
        MESSAGE,
        Column("Class", ".spec.classRef.name", "Its plan.", priority=1),
        Column("Backup", ".status.lastBackup.finishedAt", "When it was last backed up.", "date", 1),
    ),
)  # fmt: skip

BACKUP = Kind(
    "Backup", "backups", "bak", "Namespaced", "A copy of one tenant's data, kept on its host.",
    BackupSpec, BackupStatus,
    (
        Column("Phase", ".status.phase", "Pending, Running, Completed or Failed."),
        Column("Instance", ".spec.instanceRef.name", "The Instance that it is of."),
        Column("Type", ".spec.type", "Database, or Full with the data volumes."),
        Column("Size", ".status.size", "Bytes of all files.", "integer"),
        Column("Release", ".status.release", "The Release that had written the data."),
        AGE,
        Column("Server", ".status.server", "The Server whose host keeps the files.", priority=1),
        MESSAGE,
    ),
)  # fmt: skip

RESTORE = Kind(
    "Restore", "restores", "rst", "Namespaced", "One use of a Backup: an Instance gets its data of then back.",
    RestoreSpec, RestoreStatus,
    (
        Column("Phase", ".status.phase", "Pending, Running, Completed or Failed."),
        Column("Instance", ".spec.instanceRef.name", "The Instance whose data is replaced."),
        Column("Backup", ".spec.backupRef.name", "Where the data comes from."),
        Column("Step", ".status.step", "How far it is."),
        AGE,
        MESSAGE,
    ),
)  # fmt: skip

KINDS: tuple[Kind, ...] = (SERVER, RELEASE, INSTANCE_CLASS, INSTANCE, BACKUP, RESTORE)
