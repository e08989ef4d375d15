"""Backup and Restore: a copy of one tenant's data, made once, and one use of it."""

from typing import Annotated, Literal

from pydantic import Field

from dotmac_crds.base import (
    Conditions,
    Model,
    NameRef,
    ObjectName,
    ObservedGeneration,
    Text,
    Timestamp,
    Word,
    list_map,
    rule,
    schema,
)

Phase = Literal["Pending", "Running", "Completed", "Failed"]
Bytes = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]


class BackupSpec(Model):
    """What is copied. It is made once, so nothing of it changes afterwards."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema(
            [rule("self == oldSelf", "a Backup is made once and its spec is immutable: create another Backup instead")]
        ),
    }

    instance_ref: NameRef
    """The Instance, in the same namespace."""
    type: Literal["Database", "Full"] = "Full"
    """Database: a dump of the database. Full: that, and an archive of each data volume of the Release."""


class BackupFile(Model):
    """One file of a Backup, in the tenant's volume for backups on the host."""

    name: Annotated[str, Field(min_length=1, max_length=512)]
    """Path within the volume."""
    sha256: Annotated[str, Field(min_length=64, max_length=64, pattern=r"^[0-9a-f]{64}$")]
    """Checksum, verified before anything is restored from it."""
    size: Bytes
    """Bytes."""
    kind: Literal["Database", "Volume"]
    """Database: a dump in PostgreSQL's custom format. Volume: a tar archive, compressed by gzip."""
    volume: Word | None = None
    """Of kind Volume: the volume's name in the Release."""


class BackupStatus(Model):
    """How far the copy is, and where it is kept."""

    observed_generation: ObservedGeneration = -1
    """The generation that this status is about; -1 until it was first looked at."""
    conditions: Conditions = []
    """Ready (it can be restored), Reconciling, Stalled (it has failed)."""
    phase: Phase | None = None
    """Pending, Running, Completed or Failed; the last two are final."""
    message: Text | None = None
    """What it waits for, or why it has failed."""
    server: ObjectName | None = None
    """The Server whose host keeps the files."""
    volume: Word | None = None
    """The Docker volume on that host that they are in."""
    instance_uid: Word | None = None
    """Uid of the Instance that it was made of."""
    files: Annotated[list[BackupFile], Field(max_length=32, json_schema_extra=list_map("name"))] | None = None
    """The files that are complete, the database first."""
    size: Bytes | None = None
    """Bytes of all files together."""
    release: Word | None = None
    """The Release that had written the data."""
    release_version: Word | None = None
    """Its version."""
    started_at: Timestamp | None = None
    """When work on it began."""
    finished_at: Timestamp | None = None
    """When it was complete, or had failed."""


class RestoreSpec(Model):
    """Which Backup goes into which Instance. It is done once, so nothing of it changes afterwards."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema(
            [
                rule(
                    "self == oldSelf",
                    "a Restore is done once and its spec is immutable: create another Restore instead",
                )
            ]
        ),
    }

    instance_ref: NameRef
    """The Instance whose data is replaced, in the same namespace."""
    backup_ref: NameRef
    """A Backup of this Instance that is Completed, in the same namespace."""


class RestoreStatus(Model):
    """How far the Restore is."""

    observed_generation: ObservedGeneration = -1
    """The generation that this status is about; -1 until it was first looked at."""
    conditions: Conditions = []
    """Ready (the data is back and served), Reconciling, Stalled (it has failed)."""
    phase: Phase | None = None
    """Pending, Running, Completed or Failed; the last two are final."""
    step: Literal["Preparing", "Stopping", "Replacing", "Starting"] | None = None
    """Of a Restore that runs. Preparing: checksums are verified and files unpacked beside the data while the tenant is
    served. Stopping: users get a page, the application stops. Replacing: the data is exchanged. Starting: the
    Instance is brought up again."""
    message: Text | None = None
    """What it waits for, or why it has failed and what became of the data."""
    failure: Text | None = None
    """Why it will end as Failed, while the Instance is brought up again with the data that it had."""
    started_at: Timestamp | None = None
    """When work on it began."""
    finished_at: Timestamp | None = None
    """When it was complete, or had failed."""
