"""/rbac: roles, permissions, role-permissions, person-roles. What concerns every organisation needs no limits."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, status

from dotmac_api.access import require
from dotmac_api.audit.trail import Note
from dotmac_api.etag import ShownDep, VersionsDep
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
from dotmac_api.rbac.service import RowsDep
from dotmac_api.schemas import ListSlice, Page, page_of

router = APIRouter(prefix="/rbac", tags=["rbac"])

Reader = Annotated[Principal, require("rbac:read")]
Writer = Annotated[Principal, require("rbac:write", admin=True)]


@router.get("/roles")
async def list_roles(
    _principal: Reader,
    rows: RowsDep,
    page: ListSlice,
    name: Annotated[str | None, Query(max_length=40)] = None,
    is_active: bool | None = None,
) -> Page[RoleRead]:
    found = await rows.list(Role, page, service.ROLES, name=name, is_active=is_active)
    return page_of(found, page, RoleRead.model_validate)


@router.post("/roles", status_code=status.HTTP_201_CREATED)
async def create_role(principal: Writer, rows: RowsDep, shown: ShownDep, note: Note, body: RoleCreate) -> RoleRead:
    principal.require_unlimited()
    row = await rows.create(Role(**body.model_dump()))
    note.on("roles", row.id)
    return shown.show(row, RoleRead.model_validate)


@router.get("/roles/{role_id}")
async def get_role(_principal: Reader, rows: RowsDep, shown: ShownDep, role_id: uuid.UUID) -> RoleRead:
    return shown.show(await rows.get(Role, role_id), RoleRead.model_validate)


@router.patch("/roles/{role_id}")
async def update_role(
    principal: Writer, rows: RowsDep, versions: VersionsDep, role_id: uuid.UUID, body: RoleUpdate
) -> RoleRead:
    principal.require_unlimited()
    row = await versions.check(await rows.get(Role, role_id))
    return versions.show(await rows.update(row, body), RoleRead.model_validate)


@router.delete("/roles/{role_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_role(principal: Writer, rows: RowsDep, versions: VersionsDep, role_id: uuid.UUID) -> None:
    principal.require_unlimited()
    await rows.delete(await versions.check(await rows.get(Role, role_id)))


@router.get("/permissions")
async def list_permissions(
    _principal: Reader,
    rows: RowsDep,
    page: ListSlice,
    key: Annotated[str | None, Query(max_length=60)] = None,
    is_active: bool | None = None,
) -> Page[PermissionRead]:
    found = await rows.list(Permission, page, service.PERMISSIONS, key=key, is_active=is_active)
    return page_of(found, page, PermissionRead.model_validate)


@router.post("/permissions", status_code=status.HTTP_201_CREATED)
async def create_permission(
    principal: Writer, rows: RowsDep, shown: ShownDep, note: Note, body: PermissionCreate
) -> PermissionRead:
    principal.require_unlimited()
    row = await rows.create(Permission(**body.model_dump()))
    note.on("permissions", row.id)
    return shown.show(row, PermissionRead.model_validate)


@router.get("/permissions/{permission_id}")
async def get_permission(
    _principal: Reader, rows: RowsDep, shown: ShownDep, permission_id: uuid.UUID
) -> PermissionRead:
    return shown.show(await rows.get(Permission, permission_id), PermissionRead.model_validate)


@router.patch("/permissions/{permission_id}")
async def update_permission(
    principal: Writer, rows: RowsDep, versions: VersionsDep, permission_id: uuid.UUID, body: PermissionUpdate
) -> PermissionRead:
    principal.require_unlimited()
    row = await versions.check(await rows.get(Permission, permission_id))
    return versions.show(await rows.update(row, body), PermissionRead.model_validate)


@router.delete("/permissions/{permission_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_permission(principal: Writer, rows: RowsDep, versions: VersionsDep, permission_id: uuid.UUID) -> None:
    principal.require_unlimited()
    await rows.delete(await versions.check(await rows.get(Permission, permission_id)))


@router.get("/role-permissions")
async def list_role_permissions(
    _principal: Reader,
    rows: RowsDep,
    page: ListSlice,
    role_id: uuid.UUID | None = None,
    permission_id: uuid.UUID | None = None,
) -> Page[RolePermissionRead]:
    wanted = {"role_id": role_id, "permission_id": permission_id}
    found = await rows.list(RolePermission, page, service.ROLE_PERMISSIONS, **wanted)
    return page_of(found, page, RolePermissionRead.model_validate)


@router.post("/role-permissions", status_code=status.HTTP_201_CREATED)
async def grant(
    principal: Writer, rows: RowsDep, shown: ShownDep, note: Note, body: RolePermissionCreate
) -> RolePermissionRead:
    """Give a role a permission."""
    principal.require_unlimited()
    await service.check_grant(rows.session, body.role_id, body.permission_id)
    row = await rows.create(RolePermission(**body.model_dump()))
    note.on("role-permissions", row.id)
    return shown.show(row, RolePermissionRead.model_validate)


@router.get("/role-permissions/{row_id}")
async def get_grant(_principal: Reader, rows: RowsDep, shown: ShownDep, row_id: uuid.UUID) -> RolePermissionRead:
    return shown.show(await rows.get(RolePermission, row_id), RolePermissionRead.model_validate)


@router.patch("/role-permissions/{row_id}")
async def update_grant(
    principal: Writer, rows: RowsDep, versions: VersionsDep, row_id: uuid.UUID, body: RolePermissionUpdate
) -> RolePermissionRead:
    """Give the role another permission in its place."""
    principal.require_unlimited()
    row = await versions.check(await rows.get(RolePermission, row_id))
    await service.check_grant(rows.session, row.role_id, body.permission_id)
    return versions.show(await rows.update(row, body), RolePermissionRead.model_validate)


@router.delete("/role-permissions/{row_id}", status_code=status.HTTP_204_NO_CONTENT)
async def withdraw(principal: Writer, rows: RowsDep, versions: VersionsDep, row_id: uuid.UUID) -> None:
    """Take a permission away from a role."""
    principal.require_unlimited()
    await rows.delete(await versions.check(await rows.get(RolePermission, row_id)))


@router.get("/person-roles")
async def list_person_roles(
    principal: Reader,
    rows: RowsDep,
    page: ListSlice,
    person_id: uuid.UUID | None = None,
    role_id: uuid.UUID | None = None,
) -> Page[PersonRoleRead]:
    found = await service.list_person_roles(rows.session, principal, page, person_id=person_id, role_id=role_id)
    return page_of(found, page, PersonRoleRead.model_validate)


@router.post("/person-roles", status_code=status.HTTP_201_CREATED)
async def assign(
    principal: Writer, rows: RowsDep, shown: ShownDep, note: Note, body: PersonRoleCreate
) -> PersonRoleRead:
    """Give a person a role."""
    await require_visible(rows.session, principal, body.person_id)
    service.not_oneself(principal, body.person_id)
    await service.check_role(rows.session, body.role_id)
    row = await rows.create(PersonRole(**body.model_dump()))
    note.on("person-roles", row.id)
    return shown.show(row, PersonRoleRead.model_validate)


@router.get("/person-roles/{row_id}")
async def get_assignment(principal: Reader, rows: RowsDep, shown: ShownDep, row_id: uuid.UUID) -> PersonRoleRead:
    row = await service.get_person_role(rows.session, principal, row_id)
    return shown.show(row, PersonRoleRead.model_validate)


@router.patch("/person-roles/{row_id}")
async def update_assignment(
    principal: Writer, rows: RowsDep, versions: VersionsDep, row_id: uuid.UUID, body: PersonRoleUpdate
) -> PersonRoleRead:
    """Give the person another role in its place."""
    row = await versions.check(await service.get_person_role(rows.session, principal, row_id))
    service.not_oneself(principal, row.person_id)
    await service.check_role(rows.session, body.role_id)
    return versions.show(await rows.update(row, body), PersonRoleRead.model_validate)


@router.delete("/person-roles/{row_id}", status_code=status.HTTP_204_NO_CONTENT)
async def unassign(principal: Writer, rows: RowsDep, versions: VersionsDep, row_id: uuid.UUID) -> None:
    """Take a role away from a person."""
    row = await versions.check(await service.get_person_role(rows.session, principal, row_id))
    service.not_oneself(principal, row.person_id)
    await rows.delete(row)
