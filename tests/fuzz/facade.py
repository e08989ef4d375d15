"""A facade with two tenants on real PostgreSQL, Redis and embedded control plane, served by a process of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psycopg
from cryptography.fernet import Fernet
from redis import Redis
from redis.exceptions import RedisError
from tests.api.conftest import Accounts
from tests.kits.controlplane import ControlPlane, start
from tests.kits.postgres import postgres
from tests.kits.redis import redis_server
from tests.kits.resources import API, backup, instance, plan, release, restore, server
from tests.kits.served import served

from dotmac_api.facade import build_facade
from dotmac_api.migrations import upgrade
from dotmac_api.settings import Settings, random_key

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = {"root": None, "acme": ["ACME"], "globex": ["GLOBEX"]}
"""User name -> the organisations that the account is limited to; all are administrators."""


@dataclass
class Facade:
    """The served facade. `tokens` are access tokens by user name; they stay good whatever a request does to them."""

    url: str
    database_url: str
    redis_url: str
    log: Path
    tokens: dict[str, str] = field(repr=False)

    def client(self, username: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.tokens[username]}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=30, trust_env=False)

    def lines(self) -> list[dict[str, Any]]:
        """Its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def failures(self) -> list[str]:
        """What nobody foresaw, by its log."""
        return [f"{line['message']}\n{line.get('exc_info', '')}" for line in self.lines() if line["level"] == "ERROR"]

    def tally(self) -> list[str]:
        """Of each account: how many requests, to how many endpoints, with which statuses."""
        counts: dict[str, Counter[str]] = {}
        routes: dict[str, set[str]] = {}
        for line in self.lines():
            if line["name"] == "dotmac_api.access":
                who, (method, route, status) = line["person"] or "nobody", line["message"].split()
                counts.setdefault(who, Counter())[status] += 1
                routes.setdefault(who, set()).add(f"{method} {route}")
        return [
            f"{who}: {made.total()} requests to {len(routes[who])} endpoints; "
            + ", ".join(f"{status}: {count}" for status, count in sorted(made.items()))
            for who, made in counts.items()
        ]


async def _accounts(settings: Settings) -> dict[str, str]:
    """Makes the people of PEOPLE, signed in for a day; returns their access tokens."""
    await upgrade(settings)
    facade = build_facade(settings)
    try:
        made = {
            username: await Accounts(facade).make("admin", username=username, organisations=organisations)
            for username, organisations in PEOPLE.items()
        }
        return {
            name: facade.tokens.issue(one.person_id, one.session_id, 86_400, ["admin"], [])
            for name, one in made.items()
        }
    finally:
        await facade.close()


class _Operator(BaseHTTPRequestHandler):
    """Answers in place of the operator, whose hosts do not exist here; each log names its tenant."""

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        path = self.path.partition("?")[0]
        name, _, question = path.rpartition("/")
        words = {"container": "web-1", "role": "web", "time": "2026-11-23T00:00:00Z", "stream": "stdout"}
        answers = {
            "logs": {**words, "line": f"log of {name.rpartition('/')[2]}"},
            "usage": {"containers": [], "volumes": []},
            "health": {"components": []},
        }
        body = json.dumps(answers[question]).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def _operator() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Operator)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving() -> Iterator[Facade]:
    """The facade, with something of each tenant in every list."""
    with ExitStack() as parts:
        directory = Path(parts.enter_context(TemporaryDirectory(prefix="dotmac-fuzz-")))
        database, redis = parts.enter_context(postgres()), parts.enter_context(redis_server())
        cluster = start(directory / "control-plane")
        parts.callback(cluster.stop)
        cluster.apply_crds()
        for obj in (server(), release(), plan(), instance("acme"), instance("globex")):
            cluster.create(obj)
        for name in ("acme", "globex"):
            _backed_up(cluster, name)
        values = {
            "database_url": database.create("fuzz"),
            "redis_url": redis.url,
            "jwt_keys": json.dumps({"fuzz": random_key()}),
            "api_key_pepper": random_key(),
            "encryption_keys": Fernet.generate_key().decode(),
            "kubeconfig": str(cluster.kubeconfig),
            "operator_url": parts.enter_context(_operator()),
            "operator_token": random_key(),
            # What is fuzzed must not reach out: neither to receivers of webhooks nor by mail.
            "webhooks_enabled": "0",
            "auth_session_rate_max": "10000000",
        }
        tokens = asyncio.run(_accounts(Settings.model_validate(values)))
        log = directory / "facade.log"
        url = parts.enter_context(served(values, log))
        made = Facade(url, values["database_url"], redis.url, log, tokens)
        _await_mirror(made)
        parts.enter_context(_kept_signed_in(made))
        _populate(made)
        yield made


