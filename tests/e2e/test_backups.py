"""A tenant's data on real PostgreSQL and real volumes: copied while it is served, and put back, also under kill -9."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant, condition
from tests.e2e.test_crashes import kill_at

from dotmac_operator.core.archive import ARCHIVE_COMMAND, Job

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "orion"
# Names that a shell, or tar, could stumble over; rights; a link; what a dot hides.
WRITE = """set -eu
cd /data
mkdir -p 'in voices/2026' .hidden
printf one > 'in voices/2026/-rf *'
printf two > .hidden/..odd
chmod 600 'in voices/2026/-rf *'
ln -sf nowhere dangling
"""
WRECK = """set -eu
cd /data
rm -rf 'in voices' .hidden dangling
printf virus > virus.exe
mkdir -p .hidden
printf three > .hidden/other
"""
LIST = "cd /data && find . -printf '%p %y %m %U:%G %l\\n' | sort && find . -type f -exec sha256sum {} + | sort"


def sql(tenant: Tenant, statement: str, database: str = "erp") -> list[str]:
    argv = ("psql", "-U", "erp", "-d", database, "--tuples-only", "--no-align", "-c", statement)
    return tenant.exec("database", *argv).splitlines()


def job(kind: str, name: str, **spec: object) -> releases.Object:
    made = releases.resource(kind, name, {"instanceRef": {"name": NAME}, **spec})
    made["metadata"]["namespace"] = releases.NAMESPACE
    return made


def ended(platform: Platform, kind: str, name: str, seconds: float = 60) -> releases.Object:
    def look() -> releases.Object | None:
        found = platform.get(kind, name)
        return found if found and found["status"].get("phase") in ("Completed", "Failed") else None

    return platform.wait(f"{kind} {name} has ended", look, seconds, about=NAME)


def completed(platform: Platform, kind: str, name: str) -> releases.Object:
    found = ended(platform, kind, name)
    assert found["status"]["phase"] == "Completed", f"{found['status']}\n{platform.explain(NAME)}"
    return found


def one_shots(tenant: Tenant) -> list[str]:
    return tenant.host.docker("ps", "-a", "--filter", "label=platform.dotmac.io/job", "--format", "{{.Names}}").split()


def volume(tenant: Tenant, name: str) -> Path:
    (found,) = json.loads(tenant.host.docker("volume", "inspect", f"dotmac-{NAME}-{name}"))
    return Path(found["Mountpoint"])


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    shot = {"image": "postgresql", "command": ["sh", "-c", releases.MAKE_ORDERS], "timeout": 60}
    platform.apply(releases.sample("orion-1", "1.0", releases.SAMPLE_1, env=releases.PSQL_ENV, migrate=shot))
    with platform.tenant(releases.instance(NAME, "orion-1", serverRef={"name": "two"})) as made:
        yield made
        for kind, name in (("Restore", "back"), ("Restore", "killed"), ("Restore", "wrong"), ("Backup", "full")):
            platform.delete(kind, name)
            platform.wait(f"{kind} {name} is gone", lambda k=kind, n=name: platform.get(k, n) is None)  # type: ignore[misc]


@pytest.fixture(scope="module")
def backup(platform: Platform, tenant: Tenant) -> releases.Object:
    """A full one of one order and a few files."""
    sql(tenant, "INSERT INTO orders VALUES (1)")
    tenant.exec("web", "sh", "-c", WRITE)
    platform.apply(job("Backup", "full"))
    return completed(platform, "Backup", "full")


@pytest.fixture(scope="module")
def before(tenant: Tenant, backup: releases.Object) -> str:
    """What the volume has, in every detail."""
    return tenant.exec("web", "sh", "-c", LIST)


def wreck(tenant: Tenant) -> None:
    sql(tenant, "INSERT INTO orders VALUES (2)")
    tenant.exec("web", "sh", "-c", WRECK)


def assert_back(platform: Platform, tenant: Tenant, before: str) -> None:
    platform.wait_ready(NAME)
    assert sql(tenant, "SELECT * FROM orders") == ["1"]
    assert tenant.exec("web", "sh", "-c", LIST) == before
    assert tenant.ask().json()["database"] is True
    assert one_shots(tenant) == []
    (kept,) = sql(tenant, "SELECT datname FROM pg_database WHERE datname LIKE 'erp\\_before\\_%'")
    assert sql(tenant, "SELECT * FROM orders ORDER BY id", kept) == ["1", "2"], "what was there is kept beside"


def test_the_files_are_as_they_are_told(platform: Platform, tenant: Tenant, backup: releases.Object) -> None:
    status = backup["status"]
    assert [file["kind"] for file in status["files"]] == ["Database", "Volume"]
    for file in status["files"]:
        found = volume(tenant, "backups") / file["name"]
        assert hashlib.sha256(found.read_bytes()).hexdigest() == file["sha256"]
        assert found.stat().st_size == file["size"]
        assert found.stat().st_mode & 0o77 == 0, "nobody else reads them"
    assert one_shots(tenant) == []
    assert tenant.status["lastBackup"]["file"] == status["files"][0]["name"]
    assert condition(tenant.object, "BackupHealthy")["status"] == "True"  # type: ignore[index]
    assert tenant.credentials()["database-password"] not in json.dumps(backup) + platform.operator.text()


def test_the_data_is_back(platform: Platform, tenant: Tenant, before: str) -> None:
    wreck(tenant)
    assert tenant.exec("web", "sh", "-c", LIST) != before
    platform.apply(job("Restore", "back", backupRef={"name": "full"}))
    completed(platform, "Restore", "back")
    assert_back(platform, tenant, before)


def test_killed_in_the_middle_it_ends_the_same(platform: Platform, tenant: Tenant, before: str) -> None:
    wreck(tenant)
    mark = platform.operator.mark()
    platform.apply(job("Restore", "killed", backupRef={"name": "full"}))
    found = platform.get("Restore", "killed")
    assert found is not None
    uid = found["metadata"]["uid"]
    shot = Job("Restore", releases.NAMESPACE, "killed", uid, "", "").hash("database")[:8]
    kill_at(platform, mark, f"run container dotmac-{NAME}-restore-{shot}")
    platform.operator.start()
    completed(platform, "Restore", "killed")
    assert_back(platform, tenant, before)


def test_a_file_that_was_changed_is_refused_and_nothing_is_touched(
    platform: Platform, tenant: Tenant, backup: releases.Object
) -> None:
    file = volume(tenant, "backups") / backup["status"]["files"][1]["name"]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    ids, listed = tenant.ids(), tenant.exec("web", "sh", "-c", LIST)
    platform.apply(job("Restore", "wrong", backupRef={"name": "full"}))
    found = ended(platform, "Restore", "wrong")
    stalled = condition(found, "Stalled")
    assert stalled is not None
    assert (found["status"]["phase"], stalled["reason"]) == ("Failed", "ChecksumMismatch")
    assert "nothing was changed" in stalled["message"]
    assert (tenant.ids(), tenant.exec("web", "sh", "-c", LIST)) == (ids, listed)
    platform.wait("its one-shot is gone", lambda: one_shots(tenant) == [])
    file.write_bytes(content)


def test_a_full_disk_leaves_no_half_of_a_file(tenant: Tenant) -> None:
    host = tenant.host
    name = host.docker(
        "run", "--detach", "--network", "none", "--user", "0:0", "--tmpfs", "/dotmac/backups:size=64k", "--env",
        "BACKUP_PATH=x", "--env", "BACKUP_VOLUMES=lib", "--volume", f"dotmac-{NAME}-database:/dotmac/volumes/lib:ro",
        "--entrypoint", "sh", releases.POSTGRESQL, "-c",
        f"sh -c '{ARCHIVE_COMMAND[2].replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}'; echo code $?;"
        " ls -A /dotmac/backups/x",
    ).strip()  # fmt: skip
    host.docker("wait", name)
    told = host.docker("logs", name)
    host.docker("rm", name)
    assert told.splitlines()[-1].startswith("code "), told
    assert told.splitlines()[-1] != "code 0"


def test_its_files_go_with_it(platform: Platform, tenant: Tenant, backup: releases.Object) -> None:
    directory = (volume(tenant, "backups") / backup["status"]["files"][0]["name"]).parent
    assert directory.is_dir()
    platform.delete("Backup", "full")
    platform.wait("Backup full is gone", lambda: platform.get("Backup", "full") is None)
    assert not directory.exists()
    platform.wait("it is no last backup any more", lambda: "lastBackup" not in tenant.status)
