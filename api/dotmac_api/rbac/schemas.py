"""Bodies of /rbac."""

import uuid
from typing import Annotated

from pydantic import Field

from dotmac_api.schemas import Body, Timestamped

RoleName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{1,39}$")]
PermissionKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}(:[a-z][a-z0-9_-]{0,30}){1,2}$")]
Description = Annotated[str | None, Field(max_length=500)]


class RoleCreate(Body):
    name: RoleName
    description: Description = None
    is_active: bool = True


class RoleUpdate(Body):
    """Only the fields that are sent change. A builtin role keeps its name."""

    name: RoleName = ""
    description: Description = None
    is_active: bool = True


class RoleRead(Timestamped):
    id: uuid.UUID
    name: str
    description: str | None
    is_active: bool
    builtin: bool


class PermissionCreate(Body):
    """A permission of your own, for clients that read it from the token; endpoints ask for builtin ones."""

    key: PermissionKey
    description: Description = None
    is_active: bool = True


class PermissionUpdate(Body):
    """Only the fields that are sent change. Of a builtin permission only the description does."""

    key: PermissionKey = ""
    description: Description = None
    is_active: bool = True


class PermissionRead(Timestamped):
    id: uuid.UUID
    key: str
    description: str | None
    is_active: bool
    builtin: bool


class RolePermissionCreate(Body):
    role_id: uuid.UUID
    permission_id: uuid.UUID


class RolePermissionUpdate(Body):
    permission_id: uuid.UUID


class RolePermissionRead(Timestamped):
    id: uuid.UUID
    role_id: uuid.UUID
    permission_id: uuid.UUID


class PersonRoleCreate(Body):
    person_id: uuid.UUID
    role_id: uuid.UUID


class PersonRoleUpdate(Body):
    role_id: uuid.UUID


class PersonRoleRead(Timestamped):
    id: uuid.UUID
    person_id: uuid.UUID
    role_id: uuid.UUID
