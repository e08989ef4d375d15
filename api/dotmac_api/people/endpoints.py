"""/people."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from dotmac_api.access import require
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep, IfMatch
from dotmac_api.etag import check_if_match, etag_of, set_etag
from dotmac_api.people import service
from dotmac_api.people.models import PersonStatus
from dotmac_api.people.schemas import PersonCreate, PersonRead, PersonUpdate
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Page

router = APIRouter(prefix="/people", tags=["people"])


@router.get("")
async def list_people(
    principal: Annotated[Principal, require("people:read")],
    session: DatabaseSession,
    page: ListSlice,
    status: PersonStatus | None = None,
    search: Annotated[str | None, Query(max_length=120, description="in names and e-mail addresses")] = None,
) -> Page[PersonRead]:
    rows, count = await service.list_people(session, principal, page, status=status, search=search)
    return Page(items=[PersonRead.model_validate(r) for r in rows], count=count, limit=page.limit, offset=page.offset)


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_person(
    principal: Annotated[Principal, require("people:write")],
    session: DatabaseSession,
    body: PersonCreate,
    response: Response,
) -> PersonRead:
    person = await service.create_person(session, principal, body)
    set_etag(response, etag_of(person.updated_at))
    return PersonRead.model_validate(person)


@router.get("/{person_id}")
async def get_person(
    principal: Annotated[Principal, require("people:read")],
    session: DatabaseSession,
    person_id: uuid.UUID,
    response: Response,
) -> PersonRead:
    person = await service.get_person(session, principal, person_id)
    set_etag(response, etag_of(person.updated_at))
    return PersonRead.model_validate(person)


@router.patch("/{person_id}")
async def update_person(
    principal: Annotated[Principal, require("people:write")],
    session: DatabaseSession,
    facade: FacadeDep,
    person_id: uuid.UUID,
    body: PersonUpdate,
    response: Response,
    if_match: IfMatch = None,
) -> PersonRead:
    person = await service.get_person(session, principal, person_id)
    check_if_match(if_match, etag_of(person.updated_at))
    person = await service.update_person(session, facade.identity, principal, person, body)
    set_etag(response, etag_of(person.updated_at))
    return PersonRead.model_validate(person)


@router.delete("/{person_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_person(
    principal: Annotated[Principal, require("people:delete", admin=True)],
    session: DatabaseSession,
    facade: FacadeDep,
    person_id: uuid.UUID,
    if_match: IfMatch = None,
) -> None:
    person = await service.get_person(session, principal, person_id)
    check_if_match(if_match, etag_of(person.updated_at))
    await service.delete_person(session, facade.identity, principal, person)
