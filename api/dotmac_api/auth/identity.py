"""From a request's credentials to a Principal, with the session row checked on every request.

A Principal is cached in Redis for 30 s under the epoch of authorisation: a change of roles or people
moves the epoch, a revoked session leaves a tombstone, so both take effect at once on every replica. Without Redis the
database answers.
"""

import functools
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.auth.models import ApiKey, AuthSession, UserCredential
from dotmac_api.batch import Batch
from dotmac_api.database import Sessions, after_commit
from dotmac_api.domains.store import SettingsStore
from dotmac_api.errors import Unauthorized
from dotmac_api.people.models import Person, PersonStatus
from dotmac_api.principal import Principal
from dotmac_api.ratelimit import too_many
from dotmac_api.rbac.catalogue import ADMIN
from dotmac_api.rbac.models import Permission, PersonRole, Role, RolePermission

log = logging.getLogger(__name__)

CACHE_SECONDS = 30
# A tombstone must outlive every cached Principal and every load that began before the revocation.
TOMBSTONE_SECONDS = 3600
EPOCH = "dotmac:authz-epoch"
REVOKED = ""
"""In place of an epoch: the session was revoked."""


def _cached(subject: str) -> str:
    return f"dotmac:principal:{subject}"


def _tombstone(subject: str) -> str:
    return f"dotmac:revoked:{subject}"


def _of_session(session_id: uuid.UUID) -> str:
    return f"session:{session_id}"


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


async def load_api_key_principal(session: AsyncSession, key_hash: bytes) -> Principal | None:
    """The Principal of a live API key of an active person, cut down to the key's scopes; notes that it was used."""
    key = await session.scalar(
        update(ApiKey)
        .where(
            ApiKey.key_hash == key_hash, ApiKey.is_active, ApiKey.revoked_at.is_(None), ApiKey.expires_at > func.now()
        )
        .values(last_used_at=func.now(), updated_at=ApiKey.updated_at)
        .returning(ApiKey)
    )
    if key is None:
        return None
    person = await session.get_one(Person, key.person_id)
    if person.status != PersonStatus.ACTIVE:
        return None
    roles, permissions = await roles_and_permissions(session, person.id)
    return Principal(
        person_id=person.id,
        name=f"{key.label} ({key.prefix})",
        session_id=None,
        api_key_id=key.id,
        roles=roles,
        permissions=permissions & frozenset(key.scopes),
        organisations=None if person.organisations is None else frozenset(person.organisations),
    )


def _dump(principal: Principal, epoch: str) -> str:
    return json.dumps(
        {
            "epoch": epoch,
            "person": str(principal.person_id),
            "name": principal.name,
            "session": str(principal.session_id) if principal.session_id else None,
            "key": str(principal.api_key_id) if principal.api_key_id else None,
            "roles": sorted(principal.roles),
            "permissions": sorted(principal.permissions),
            "organisations": None if principal.organisations is None else sorted(principal.organisations),
            "must_change": principal.must_change_password,
        }
    )


@functools.lru_cache(maxsize=4096)
def _load(cached: str) -> tuple[str, Principal]:
    """The epoch under which a Principal was kept, and the Principal; the same text is read many times."""
    data: dict[str, Any] = orjson.loads(cached)
    organisations = data["organisations"]
    return data["epoch"], Principal(
        person_id=uuid.UUID(data["person"]),
        name=data["name"],
        session_id=uuid.UUID(data["session"]) if data["session"] else None,
        api_key_id=uuid.UUID(data["key"]) if data["key"] else None,
        roles=frozenset(data["roles"]),
        permissions=frozenset(data["permissions"]),
        organisations=None if organisations is None else frozenset(organisations),
        must_change_password=data["must_change"],
    )


@dataclass(slots=True)
class _LocalCap:
    """Counts in this process alone, for as long as Redis is away; forgets everything when the window turns."""

    window: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def hit(self, subject: str, window: int) -> int:
        if window != self.window:
            self.window, self.counts = window, {}
        self.counts[subject] = self.counts.get(subject, 0) + 1
        return self.counts[subject]


@dataclass(frozen=True, slots=True)
class _Rate:
    times: int
    seconds: int


@dataclass(frozen=True, slots=True)
class _Question:
    """Who `subject` is, counting one more request of it in `window`; counts are kept for `keep` seconds."""

    subject: str
    window: int
    keep: int


@dataclass(frozen=True, slots=True)
class _Known:
    """What Redis knows; `before` is the count of the window before, `count` that of this one."""

    cached: str | None
    revoked: bool
    epoch: str
    before: int
    count: int


