"""The platform keeps an administrator: somebody without limits who has the role admin and can sign in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.auth.models import UserCredential
from dotmac_api.errors import Conflict
from dotmac_api.people.models import Person, PersonStatus
from dotmac_api.rbac.catalogue import ADMIN
from dotmac_api.rbac.models import PersonRole, Role

# One for all: two administrators who take each other's rights away at the same time are each other's last one.
LOCK = 0x61646D6E


def counted() -> Select[int]:
    """How many administrators without limits can sign in."""
    return (
        select(func.count(func.distinct(Person.id)))
        .join(PersonRole, PersonRole.person_id == Person.id)
        .join(Role, Role.id == PersonRole.role_id)
        .join(UserCredential, UserCredential.person_id == Person.id)
        .where(
            Role.name == ADMIN,
            Role.is_active,
            Person.status == PersonStatus.ACTIVE,
            Person.organisations.is_(None),
            UserCredential.is_active,
        )
    )


@asynccontextmanager
async def one_is_left(session: AsyncSession) -> AsyncIterator[None]:
    """Around a change that may take an administrator away. Raises Conflict when it took the last one."""
    await session.execute(select(func.pg_advisory_xact_lock(LOCK)))
    before = await session.scalar(counted())
    yield
    await session.flush()
    if before and not await session.scalar(counted()):
        text = "nobody without limits could administer the platform any more; make another administrator first"
        raise Conflict(text, code="last_administrator")
