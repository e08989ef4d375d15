"""/people."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, status

from dotmac_api.access import require
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.etag import ShownDep, VersionsDep
from dotmac_api.people import service
from dotmac_api.people.models import PersonStatus
from dotmac_api.people.schemas import PersonCreate, PersonRead, PersonUpdate
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Page, page_of

router = APIRouter(prefix="/people", tags=["people"])


@router.get("")
async def list_people(
    principal: Annotated[Principal, require("people:read")],
    session: DatabaseSession,
    page: ListSlice,
    status: PersonStatus | None = None,
    search: Annotated[str | None, Query(max_length=120, description="in names and e-mail addresses")] = None,
) -> Page[PersonRead]:
    found = await service.list_people(session, principal, page, status=status, search=search)
    return page_of(found, page, PersonRead.model_validate)


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_person(
    principal: Annotated[Principal, require("people:write")],
    session: DatabaseSession,
    shown: ShownDep,
    body: PersonCreate,
) -> PersonRead:
    return shown.show(await service.create_person(session, principal, body), PersonRead.model_validate)


@router.get("/{person_id}")
async def get_person(
    principal: Annotated[Principal, require("people:read")],
    session: DatabaseSession,
    shown: ShownDep,
    person_id: uuid.UUID,
) -> PersonRead:
    return shown.show(await service.get_person(session, principal, person_id), PersonRead.model_validate)


@router.patch("/{person_id}")
async def update_person(
    principal: Annotated[Principal, require("people:write")],
    session: DatabaseSession,
    facade: FacadeDep,
    versions: VersionsDep,
    person_id: uuid.UUID,
    body: PersonUpdate,
) -> PersonRead:
    person = await versions.check(await service.get_person(session, principal, person_id))
    person = await service.update_person(session, facade.identity, principal, person, body)
    return versions.show(person, PersonRead.model_validate)


@router.delete("/{person_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_person(
    principal: Annotated[Principal, require("people:delete", admin=True)],
    session: DatabaseSession,
    facade: FacadeDep,
    versions: VersionsDep,
    person_id: uuid.UUID,
) -> None:
    person = await versions.check(await service.get_person(session, principal, person_id))
    await service.delete_person(session, facade.identity, principal, person)
