"""The demo's REST facade: a PostgreSQL, a Redis and `dotmac-api serve`, all on loopback, unprivileged servers."""

import json
import os
import pwd
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
from cryptography.fernet import Fernet

from dotmac_local.demo.processes import CommandFailed, Daemon, DaemonFailed, attempt, end, mentioning, run
from dotmac_local.demo.report import say
from dotmac_local.demo.state import DIRECTORY, IDENTITY, LOGS, Settings

ADDRESS = "127.0.0.1"
ADMIN = "admin"
DATABASE = "dotmac"
DATA = Path("/var/lib/dotmac-demo") / IDENTITY
"""Not below the checkout: PostgreSQL refuses to run as root, and its user may not be able to reach the checkout."""
SECRETS_FILE = DIRECTORY / "facade.json"
POSTGRES = Daemon("PostgreSQL", DIRECTORY / "postgres.started", LOGS / "postgres.log")
REDIS = Daemon("Redis", DIRECTORY / "redis.started", LOGS / "redis.log")
FACADE = Daemon("the REST facade", DIRECTORY / "facade.started", LOGS / "facade.log")
PORTS = {"api_port": FACADE, "postgres_port": POSTGRES, "redis_port": REDIS}
"""Fields of Settings, and who listens there."""


def _token() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Secrets:
    """Made once for a demo, kept in a file of mode 0600."""

    admin_password: str = field(default_factory=lambda: secrets.token_urlsafe(18), repr=False)
    database_password: str = field(default_factory=_token, repr=False)
    redis_password: str = field(default_factory=_token, repr=False)
    jwt_key: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    api_key_pepper: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)
    encryption_key: str = field(default_factory=lambda: Fernet.generate_key().decode(), repr=False)
    operator_token: str = field(default_factory=_token, repr=False)
    """What the facade shows to the operator's diagnostics, from where logs of containers come."""

    @classmethod
    def load(cls) -> Self:
        """Those of this demo; new ones when it has none."""
        try:
            return cls(**json.loads(SECRETS_FILE.read_text()))
        except FileNotFoundError:
            made = cls()
            write_private(SECRETS_FILE, json.dumps(asdict(made), indent=1) + "\n")
            return made


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    draft.rename(path)


def url(settings: Settings) -> str:
    """Where the facade answers."""
    return f"http://{ADDRESS}:{settings.api_port}"


def operator_environment(settings: Settings) -> dict[str, str]:
    """What the operator needs to answer the facade's questions for logs, on ports of this demo's own."""
    return {
        "DOTMAC_OPERATOR_METRICS_ADDRESS": f"{ADDRESS}:{settings.metrics_port}",
        "DOTMAC_OPERATOR_DIAGNOSTICS_ADDRESS": f"{ADDRESS}:{settings.diagnostics_port}",
        "DOTMAC_OPERATOR_DIAGNOSTICS_TOKEN": Secrets.load().operator_token,
    }


def environment(settings: Settings) -> dict[str, str]:
    """The settings of `dotmac-api`."""
    own = Secrets.load()
    database = f"{DATABASE}:{own.database_password}@{ADDRESS}:{settings.postgres_port}/{DATABASE}"
    values = {
        "DATABASE_URL": f"postgresql://{database}",
        "REDIS_URL": f"redis://:{own.redis_password}@{ADDRESS}:{settings.redis_port}/0",
        "JWT_KEYS": json.dumps({"demo": own.jwt_key}),
        "API_KEY_PEPPER": own.api_key_pepper,
        "ENCRYPTION_KEYS": own.encryption_key,
        "KUBECONFIG": str(settings.kubeconfig_path),
        "PUBLIC_URL": url(settings),
        "OPERATOR_URL": f"http://{ADDRESS}:{settings.diagnostics_port}",
        "OPERATOR_TOKEN": own.operator_token,
    }
    return {**os.environ, **{f"DOTMAC_API_{name}": value for name, value in values.items()}}