def _backed_up(cluster: ControlPlane, name: str) -> None:
    """A backup that can be restored, one that waits, and a restore."""
    for obj in (backup(f"{name}-monday", name), backup(f"{name}-tuesday", name)):
        cluster.create(obj)
    cluster.create(restore(f"{name}-back", name, f"{name}-monday"))
    for plural, one in (("backups", f"{name}-monday"), ("restores", f"{name}-back")):
        path = f"/apis/{API}/namespaces/default/{plural}/{one}/status"
        headers = {"Content-Type": "application/merge-patch+json"}
        done = cluster.client.patch(path, json={"status": {"phase": "Completed"}}, headers=headers)
        assert done.status_code == 200, done.text


def _await_mirror(facade: Facade) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{facade.url}/health/ready", trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the facade was not ready within 60 s:\n{facade.log.read_text()[-3000:]}")


@contextmanager
def _kept_signed_in(facade: Facade) -> Iterator[None]:
    """A fuzzed administrator signs itself out, or drops its own roles: this undoes it, again and again."""
    over = threading.Event()
    names = list(PEOPLE)
    statements = (
        "UPDATE people SET status = 'active' FROM user_credentials c"
        " WHERE c.person_id = people.id AND c.username = ANY(%s)",
        "UPDATE user_credentials SET is_active = true, must_change_password = false WHERE username = ANY(%s)",
        "UPDATE sessions SET revoked_at = NULL, expires_at = now() + interval '1 day' FROM user_credentials c"
        " WHERE c.id = sessions.credential_id AND c.username = ANY(%s)",
        "INSERT INTO person_roles (person_id, role_id) SELECT c.person_id, r.id FROM user_credentials c, roles r"
        " WHERE r.name = 'admin' AND c.username = ANY(%s) ON CONFLICT DO NOTHING",
    )

    def keep() -> None:
        with (
            psycopg.connect(facade.database_url, autocommit=True) as connection,
            Redis.from_url(facade.redis_url) as redis,
        ):
            while not over.wait(0.3):
                with suppress(psycopg.Error, RedisError):
                    for statement in statements:
                        connection.execute(statement, [names])
                    redis.flushall()

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _populate(facade: Facade) -> None:
    """Something of each tenant, made by its own administrator, and something of the platform."""
    for username, organisations in PEOPLE.items():
        with facade.client(username) as client:
            code = organisations[0] if organisations else None
            person = {"first_name": "Ann", "last_name": code or "Root", "email": f"ann@{username}.example"}
            made = _created(client, "/people", {**person, "organisations": organisations})
            credential = {"username": f"ann-{username}", "password": "correct horse battery staple"}
            _created(client, "/user-credentials", {**credential, "person_id": made["id"]})
            webhook = {"url": f"https://hooks.{username}.example/in", "organisations": organisations}
            _created(client, "/webhooks", webhook)
            _created(client, "/api-keys/generate", {"label": f"of {username}", "scopes": ["instances:read"]})


def _created(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code in (200, 201, 202), f"{path}: {answer.text}"
    made: dict[str, Any] = answer.json()
    return made


LISTS = {
    "instance_id": "/instances",
    "server_id": "/servers",
    "webhook_id": "/webhooks",
    "person_id": "/people",
    "credential_id": "/user-credentials",
    "session_id": "/sessions",
    "key_id": "/api-keys",
    "event_id": "/audit-events",
}
"""Name of the path parameter -> the list whose ids it takes."""
OF_INSTANCES = {"backup_id": "backups", "restore_id": "restores"}
"""The same, of each instance."""


def ids_of(facade: Facade, username: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Parameter -> id -> row, of all that an account can list."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    with facade.client(username) as client:
        for parameter, path in LISTS.items():
            answer = client.get(path, params={"limit": 100})
            assert answer.status_code == 200, f"{path}: {answer.text}"
            rows = answer.json()["items"]
            found[parameter] = {row.get(parameter) or row["id"]: row for row in rows}
        for parameter, noun in OF_INSTANCES.items():
            found[parameter] = {}
            for uid in found["instance_id"]:
                answer = client.get(f"/instances/{uid}/{noun}", params={"limit": 100})
                assert answer.status_code == 200, f"{noun} of {uid}: {answer.text}"
                found[parameter] |= {row[parameter]: row for row in answer.json()["items"]}
    return found


def foreign(facade: Facade, owner: str, stranger: str) -> dict[str, dict[str, dict[str, Any]]]:
    """What the one can list and the other cannot."""
    theirs, ours = ids_of(facade, owner), ids_of(facade, stranger)
    return {name: {uid: row for uid, row in rows.items() if uid not in ours[name]} for name, rows in theirs.items()}
