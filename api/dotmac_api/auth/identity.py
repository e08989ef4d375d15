"""From a request's credentials to a Principal, with the session row checked on every request.

The Principal of a session is cached in Redis for 30 s under the epoch of authorisation: a change of roles or people
moves the epoch, a revoked session leaves a tombstone, so both take effect at once on every replica. Without Redis the
database answers.
"""

import json
import logging
import uuid
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.auth.models import AuthSession, UserCredential
from dotmac_api.database import Sessions, after_commit
from dotmac_api.errors import Unauthorized
from dotmac_api.people.models import Person, PersonStatus
from dotmac_api.principal import Principal
from dotmac_api.rbac.catalogue import ADMIN
from dotmac_api.rbac.models import Permission, PersonRole, Role, RolePermission

log = logging.getLogger(__name__)

CACHE_SECONDS = 30
# A tombstone must outlive every cached Principal and every load that began before the revocation.
TOMBSTONE_SECONDS = 3600
EPOCH = "dotmac:authz-epoch"


def _cached(session_id: uuid.UUID) -> str:
    return f"dotmac:session:{session_id}"


def _tombstone(session_id: uuid.UUID) -> str:
    return f"dotmac:revoked:{session_id}"


async def roles_and_permissions(session: AsyncSession, person_id: uuid.UUID) -> tuple[frozenset[str], frozenset[str]]:
    """The active roles of a person and the active permissions they grant; admin has every permission."""
    roles = frozenset(
        await session.scalars(
            select(Role.name)
            .join(PersonRole, PersonRole.role_id == Role.id)
            .where(PersonRole.person_id == person_id, Role.is_active)
        )
    )
    if not roles:
        return roles, frozenset()
    keys = select(Permission.key).where(Permission.is_active)
    if ADMIN not in roles:
        keys = (
            keys.join(RolePermission, RolePermission.permission_id == Permission.id)
            .join(Role, Role.id == RolePermission.role_id)
            .where(Role.name.in_(roles))
        )
    return roles, frozenset(await session.scalars(keys))


async def load_session_principal(session: AsyncSession, session_id: uuid.UUID) -> Principal | None:
    """The Principal of a live session of an active person, or None."""
    row = (
        await session.execute(
            select(Person, UserCredential)
            .join(AuthSession, AuthSession.person_id == Person.id)
            .join(UserCredential, UserCredential.id == AuthSession.credential_id)
            .where(
                AuthSession.id == session_id,
                AuthSession.revoked_at.is_(None),
                AuthSession.expires_at > func.now(),
                Person.status == PersonStatus.ACTIVE,
                UserCredential.is_active,
            )
        )
    ).one_or_none()
    if row is None:
        return None
    person, credential = row
    roles, permissions = await roles_and_permissions(session, person.id)
    return Principal(
        person_id=person.id,
        name=credential.username,
        session_id=session_id,
        api_key_id=None,
        roles=roles,
        permissions=permissions,
        organisations=None if person.organisations is None else frozenset(person.organisations),
        must_change_password=credential.must_change_password,
    )


def _dump(principal: Principal, epoch: str) -> str:
    return json.dumps(
        {
            "epoch": epoch,
            "person": str(principal.person_id),
            "name": principal.name,
            "roles": sorted(principal.roles),
            "permissions": sorted(principal.permissions),
            "organisations": None if principal.organisations is None else sorted(principal.organisations),
            "must_change": principal.must_change_password,
        }
    )


def _load(session_id: uuid.UUID, data: dict[str, Any]) -> Principal:
    organisations = data["organisations"]
    return Principal(
        person_id=uuid.UUID(data["person"]),
        name=data["name"],
        session_id=session_id,
        api_key_id=None,
        roles=frozenset(data["roles"]),
        permissions=frozenset(data["permissions"]),
        organisations=None if organisations is None else frozenset(organisations),
        must_change_password=data["must_change"],
    )


class Identity:
    """Looks principals up, and makes revocations and changes of rights effective at once."""

    def __init__(self, sessions: Sessions, redis: Redis) -> None:
        self._sessions, self._redis = sessions, redis

    async def of_session(self, session_id: uuid.UUID) -> Principal:
        """The Principal of a session. Raises Unauthorized when it was revoked, expired or never was."""
        epoch: str | None = None
        try:
            keys = [_cached(session_id), _tombstone(session_id), EPOCH]
            cached, tombstone, known_epoch = await self._redis.mget(keys)
            if tombstone:
                raise _ended()
            epoch = str(known_epoch or "0")
            if cached:
                data = json.loads(cached)
                if data["epoch"] == epoch:
                    return _load(session_id, data)
        except RedisError as error:
            log.warning("session cache not available, asking the database: %s", type(error).__name__)
        async with self._sessions() as session:
            principal = await load_session_principal(session, session_id)
        if principal is None:
            raise _ended()
        if epoch is not None:
            await self._remember(session_id, principal, epoch)
        return principal

    async def _remember(self, session_id: uuid.UUID, principal: Principal, epoch: str) -> None:
        try:
            await self._redis.set(_cached(session_id), _dump(principal, epoch), ex=CACHE_SECONDS)
        except RedisError:
            log.warning("session cache not available for writing")

    def revoke_after_commit(self, session: AsyncSession, session_ids: list[uuid.UUID]) -> None:
        """Leave tombstones once the revocation is committed. Call it beside every UPDATE that revokes."""

        async def bury() -> None:
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    for session_id in session_ids:
                        pipe.set(_tombstone(session_id), "1", ex=TOMBSTONE_SECONDS)
                        pipe.delete(_cached(session_id))
                    await pipe.execute()
            except RedisError:
                log.error("Redis is down: revoked sessions may be cached elsewhere for up to %d s", CACHE_SECONDS)

        if session_ids:
            after_commit(session, bury)

    def rights_changed(self, session: AsyncSession) -> None:
        """Forget every cached Principal once this transaction is committed (roles, people, credentials changed)."""

        async def move() -> None:
            try:
                await self._redis.incr(EPOCH)
            except RedisError:
                log.error("Redis is down: rights may be cached elsewhere for up to %d s", CACHE_SECONDS)

        after_commit(session, move)


def _ended() -> Unauthorized:
    return Unauthorized("the session has ended; sign in again", code="session_ended")
