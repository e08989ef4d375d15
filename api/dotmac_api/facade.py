"""What one process holds for its requests: settings, engine, Redis, tokens, identity, readiness checks."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from dotmac_api.auth.identity import Identity
from dotmac_api.auth.opaque import KeyedHash
from dotmac_api.auth.passwords import Passwords
from dotmac_api.auth.tokens import TokenIssuer
from dotmac_api.database import Sessions, make_engine, make_sessions
from dotmac_api.diagnostics.operator import Operator
from dotmac_api.domains.store import SettingsStore
from dotmac_api.fleet import METRICS, Fleet, build_fleet
from dotmac_api.metrics import Metrics
from dotmac_api.ratelimit import AuthLimits
from dotmac_api.settings import Settings
from dotmac_api.vault import Vault

# Returns facts to show (such as a lag in seconds); raises when the part is not ready, the message naming why.
ReadinessCheck = Callable[[], Awaitable[dict[str, object]]]


@dataclass(slots=True)
class Facade:
    """Built by create_app, reached as `request.app.state.facade`; nothing of it exists at import."""

    settings: Settings
    engine: AsyncEngine
    side_engine: AsyncEngine
    sessions: Sessions
    reading: Sessions
    redis: Redis
    tokens: TokenIssuer
    identity: Identity
    vault: Vault
    hashes: KeyedHash
    domains: SettingsStore
    limits: AuthLimits
    passwords: Passwords
    fleet: Fleet
    operator: Operator
    metrics: Metrics = field(default_factory=Metrics)
    wake_scheduler: asyncio.Event = field(default_factory=asyncio.Event)
    checks: dict[str, ReadinessCheck] = field(default_factory=dict)

    async def close(self) -> None:
        self.passwords.close()
        await self.operator.aclose()
        await self.redis.aclose()
        await self.engine.dispose()
        await self.side_engine.dispose()


def build_facade(settings: Settings) -> Facade:
    """Connects nothing yet: the pools open on first use, so that a start does not depend on the order of parts."""
    engine = make_engine(settings)
    sessions = make_sessions(engine)
    redis = Redis.from_url(
        settings.redis_url.get_secret_value(),
        decode_responses=True,
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
        max_connections=64,
    )
    # Settings are read in the middle of requests that hold a connection already, and tasks hold one for their lock:
    # with one pool for all, a full pool would wait for itself.
    side_engine = make_engine(settings, pool_size=8)
    vault = Vault(settings)
    domains = SettingsStore(make_sessions(side_engine), vault, settings.overrides)
    reading = make_sessions(engine, autocommit=True)
    fleet = build_fleet(settings, sessions, reading, vault)
    facade = Facade(
        settings=settings,
        engine=engine,
        side_engine=side_engine,
        sessions=sessions,
        reading=reading,
        redis=redis,
        tokens=TokenIssuer(settings),
        identity=Identity(sessions, redis, domains),
        vault=vault,
        hashes=KeyedHash(settings),
        domains=domains,
        limits=AuthLimits(settings, domains),
        passwords=Passwords(settings.password_hash_concurrency),
        fleet=fleet,
        operator=Operator(settings.operator_url, settings.operator_token),
    )

    async def database() -> dict[str, object]:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        return {}

    async def cache() -> dict[str, object]:
        await redis.ping()
        return {}

    facade.checks.update(database=database, redis=cache)
    facade.checks.update(kubernetes=fleet.kubernetes_ready, mirror=fleet.mirror_ready)
    facade.metrics.expose(*METRICS)
    return facade
