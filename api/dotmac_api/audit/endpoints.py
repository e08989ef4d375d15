"""/audit-events."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime

from dotmac_api.access import require
from dotmac_api.audit import service
from dotmac_api.audit.schemas import AuditEventRead
from dotmac_api.audit.service import AuditFilter
from dotmac_api.database import DatabaseSession
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Page, page_of

router = APIRouter(prefix="/audit-events", tags=["audit"])

Reader = Annotated[Principal, require("audit:read")]
Word = Annotated[str | None, Query(max_length=200)]


async def _filter(
    actor_id: uuid.UUID | None = None,
    action: Word = None,
    entity_type: Word = None,
    entity_id: Word = None,
    is_success: bool | None = None,
    request_id: Word = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
) -> AuditFilter:
    return AuditFilter(actor_id, action, entity_type, entity_id, is_success, request_id, since, until)


@router.get("")
async def list_events(
    principal: Reader, session: DatabaseSession, page: ListSlice, wanted: Annotated[AuditFilter, Depends(_filter)]
) -> Page[AuditEventRead]:
    """Who did what, newest first; people limited to organisations see their own deeds and those organisations'."""
    found = await service.list_events(session, principal, page, wanted)
    return page_of(found, page, AuditEventRead.model_validate)


@router.get("/{event_id}")
async def get_event(principal: Reader, session: DatabaseSession, event_id: uuid.UUID) -> AuditEventRead:
    return AuditEventRead.model_validate(await service.get_event(session, principal, event_id))
