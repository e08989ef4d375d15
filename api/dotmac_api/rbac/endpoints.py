"""/rbac: roles, permissions, role-permissions, person-roles. What concerns every organisation needs no limits."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, status

from dotmac_api.access import require
from dotmac_api.audit.trail import Note
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.people.access import require_visible
from dotmac_api.principal import Principal
from dotmac_api.rbac import service
from dotmac_api.rbac.models import Permission, PersonRole, Role, RolePermission
from dotmac_api.rbac.schemas import (
    PermissionCreate,
    PermissionRead,
    PermissionUpdate,
    PersonRoleCreate,
    PersonRoleRead,
    PersonRoleUpdate,
    RoleCreate,
    RolePermissionCreate,
    RolePermissionRead,
    RolePermissionUpdate,
    RoleRead,
    RoleUpdate,
)
from dotmac_api.schemas import ListSlice, Page

router = APIRouter(prefix="/rbac", tags=["rbac"])

Reader = Annotated[Principal, require("rbac:read")]
Writer = Annotated[Principal, require("rbac:write", admin=True)]


@router.get("/roles")
async def list_roles(
    principal: Reader,
    session: DatabaseSession,
    page: ListSlice,
    name: Annotated[str | None, Query(max_length=40)] = None,
    is_active: bool | None = None,
) -> Page[RoleRead]:
    rows, count = await service.list_rows(session, Role, page, service.ROLES, name=name, is_active=is_active)
    return Page(items=[RoleRead.model_validate(r) for r in rows], count=count, limit=page.limit, offset=page.offset)


@router.post("/roles", status_code=status.HTTP_201_CREATED)
async def create_role(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, note: Note, body: RoleCreate
) -> RoleRead:
    principal.require_unlimited()
    row = await service.create_row(session, facade.identity, Role(**body.model_dump()))
    note.on("roles", row.id)
    return RoleRead.model_validate(row)


@router.get("/roles/{role_id}")
async def get_role(principal: Reader, session: DatabaseSession, role_id: uuid.UUID) -> RoleRead:
    return RoleRead.model_validate(await service.get_row(session, Role, role_id))


@router.patch("/roles/{role_id}")
async def update_role(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, role_id: uuid.UUID, body: RoleUpdate
) -> RoleRead:
    principal.require_unlimited()
    row = await service.get_row(session, Role, role_id)
    return RoleRead.model_validate(await service.update_row(session, facade.identity, row, body))


@router.delete("/roles/{role_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_role(principal: Writer, session: DatabaseSession, facade: FacadeDep, role_id: uuid.UUID) -> None:
    principal.require_unlimited()
    await service.delete_row(session, facade.identity, await service.get_row(session, Role, role_id))


@router.get("/permissions")
async def list_permissions(
    principal: Reader,
    session: DatabaseSession,
    page: ListSlice,
    key: Annotated[str | None, Query(max_length=60)] = None,
    is_active: bool | None = None,
) -> Page[PermissionRead]:
    rows, count = await service.list_rows(session, Permission, page, service.PERMISSIONS, key=key, is_active=is_active)
    items = [PermissionRead.model_validate(row) for row in rows]
    return Page(items=items, count=count, limit=page.limit, offset=page.offset)


@router.post("/permissions", status_code=status.HTTP_201_CREATED)
async def create_permission(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, note: Note, body: PermissionCreate
) -> PermissionRead:
    principal.require_unlimited()
    row = await service.create_row(session, facade.identity, Permission(**body.model_dump()))
    note.on("permissions", row.id)
    return PermissionRead.model_validate(row)


@router.get("/permissions/{permission_id}")
async def get_permission(principal: Reader, session: DatabaseSession, permission_id: uuid.UUID) -> PermissionRead:
    return PermissionRead.model_validate(await service.get_row(session, Permission, permission_id))


@router.patch("/permissions/{permission_id}")
async def update_permission(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, permission_id: uuid.UUID, body: PermissionUpdate
) -> PermissionRead:
    principal.require_unlimited()
    row = await service.get_row(session, Permission, permission_id)
    return PermissionRead.model_validate(await service.update_row(session, facade.identity, row, body))


@router.delete("/permissions/{permission_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_permission(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, permission_id: uuid.UUID
) -> None:
    principal.require_unlimited()
    await service.delete_row(session, facade.identity, await service.get_row(session, Permission, permission_id))


@router.get("/role-permissions")
async def list_role_permissions(
    principal: Reader,
    session: DatabaseSession,
    page: ListSlice,
    role_id: uuid.UUID | None = None,
    permission_id: uuid.UUID | None = None,
) -> Page[RolePermissionRead]:
    rows, count = await service.list_rows(
        session, RolePermission, page, service.ROLE_PERMISSIONS, role_id=role_id, permission_id=permission_id
    )
    items = [RolePermissionRead.model_validate(row) for row in rows]
    return Page(items=items, count=count, limit=page.limit, offset=page.offset)


@router.post("/role-permissions", status_code=status.HTTP_201_CREATED)
async def grant(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, note: Note, body: RolePermissionCreate
) -> RolePermissionRead:
    """Give a role a permission."""
    principal.require_unlimited()
    await service.check_grant(session, body.role_id, body.permission_id)
    row = await service.create_row(session, facade.identity, RolePermission(**body.model_dump()))
    note.on("role-permissions", row.id)
    return RolePermissionRead.model_validate(row)


@router.get("/role-permissions/{row_id}")
async def get_grant(principal: Reader, session: DatabaseSession, row_id: uuid.UUID) -> RolePermissionRead:
    return RolePermissionRead.model_validate(await service.get_row(session, RolePermission, row_id))


@router.patch("/role-permissions/{row_id}")
async def update_grant(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, row_id: uuid.UUID, body: RolePermissionUpdate
) -> RolePermissionRead:
    """Give the role another permission in its place."""
    principal.require_unlimited()
    row = await service.get_row(session, RolePermission, row_id)
    await service.check_grant(session, row.role_id, body.permission_id)
    return RolePermissionRead.model_validate(await service.update_row(session, facade.identity, row, body))


@router.delete("/role-permissions/{row_id}", status_code=status.HTTP_204_NO_CONTENT)
async def withdraw(principal: Writer, session: DatabaseSession, facade: FacadeDep, row_id: uuid.UUID) -> None:
    """Take a permission away from a role."""
    principal.require_unlimited()
    await service.delete_row(session, facade.identity, await service.get_row(session, RolePermission, row_id))


@router.get("/person-roles")
async def list_person_roles(
    principal: Reader,
    session: DatabaseSession,
    page: ListSlice,
    person_id: uuid.UUID | None = None,
    role_id: uuid.UUID | None = None,
) -> Page[PersonRoleRead]:
    rows, count = await service.list_person_roles(session, principal, page, person_id=person_id, role_id=role_id)
    items = [PersonRoleRead.model_validate(row) for row in rows]
    return Page(items=items, count=count, limit=page.limit, offset=page.offset)


@router.post("/person-roles", status_code=status.HTTP_201_CREATED)
async def assign(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, note: Note, body: PersonRoleCreate
) -> PersonRoleRead:
    """Give a person a role."""
    await require_visible(session, principal, body.person_id)
    service.not_oneself(principal, body.person_id)
    await service.check_role(session, body.role_id)
    row = await service.create_row(session, facade.identity, PersonRole(**body.model_dump()))
    note.on("person-roles", row.id)
    return PersonRoleRead.model_validate(row)


@router.get("/person-roles/{row_id}")
async def get_assignment(principal: Reader, session: DatabaseSession, row_id: uuid.UUID) -> PersonRoleRead:
    return PersonRoleRead.model_validate(await service.get_person_role(session, principal, row_id))


@router.patch("/person-roles/{row_id}")
async def update_assignment(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, row_id: uuid.UUID, body: PersonRoleUpdate
) -> PersonRoleRead:
    """Give the person another role in its place."""
    row = await service.get_person_role(session, principal, row_id)
    service.not_oneself(principal, row.person_id)
    await service.check_role(session, body.role_id)
    return PersonRoleRead.model_validate(await service.update_row(session, facade.identity, row, body))


@router.delete("/person-roles/{row_id}", status_code=status.HTTP_204_NO_CONTENT)
async def unassign(principal: Writer, session: DatabaseSession, facade: FacadeDep, row_id: uuid.UUID) -> None:
    """Take a role away from a person."""
    row = await service.get_person_role(session, principal, row_id)
    service.not_oneself(principal, row.person_id)
    await service.delete_row(session, facade.identity, row)
