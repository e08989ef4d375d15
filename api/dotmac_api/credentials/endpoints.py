"""/user-credentials."""

import uuid
from typing import Annotated

from fastapi import APIRouter, status

from dotmac_api.access import require
from dotmac_api.audit.trail import Note
from dotmac_api.credentials import service
from dotmac_api.credentials.schemas import CredentialCreate, CredentialRead, CredentialUpdate
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.errors import Forbidden
from dotmac_api.etag import ShownDep, VersionsDep
from dotmac_api.people.access import require_visible
from dotmac_api.people.models import Person
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Page, page_of

router = APIRouter(prefix="/user-credentials", tags=["user-credentials"])


@router.get("")
async def list_credentials(
    principal: Annotated[Principal, require("credentials:read")],
    session: DatabaseSession,
    page: ListSlice,
    person_id: uuid.UUID | None = None,
    is_active: bool | None = None,
) -> Page[CredentialRead]:
    found = await service.list_credentials(session, principal, page, person_id=person_id, is_active=is_active)
    return page_of(found, page, CredentialRead.model_validate)


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_credential(
    principal: Annotated[Principal, require("credentials:write", admin=True)],
    session: DatabaseSession,
    facade: FacadeDep,
    note: Note,
    shown: ShownDep,
    body: CredentialCreate,
) -> CredentialRead:
    """Give a person a username and a first password, to be changed at the first sign-in."""
    person = await require_visible(session, principal, body.person_id)
    await facade.passwords.check_new(body.password, body.username, person.email, field="body.password")
    credential = await service.create_credential(session, body, await facade.passwords.hash(body.password))
    note.on("user-credentials", credential.id)
    return shown.show(credential, CredentialRead.model_validate)


@router.get("/{credential_id}")
async def get_credential(
    principal: Annotated[Principal, require("credentials:read")],
    session: DatabaseSession,
    shown: ShownDep,
    credential_id: uuid.UUID,
) -> CredentialRead:
    credential = await service.get_credential(session, principal, credential_id)
    return shown.show(credential, CredentialRead.model_validate)


@router.patch("/{credential_id}")
async def update_credential(
    principal: Annotated[Principal, require("credentials:write", admin=True)],
    session: DatabaseSession,
    facade: FacadeDep,
    versions: VersionsDep,
    credential_id: uuid.UUID,
    body: CredentialUpdate,
) -> CredentialRead:
    """Change, unlock or deactivate a credential, or set a new password that its owner must change."""
    credential = await versions.check(await service.get_credential(session, principal, credential_id))
    if credential.person_id == principal.person_id and body.model_fields_set & {"password", "is_active", "reset_mfa"}:
        raise Forbidden("nobody does this to their own credential: use /auth/me, or ask another administrator")
    password_hash = None
    if "password" in body.model_fields_set:
        person = await session.get_one(Person, credential.person_id)
        await facade.passwords.check_new(body.password, credential.username, person.email, field="body.password")
        password_hash = await facade.passwords.hash(body.password)
    changed = await service.update_credential(session, facade.identity, credential, body, password_hash)
    return versions.show(changed, CredentialRead.model_validate)


@router.delete("/{credential_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_credential(
    principal: Annotated[Principal, require("credentials:delete", admin=True)],
    session: DatabaseSession,
    facade: FacadeDep,
    versions: VersionsDep,
    credential_id: uuid.UUID,
) -> None:
    credential = await versions.check(await service.get_credential(session, principal, credential_id))
    await service.delete_credential(session, facade.identity, principal, credential)
