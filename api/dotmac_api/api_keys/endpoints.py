"""/api-keys."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, status

from dotmac_api.access import require
from dotmac_api.api_keys import service
from dotmac_api.api_keys.schemas import ApiKeyCreate, ApiKeyGenerate, ApiKeyMade, ApiKeyRead, ApiKeyUpdate
from dotmac_api.audit.trail import Note
from dotmac_api.auth.models import ApiKey
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.etag import Shown, ShownDep, VersionsDep
from dotmac_api.people.access import require_visible
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Page, page_of

router = APIRouter(prefix="/api-keys", tags=["api-keys"])


class Once(Shown):
    """Answers with a new key, which nobody may keep on the way."""

    def once(self, row: ApiKey, key: str) -> ApiKeyMade:
        self.response.headers["Cache-Control"] = "no-store"
        return self.show(row, lambda made: ApiKeyMade(key=key, **ApiKeyRead.model_validate(made).model_dump()))


OnceDep = Annotated[Once, Depends()]


@router.get("")
async def list_keys(
    principal: Annotated[Principal, require("api-keys:read")],
    session: DatabaseSession,
    page: ListSlice,
    person_id: uuid.UUID | None = None,
    is_active: bool | None = None,
) -> Page[ApiKeyRead]:
    found = await service.list_keys(session, principal, page, person_id=person_id, is_active=is_active)
    return page_of(found, page, ApiKeyRead.model_validate)


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_key(
    principal: Annotated[Principal, require("api-keys:write")],
    session: DatabaseSession,
    facade: FacadeDep,
    note: Note,
    once: OnceDep,
    body: ApiKeyCreate,
) -> ApiKeyMade:
    """Make a key for a person."""
    person = await require_visible(session, principal, body.person_id)
    row, key = await service.make_key(session, facade.hashes, principal, person.id, body)
    note.on("api-keys", row.id)
    return once.once(row, key)


@router.post("/generate", status_code=status.HTTP_201_CREATED)
async def generate_key(
    principal: Annotated[Principal, require("api-keys:write")],
    session: DatabaseSession,
    facade: FacadeDep,
    note: Note,
    once: OnceDep,
    body: ApiKeyGenerate,
) -> ApiKeyMade:
    """Make a key of one's own."""
    row, key = await service.make_key(session, facade.hashes, principal, principal.person_id, body)
    note.on("api-keys", row.id)
    return once.once(row, key)


@router.get("/{key_id}")
async def get_key(
    principal: Annotated[Principal, require("api-keys:read")],
    session: DatabaseSession,
    shown: ShownDep,
    key_id: uuid.UUID,
) -> ApiKeyRead:
    return shown.show(await service.get_key(session, principal, key_id), ApiKeyRead.model_validate)


@router.patch("/{key_id}")
async def update_key(
    principal: Annotated[Principal, require("api-keys:write")],
    session: DatabaseSession,
    facade: FacadeDep,
    versions: VersionsDep,
    key_id: uuid.UUID,
    body: ApiKeyUpdate,
) -> ApiKeyRead:
    row = await versions.check(await service.get_key(session, principal, key_id))
    await service.update_key(session, facade.identity, row, body)
    return versions.show(row, ApiKeyRead.model_validate)


@router.delete("/{key_id}", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_key(
    principal: Annotated[Principal, require("api-keys:delete", admin=True)],
    session: DatabaseSession,
    facade: FacadeDep,
    versions: VersionsDep,
    key_id: uuid.UUID,
) -> None:
    """Revoke a key for good, on every replica at once."""
    row = await versions.check(await service.get_key(session, principal, key_id))
    await service.revoke_key(session, facade.identity, row)
