"""A migration that fails half-way on a real PostgreSQL: the database is set back, also under kill -9.

`DOTMAC_TEST_LONG=1` adds the one that waits 90 s for the previous version before it does so.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant, condition
from tests.e2e.test_crashes import kill_at
from tests.e2e.test_rolling import long

from dotmac_operator.core.database import RESTORE_COMMAND
from dotmac_operator.core.rollback import PATIENCE

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "nova"
BREAK = (
    "psql -v ON_ERROR_STOP=1 -c 'ALTER TABLE orders RENAME TO orders_of_two' -c 'INSERT INTO orders_of_two VALUES (2)';"
    ' echo "cannot go on with $PGPASSWORD"; exit 3'
)


def release(name: str, version: str, script: str, **migrate: Any) -> releases.Object:
    shot = {"image": "postgresql", "command": ["sh", "-c", script], "timeout": 60, **migrate}
    return releases.sample(name, version, releases.SAMPLE_1, env=releases.PSQL_ENV, migrate=shot)


def nova(wanted: str, **changes: Any) -> releases.Object:
    return releases.instance(NAME, wanted, serverRef={"name": "two"}, **changes)


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    platform.apply(
        release("nova-1", "1.0", releases.MAKE_ORDERS),
        release("nova-2", "2.0", BREAK, onFailure="Restore"),
        release("nova-3", "3.0", BREAK),
    )
    with platform.tenant(nova("nova-1")) as made:
        sql(made, "INSERT INTO orders VALUES (1)")
        yield made


def sql(tenant: Tenant, statement: str, database: str = "erp") -> list[str]:
    argv = ("psql", "-U", "erp", "-d", database, "--tuples-only", "--no-align", "-c", statement)
    return tenant.exec("database", *argv).splitlines()


def taken_back(platform: Platform, tenant: Tenant) -> None:
    found = platform.wait_condition("Instance", NAME, "Stalled", "True", reason="UpgradeRolledBack", seconds=60)
    stalled = condition(found, "Stalled")
    assert stalled is not None
    assert "step migrate: migrate ended with exit code 3" in stalled["message"]
    assert "cannot go on with ***" in stalled["message"]
    assert tenant.credentials()["database-password"] not in json.dumps(found)
    assert tenant.ask().json()["database"] is True
    for role in ("backup", "restore"):
        assert tenant.containers(role) == []


def test_a_database_that_was_half_migrated_is_set_back(platform: Platform, tenant: Tenant) -> None:
    web, volumes = tenant.containers("web")[0]["Id"], tenant.volumes()
    platform.apply(nova("nova-2"))
    taken_back(platform, tenant)
    assert sql(tenant, "SELECT * FROM orders") == ["1"]
    assert sql(tenant, "SELECT to_regclass('orders_of_two') IS NULL") == ["t"]
    (kept,) = sql(tenant, "SELECT datname FROM pg_database WHERE datname LIKE 'erp\\_before\\_%'")
    assert sql(tenant, "SELECT * FROM orders_of_two", kept) == ["1", "2"], "what was there is kept beside"
    assert tenant.containers("web")[0]["Id"] == web
    assert tenant.volumes() == volumes
    back = tenant.status["rollback"]
    assert (back["previous"], back["target"]) == ("nova-1", "nova-2")
    assert kept in back["reason"]


@pytest.mark.parametrize("action", ["stop container dotmac-nova-web", "run container dotmac-nova-restore-"])
def test_killed_in_the_middle_of_a_restore_it_ends_the_same(platform: Platform, tenant: Tenant, action: str) -> None:
    mark = platform.operator.mark()
    again = {"metadata": {"annotations": {"platform.dotmac.io/reconcile-requested-at": action}}}
    sql(tenant, "INSERT INTO orders VALUES (7)")
    before = sql(tenant, "SELECT * FROM orders ORDER BY id")
    platform.patch("Instance", NAME, again)
    kill_at(platform, mark, action, seconds=40)
    platform.operator.start()
    taken_back(platform, tenant)
    assert sql(tenant, "SELECT * FROM orders ORDER BY id") == before, "the dump of this try has what came before it"
    assert len(sql(tenant, "SELECT datname FROM pg_database WHERE datname LIKE 'erp\\_before\\_%'")) == 1
    assert sql(tenant, "SELECT 1 FROM pg_database WHERE datname = 'erp_restoring'") == []


def test_without_need_nothing_that_was_written_is_thrown_away(platform: Platform, tenant: Tenant) -> None:
    """The previous version of this page answers whatever the database is like."""
    platform.apply(nova("nova-3"))
    taken_back(platform, tenant)
    assert sql(tenant, "SELECT to_regclass('orders_of_two') IS NULL") == ["f"]
    sql(tenant, "ALTER TABLE orders_of_two RENAME TO orders")


PAGE = """
use IO::Socket::INET;
$SIG{INT} = $SIG{TERM} = sub { exit 0 };
my $server = IO::Socket::INET->new(LocalPort => 8000, Listen => 16, ReuseAddr => 1) or die $!;
while (my $client = $server->accept) {
    while (<$client>) { last if /^\\r?\\n$/ }
    my $status = system("psql -qtAc 'SELECT id FROM $ENV{TABLE}' >/dev/null") == 0 ? "200 OK" : "500 No such table";
    print $client "HTTP/1.1 $status\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n";
    close $client;
}
"""
"""Answers by what its table is: a version that cannot live with another one's database."""