class Identity:
    """Looks principals up, bounds their rate, and makes revocations and changes of rights effective at once.

    One trip to Redis does all three, for all requests that wait for it. The rate is a sliding window counter: the last
    window's count weighs as much as it still overlaps, which costs two numbers instead of a list of times.
    """

    def __init__(self, sessions: Sessions, redis: Redis, store: SettingsStore) -> None:
        self._sessions, self._redis, self._store = sessions, redis, store
        self._local = _LocalCap()
        self._asked = Batch(self._ask_redis)

    async def of_session(self, session_id: uuid.UUID) -> Principal:
        """The Principal of a session. Raises Unauthorized when it has ended or never was, TooManyRequests."""
        rate = _Rate(await self._store.integer("auth", "session_rate_max"), 60)

        async def load(session: AsyncSession) -> Principal | None:
            return await load_session_principal(session, session_id)

        principal = await self._resolve(_of_session(session_id), rate, load)
        if principal is None:
            raise Unauthorized("the session has ended; sign in again", code="session_ended")
        return principal

    async def of_api_key(self, key_hash: bytes) -> Principal:
        """The Principal of an API key. Raises Unauthorized when it is unknown, revoked or expired, TooManyRequests."""
        rate = _Rate(
            await self._store.integer("auth", "api_key_rate_max"),
            await self._store.integer("auth", "api_key_rate_window_seconds"),
        )

        async def load(session: AsyncSession) -> Principal | None:
            return await load_api_key_principal(session, key_hash)

        # Keyed by the hash, which is all that a request brings; changes of keys move the epoch.
        principal = await self._resolve(f"key-hash:{key_hash.hex()}", rate, load)
        if principal is None:
            raise Unauthorized("the API key is not valid", code="invalid_api_key")
        return principal

    async def epoch_of(self, principal: Principal) -> str:
        """The epoch of rights, or REVOKED; counts no request. Raises RedisError."""
        session = _of_session(principal.session_id) if principal.session_id else "-"
        revoked, epoch = await self._redis.mget([_tombstone(session), EPOCH])
        return REVOKED if revoked else str(epoch or "0")

    async def again(self, principal: Principal) -> Principal | None:
        """The Principal of the same session or key as the database has it now; None when it has ended."""
        async with self._sessions.begin() as session:
            if principal.session_id is not None:
                return await load_session_principal(session, principal.session_id)
            key_hash = await session.scalar(select(ApiKey.key_hash).where(ApiKey.id == principal.api_key_id))
            return None if key_hash is None else await load_api_key_principal(session, key_hash)

    async def _resolve(
        self, subject: str, rate: _Rate, load: Callable[[AsyncSession], Awaitable[Principal | None]]
    ) -> Principal | None:
        epoch: str | None = None
        now = time.time()
        window = int(now // rate.seconds)
        try:
            known = await self._asked.ask(_Question(subject, window, rate.seconds * 2))
            overlap = 1 - (now % rate.seconds) / rate.seconds
            if known.before * overlap + known.count > rate.times:
                raise too_many(rate.seconds - now % rate.seconds)
            cached, epoch = known.cached, known.epoch
            if known.revoked:
                return None
            if cached:
                kept_under, kept = _load(cached)
                if kept_under == epoch:
                    return kept
        except RedisError as error:
            log.warning("Redis is away, asking the database who this is: %s", type(error).__name__)
            if self._local.hit(subject, window) > rate.times:
                raise too_many(rate.seconds - now % rate.seconds) from None
        async with self._sessions.begin() as session:
            principal = await load(session)
        if principal is not None and epoch is not None:
            await self._remember(subject, principal, epoch)
        return principal

    async def _ask_redis(self, questions: list[_Question]) -> list[_Known]:
        """One trip for all; requests of one subject are counted together and told apart by their place."""
        times = Counter(questions)
        pipe = self._redis.pipeline(transaction=False)
        for question, count in times.items():
            counter = f"dotmac:rate:{question.subject}:{{}}".format
            pipe.mget([_cached(question.subject), _tombstone(question.subject), EPOCH, counter(question.window - 1)])
            pipe.incrby(counter(question.window), count)
            pipe.expire(counter(question.window), question.keep)
        answers = iter(await pipe.execute())
        found = dict(zip(times, zip(answers, answers, answers, strict=True), strict=True))
        made = []
        for question in questions:
            (cached, tombstone, epoch, before), count, _ = found[question]
            times[question] -= 1
            made.append(_Known(cached, bool(tombstone), epoch or "0", int(before or 0), count - times[question]))
        return made

    async def _remember(self, subject: str, principal: Principal, epoch: str) -> None:
        try:
            await self._redis.set(_cached(subject), _dump(principal, epoch), ex=CACHE_SECONDS)
        except RedisError:
            log.warning("Redis is away, a principal is not cached")

    def revoke_after_commit(self, session: AsyncSession, session_ids: list[uuid.UUID]) -> None:
        """Leave tombstones once the revocation is committed. Call it beside every UPDATE that revokes."""

        async def bury() -> None:
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    for session_id in session_ids:
                        pipe.set(_tombstone(_of_session(session_id)), "1", ex=TOMBSTONE_SECONDS)
                        pipe.delete(_cached(_of_session(session_id)))
                    await pipe.execute()
            except RedisError:
                log.error("Redis is away: revoked sessions may be cached elsewhere for up to %d s", CACHE_SECONDS)

        if session_ids:
            after_commit(session, bury)

    def rights_changed(self, session: AsyncSession) -> None:
        """Forget every cached Principal once this transaction is committed: roles, people or keys changed."""

        async def move() -> None:
            try:
                await self._redis.incr(EPOCH)
            except RedisError:
                log.error("Redis is away: rights may be cached elsewhere for up to %d s", CACHE_SECONDS)

        after_commit(session, move)
