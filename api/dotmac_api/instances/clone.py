"""A new instance made like another one: its configuration, flags, modules and tags; not its data."""

import uuid
from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from dotmac_api.instances.schemas import DomainBody, InstanceCreate, InstanceRead, OrgCode, OrgName
from dotmac_api.mirror.models import InstanceRow
from dotmac_api.schemas import Body
from dotmac_api.servers.schemas import Labels
from dotmac_crds.base import Email, ObjectName

COPIED = {
    "plan", "release", "sector_type", "framework", "currency", "settings", "env", "features", "modules", "labels",
    "admin_username", "deletion_policy", "deletion_protected", "final_backup", "update_strategy", "pre_backup",
    "health_timeout", "rollback", "approval", "tags",
}  # fmt: skip
"""Fields of an instance that its clone has, too, in the names of the REST bodies."""

NEVER_COPIED = ("data", "domains", "trial", "credentials")


class Clone(Body):
    """Where the new instance differs. Without a server it lives on the same one."""

    name: Annotated[ObjectName | None, Field(description="name of the resource; made from org_code when absent")] = None
    org_code: OrgCode
    org_name: OrgName | None = None
    release: ObjectName | None = None
    plan: ObjectName | None = None
    admin_email: Email | None = None
    domains: Annotated[list[DomainBody], Field(max_length=32)] = []
    server_id: uuid.UUID | None = None
    server: ObjectName | None = None
    placement: Labels | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(value is not None for value in (self.server_id, self.server, self.placement)) > 1:
            raise ValueError("send one of server_id, server and placement")
        return self


class CloneRead(BaseModel):
    """The new instance as accepted, and what it does not have of the one it was made like."""

    instance: InstanceRead
    not_copied: list[str]


def like(row: InstanceRow, body: Clone) -> InstanceCreate:
    """What creates the clone."""
    source = InstanceRead.of(row).model_dump(include=COPIED | {"org_name", "admin_email"})
    values = {name: value for name, value in source.items() if value is not None}
    values["env"] = [{k: v for k, v in item.items() if v is not None} for item in source["env"]]
    if (windows := row.spec.get("maintenanceWindows")) is not None:
        values["maintenance_windows"] = windows
    sent = {name: value for name, value in body.model_dump(exclude_unset=True).items() if value is not None}
    if not sent.keys() & {"server_id", "server", "placement"}:
        sent["server" if row.server_name else "placement"] = row.server_name or {}
    return InstanceCreate.model_validate(values | sent)


def not_copied(row: InstanceRow) -> list[str]:
    """What a clone lacks: always the data, and what REST has no field for."""
    spec = row.spec
    more = [name for name, there in (("env_from", spec.get("envFrom")),) if there]
    return [*NEVER_COPIED, *more]
