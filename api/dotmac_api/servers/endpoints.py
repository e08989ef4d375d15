"""/servers."""

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response, status

from dotmac_api.access import require
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep, IfMatch
from dotmac_api.etag import etag_of, set_etag
from dotmac_api.gateway.edge import intent_of
from dotmac_api.instances import service as instances
from dotmac_api.instances.schemas import InstanceRead
from dotmac_api.mirror.models import ServerRow
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Page, page_of
from dotmac_api.servers import service
from dotmac_api.servers.schemas import ServerCreate, ServerRead, ServerUpdate

router = APIRouter(prefix="/servers", tags=["servers"])

Reader = Annotated[Principal, require("servers:read")]
Writer = Annotated[Principal, require("servers:write")]
Search = Annotated[str | None, Query(max_length=120, pattern=r"^[^\x00]*$", description="in names and addresses")]
Force = Annotated[bool, Query(description="take the changed fields over from other managers, such as kubectl")]


def answer(response: Response, row: ServerRow) -> ServerRead:
    set_etag(response, etag_of(row.resource_version))
    return ServerRead.of(row)


@router.get("")
async def list_servers(
    principal: Reader,
    session: DatabaseSession,
    page: ListSlice,
    status: Literal["connected", "unreachable", "unknown"] | None = None,
    schedulable: bool | None = None,
    search: Search = None,
) -> Page[ServerRead]:
    wanted = service.ServerFilter(status, search, schedulable)
    return page_of(await service.list_servers(session, principal, page, wanted), page, ServerRead.of)


@router.post("", status_code=status.HTTP_202_ACCEPTED)
async def create_server(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, body: ServerCreate, response: Response
) -> ServerRead:
    """Accepted by Kubernetes; the operator then looks at the host. The conditions tell how that went."""
    principal.require_unlimited()
    intent = intent_of(principal, None)
    row = await service.create_server(session, facade.fleet.gateway, body, intent, facade.settings.namespace)
    return answer(response, row)


@router.get("/{server_id}")
async def get_server(
    principal: Reader, session: DatabaseSession, server_id: uuid.UUID, response: Response
) -> ServerRead:
    return answer(response, await service.find_server(session, principal, server_id))


@router.patch("/{server_id}", status_code=status.HTTP_202_ACCEPTED)
async def update_server(
    principal: Writer,
    session: DatabaseSession,
    facade: FacadeDep,
    server_id: uuid.UUID,
    body: ServerUpdate,
    response: Response,
    if_match: IfMatch = None,
    force: Force = False,
) -> ServerRead:
    row = await service.find_server(session, principal, server_id)
    principal.require_unlimited()
    intent = intent_of(principal, if_match, force=force)
    return answer(response, await service.update_server(facade.fleet.gateway, row, body, intent))


@router.delete("/{server_id}", status_code=status.HTTP_202_ACCEPTED)
async def delete_server(
    principal: Annotated[Principal, require("servers:delete", admin=True)],
    session: DatabaseSession,
    facade: FacadeDep,
    server_id: uuid.UUID,
    response: Response,
    if_match: IfMatch = None,
) -> ServerRead:
    """The operator keeps it (condition DeletionBlocked) for as long as instances live on it."""
    row = await service.find_server(session, principal, server_id)
    principal.require_unlimited()
    return answer(response, await service.delete_server(facade.fleet.gateway, row, intent_of(principal, if_match)))


@router.post("/{server_id}/test", status_code=status.HTTP_202_ACCEPTED)
async def test_server(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, server_id: uuid.UUID, response: Response
) -> ServerRead:
    """Has the operator connect to the host and look at it now.

    Done when `last_handled_reconcile_at` equals `reconcile_requested_at`; then the conditions tell the result.
    """
    row = await service.find_server(session, principal, server_id)
    principal.require_unlimited()
    return answer(response, await service.check_server(facade.fleet.gateway, row, intent_of(principal, None)))


@router.get("/{server_id}/instances")
async def list_instances(
    principal: Annotated[Principal, require("instances:read")],
    session: DatabaseSession,
    page: ListSlice,
    server_id: uuid.UUID,
) -> Page[InstanceRead]:
    await service.find_server(session, principal, server_id)
    wanted = instances.InstanceFilter(server_id=server_id)
    return page_of(await instances.list_instances(session, principal, page, wanted), page, InstanceRead.of)