def particular(name: str, version: str, table: str, script: str) -> releases.Object:
    """A Release that needs `table`. It asks for nothing about its database (migrate.onFailure is the default)."""
    web = {
        "name": "web",
        "image": "postgresql",
        "command": ["perl", "-e", PAGE],
        "port": 8000,
        "expose": True,
        "health": {"http": {"path": "/"}, "interval": 1, "timeout": 2, "retries": 2, "startPeriod": 4},
    }
    env = [*releases.PSQL_ENV, {"name": "TABLE", "value": table}]
    shot = {"image": "postgresql", "command": ["sh", "-c", script], "timeout": 60}
    made = releases.sample(name, version, releases.SAMPLE_1, env=env, roles=[web], volumes=[], migrate=shot)
    del made["spec"]["bootstrap"]
    return made


@long
@pytest.mark.timeout(400)
def test_after_ninety_seconds_without_an_answer_the_database_is_set_back(platform: Platform) -> None:
    """The migration succeeds, its version does not start, and the old one cannot live with what was migrated."""
    rename = "psql -v ON_ERROR_STOP=1 -c 'ALTER TABLE orders RENAME TO orders_of_two'"
    platform.apply(
        particular("fern-1", "1.0", "orders", releases.MAKE_ORDERS),
        particular("fern-2", "2.0", "what_nobody_has_made", rename),
    )
    fern = releases.instance("fern", "fern-1", serverRef={"name": "two"})
    with platform.tenant(fern) as tenant:
        sql(tenant, "INSERT INTO orders VALUES (1)")
        (web,), mark = tenant.containers("web"), platform.operator.mark()
        platform.apply({**fern, "spec": {**fern["spec"], "releaseRef": {"name": "fern-2"}}})
        asked = "request http://fern.two.example/ "
        platform.wait("the old version is asked", lambda: asked in platform.operator.text(mark), 60, about="fern")
        began = time.monotonic()
        sql(tenant, "INSERT INTO orders_of_two VALUES (2)")
        assert tenant.ask().status_code == 500, "it does not live with it"
        assert tenant.containers("restore") == []
        platform.wait("it is set back", lambda: tenant.containers("restore"), PATIENCE + 30, about="fern")
        waited = time.monotonic() - began
        assert PATIENCE - 5 < waited < PATIENCE + 20, f"set back after {waited:.0f} s"
        platform.operator.kill()  # not before there is a restore: a new process would count the seconds anew
        platform.operator.start()
        found = platform.wait_condition("Instance", "fern", "Stalled", "True", reason="UpgradeRolledBack", seconds=90)
        assert "step start: web is" in str(condition(found, "Stalled"))
        assert tenant.ask().status_code == 200
        assert sql(tenant, "SELECT * FROM orders") == ["1"]
        (kept,) = sql(tenant, "SELECT datname FROM pg_database WHERE datname LIKE 'erp\\_before\\_%'")
        assert sql(tenant, "SELECT * FROM orders_of_two", kept) == ["1", "2"], "what was written since is kept beside"
        assert kept in tenant.status["rollback"]["reason"]
        assert [c["Id"] for c in tenant.containers("web")] == [web["Id"]]
        assert tenant.status["release"]["current"] == "fern-1"


def test_a_restore_by_itself(platform: Platform, tenant: Tenant) -> None:
    """What a person, or a later restore, may run: refused without the right checksum, done once for each name."""
    backup = tenant.status["lastBackup"]
    sql(tenant, "CREATE TABLE later (id int)")
    assert restore(tenant, backup["file"], "0" * 64, "erp_before_bad")[0] == 65
    assert sql(tenant, "SELECT to_regclass('later') IS NULL") == ["f"]
    assert restore(tenant, "absent.dump", backup["sha256"], "erp_before_bad")[0] == 65
    assert restore(tenant, backup["file"], backup["sha256"], "erp_before_0000test")[0] == 0
    assert sql(tenant, "SELECT to_regclass('later') IS NULL") == ["t"]
    sql(tenant, "CREATE TABLE later (id int)")
    code, told = restore(tenant, backup["file"], backup["sha256"], "erp_before_0000test")
    assert (code, told.strip()) == (0, "dotmac-restore: done before")
    assert sql(tenant, "SELECT to_regclass('later') IS NULL") == ["f"]
    assert tenant.ask().json()["database"] is True


def restore(tenant: Tenant, file: str, sha256: str, displaced: str) -> tuple[int, str]:
    """Exit code and standard output."""
    env = {
        "PGHOST": "database", "PGUSER": "erp", "PGDATABASE": "postgres", "BACKUP_DIRECTORY": "/dumps",
        "PGPASSWORD": tenant.credentials()["database-password"], "BACKUP_FILE": file, "BACKUP_SHA256": sha256,
        "RESTORE_DATABASE": "erp", "RESTORE_DISPLACED": displaced,
    }  # fmt: skip
    variables = [part for name, value in env.items() for part in ("--env", f"{name}={value}")]
    network, volume = f"dotmac-{tenant.name}", f"dotmac-{tenant.name}-backups:/dumps"
    host = tenant.host
    name = host.docker(
        "run", "--detach", "--network", network, "--volume", volume, *variables, "--entrypoint", RESTORE_COMMAND[0],
        releases.POSTGRESQL, *RESTORE_COMMAND[1:],
    ).strip()  # fmt: skip
    code = int(host.docker("wait", name).strip())
    told = host.docker("logs", name)
    host.docker("rm", name)
    return code, told
