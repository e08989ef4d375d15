"""API keys."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.api_keys.schemas import ApiKeyGenerate, ApiKeyUpdate
from dotmac_api.auth.identity import Identity, roles_and_permissions
from dotmac_api.auth.models import ApiKey
from dotmac_api.auth.opaque import KeyedHash, new_api_key
from dotmac_api.errors import Conflict, Invalid, NotFound
from dotmac_api.people.models import Person
from dotmac_api.people.service import visible_people
from dotmac_api.principal import Principal
from dotmac_api.schemas import Orderable, Slice, paginate

ORDERABLE: Orderable = {
    "created_at": ApiKey.created_at,
    "label": ApiKey.label,
    "expires_at": ApiKey.expires_at,
    "last_used_at": ApiKey.last_used_at,
    "id": ApiKey.id,
}


async def list_keys(
    session: AsyncSession, principal: Principal, page: Slice, *, person_id: uuid.UUID | None, is_active: bool | None
) -> tuple[Sequence[ApiKey], int]:
    query = select(ApiKey).join(Person).where(visible_people(principal))
    if person_id is not None:
        query = query.where(ApiKey.person_id == person_id)
    if is_active is not None:
        query = query.where(ApiKey.is_active.is_(is_active))
    return await paginate(session, query, page, ORDERABLE)


async def get_key(session: AsyncSession, principal: Principal, key_id: uuid.UUID) -> ApiKey:
    """Raises NotFound, also for a key of a person whom the caller may not see."""
    found = await session.scalar(select(ApiKey).join(Person).where(ApiKey.id == key_id, visible_people(principal)))
    if found is None:
        raise NotFound(f"there is no API key {key_id}")
    return found


async def make_key(
    session: AsyncSession, hashes: KeyedHash, principal: Principal, person_id: uuid.UUID, body: ApiKeyGenerate
) -> tuple[ApiKey, str]:
    """A new key and its row. Its scopes are permissions that both its maker and its person have; raises Invalid."""
    _, theirs = await roles_and_permissions(session, person_id)
    lacking = sorted(set(body.scopes) - (theirs & principal.permissions))
    if lacking:
        raise Invalid.field("body.scopes", f"not permissions that both of you have: {', '.join(lacking)}")
    key, prefix = new_api_key()
    row = ApiKey(
        person_id=person_id,
        label=body.label,
        prefix=prefix,
        key_hash=hashes.of("api-key", key),
        scopes=sorted(set(body.scopes)),
        expires_at=datetime.now(UTC) + timedelta(days=body.expires_in_days),
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return row, key


async def update_key(session: AsyncSession, identity: Identity, row: ApiKey, body: ApiKeyUpdate) -> None:
    """Raises Conflict for a key that was revoked, Invalid when a scope would be added."""
    sent = body.model_fields_set
    if row.revoked_at is not None:
        raise Conflict("the key was revoked for good; make a new one", code="key_revoked")
    if "scopes" in sent:
        if not set(body.scopes) <= set(row.scopes):
            raise Invalid.field("body.scopes", "a key gets no more scopes than it was made with; make a new one")
        row.scopes = sorted(set(body.scopes))
    if "label" in sent:
        row.label = body.label
    if "is_active" in sent:
        row.is_active = body.is_active
    identity.rights_changed(session)
    await session.flush()
    await session.refresh(row)


async def revoke_key(session: AsyncSession, identity: Identity, row: ApiKey) -> None:
    """End a key for good; the row stays for the record."""
    row.is_active = False
    if row.revoked_at is None:
        row.revoked_at = await session.scalar(select(func.now()))
    identity.rights_changed(session)
    await session.flush()