def start(settings: Settings) -> None:
    """Start what does not run, bring the database to the present tables, and make the administrator."""
    if FACADE.pid() is not None and POSTGRES.pid() is not None and REDIS.pid() is not None:
        return
    _start_postgres(settings)
    _start_redis(settings)
    surroundings = environment(settings)
    program = str(Path(sys.executable).with_name("dotmac-api"))
    if FACADE.pid() is None:
        run([program, "migrate"], env=surroundings)
        administrator = ["--username", ADMIN, "--email", f"{ADMIN}@demo.example", "--password-stdin", "--if-absent"]
        password = Secrets.load().admin_password.encode() + b"\n"
        run([program, "create-admin", *administrator], data=password, env=surroundings)
    command = [program, "serve", "--host", ADDRESS, "--port", str(settings.api_port)]
    FACADE.start(command, lambda: answers(settings), env=surroundings)


def answers(settings: Settings) -> bool:
    """Whether the facade answers."""
    try:
        return httpx.get(f"{url(settings)}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def unready(settings: Settings, *, within: float = 0.0) -> list[str]:
    """The parts that the facade misses, asked for again until `within` seconds are over; [] when it is ready."""
    deadline = time.monotonic() + within
    while True:
        try:
            checks = httpx.get(f"{url(settings)}/health/ready", timeout=10, trust_env=False).json()["checks"]
            missing = [name for name, check in checks.items() if not check["ready"]]
        except (httpx.HTTPError, ValueError, KeyError) as failed:
            missing = [f"an answer ({type(failed).__name__})"]
        if not missing or time.monotonic() >= deadline:
            return missing
        time.sleep(0.2)


def sign_in(settings: Settings) -> list[str]:
    """Log in as the administrator and list the instances, as a client does: their org codes.

    Raises CommandFailed with the facade's answer: after a change of the password, for instance.
    """
    body = {"username": ADMIN, "password": Secrets.load().admin_password}
    with httpx.Client(base_url=f"{url(settings)}/api/v1", timeout=20, trust_env=False) as client:
        try:
            token = _json(client.post("/auth/login", json=body))["access_token"]
            listed = _json(client.get("/instances", headers={"Authorization": f"Bearer {token}"}))
        except (httpx.HTTPError, KeyError) as failed:
            raise CommandFailed(f"the facade's answer is not what was expected: {failed}") from failed
    return sorted(item["org_code"] for item in listed["items"])


def _json(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code != 200:
        raise CommandFailed(f"{answer.request.url.path} answered {answer.status_code}: {answer.text[:300]}")
    body: dict[str, Any] = answer.json()
    return body


def commands() -> str:
    """Commands of a shell that has read .local/env: sign in, list, deploy, look at its steps and log, follow."""
    return r"""
  token=$(curl -sS "$DOTMAC_API_URL/api/v1/auth/login" -H 'Content-Type: application/json' \
    -d "{\"username\": \"$DOTMAC_ADMIN_USER\", \"password\": \"$DOTMAC_ADMIN_PASSWORD\"}" \
    | python -c 'import json, sys; print(json.load(sys.stdin)["access_token"])')
  curl -sS -H "Authorization: Bearer $token" "$DOTMAC_API_URL/api/v1/instances" | python -m json.tool
  id=$(curl -sS -H "Authorization: Bearer $token" "$DOTMAC_API_URL/api/v1/instances?org_code=ACME" \
    | python -c 'import json, sys; print(json.load(sys.stdin)["items"][0]["instance_id"])')
  curl -sS -X POST -H "Authorization: Bearer $token" "$DOTMAC_API_URL/api/v1/instances/$id/deploy"
  curl -sS -H "Authorization: Bearer $token" "$DOTMAC_API_URL/api/v1/instances/$id/steps" | python -m json.tool
  curl -sS -H "Authorization: Bearer $token" "$DOTMAC_API_URL/api/v1/instances/$id/logs?role=web&tail=5"
  timeout 10 curl -sSN -H "Authorization: Bearer $token" "$DOTMAC_API_URL/api/v1/instances/$id/stream"
""".strip("\n")


def stop() -> None:
    """End the three and delete what they keep."""
    FACADE.stop(grace=25)
    REDIS.stop(grace=5)
    pid = POSTGRES.pid()
    if pid is not None:
        # A fast shutdown: SIGTERM would wait for every client to leave.
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + 10
        while POSTGRES.pid() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
    POSTGRES.stop(grace=5)
    end(mentioning(str(DATA)), grace=5)
    shutil.rmtree(DATA, ignore_errors=True)
    if DATA.parent.is_dir() and not os.listdir(DATA.parent):
        DATA.parent.rmdir()


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[4]))
    in_path = shutil.which("postgres")
    if not found and in_path is None:
        raise CommandFailed("there is no PostgreSQL server: `apt-get install postgresql` brings it")
    return found[-1].parent if found else Path(str(in_path)).parent


