"""Starting: settings that are refused, the command line, migrations there and back, the OpenAPI document."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import jwt
import psycopg
import pytest
from click.testing import Result
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fastapi import APIRouter, FastAPI
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import Connection
from tests.api.conftest import connect, make_settings
from tests.kits.postgres import Postgres
from tests.kits.redis import RedisServer
from tests.kits.resources import instance, server
from typer.testing import CliRunner

from dotmac_api import cli
from dotmac_api.access import guards, require
from dotmac_api.auth.tokens import LEEWAY_SECONDS, TokenIssuer
from dotmac_api.database import make_engine
from dotmac_api.errors import Unauthorized
from dotmac_api.main import create_app
from dotmac_api.migrations import downgrade, upgrade
from dotmac_api.mirror.models import InstanceRow, ServerRow
from dotmac_api.mirror.projection import project
from dotmac_api.models import METADATA
from dotmac_api.settings import Settings, SettingsRefused, load_settings, random_key

GOOD = {
    "DOTMAC_API_DATABASE_URL": "postgresql://dotmac@127.0.0.1/none",
    "DOTMAC_API_REDIS_URL": "redis://127.0.0.1",
    "DOTMAC_API_JWT_KEYS": json.dumps({"k1": random_key()}),
    "DOTMAC_API_API_KEY_PEPPER": random_key(),
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("DOTMAC_API_")]:
        monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_good_settings_are_taken(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DOTMAC_API_AUTH_JWT_ACCESS_TTL_MINUTES", "5")
    environment.setenv("DOTMAC_API_AUDIT_SKIP_PATHS", "/health,/metrics")
    settings = load_settings()
    assert settings.overrides == {
        ("auth", "jwt_access_ttl_minutes"): 5,
        ("audit", "skip_paths"): ["/health", "/metrics"],
    }
    assert GOOD["DOTMAC_API_API_KEY_PEPPER"] not in repr(settings)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_setting_is_named(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.delenv(name)
    with pytest.raises(SettingsRefused, match=f"{name} is not set"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DOTMAC_API_API_KEY_PEPPER", "short-secret"),
        ("DOTMAC_API_API_KEY_PEPPER", "a" * 64),
        ("DOTMAC_API_API_KEY_PEPPER", "changeme" * 8),
        ("DOTMAC_API_JWT_KEYS", "not-json-at-all"),
        ("DOTMAC_API_JWT_KEYS", "{}"),
        ("DOTMAC_API_JWT_KEYS", '{"k1": "tooshortkey"}'),
        ("DOTMAC_API_JWT_KEYS", '["tooshortkey"]'),
        ("DOTMAC_API_JWT_KEYS", '{"k1": "-----BEGIN PRIVATE KEY-----"}'),
        ("DOTMAC_API_ENCRYPTION_KEYS", "not-a-fernet-key"),
        ("DOTMAC_API_METRICS_TOKEN", "tiny"),
        ("DOTMAC_API_DATABASE_URL", "sqlite:///some.db"),
        ("DOTMAC_API_REDIS_URL", "http://127.0.0.1"),
        ("DOTMAC_API_PUBLIC_URL", "javascript:alert(1)"),
        ("DOTMAC_API_DATABASE_POOL", "0"),
        ("DOTMAC_API_AUTH_JWT_ACCESS_TTL_MINUTES", "100000"),
        ("DOTMAC_API_AUTH_JWT_ACCESS_TTL_MINUTES", "five"),
    ],
)
def test_a_weak_or_wrong_setting_is_named_and_not_shown(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    with pytest.raises(SettingsRefused) as refused:
        load_settings()
    assert name in str(refused.value)
    if len(value) > 5:
        assert value not in str(refused.value)


@pytest.mark.parametrize("proxies", ["*", "0.0.0.0/0", "::/0", "10.0.0.1,proxy.internal"])
def test_nobody_may_pretend_to_come_from_anywhere(environment: pytest.MonkeyPatch, proxies: str) -> None:
    environment.setenv("DOTMAC_API_TRUSTED_PROXIES", proxies)
    with pytest.raises(SettingsRefused, match="DOTMAC_API_TRUSTED_PROXIES"):
        load_settings()
    environment.setenv("DOTMAC_API_TRUSTED_PROXIES", "10.0.0.1, 10.1.0.0/16, fd00::/8")
    assert load_settings().trusted_proxies


def test_everything_that_is_wrong_is_named_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DOTMAC_API_JWT_KEYS", '{"k1": "short"}')
    environment.setenv("DOTMAC_API_API_KEY_PEPPER", "a" * 64)
    environment.delenv("DOTMAC_API_REDIS_URL")
    with pytest.raises(SettingsRefused) as refused:
        load_settings()
    for part in (
        "DOTMAC_API_JWT_KEYS key 'k1' is shorter",
        "API_KEY_PEPPER repeats",
        "REDIS_URL is not set",
    ):
        assert part in str(refused.value)


def test_tokens_of_an_older_key_count_until_it_is_removed() -> None:
    ed25519 = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    shared = random_key()
    person, session = uuid.uuid4(), uuid.uuid4()

    def issuer(**keys: str) -> TokenIssuer:
        return TokenIssuer(make_settings("postgresql://x/x", "redis://x", jwt_keys=json.dumps(keys)))

    old = issuer(old=shared).issue(person, session, 60, [], [])
    rotated = issuer(new=ed25519, old=shared)
    new = rotated.issue(person, session, 60, [], [])
    assert (rotated.algorithm, jwt.get_unverified_header(new)["kid"]) == ("EdDSA", "new")
    assert rotated.verify(old) == rotated.verify(new)
    with pytest.raises(Unauthorized):
        issuer(new=ed25519).verify(old)
    # The text of a key, taken as an HS256 secret under its kid, signs nothing.
    forged = jwt.encode(jwt.decode(new, options={"verify_signature": False}), shared, "HS256", headers={"kid": "new"})
    with pytest.raises(Unauthorized):
        rotated.verify(forged)
    brief = rotated.issue(person, session, -LEEWAY_SECONDS, [], [])
    with pytest.raises(Unauthorized, match="expired"):
        rotated.verify(brief)


def test_an_unguarded_route_stops_the_start() -> None:
    from dotmac_api.access import assert_guarded

    app, router = FastAPI(), APIRouter()

    @router.get("/bare")
    async def bare() -> None:
        pass

    app.include_router(router, prefix="/api")
    with pytest.raises(RuntimeError, match="GET /api/bare"):
        assert_guarded(app)


def test_an_unknown_permission_stops_the_start() -> None:
    with pytest.raises(ValueError, match="people:eat"):
        require("people:eat")


def _settings() -> Settings:
    return make_settings("postgresql://dotmac@127.0.0.1/none", "redis://127.0.0.1")


def test_only_the_known_routes_are_open() -> None:
    """A new open route must be added here, by somebody who has thought about it."""
    open_routes = {path for (_, path), permission in guards(create_app(_settings())).items() if permission == "-"}
    assert open_routes == {
        "/health",
        "/health/ready",
        "/metrics",
        *(
            f"/api/v1/auth/{name}"
            for name in (
                "login refresh logout forgot-password reset-password me me/password me/sessions"
                " me/sessions/{session_id} mfa/setup mfa/confirm mfa/verify"
            ).split()
        ),
    }


def test_the_openapi_document_is_complete() -> None:
    document = create_app(_settings()).openapi()
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    refs = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert refs <= set(schemas)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/api/v1") and method != "get":
                assert operation.get("security") or "/auth/" in path, (method, path)


@pytest.mark.slow
def test_the_command_line_says_what_is_missing() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DOTMAC_API_")}
    argv = [sys.executable, "-c", "from dotmac_api.cli import app; app()", "check"]
    result = subprocess.run(argv, env=clean, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "DOTMAC_API_JWT_KEYS is not set" in result.stderr
    assert "Traceback" not in result.stderr


@contextmanager
def _empty_database(server: Postgres, name: str) -> Iterator[str]:
    url = server.create(name)
    try:
        yield url
    finally:
        server.drop(name)


@pytest.mark.services
def test_from_nothing_to_an_administrator_by_the_command_line(
    postgres_server: Postgres, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "configure_logs", lambda _settings: None)
    password = "violet-anchor-seventeen"
    with _empty_database(postgres_server, "cli") as url:
        environment = {**GOOD, "DOTMAC_API_DATABASE_URL": url, "DOTMAC_API_REDIS_URL": redis.url}

        def dotmac_api(*argv: str, stdin: str = "") -> Result:
            return CliRunner().invoke(cli.app, argv, env=environment, input=stdin)

        admin = ("create-admin", "--username", "root", "--email", "root@example.org", "--password-stdin")
        early = dotmac_api(*admin, stdin=password)
        assert (early.exit_code, "dotmac-api migrate" in early.output) == (1, True)
        assert dotmac_api("migrate").exit_code == 0
        weak = dotmac_api(*admin, stdin="password1234")
        assert (weak.exit_code, "too common" in weak.output) == (1, True)
        made = dotmac_api(*admin, stdin=password)
        assert made.exit_code == 0, made.output
        assert password not in made.output
        assert dotmac_api(*admin, stdin=password).exit_code == 1
        assert dotmac_api(*admin, "--if-absent", stdin=password).exit_code == 0
        other = dotmac_api("create-admin", "--username", "other", "--email", "ROOT@example.org")
        assert (other.exit_code, "with the address" in other.output) == (1, True)
        spaced = dotmac_api("create-admin", "--username", " root", "--email", "r@example.org")
        assert (spaced.exit_code, "--username" in spaced.output) == (1, True)
        checked = dotmac_api("check")
        assert checked.exit_code == 1
        assert "FAILED encryption" in checked.output
        environment["DOTMAC_API_ENCRYPTION_KEYS"] = Fernet.generate_key().decode()
        environment["DOTMAC_API_KUBECONFIG"] = "/nowhere/kubeconfig"
        failed = [line for line in dotmac_api("check").output.splitlines() if line.startswith("FAILED")]
        assert len(failed) == 1 and failed[0].startswith("FAILED kubernetes: no usable kubeconfig at /nowhere")
        environment["DOTMAC_API_REDIS_URL"] = "redis://127.0.0.1:1/0"
        environment["DOTMAC_API_ENCRYPTION_KEY"] = environment["DOTMAC_API_ENCRYPTION_KEYS"]
        environment["DOTMAC_API_PORT_8000_TCP_ADDR"] = "10.96.0.7"  # as Kubernetes sets it
        environment["DOTMAC_API_OPERATOR_URL"] = "http://127.0.0.1:1"
        told = {line.split(":")[0]: line for line in dotmac_api("check").output.splitlines()}
        assert {name for name in told if name.startswith("FAILED")} == {
            f"FAILED {name}" for name in ("redis", "kubernetes", "operator", "environment")
        }
        assert "DOTMAC_API_ENCRYPTION_KEY is no setting, DOTMAC_API_ENCRYPTION_KEYS is" in told["FAILED environment"]
        assert "DOTMAC_API_OPERATOR_TOKEN is not set" in told["FAILED operator"]
        assert "domain_settings: 0 re-encrypted" in dotmac_api("rotate-keys").output


@pytest.mark.services
async def test_migrations_keep_accounts_and_the_choices_of_administrators(
    postgres_server: Postgres, redis: RedisServer
) -> None:
    """Down and up again one by one, amid rows of every kind; meanwhile the facade says what is missing."""
    with _empty_database(postgres_server, "kept") as url:
        settings = make_settings(url, redis.url)
        await upgrade(settings)
        with psycopg.connect(url, autocommit=True) as plain:
            ada = _filled(plain)
            withdrawn = plain.execute("DELETE FROM role_permissions RETURNING id").fetchall()
            for step in ("-1", "-1", "+1", "head"):
                await (downgrade if step.startswith("-") else upgrade)(settings, step)
                assert plain.execute("SELECT id FROM people").fetchone() == (ada,)
            assert len(withdrawn) > 20
            assert plain.execute("SELECT count(*) FROM role_permissions").fetchone() == (0,)
            assert plain.execute("SELECT count(*) FROM instances").fetchone() == (0,), "to be mirrored again"
            await downgrade(settings)
            app = create_app(settings)
            async with app.router.lifespan_context(app), connect(app) as client:
                body = {"username": "ada", "password": "x"}
                answer = await client.post("/api/v1/auth/login", json=body)
            assert (answer.status_code, answer.json()["code"]) == (503, "not_migrated")


def _filled(plain: psycopg.Connection[tuple[object, ...]]) -> object:
    """Rows that refer to each other, in every noun; gives the id of the person."""
    [ada] = plain.execute(
        "INSERT INTO people (first_name, last_name, email) VALUES ('A', 'L', 'ada@example.org') RETURNING id"
    ).fetchone() or [None]
    for statement in (
        "INSERT INTO user_credentials (person_id, username, password_hash) SELECT id, 'ada', '!' FROM people",
        "INSERT INTO sessions (person_id, credential_id, expires_at)"
        " SELECT person_id, id, now() + interval '1 day' FROM user_credentials",
        "INSERT INTO refresh_tokens (token_hash, session_id) SELECT 'x', id FROM sessions",
        "INSERT INTO person_roles (person_id, role_id) SELECT p.id, r.id FROM people p, roles r",
        "INSERT INTO audit_events (actor_type, action, is_success) VALUES ('system', 'x', true)",
        "INSERT INTO domain_settings (domain, key, value, is_secret) VALUES ('auth', 'totp_issuer', '\"x\"', false)",
    ):
        plain.execute(statement.encode())
    for row in (_mirrored(InstanceRow, instance()), _mirrored(ServerRow, server())):
        names = sql.SQL(", ").join(map(sql.Identifier, row))
        places = sql.SQL(", ").join(map(sql.Placeholder, row))
        table = sql.Identifier("instances" if "instance_id" in row else "servers")
        plain.execute(sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(table, names, places), row)
    return ada


def _mirrored(model: type[InstanceRow] | type[ServerRow], obj: dict[str, Any]) -> dict[str, Any]:
    stamp = {"uid": str(uuid.uuid4()), "namespace": "default", "resourceVersion": "1"}
    stamp["creationTimestamp"] = "2026-01-01T00:00:00Z"
    row = project({**obj, "metadata": obj["metadata"] | stamp}) | {"mirrored_at": datetime.now(UTC)}
    return {name: Jsonb(value) if isinstance(value, dict | list) else value for name, value in row.items()}


@pytest.mark.services
async def test_migrations_go_from_nothing_to_head_and_back(postgres_server: Postgres) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), METADATA))

    with _empty_database(postgres_server, "migrations") as url:
        settings = make_settings(url, "redis://127.0.0.1")
        for _ in range(2):
            await upgrade(settings)
            await upgrade(settings)
            engine = make_engine(settings)
            async with engine.connect() as connection:
                assert await connection.run_sync(differences) == []
            await engine.dispose()
            await downgrade(settings)
            with psycopg.connect(url) as plain:
                left = plain.execute(
                    "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
                ).fetchall()
            assert left == []
