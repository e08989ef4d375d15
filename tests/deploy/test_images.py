"""The images keep what deploy/images/README.md promises, on a real Engine, without any capability."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.kits.dockerhost import DockerHost

from dotmac_local.demo.images import TAGS, archives_of, fingerprint
from dotmac_local.demo.processes import CommandFailed

PASSWORD = "pa'ss wö\"rd\\$%/@:#"


def test_each_tag_has_a_fingerprint_of_its_own() -> None:
    assert len({fingerprint(tag) for tag in TAGS}) == len(TAGS)


def test_a_tag_that_does_not_exist_is_named() -> None:
    with pytest.raises(KeyError, match="dotmac/tryton:9"):
        archives_of(["dotmac/tryton:9"])


class Tenant:
    """Containers in one network of their own, started as the operator would."""

    def __init__(self, host: DockerHost) -> None:
        self.docker = host.docker
        self.address = host.address

    def run(self, name: str, image: str, *arguments: str, env: dict[str, str] | None = None, options: str = "") -> None:
        words = [word for key, value in (env or {}).items() for word in ("--env", f"{key}={value}")]
        secure = ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=images", f"--name={name}"]
        self.docker("run", "--detach", *secure, *words, *options.split(), image, *arguments)

    def once(self, image: str, *arguments: str, env: dict[str, str]) -> str:
        words = [word for key, value in env.items() for word in ("--env", f"{key}={value}")]
        secure = ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=images", "--rm"]
        return self.docker("run", *secure, *words, image, *arguments)

    def wait(self, *command: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.docker("exec", *command)
                return
            except CommandFailed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def clear(self) -> None:
        names = self.docker("ps", "--all", "--quiet").split()
        if names:
            self.docker("rm", "--force", "--volumes", *names)
        volumes = self.docker("volume", "ls", "--quiet").split()
        if volumes:
            self.docker("volume", "rm", *volumes)


@pytest.fixture
def tenant(host: DockerHost) -> Iterator[Tenant]:
    host.load_images(*TAGS)
    made = Tenant(host)
    with suppress(CommandFailed):
        host.docker("network", "create", "images")
    try:
        yield made
    finally:
        made.clear()


DATABASE = {"POSTGRES_USER": "tryton", "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": 'ten"ant one'}
VOLUME = "--volume=database:/var/lib/postgresql/data"
READY = ("pg_isready", "--quiet", "--host=127.0.0.1")


@pytest.mark.docker
class TestPostgresql:
    def test_it_makes_a_utf8_database_that_wants_the_password(self, tenant: Tenant) -> None:
        tenant.run("db", "dotmac/postgresql:15", env=DATABASE, options=VOLUME)
        tenant.wait("db", *READY)
        query = [
            "psql",
            "-h",
            "127.0.0.1",
            "-U",
            "tryton",
            "-d",
            DATABASE["POSTGRES_DB"],
            "-Atc",
            "SHOW server_encoding",
        ]
        assert tenant.docker("exec", "--env", f"PGPASSWORD={PASSWORD}", "db", *query).strip() == "UTF8"
        with pytest.raises(CommandFailed, match="password authentication failed"):
            tenant.docker("exec", "--env", "PGPASSWORD=wrong", "db", *query)
        assert PASSWORD not in tenant.docker("top", "db", "-eo", "pid,args")
        assert PASSWORD not in tenant.docker("logs", "db")

    def test_a_kill_during_the_first_start_is_repaired_by_the_next(self, tenant: Tenant) -> None:
        tenant.run("db", "dotmac/postgresql:15", env=DATABASE, options=VOLUME)
        for delay in (0.0, 0.2, 0.4, 0.7, 1.0, 1.5):
            time.sleep(delay)
            with suppress(CommandFailed):
                tenant.docker("kill", "db")
            tenant.docker("start", "db")
        tenant.wait("db", *READY)
        listed = tenant.docker(
            "exec", "db", "psql", "-U", "tryton", "-d", "postgres", "-Atc", "SELECT datname FROM pg_database"
        )
        assert DATABASE["POSTGRES_DB"] in listed.splitlines()

    def test_without_a_password_it_says_so(self, tenant: Tenant) -> None:
        with pytest.raises(CommandFailed, match="POSTGRES_PASSWORD is not set"):
            tenant.once("dotmac/postgresql:15", env={})


@pytest.mark.docker
class TestRedis:
    def test_the_password_is_wanted_and_shown_nowhere(self, tenant: Tenant) -> None:
        tenant.run("cache", "dotmac/redis:7", "maxmemory 32mb", env={"REDIS_PASSWORD": PASSWORD}, options="--read-only")
        tenant.wait("cache", "dotmac-redis-ping")
        assert "NOAUTH" in tenant.docker("exec", "cache", "redis-cli", "ping")
        shown = tenant.docker(
            "exec", "--env", f"REDISCLI_AUTH={PASSWORD}", "cache", "redis-cli", "config", "get", "maxmemory"
        )
        assert "33554432" in shown
        assert PASSWORD not in tenant.docker("top", "cache", "-eo", "pid,args")
        assert PASSWORD not in tenant.docker("logs", "cache")


CADDY = {
    "admin": {"listen": "unix//run/caddy/admin.sock"},
    "apps": {
        "http": {
            "servers": {
                "http": {"listen": [":80"], "routes": [{"handle": [{"handler": "static_response", "body": "routed"}]}]}
            }
        }
    },
}
RELOAD = ("caddy", "reload", "--config", "-", "--address", "unix//run/caddy/admin.sock")
ASK = ("curl", "--silent", "--fail", "http://127.0.0.1:80/")


@pytest.mark.docker
class TestCaddy:
    def test_a_configuration_is_loaded_by_stdin_read_back_and_survives_a_kill(self, tenant: Tenant) -> None:
        tenant.run("proxy", "dotmac/caddy:2.6")
        tenant.wait("proxy", "test", "-S", "/run/caddy/admin.sock")
        tenant.docker("exec", "--interactive", "proxy", *RELOAD, data=json.dumps(CADDY).encode())
        assert tenant.docker("exec", "proxy", *ASK) == "routed"
        assert json.loads(tenant.docker("exec", "proxy", "cat", "/config/caddy/autosave.json")) == CADDY
        tenant.docker("kill", "proxy")
        tenant.docker("start", "proxy")
        tenant.wait("proxy", *ASK)
        assert tenant.docker("exec", "proxy", *ASK) == "routed"

    def test_a_bad_configuration_is_refused_and_the_old_one_stays(self, tenant: Tenant) -> None:
        tenant.run("proxy", "dotmac/caddy:2.6")
        tenant.wait("proxy", "test", "-S", "/run/caddy/admin.sock")
        tenant.docker("exec", "--interactive", "proxy", *RELOAD, data=json.dumps(CADDY).encode())
        bad = {"apps": {"http": {"servers": {"a": {"listen": ["bogus:99999"]}}}}}
        with pytest.raises(CommandFailed, match="invalid listener address"):
            tenant.docker("exec", "--interactive", "proxy", *RELOAD, data=json.dumps(bad).encode())
        assert tenant.docker("exec", "proxy", *ASK) == "routed"


TRYTON = {
    "DATABASE_HOST": "db",
    "DATABASE_NAME": DATABASE["POSTGRES_DB"],
    "DATABASE_USER": "tryton",
    "DATABASE_PASSWORD": PASSWORD,
    "ORG_NAME": "Ọ̀ṣun & Co. $(id)",
    "ADMIN_EMAIL": "ada@example.org",
    "ADMIN_PASSWORD": "Sesam-öffne-dich9",
}


@pytest.mark.docker
@pytest.mark.timeout(240)
def test_tryton_survives_kills_during_migrate_and_lets_its_admin_in(tenant: Tenant) -> None:
    database = {**DATABASE, "POSTGRES_DB": "tenant"}
    env = {**TRYTON, "DATABASE_NAME": "tenant"}
    tenant.run("db", "dotmac/postgresql:15", env=database, options=VOLUME)
    tenant.wait("db", *READY)
    for seconds in (1, 4, 9):
        tenant.run(f"migrate{seconds}", "dotmac/tryton:6.0", "migrate", env=env)
        time.sleep(seconds)
        tenant.docker("kill", f"migrate{seconds}")
    assert "migrate: done" in tenant.once("dotmac/tryton:6.0", "migrate", env=env)
    assert "at this version already" in tenant.once("dotmac/tryton:6.0", "migrate", env=env)
    assert "password" in tenant.once("dotmac/tryton:6.0", "bootstrap", env=env)
    assert "set" not in tenant.once("dotmac/tryton:6.0", "bootstrap", env=env)
    second = {**env, "ADMIN_USERNAME": "ada"}
    assert "companies" in tenant.once("dotmac/tryton:6.0", "bootstrap", env=second)
    for role in ("web", "worker", "beat"):
        tenant.run(role, "dotmac/tryton:6.0", role, env=env)
    tenant.wait("web", "curl", "--silent", "--fail", "--output", "/dev/null", "http://127.0.0.1:8000/")
    for user in ("admin", "ada"):
        call = {"id": 0, "method": "common.db.login", "params": [user, {"password": env["ADMIN_PASSWORD"]}, "en"]}
        header = ["--header", "Content-Type: application/json", "--data-binary", "@-", "http://127.0.0.1:8000/tenant/"]
        answer = tenant.docker(
            "exec", "--interactive", "web", "curl", "--silent", *header, data=json.dumps(call).encode()
        )
        assert json.loads(answer)["result"][1], answer
    assert set(tenant.docker("ps", "--format", "{{.Names}}").split()) >= {"web", "worker", "beat"}
    for role in ("web", "worker", "beat"):
        assert PASSWORD not in tenant.docker("top", role, "-eo", "pid,args")
        assert env["ADMIN_PASSWORD"] not in tenant.docker("logs", role)


@pytest.mark.docker
def test_sample_web_fails_when_told_to(tenant: Tenant) -> None:
    health = ("curl", "--silent", "--fail", "http://127.0.0.1:8000/healthz")
    tenant.run("web", "dotmac/sample-web:2")
    tenant.wait("web", *health)
    assert json.loads(tenant.docker("exec", "web", "curl", "--silent", "http://127.0.0.1:8000/"))["version"] == "2"
    tenant.docker("exec", "web", "curl", "--silent", "--request", "POST", "http://127.0.0.1:8000/fail")
    with pytest.raises(CommandFailed):
        tenant.docker("exec", "web", *health)
    with pytest.raises(CommandFailed, match="told to fail"):
        tenant.once("dotmac/sample-web:1", "migrate", env={"FAIL_MIGRATE": "1"})
