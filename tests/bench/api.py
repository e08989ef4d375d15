"""Authenticated `GET /api/v1/instances` (25 of 5,000 rows), against the same endpoint written plainly.

One worker process each, 64 connections, each with a session of its own. Ours: `dotmac-api serve` with sessions,
permissions, tenancy, rate limits and metrics as in production, but for the log, which has errors only. Plain: a
synchronous FastAPI, SQLAlchemy and PostgreSQL, without any of these, one page of the same columns. Each connection asks
once before the measure begins.

Goals: 1,500 requests/s and p99 < 50 ms on an idle pair of cores, and 3 times the plain one. The ratio of a measure is
value/goal (goal/value for p99). Load generator, server and PostgreSQL share the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.fernet import Fernet
from sqlalchemy import func, insert, select, text
from tests.bench.registry import Measure, Result
from tests.kits.postgres import postgres
from tests.kits.redis import redis_server
from tests.kits.resources import condition, instance
from tests.kits.unprivileged import free_port

from dotmac_api.auth.models import AuthSession, UserCredential
from dotmac_api.facade import build_facade
from dotmac_api.migrations import upgrade
from dotmac_api.mirror.models import InstanceRow
from dotmac_api.mirror.projection import project
from dotmac_api.people.models import Person
from dotmac_api.rbac.models import PersonRole, Role
from dotmac_api.settings import Settings, random_key

OBJECTS = 5000
CONNECTIONS = 64
SECONDS = 5.0
ROOT = Path(__file__).resolve().parents[2]
OURS = [str(Path(sys.executable).with_name("dotmac-api")), "serve", "--port", "{port}"]
PLAIN = """import os, uvicorn
from fastapi import FastAPI
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session
from dotmac_api.instances.schemas import InstanceRead
from dotmac_api.mirror.models import InstanceRow
from dotmac_api.schemas import Page
url = os.environ["DOTMAC_API_DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:")
engine = create_engine(url, pool_size=40)
app = FastAPI()
@app.get("/api/v1/instances")
def instances(offset: int = 0, limit: int = 25) -> Page[InstanceRead]:
    with Session(engine) as session:
        count = session.scalar(select(func.count()).select_from(InstanceRow))
        rows = session.scalars(select(InstanceRow).order_by(InstanceRow.created_at).offset(offset).limit(limit)).all()
        return Page(items=[InstanceRead.of(row) for row in rows], count=count, limit=limit, offset=offset)
uvicorn.run(app, port={port}, log_level="error", access_log=False)"""
PLAIN_COMMAND = [sys.executable, "-c", PLAIN]


def _row(number: int) -> dict[str, Any]:
    obj = instance(f"t{number:04}")
    obj["metadata"] |= {"uid": str(uuid.uuid4()), "resourceVersion": str(number + 1)}
    obj["metadata"]["creationTimestamp"] = "2026-11-22T10:00:00Z"
    names = ("preflight", "secrets", "backup", "images", "infra", "migrate", "start", "bootstrap", "route", "verify")
    obj["status"] = {
        "phase": "Running",
        "steps": [{"name": name, "state": "Succeeded"} for name in names],
        "conditions": [condition(t, "True") for t in ("Ready", "Reconciling", "Stalled", "InSync", "AppHealthy")],
    }
    return {**project(obj), "mirrored_at": datetime.now(UTC), "change": number + 1}


async def _prepare(settings: Settings) -> list[str]:
    """Fills the table and signs an administrator in on each connection; returns the access tokens."""
    await upgrade(settings)
    facade = build_facade(settings)
    async with facade.sessions.begin() as session:
        await session.execute(insert(InstanceRow), [_row(number) for number in range(OBJECTS)])
        person = Person(first_name="Ada", last_name="Bench", email="ada@example.org")
        session.add(person)
        await session.flush()
        credential = UserCredential(person_id=person.id, username="ada", password_hash="!")
        session.add(credential)
        await session.flush()
        ends = func.now() + text("interval '1 day'")
        signed_in = [
            AuthSession(person_id=person.id, credential_id=credential.id, expires_at=ends) for _ in range(CONNECTIONS)
        ]
        session.add_all(signed_in)
        role = await session.scalar(select(Role).where(Role.name == "admin"))
        assert role is not None
        session.add(PersonRole(person_id=person.id, role_id=role.id))
        await session.flush()
        tokens = [facade.tokens.issue(person.id, one.id, 900, ["admin"], []) for one in signed_in]
    async with facade.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM ANALYZE instances"))
    await facade.close()
    return tokens


@dataclass(frozen=True)
class Server:
    """A server under load, and where it answers."""

    url: str
    pid: int

    def processor_seconds(self) -> float:
        """What it has used so far, on all cores (proc(5): utime and stime, in clock ticks)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _serving(command: list[str], environment: dict[str, str]) -> Iterator[Server]:
    port = free_port()
    process = subprocess.Popen([word.replace("{port}", str(port)) for word in command], env=environment)
    try:
        yield Server(f"http://127.0.0.1:{port}/api/v1/instances", process.pid)
    finally:
        process.terminate()
        process.wait(30)


