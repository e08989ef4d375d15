"""User credentials: made and changed by administrators."""

import uuid
from collections.abc import Sequence
from contextlib import nullcontext

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.auth import mfa
from dotmac_api.auth.identity import Identity
from dotmac_api.auth.models import AuthSession, UserCredential
from dotmac_api.auth.service import set_password
from dotmac_api.auth.sessions import revoke
from dotmac_api.credentials.schemas import CredentialCreate, CredentialUpdate
from dotmac_api.errors import Forbidden, NotFound
from dotmac_api.people.models import Person
from dotmac_api.people.service import visible_people
from dotmac_api.principal import Principal
from dotmac_api.rbac.administrators import one_is_left
from dotmac_api.schemas import Orderable, Slice, paginate

ORDERABLE: Orderable = {
    "created_at": UserCredential.created_at,
    "updated_at": UserCredential.updated_at,
    "username": UserCredential.username,
    "last_login_at": UserCredential.last_login_at,
    "id": UserCredential.id,
}


async def list_credentials(
    session: AsyncSession, principal: Principal, page: Slice, *, person_id: uuid.UUID | None, is_active: bool | None
) -> tuple[Sequence[UserCredential], int]:
    query = select(UserCredential).join(Person).where(visible_people(principal))
    if person_id is not None:
        query = query.where(UserCredential.person_id == person_id)
    if is_active is not None:
        query = query.where(UserCredential.is_active.is_(is_active))
    return await paginate(session, query, page, ORDERABLE)


async def get_credential(session: AsyncSession, principal: Principal, credential_id: uuid.UUID) -> UserCredential:
    """Raises NotFound, also for a credential of a person whom the caller may not see."""
    found = await session.scalar(
        select(UserCredential).join(Person).where(UserCredential.id == credential_id, visible_people(principal))
    )
    if found is None:
        raise NotFound(f"there is no user credential {credential_id}")
    return found


async def create_credential(session: AsyncSession, body: CredentialCreate, password_hash: str) -> UserCredential:
    credential = UserCredential(**body.model_dump(exclude={"password"}), password_hash=password_hash)
    session.add(credential)
    await session.flush()
    await session.refresh(credential)
    return credential


async def update_credential(
    session: AsyncSession,
    identity: Identity,
    credential: UserCredential,
    body: CredentialUpdate,
    password_hash: str | None,
) -> UserCredential:
    """Change a credential; a new password or a deactivation ends the sessions that it opened.

    Raises Conflict when the last administrator could not sign in any more.
    """
    sent = body.model_fields_set
    if password_hash is not None:
        set_password(credential, password_hash, must_change=True)
    async with nullcontext() if body.is_active else one_is_left(session):
        for name in ("username", "must_change_password", "is_active"):
            if name in sent:
                setattr(credential, name, getattr(body, name))
    if body.unlock:
        credential.failed_attempts, credential.locked_until = 0, None
    if body.reset_mfa:
        await mfa.turn_off(session, credential.person_id)
    if password_hash is not None or not credential.is_active:
        await revoke(
            session, identity, AuthSession.credential_id == credential.id, reason="changed by an administrator"
        )
    identity.rights_changed(session)
    await session.flush()
    await session.refresh(credential)
    return credential


async def delete_credential(
    session: AsyncSession, identity: Identity, principal: Principal, credential: UserCredential
) -> None:
    """Delete a credential; its sessions end with it."""
    if credential.person_id == principal.person_id:
        raise Forbidden("nobody deletes their own credential; ask another administrator")
    await revoke(session, identity, AuthSession.credential_id == credential.id, reason="credential deleted")
    async with one_is_left(session):
        await session.delete(credential)
