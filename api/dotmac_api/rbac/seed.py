"""Adds the roles and permissions of the catalogue that the database does not have yet."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.rbac.catalogue import ADMIN, PERMISSIONS, ROLES
from dotmac_api.rbac.models import Permission, Role, RolePermission


async def seed(session: AsyncSession) -> None:
    """Idempotent. A permission is granted to its first roles only when its row is made."""
    roles = [{"name": name, "description": text, "builtin": True} for name, text in ROLES.items()]
    await session.execute(insert(Role).values(roles).on_conflict_do_nothing())
    role_ids = {row.name: row.id for row in await session.execute(select(Role.name, Role.id))}
    permissions = [{"key": spec.key, "description": spec.description, "builtin": True} for spec in PERMISSIONS]
    made = await session.execute(
        insert(Permission).values(permissions).on_conflict_do_nothing().returning(Permission.key, Permission.id)
    )
    new_ids = {row.key: row.id for row in made}
    grants = [
        {"role_id": role_ids[role], "permission_id": new_ids[spec.key]}
        for spec in PERMISSIONS
        if spec.key in new_ids
        for role in spec.roles
        if role != ADMIN
    ]
    if grants:
        await session.execute(insert(RolePermission).values(grants).on_conflict_do_nothing())
