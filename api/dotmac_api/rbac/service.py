"""Roles, permissions, and who has them. Nobody can lock the platform: builtin rows stay, and nobody demotes itself."""

import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated, Any

from fastapi import Depends
from pydantic import BaseModel
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.errors import Conflict, Forbidden, Invalid, NotFound
from dotmac_api.people.models import Person
from dotmac_api.people.service import visible_people
from dotmac_api.principal import Principal
from dotmac_api.rbac.administrators import one_is_left
from dotmac_api.rbac.catalogue import ADMIN
from dotmac_api.rbac.models import Permission, PersonRole, Role, RolePermission
from dotmac_api.schemas import Orderable, Slice, paginate

type Row = Role | Permission | RolePermission | PersonRole

ROLES: Orderable = {"name": Role.name, "created_at": Role.created_at, "updated_at": Role.updated_at, "id": Role.id}
PERMISSIONS: Orderable = {"key": Permission.key, "created_at": Permission.created_at, "id": Permission.id}
ROLE_PERMISSIONS: Orderable = {"created_at": RolePermission.created_at, "id": RolePermission.id}
PERSON_ROLES: Orderable = {"created_at": PersonRole.created_at, "id": PersonRole.id}


class Rows:
    """The rows of /rbac in one request; whatever changes them changes what people may do."""

    def __init__(self, session: DatabaseSession, facade: FacadeDep) -> None:
        self.session = session
        self._identity = facade.identity

    async def list[R: Row](
        self, model: type[R], page: Slice, orderable: Orderable, **equal: Any
    ) -> tuple[Sequence[R], int]:
        """The rows whose columns equal what is given; None does not filter."""
        filters = {name: value for name, value in equal.items() if value is not None}
        return await paginate(self.session, select(model).filter_by(**filters), page, orderable)

    async def get[R: Row](self, model: type[R], row_id: uuid.UUID) -> R:
        """Raises NotFound."""
        row = await self.session.get(model, row_id)
        if row is None:
            raise NotFound(f"there is no row {row_id} in {model.__tablename__}")
        return row

    async def create[R: Row](self, row: R) -> R:
        self.session.add(row)
        return await self._changed(row)

    async def update[R: Row](self, row: R, body: BaseModel) -> R:
        """Set the fields that were sent. Raises Conflict for what keeps a builtin row as it is."""
        changes = body.model_dump(exclude_unset=True)
        if isinstance(row, Permission | Role) and row.builtin:
            _keep_builtin(row, changes)
        async with one_is_left(self.session) if isinstance(row, PersonRole) else nullcontext():
            for name, value in changes.items():
                setattr(row, name, value)
        return await self._changed(row)

    async def delete(self, row: Row) -> None:
        """Raises Conflict for a builtin row."""
        if isinstance(row, Permission | Role) and row.builtin:
            raise Conflict("it is builtin and cannot be deleted", code="builtin")
        async with one_is_left(self.session) if isinstance(row, PersonRole) else nullcontext():
            await self.session.delete(row)
        self._identity.rights_changed(self.session)
        await self.session.flush()

    async def _changed[R: Row](self, row: R) -> R:
        self._identity.rights_changed(self.session)
        await self.session.flush()
        await self.session.refresh(row)
        return row


RowsDep = Annotated[Rows, Depends()]


def _keep_builtin(row: Role | Permission, changes: dict[str, Any]) -> None:
    kept = ["name", "key"] + (["is_active"] if isinstance(row, Permission) or row.name == ADMIN else [])
    changed = [name for name in kept if name in changes and changes[name] != getattr(row, name)]
    if changed:
        raise Conflict(f"it is builtin: its {', '.join(changed)} cannot change", code="builtin")


async def check_grant(session: AsyncSession, role_id: uuid.UUID, permission_id: uuid.UUID) -> None:
    """Raises Invalid unless both exist, and Conflict for the admin role, which has everything without rows."""
    role = await session.get(Role, role_id)
    if role is None:
        raise Invalid.field("body.role_id", "there is no such role")
    if role.name == ADMIN:
        raise Conflict("the admin role has every permission already", code="builtin")
    if await session.get(Permission, permission_id) is None:
        raise Invalid.field("body.permission_id", "there is no such permission")


def visible_person_roles(principal: Principal) -> Select[PersonRole]:
    return select(PersonRole).join(Person, Person.id == PersonRole.person_id).where(visible_people(principal))


async def list_person_roles(
    session: AsyncSession,
    principal: Principal,
    page: Slice,
    *,
    person_id: uuid.UUID | None,
    role_id: uuid.UUID | None,
) -> tuple[Sequence[PersonRole], int]:
    filters = {k: v for k, v in {"person_id": person_id, "role_id": role_id}.items() if v is not None}
    query = visible_person_roles(principal)
    for name, value in filters.items():
        query = query.where(getattr(PersonRole, name) == value)
    return await paginate(session, query, page, PERSON_ROLES)


async def get_person_role(session: AsyncSession, principal: Principal, row_id: uuid.UUID) -> PersonRole:
    """Raises NotFound, also for a row of a person whom the caller may not see."""
    row = await session.scalar(visible_person_roles(principal).where(PersonRole.id == row_id))
    if row is None:
        raise NotFound(f"there is no row {row_id} in person_roles")
    return row


async def check_role(session: AsyncSession, role_id: uuid.UUID) -> None:
    """Raises Invalid unless the role exists."""
    if await session.get(Role, role_id) is None:
        raise Invalid.field("body.role_id", "there is no such role")


def not_oneself(principal: Principal, person_id: uuid.UUID) -> None:
    """Raises Forbidden: nobody promotes itself, nor gives its own rights away by mistake."""
    if person_id == principal.person_id:
        raise Forbidden("nobody changes their own roles; ask another administrator")
