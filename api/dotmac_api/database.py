"""The engine, the declarative base and the session of one request (one request, one commit)."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import DateTime, MetaData, Text, func
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dotmac_api.settings import Settings

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Base of every model. Text is unbounded in the database and bounded in the schemas; times carry a zone."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {datetime: DateTime(timezone=True), str: Text}


class Timestamps:
    """created_at and updated_at, both set by the database's clock."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=90)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now(), sort_order=91)

    @property
    def version(self) -> datetime | str:
        """What the row's ETag is made of."""
        return self.updated_at


class Identified:
    """A random UUID as primary key, named `id` as in the earlier platform."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid(), sort_order=-1)


# A server that vanished without a word is noticed within half a minute, and not after the system's two hours.
KEEPALIVE = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


def make_engine(settings: Settings, pool_size: int | None = None) -> AsyncEngine:
    """An engine with a bounded pool, UTC, and a deadline on connecting and on every statement."""
    milliseconds = int(settings.database_timeout * 1000)
    return create_async_engine(
        settings.database_url.get_secret_value(),
        pool_size=pool_size or settings.database_pool,
        max_overflow=0,
        pool_timeout=settings.database_timeout,
        pool_pre_ping=False,
        connect_args={
            "connect_timeout": max(2, int(settings.database_timeout)),
            "application_name": "dotmac-api",
            **KEEPALIVE,
            # What was sent and is not even acknowledged is given up just as late as a statement.
            "tcp_user_timeout": milliseconds * 2,
            "options": f"-c timezone=UTC -c statement_timeout={milliseconds * 2} -c lock_timeout={milliseconds}",
        },
        hide_parameters=True,
    )


Sessions = async_sessionmaker[AsyncSession]


def make_sessions(engine: AsyncEngine, *, autocommit: bool = False) -> Sessions:
    """Sessions of the engine's pool; with `autocommit` each statement stands alone, for requests that only read."""
    bind = engine.execution_options(isolation_level="AUTOCOMMIT") if autocommit else engine
    return async_sessionmaker(bind, expire_on_commit=False)


AfterCommit = Callable[[], Awaitable[None]]


def after_commit(session: AsyncSession, action: AfterCommit) -> None:
    """Run `action` once the request's transaction is committed (to drop a cache, to notify); never on a rollback."""
    session.info.setdefault("after_commit", []).append(action)


async def commit(session: AsyncSession) -> None:
    """Commit, then run what waits for it."""
    await session.commit()
    for action in session.info.pop("after_commit", []):
        await action()


async def request_session(request: Request) -> AsyncIterator[AsyncSession]:
    """The session of this request: committed when the endpoint returns, before the answer leaves; else rolled back."""
    facade = request.app.state.facade
    # A read needs no transaction, and so no BEGIN and COMMIT, which are trips of their own.
    make = facade.reading if request.method in ("GET", "HEAD") else facade.sessions
    async with make() as session:
        yield session
        await commit(session)


# scope="function": the commit happens before the answer is sent, so that a failed commit is never reported as done.
DatabaseSession = Annotated[AsyncSession, Depends(request_session, scope="function")]
