"""Planted secrets are found in the containers that need them, and nowhere else.

Where they may be: in Kubernetes Secrets, in the environment of the tenant's own processes, and in Docker's own records
of its containers, which all root alone can read: `containers/<id>/config.v2.json` under its data directory, and
containerd's: the `config.json` that it hands to runc, and its database `meta.db`. Whatever gives a container a variable
leaves it there; no client of the Engine can have it otherwise.
"""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant
from tests.kits.dockerhost import DockerHost

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "canary"
ADMIN, FROM, KEYED = "canary-Admin-7f3a9", "canary-From-51bc0", "canary-Keyed-e88d2"
DOCKERS_OWN = re.compile(
    r"/docker/containers/[0-9a-f]{64}/(\.tmp-)?config\.v2\.json\d*$"
    r"|/io\.containerd\.runtime\.v2\.task/moby/[0-9a-f]{64}/config\.json$"
    r"|/docker/containerd/daemon/io\.containerd\.metadata\.v1\.bolt/meta\.db$"
)
OWN_KEYS = {"hash-key", "database-password", "app-token", "fernet-key"}


class ArgvWatch:
    """Reads the command lines of all processes of this machine, and so of its hosts, again and again.

    A process has to live for some 20 ms to be seen for sure.
    """

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.rounds = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "ArgvWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self.rounds += 1
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open(f"/proc/{pid}/cmdline", "rb") as line:  # noqa: PTH123 - a thousand times a second
                        self.seen.add(line.read())
                except OSError:
                    continue


@pytest.fixture(scope="module")
def began() -> float:
    return time.time()


@pytest.fixture(scope="module")
def mark(platform: Platform) -> int:
    return platform.operator.mark()


@pytest.fixture(scope="module")
def argv() -> Iterator[ArgvWatch]:
    with ArgvWatch() as watch:
        yield watch


@pytest.fixture(scope="module")
def tenant(platform: Platform, began: float, mark: int, argv: ArgvWatch) -> Iterator[Tenant]:
    """Deployed with every kind of secret, after the watchers began; it also has an upgrade behind it."""
    spec = releases.sample("canaries", "1.0", releases.SAMPLE_1)["spec"]
    spec["images"]["redis"] = releases.REDIS
    spec["cache"] = {"image": "redis"}
    spec["secrets"] = [{"name": "app-token"}, {"name": "fernet-key", "alphabet": "Fernet"}]
    spec["env"] += [
        {"name": "ADMIN_PASSWORD", "from": "admin.password"},
        {"name": "DATABASE_URL", "from": "database.url"},
        {"name": "CACHE_URL", "from": "cache.url"},
        {"name": "TOKEN", "from": "secret.app-token"},
        {"name": "FERNET", "from": "secret.fernet-key"},
    ]
    platform.apply(
        releases.secret("canary-secrets", password=ADMIN, keyed=KEYED),
        releases.secret("canary-from", CANARY=FROM),
        releases.resource("Release", "canaries", spec),
        releases.resource("Release", "canaries-2", {**spec, "version": "2.0"}),
    )
    with platform.tenant(canary("canaries")) as made:
        platform.apply(canary("canaries-2"))
        platform.wait_ready(NAME)
        yield made


def canary(release: str) -> releases.Object:
    return releases.instance(
        NAME,
        release,
        domains=[{"host": f"{NAME}.one.example", "tls": "Off"}],
        admin={"email": "a@b.example", "passwordSecretRef": {"name": "canary-secrets", "key": "password"}},
        envFrom=[{"secretRef": {"name": "canary-from"}}],
        env=[{"name": "KEYED", "secretKeyRef": {"name": "canary-secrets", "key": "keyed"}}],
    )


@pytest.fixture(scope="module")
def canaries(tenant: Tenant) -> dict[str, str]:
    """What must not be found: name -> value."""
    own = tenant.credentials()
    assert set(own) >= OWN_KEYS and "admin-password" not in own
    assert all(len(value) >= 16 for value in own.values())
    # One line of the key's body: line ends and headers may be written in several ways.
    key = tenant.host.private_key.splitlines()[2]
    return {"admin": ADMIN, "envFrom": FROM, "keyed": KEYED, "ssh": key, **own}


def found_in(text: str, canaries: dict[str, str]) -> list[str]:
    return [name for name, value in canaries.items() if value in text]


def test_the_containers_have_them(tenant: Tenant, canaries: dict[str, str]) -> None:
    """Else the rest of this file would prove nothing."""
    environment = tenant.exec("web", "sh", "-c", "tr '\\0' '\\n' < /proc/self/environ")
    for name in ("admin", "envFrom", "keyed", "database-password", "cache-password", "app-token", "fernet-key"):
        assert canaries[name] in environment, name


def test_no_object_but_the_secrets_tells_them(platform: Platform, tenant: Tenant, canaries: dict[str, str]) -> None:
    objects = [
        platform.get("Instance", NAME),
        platform.get("Server", "one"),
        platform.events(NAME),
        platform.events("one"),
    ]
    assert platform.events(NAME), "there are events to look into"
    assert found_in(json.dumps(objects), canaries) == []


def test_the_operator_does_not_log_them(
    platform: Platform, tenant: Tenant, mark: int, canaries: dict[str, str]
) -> None:
    log = platform.operator.text(mark)
    assert '"level": "DEBUG"' in log
    assert found_in(log, canaries) == []


def test_no_command_line_shows_them(tenant: Tenant, argv: ArgvWatch, canaries: dict[str, str]) -> None:
    assert argv.rounds > 50
    seen = b"\n".join(argv.seen).decode(errors="replace")
    assert "dial-stdio" in seen and "redis-server" in seen and "pg_dump" in seen, (
        "the watch sees what runs on the hosts"
    )
    assert found_in(seen, canaries) == []


def test_docker_shows_them_in_the_environment_only(tenant: Tenant, canaries: dict[str, str]) -> None:
    for container in tenant.containers():
        environment = container["Config"].pop("Env")
        assert environment
        assert found_in(json.dumps(container), canaries) == [], container["Name"]
    assert found_in(json.dumps([tenant.networks(), tenant._inspect("volume")]), canaries) == []
    for container in tenant.containers():
        assert found_in(tenant.host.docker("logs", container["Id"]), canaries) == []


def test_no_file_of_the_host_holds_them(tenant: Tenant, began: float, canaries: dict[str, str]) -> None:
    files = [path for path in written_since(tenant.host, began) if not DOCKERS_OWN.search(str(path))]
    assert any("pg_wal" in str(path) for path in files), "the tenant's own data was looked through too"
    holding = {}
    for path in files:
        try:
            content = path.read_bytes()
        except OSError:
            continue
        names = [name for name, value in canaries.items() if value.encode() in content]
        if names:
            holding[str(path)] = names
    assert holding == {}


def written_since(host: DockerHost, moment: float) -> list[Path]:
    """Files that changed on a host: everything under its own directories, and what its user owns where anybody may
    write. (Hosts share this machine's file system. The key pair of the kit, which is of no real host, is older.)"""
    changed = ["-type", "f", "-newerct", f"@{moment:.3f}", "-print0"]
    own = ["find", str(host.directory), str(host._runtime), *changed]
    users = ["find", "/tmp", "/var/tmp", "/dev/shm", "/run", "/home", "-xdev", "-user", host.user, *changed]
    found = b"".join(subprocess.run(argv, capture_output=True, check=False).stdout for argv in (own, users))
    return [Path(name.decode()) for name in found.split(b"\0") if name]