def _user(name: str) -> str:
    """Whom to run a server as: the user of its package, else nobody."""
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        return "nobody"


def _as(user: str) -> list[str]:
    """The words before a command that runs it as `user`, without further groups, in the same process."""
    group = str(pwd.getpwnam(user).pw_gid)
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs", "--"]


def _directory(name: str, user: str) -> Path:
    path = DATA / name
    path.mkdir(parents=True, exist_ok=True)
    shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
    path.chmod(0o700)
    return path


def _start_postgres(settings: Settings) -> None:
    binaries, user = _binaries(), _user("postgres")
    directory = _directory("postgres", user)
    data, port = directory / "data", str(settings.postgres_port)
    own = Secrets.load()
    if not (data / "PG_VERSION").exists():
        shutil.rmtree(data, ignore_errors=True)
        _initialise(binaries, directory, user, own.database_password)
    options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={directory}", "shared_buffers=64MB"]
    command = [*_as(user), str(binaries / "postgres"), "-D", str(data), "-p", port]
    command += [word for option in options for word in ("-c", option)]
    ready = [str(binaries / "pg_isready"), "-q", "-h", ADDRESS, "-p", port]
    # After a kill of the first process the others need a moment to notice, and a new one refuses to start meanwhile.
    for tries_left in (4, 3, 2, 1, 0):
        try:
            POSTGRES.start(command, lambda: attempt(ready, timeout=5), timeout=60)
            break
        except DaemonFailed:
            if not tries_left:
                raise
            time.sleep(1)
    _create_database(binaries, settings, own)


def _initialise(binaries: Path, directory: Path, user: str, password: str) -> None:
    say("making the facade's PostgreSQL")
    file = directory / "password"
    write_private(file, password + "\n")
    shutil.chown(file, user)
    try:
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
        command = [str(binaries / "initdb"), "-D", str(directory / "data"), "-U", DATABASE, f"--pwfile={file}"]
        run([*_as(user), *command, *options], timeout=120)
    finally:
        file.unlink()


def _create_database(binaries: Path, settings: Settings, own: Secrets) -> None:
    login = {**os.environ, "PGPASSWORD": own.database_password}
    where = ["-h", ADDRESS, "-p", str(settings.postgres_port), "-U", DATABASE]
    query = ["-d", "postgres", "-Atc", "SELECT datname FROM pg_database"]
    listed = run([str(binaries / "psql"), *where, *query], env=login)
    if DATABASE not in listed.split():
        run([str(binaries / "createdb"), *where, "--template=template0", DATABASE], env=login)


def _start_redis(settings: Settings) -> None:
    program = shutil.which("redis-server")
    if program is None:
        raise CommandFailed("there is no Redis server: `apt-get install redis-server` brings it")
    user = _user("redis")
    directory = _directory("redis", user)
    configuration = directory / "redis.conf"
    lines = {
        "bind": ADDRESS,
        "port": settings.redis_port,
        "dir": directory,
        "requirepass": Secrets.load().redis_password,
        "maxmemory": "64mb",
        "maxmemory-policy": "volatile-lru",
    }
    write_private(configuration, "".join(f"{name} {value}\n" for name, value in lines.items()))
    shutil.chown(configuration, user)
    REDIS.start([*_as(user), program, str(configuration)], lambda: _redis_answers(settings), timeout=20)


def _redis_answers(settings: Settings) -> bool:
    words = ["redis-cli", "-h", ADDRESS, "-p", str(settings.redis_port), "--no-auth-warning", "ping"]
    login: Mapping[str, str] = {**os.environ, "REDISCLI_AUTH": Secrets.load().redis_password}
    try:
        return "PONG" in run(words, env=login, timeout=5)
    except CommandFailed:
        return False
