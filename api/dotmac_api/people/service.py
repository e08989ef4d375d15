"""People: reading within the caller's organisations, and changing them."""

import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.auth.identity import Identity
from dotmac_api.errors import Forbidden, Invalid, NotFound
from dotmac_api.people.models import Person, PersonStatus
from dotmac_api.people.schemas import PersonCreate, PersonUpdate
from dotmac_api.principal import Principal
from dotmac_api.rbac.administrators import one_is_left
from dotmac_api.schemas import Orderable, Slice, paginate
from dotmac_api.webhooks.models import WebhookRow

ORDERABLE: Orderable = {
    "created_at": Person.created_at,
    "updated_at": Person.updated_at,
    "last_name": Person.last_name,
    "first_name": Person.first_name,
    "email": Person.email,
    "status": Person.status,
    "id": Person.id,
}


# The address is where password resets go; the others decide what somebody may reach.
_ADMINS_ONLY = ("email", "status", "organisations")


def visible_people(principal: Principal) -> ColumnElement[bool]:
    """The WHERE clause of people whom the caller may see: a limited person sees itself and those within its limits."""
    if principal.organisations is None:
        return true()
    mine = sorted(principal.organisations)
    within = and_(
        Person.organisations.is_not(None),
        func.cardinality(Person.organisations) > 0,
        Person.organisations.contained_by(mine),
    )
    return or_(Person.id == principal.person_id, within)


def _check_limits(principal: Principal, organisations: list[str] | None) -> None:
    """A limited person cannot make or free somebody beyond its own limits."""
    if principal.organisations is None:
        return
    if organisations is None or not set(organisations) <= principal.organisations:
        raise Invalid.field("body.organisations", "your account is limited; name some of your own organisations")


async def list_people(
    session: AsyncSession, principal: Principal, page: Slice, *, status: PersonStatus | None, search: str | None
) -> tuple[Sequence[Person], int]:
    query = select(Person).where(visible_people(principal))
    if status:
        query = query.where(Person.status == status)
    if search:
        pattern = "%" + search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        query = query.where(
            or_(*(column.ilike(pattern) for column in (Person.first_name, Person.last_name, Person.email)))
        )
    return await paginate(session, query, page, ORDERABLE)


async def get_person(session: AsyncSession, principal: Principal, person_id: uuid.UUID) -> Person:
    """Raises NotFound, also for a person whom the caller may not see."""
    person = await session.scalar(select(Person).where(Person.id == person_id, visible_people(principal)))
    if person is None:
        raise NotFound(f"there is no person {person_id}")
    return person


async def create_person(session: AsyncSession, principal: Principal, body: PersonCreate) -> Person:
    _check_limits(principal, body.organisations)
    person = Person(**body.model_dump())
    session.add(person)
    await session.flush()
    await session.refresh(person)
    return person


async def update_person(
    session: AsyncSession, identity: Identity, principal: Principal, person: Person, body: PersonUpdate
) -> Person:
    changes: dict[str, Any] = body.model_dump(exclude_unset=True)
    if "organisations" in changes:
        if person.id == principal.person_id:
            raise Forbidden("nobody changes the limits of their own account; ask another administrator")
        _check_limits(principal, changes["organisations"])
    if person.id == principal.person_id and changes.get("status", PersonStatus.ACTIVE) != PersonStatus.ACTIVE:
        raise Forbidden("nobody deactivates their own account; ask another administrator")
    kept = [name for name in _ADMINS_ONLY if name in changes and changes[name] != getattr(person, name)]
    if kept and not principal.is_admin:
        raise Forbidden(f"only an administrator changes {', '.join(kept)}")
    async with one_is_left(session) if {"status", "organisations"} & changes.keys() else nullcontext():
        for name, value in changes.items():
            setattr(person, name, value)
    identity.rights_changed(session)
    await session.flush()
    await session.refresh(person)
    return person


async def delete_person(session: AsyncSession, identity: Identity, principal: Principal, person: Person) -> None:
    """Delete a person with its credentials, sessions and keys; the audit trail keeps its id.

    Webhooks stay, since they serve the platform, unless their maker was limited: nobody could tell what they may tell.
    """
    if person.id == principal.person_id:
        raise Forbidden("nobody deletes their own account; ask another administrator")
    if person.organisations is not None:
        await session.execute(delete(WebhookRow).where(WebhookRow.created_by == person.id))
    async with one_is_left(session):
        await session.delete(person)
    identity.rights_changed(session)
    await session.flush()