@dataclass(frozen=True)
class Load:
    """Sorted seconds of each request, and the server's processor time for one, in milliseconds."""

    spent: list[float]
    processor: float

    @property
    def rate(self) -> float:
        return len(self.spent) / SECONDS

    @property
    def p99(self) -> float:
        """In milliseconds."""
        return self.spent[int(len(self.spent) * 0.99)] * 1000


async def _once(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> None:
    async with session.get(url, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()


async def _load(server: Server, tokens: list[str]) -> Load:
    url = server.url
    spent: list[float] = []
    headers = [{"Authorization": f"Bearer {token}"} for token in tokens]
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(200):
            try:
                async with session.get(url, headers=headers[0]) as answer:
                    assert answer.status == 200, await answer.text()
                    break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)
        await asyncio.gather(*(_once(session, url, own) for own in headers))
        used = server.processor_seconds()
        end = time.perf_counter() + SECONDS

        async def turn(own: dict[str, str]) -> None:
            while (begun := time.perf_counter()) < end:
                await _once(session, url, own)
                spent.append(time.perf_counter() - begun)

        await asyncio.gather(*(turn(own) for own in headers))
        used = server.processor_seconds() - used
    return Load(sorted(spent), used / len(spent) * 1000)


def run() -> Result:
    with postgres() as database, redis_server() as redis:
        values = {
            "database_url": database.create("bench"),
            "redis_url": redis.url,
            "jwt_keys": json.dumps({"bench": random_key()}),
            "api_key_pepper": random_key(),
            "encryption_keys": Fernet.generate_key().decode(),
        }
        tokens = asyncio.run(_prepare(Settings.model_validate(values)))
        off = {"mirror_enabled": "0", "webhooks_enabled": "0", "scheduler_enabled": "0", "log_level": "ERROR"}
        environment = {
            **os.environ,
            **{f"DOTMAC_API_{name.upper()}": value for name, value in (values | off).items()},
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("api", "crds")),
        }
        with _serving(PLAIN_COMMAND, environment) as server:
            plain = asyncio.run(_load(server, tokens))
        with _serving(OURS, environment) as server:
            ours = asyncio.run(_load(server, tokens))
    return Result(
        "api",
        [
            Measure("requests/s", ours.rate, "/s", 1500, lower_is_better=False),
            Measure("p99", ours.p99, "ms", 50),
            Measure("times the plain endpoint", ours.rate / plain.rate, "x", 3, lower_is_better=False),
        ],
        [
            f"plain: {plain.rate:,.0f} requests/s, p99 {plain.p99:,.0f} ms",
            "processor time of the server for one request, which other load on the machine does not change:"
            f" {ours.processor:.2f} ms, plain {plain.processor:.2f} ms",
        ],
    )
