"""Makes the first administrator, from the command line."""

from dataclasses import dataclass

from sqlalchemy import func, select

from dotmac_api.auth.models import UserCredential
from dotmac_api.auth.passwords import Passwords
from dotmac_api.database import Sessions
from dotmac_api.people.models import Person
from dotmac_api.rbac.catalogue import ADMIN
from dotmac_api.rbac.models import PersonRole, Role


class UsernameTaken(RuntimeError):
    """There is a credential of this name already; nothing was changed."""


class EmailTaken(RuntimeError):
    """There is a person of this address already; nothing was changed."""


class NotMigrated(RuntimeError):
    """The database has no roles: run `dotmac-api migrate` first."""


@dataclass(frozen=True, slots=True)
class NewAdmin:
    username: str
    email: str
    first_name: str
    last_name: str
    password: str
    must_change_password: bool


async def create_admin(sessions: Sessions, passwords: Passwords, new: NewAdmin) -> None:
    """An administrator of every organisation.

    Raises UsernameTaken, EmailTaken, NotMigrated, and Invalid for a weak password.
    """
    await passwords.check_new(new.password, new.username, new.email, field="password")
    password_hash = await passwords.hash(new.password)
    async with sessions.begin() as session:
        taken = select(UserCredential.id).where(func.lower(UserCredential.username) == func.lower(new.username))
        if await session.scalar(taken) is not None:
            raise UsernameTaken(f"there is a user {new.username} already")
        if await session.scalar(select(Person.id).where(func.lower(Person.email) == func.lower(new.email))) is not None:
            raise EmailTaken(f"somebody with the address {new.email} is there already; sign in, or take another one")
        role = await session.scalar(select(Role).where(Role.name == ADMIN))
        if role is None:
            raise NotMigrated("the database has no roles: run `dotmac-api migrate` first")
        person = Person(first_name=new.first_name, last_name=new.last_name, email=new.email)
        session.add(person)
        await session.flush()
        session.add(PersonRole(person_id=person.id, role_id=role.id))
        session.add(
            UserCredential(
                person_id=person.id,
                username=new.username,
                password_hash=password_hash,
                must_change_password=new.must_change_password,
            )
        )
