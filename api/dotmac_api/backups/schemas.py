"""Bodies of /instances/{id}/backups and /instances/{id}/restores."""

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from dotmac_api.gateway.writes import REQUESTED_BY
from dotmac_api.mirror.models import BackupRow, RestoreRow
from dotmac_api.schemas import Body
from dotmac_api.servers.schemas import ConditionRead, MirroredRead, common

BackupType = Literal["full", "db_only"]
WorkWord = Literal["pending", "running", "completed", "failed"]

SPEC_TYPES: dict[BackupType, str] = {"full": "Full", "db_only": "Database"}
FILE_KINDS = {"Database": "database", "Volume": "volume"}
FIELD_NAMES = {"spec.type": "type"}


class BackupCreate(Body):
    type: Annotated[
        BackupType, Field(description="db_only: a dump of the database. full: and an archive of each data volume")
    ] = "full"


class BackupFileRead(BaseModel):
    """One file of a backup, in the tenant's volume for backups on its server."""

    name: Annotated[str, Field(description="path within the volume")]
    kind: Literal["database", "volume"]
    volume: Annotated[str | None, Field(description="of kind volume: its name in the release")]
    size_bytes: int
    sha256: str


class WorkRead(MirroredRead):
    """What is done once for one instance, and how far it is."""

    instance_id: uuid.UUID | None
    instance: Annotated[str, Field(description="name of the instance")]
    status: WorkWord
    phase: str | None
    message: Annotated[str | None, Field(description="what it waits for, or why it has failed")]
    started_at: datetime | None
    finished_at: datetime | None
    requested_by: Annotated[str | None, Field(description="who wrote last")]
    conditions: list[ConditionRead]


class BackupRead(WorkRead):
    backup_id: uuid.UUID
    type: BackupType
    server: Annotated[str | None, Field(description="the server whose host keeps the files")]
    release: Annotated[str | None, Field(description="the release that had written the data")]
    release_version: str | None
    size_bytes: int | None
    files: list[BackupFileRead]

    @classmethod
    def of(cls, row: BackupRow) -> Self:
        """From a row, or from one that `project` made and that was never stored."""
        seen = row.observed
        return cls.model_validate(
            _work(row)
            | {"backup_id": row.backup_id, "type": row.type, "size_bytes": row.size_bytes}
            | {"server": seen.get("server"), "release": seen.get("release")}
            | {
                "release_version": seen.get("releaseVersion"),
                "files": [_file(file) for file in seen.get("files") or []],
            }
        )


class RestoreRead(WorkRead):
    restore_id: uuid.UUID
    backup_id: uuid.UUID | None
    backup: Annotated[str, Field(description="name of the backup")]
    step: Annotated[
        str | None,
        Field(
            description="of a restore that runs. Preparing: the files are verified while users are served. Stopping:"
            " they get a page. Replacing: the data is exchanged. Starting: the instance is brought up again"
        ),
    ]

    @classmethod
    def of(cls, row: RestoreRow) -> Self:
        """From a row, or from one that `project` made and that was never stored."""
        own = {"restore_id": row.restore_id, "backup_id": row.backup_id, "backup": row.backup_name}
        return cls.model_validate(_work(row) | own | {"step": row.observed.get("step")})


def _work(row: BackupRow | RestoreRow) -> dict[str, Any]:
    return common(row) | {
        "instance_id": row.instance_id,
        "instance": row.instance_name,
        "status": row.status,
        "phase": row.observed.get("phase"),
        "message": row.observed.get("message"),
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "requested_by": row.annotations.get(REQUESTED_BY),
        "conditions": row.observed.get("conditions") or [],
    }


def _file(file: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": file["name"],
        "kind": FILE_KINDS[file["kind"]],
        "volume": file.get("volume"),
        "size_bytes": file["size"],
        "sha256": file["sha256"],
    }
