"""Which rows that belong to people the caller may see and change."""

import uuid

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.errors import Invalid
from dotmac_api.people.models import Person
from dotmac_api.people.service import visible_people
from dotmac_api.principal import Principal


async def require_visible(session: AsyncSession, principal: Principal, person_id: uuid.UUID) -> Person:
    """The person that a new row is to belong to. Raises Invalid when it is absent or hidden from the caller."""
    person = await session.scalar(select(Person).where(Person.id == person_id, visible_people(principal)))
    if person is None:
        raise Invalid.field("body.person_id", "there is no such person")
    return person
