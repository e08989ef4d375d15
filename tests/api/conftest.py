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
import pytest
from cryptography.fernet import Fernet
from fastapi import FastAPI
from sqlalchemy import func, select, text
from tests.kits.postgres import Postgres, postgres
from tests.kits.redis import RedisServer, redis_server

from dotmac_api.auth.models import AuthSession, UserCredential
from dotmac_api.facade import Facade
from dotmac_api.main import create_app
from dotmac_api.migrations import upgrade
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
        **KEYS,
        **changes,
    }
    return Settings.model_validate(values)


@pytest.fixture(scope="session")
def template(postgres_server: Postgres) -> str:
    """The name of a migrated and seeded database, to copy."""
    url = postgres_server.create("template_facade")
    asyncio.run(upgrade(make_settings(url, "redis://127.0.0.1:1/0")))
    return "template_facade"


@pytest.fixture
def settings(postgres_server: Postgres, redis: RedisServer, template: str) -> Iterator[Settings]:
    """Settings that name a database of this test's own and an empty Redis."""
    name = f"facade_{next(_numbers)}"
    redis.flush()
    yield make_settings(postgres_server.create(name, template), redis.url)
    postgres_server.drop(name)


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    made = create_app(settings)
    async with made.router.lifespan_context(made):
        yield made


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
