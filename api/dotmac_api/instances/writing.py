"""What every endpoint that reads or changes one instance has in common."""

import uuid
from typing import Annotated, Any

from fastapi import Depends, Query, Response

from dotmac_api.access import require
from dotmac_api.audit.trail import Note
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep, IfMatch
from dotmac_api.etag import etag_of, set_etag
from dotmac_api.gateway.edge import intent_of
from dotmac_api.instances import service
from dotmac_api.instances.schemas import InstanceRead
from dotmac_api.instances.writer import InstanceWriter
from dotmac_api.mirror.models import InstanceRow
from dotmac_api.principal import Principal

Reader = Annotated[Principal, require("instances:read")]
Force = Annotated[bool, Query(description="take the changed fields over from other managers, such as kubectl")]


def reading(permission: str) -> Any:
    """A dependency that gives the instance of the path, if the caller has `permission` and may see it."""

    async def find(
        principal: Annotated[Principal, require(permission)], session: DatabaseSession, instance_id: uuid.UUID
    ) -> InstanceRow:
        return await service.find_instance(session, principal, instance_id)

    return Depends(find)


Readable = Annotated[InstanceRow, reading("instances:read")]


class Write:
    """What a write on one instance needs: its row as the caller sees it, and the writer in the caller's name."""

    def __init__(self, row: InstanceRow, writer: InstanceWriter) -> None:
        self.row = row
        self.writer = writer


def writing(permission: str, *, admin: bool = False) -> Any:
    """A dependency that gives a Write, if the caller has `permission` and may see the instance of the path."""

    async def prepare(
        principal: Annotated[Principal, require(permission, admin=admin)],
        session: DatabaseSession,
        facade: FacadeDep,
        note: Note,
        instance_id: uuid.UUID,
        if_match: IfMatch = None,
        force: Force = False,
    ) -> Write:
        row = await service.find_instance(session, principal, instance_id)
        note.on("instances", row.instance_id, row.org_code)
        intent = intent_of(principal, if_match, force=force)
        return Write(row, InstanceWriter(facade.fleet.gateway, intent, principal))

    return Depends(prepare)


Changing = Annotated[Write, writing("instances:write")]
Deploying = Annotated[Write, writing("instances:deploy")]


def answer(response: Response, row: InstanceRow) -> InstanceRead:
    set_etag(response, etag_of(row.resource_version))
    return InstanceRead.of(row)
