"""Real PostgreSQL and Redis for the tests of the facade; a fresh database for each test from a migrated template."""

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI
from psycopg import sql
from sqlalchemy import func, select, text
from tests.kits.postgres import Postgres, postgres
from tests.kits.redis import RedisServer, redis_server

from dotmac_api.auth.models import AuthSession, UserCredential
from dotmac_api.facade import Facade, build_facade
from dotmac_api.main import create_app
from dotmac_api.migrations import upgrade
from dotmac_api.models import METADATA
from dotmac_api.people.models import Person
from dotmac_api.rbac.models import PersonRole, Role
from dotmac_api.settings import Settings, random_key

_numbers = itertools.count()
KEYS = {"jwt_keys": json.dumps({"test": random_key()}), "api_key_pepper": random_key()}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def make_settings(database_url: str, redis_url: str, **changes: Any) -> Settings:
    """Settings of a facade under test; `changes` override."""
    values: dict[str, Any] = {
        "database_url": database_url,
        "redis_url": redis_url,
        "encryption_keys": Fernet.generate_key().decode(),
        "metrics_token": "metrics-token-of-the-tests",
        "scheduler_enabled": False,
        "mirror_enabled": False,
        "webhooks_enabled": False,
        **KEYS,
        **changes,
    }
    return Settings.model_validate(values)


@pytest.fixture(scope="session")
def database_url(postgres_server: Postgres) -> str:
    """A migrated database that the tests share, one after the other."""
    url = postgres_server.create("facade")
    asyncio.run(upgrade(make_settings(url, "redis://127.0.0.1:1/0")))
    return url


@pytest.fixture(scope="session")
def seeds(database_url: str) -> dict[str, bytes]:
    """The rows that migrating seeded, as COPY writes them."""
    with psycopg.connect(database_url, autocommit=True) as connection, connection.cursor() as cursor:
        found = {}
        for table in ("roles", "permissions", "role_permissions"):
            with cursor.copy(f"COPY {table} TO STDOUT".encode()) as copy:
                found[table] = b"".join(bytes(part) for part in copy)
        return found


def _start_again(url: str, seeds: dict[str, bytes]) -> None:
    """Delete every row and put the seeded ones back: far cheaper than a database for each test."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for table in reversed(METADATA.sorted_tables):
            cursor.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table.name)))
        for name, rows in seeds.items():
            with cursor.copy(f"COPY {name} FROM STDIN".encode()) as copy:
                copy.write(rows)


@pytest.fixture
def settings(database_url: str, seeds: dict[str, bytes], redis: RedisServer) -> Settings:
    """Settings that name an empty, migrated and seeded database and an empty Redis."""
    _start_again(database_url, seeds)
    redis.flush()
    return make_settings(database_url, redis.url)


@pytest.fixture(scope="session")
def built() -> FastAPI:
    """The routes and middleware, which take most of the time of create_app and hold nothing of the settings."""
    return create_app(make_settings("postgresql://dotmac@127.0.0.1/none", "redis://127.0.0.1"))


@pytest.fixture
async def app(built: FastAPI, settings: Settings) -> AsyncIterator[FastAPI]:
    """The application over this test's settings."""
    built.state.facade = build_facade(settings)
    async with built.router.lifespan_context(built):
        yield built


@pytest.fixture
def facade(app: FastAPI) -> Facade:
    made: Facade = app.state.facade
    return made


def connect(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    """A client of the application, in the process; https, as behind the proxy."""
    address = options.pop("address", "192.0.2.1")
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=(address, 40000))
    return httpx.AsyncClient(transport=transport, base_url="https://testserver", timeout=30, **options)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(app) as made:
        yield made


@dataclass
class Account:
    """A person who can sign in, with a live session and its access token."""

    person_id: uuid.UUID
    credential_id: uuid.UUID
    session_id: uuid.UUID
    username: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@dataclass
class Accounts:
    """Makes accounts straight in the database: hashing a password for each would make the tests slow."""

    facade: Facade

    async def make(
        self,
        *roles: str,
        organisations: list[str] | None = None,
        password_hash: str | None = None,
        username: str | None = None,
    ) -> Account:
        username = username or f"user{next(_numbers)}"
        async with self.facade.sessions.begin() as session:
            person = Person(
                first_name="Ada", last_name="Test", email=f"{username}@example.org", organisations=organisations
            )
            session.add(person)
            await session.flush()
            credential = UserCredential(person_id=person.id, username=username, password_hash=password_hash or "!")
            session.add(credential)
            await session.flush()
            signed_in = AuthSession(
                person_id=person.id, credential_id=credential.id, expires_at=func.now() + text("interval '1 day'")
            )
            session.add(signed_in)
            for role in await session.scalars(select(Role).where(Role.name.in_(roles))):
                session.add(PersonRole(person_id=person.id, role_id=role.id))
            await session.flush()
            token = self.facade.tokens.issue(person.id, signed_in.id, 900, list(roles), [])
            return Account(person.id, credential.id, signed_in.id, username, token)


@pytest.fixture
def accounts(facade: Facade) -> Accounts:
    return Accounts(facade)


@asynccontextmanager
async def signed_in(app: FastAPI, account: Account) -> AsyncIterator[httpx.AsyncClient]:
    """A client that sends the account's access token."""
    async with connect(app, headers=account.headers) as made:
        yield made


@pytest.fixture
async def admin(app: FastAPI, accounts: Accounts) -> AsyncIterator[httpx.AsyncClient]:
    """A client signed in as an administrator without limits."""
    async with signed_in(app, await accounts.make("admin")) as made:
        yield made
