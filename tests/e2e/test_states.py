"""An Instance that is stopped, archived, brought back, recreated and held, on a real proxy and a real Engine."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant, condition
from tests.e2e.test_changes import quiet
from tests.e2e.test_crashes import kill_at
from tests.e2e.test_rollback import restore, sql

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "sun"
ROWS = "SELECT count(*), sum(id), md5(string_agg(name, ',' ORDER BY id)) FROM orders"


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    with platform.tenant(sun()) as made:
        yield made


def sun(release: str = "sample-1", **changes: Any) -> releases.Object:
    return releases.instance(NAME, release, serverRef={"name": "two"}, **changes)


def edit(platform: Platform, **spec: Any) -> None:
    platform.patch("Instance", NAME, {"spec": spec})


def annotate(platform: Platform, **notes: str) -> None:
    named = {f"platform.dotmac.io/{name.replace('_', '-')}": value for name, value in notes.items()}
    platform.patch("Instance", NAME, {"metadata": {"annotations": named}})


def running(tenant: Tenant) -> set[str]:
    """Roles with a container that runs."""
    labels = (c["Config"]["Labels"] for c in tenant.containers() if c["State"]["Running"])
    return {own["platform.dotmac.io/role"] for own in labels}


def container_ids(tenant: Tenant) -> dict[str, str]:
    return {c["Name"]: c["Id"] for role in ("web", "worker", "database") for c in tenant.containers(role)}


def wait_state(platform: Platform, tenant: Tenant, reason: str) -> None:
    """Until it is stopped as asked, which is Ready, too: what waits for Ready comes to its end."""
    platform.wait_condition("Instance", NAME, "Suspended", "True", reason=reason)
    platform.wait_ready(NAME)
    assert running(tenant) == set()


def test_killed_while_it_stops_it_ends_suspended_with_a_page(platform: Platform, tenant: Tenant) -> None:
    before, volumes = container_ids(tenant), tenant.volumes()
    mark = platform.operator.mark()
    edit(platform, state="Suspended")
    kill_at(platform, mark, f"stop container dotmac-{NAME}-web-")
    platform.operator.start()
    wait_state(platform, tenant, "Suspended")
    answer = tenant.ask()
    assert (answer.status_code, answer.headers["Retry-After"], answer.headers["Cache-Control"]) == (
        503, "3600", "no-store",
    )  # fmt: skip
    assert "This service is suspended" in answer.text
    assert (container_ids(tenant), tenant.volumes()) == (before, volumes)
    assert tenant.status["phase"] == "Suspended"


def test_suspended_is_quiet_and_not_updated(platform: Platform, tenant: Tenant) -> None:
    before = tenant.ids()
    edit(platform, releaseRef={"name": "sample-2"})
    wait_state(platform, tenant, "Suspended")
    platform.operator.restart()
    platform.wait("it is at rest", lambda: quiet(platform, seconds=1.5))
    assert tenant.ids() == before
    assert tenant.status["release"]["current"] == "sample-1"
    edit(platform, releaseRef={"name": "sample-1"})


def test_running_again_it_has_the_same_containers(platform: Platform, tenant: Tenant) -> None:
    before = container_ids(tenant)
    edit(platform, state="Running")
    platform.wait_ready(NAME)
    assert container_ids(tenant) == before
    assert tenant.ask().json() | {"host": "", "requested": ""} == {
        "version": "1", "host": "", "requested": "", "database": True, "cache": None,
    }  # fmt: skip
    assert tenant.runs() == ["migrate 1", "bootstrap 1"]
    assert condition(tenant.object, "Suspended") is None


def test_killed_while_it_is_archived_it_ends_as_data_alone_with_a_dump(platform: Platform, tenant: Tenant) -> None:
    sql(tenant, "CREATE TABLE orders AS SELECT n AS id, 'order ' || n AS name FROM generate_series(1, 500) AS n")
    volumes, credentials = tenant.volumes(), tenant.credentials()
    mark = platform.operator.mark()
    edit(platform, state="Archived")
    kill_at(platform, mark, f"run container dotmac-{NAME}-backup-")
    platform.operator.start()
    wait_state(platform, tenant, "Archived")
    assert (tenant.containers(), tenant.networks()) == ([], [])
    assert (tenant.volumes(), tenant.credentials()) == (volumes, credentials)
    answer = tenant.ask()
    assert (answer.status_code, answer.headers["Cache-Control"]) == (410, "no-store")
    backup = tenant.status["lastBackup"]
    told = tenant.host.docker(
        "run", "--rm", "--user", "0", "--network", "none", "--volume", f"dotmac-{NAME}-backups:/backups",
        "--entrypoint", "sh", releases.POSTGRESQL, "-c", 'cd /backups && sha256sum "$0"', backup["file"],
    )  # fmt: skip
    assert told.split()[0] == backup["sha256"]


def test_back_from_archived_it_is_the_same_tenant(platform: Platform, tenant: Tenant) -> None:
    volumes, credentials = tenant.volumes(), tenant.credentials()
    edit(platform, state="Running")
    platform.wait_ready(NAME)
    assert (tenant.volumes(), tenant.credentials()) == (volumes, credentials)
    assert tenant.ask().json()["database"] is True
    assert tenant.runs() == ["migrate 1", "bootstrap 1"], "neither is repeated"
    assert sql(tenant, ROWS)[0].startswith("500|125250|")


def test_the_last_dump_of_an_archive_can_be_restored(tenant: Tenant) -> None:
    rows, backup = sql(tenant, ROWS), tenant.status["lastBackup"]
    sql(tenant, "UPDATE orders SET name = 'lost' WHERE id > 7")
    sql(tenant, "DELETE FROM orders WHERE id > 99")
    assert sql(tenant, ROWS) != rows
    assert restore(tenant, backup["file"], backup["sha256"], "erp_before_0000test")[0] == 0
    assert sql(tenant, ROWS) == rows


def test_recreate_shows_a_page_and_never_two_versions(platform: Platform, tenant: Tenant) -> None:
    edit(platform, update={"strategy": "Recreate"}, releaseRef={"name": "sample-2"})
    answers: set[tuple[int, str]] = set()

    def updated() -> bool:
        webs = [c for c in tenant.containers("web") if c["State"]["Running"]]
        assert len(webs) <= 1
        answer = tenant.ask()
        json = answer.headers["Content-Type"] == "application/json"
        answers.add((answer.status_code, answer.json()["version"] if json else answer.headers["X-Dotmac-State"]))
        return (200, "2") in answers

    platform.wait("version 2 serves", updated, about=NAME)
    assert answers <= {(200, "1"), (503, "Updating"), (200, "2")}
    platform.wait_ready(NAME)
    assert len(tenant.containers("web")) == 1


def test_a_change_waits_for_approval_and_window_and_a_restart_is_one(platform: Platform, tenant: Tenant) -> None:
    before = container_ids(tenant)
    day = (datetime.now(UTC) + timedelta(days=3)).strftime("%a")
    edit(
        platform,
        update={"strategy": "ZeroDowntime"},
        approval="Required",
        maintenanceWindows=[{"days": [day], "start": "03:00", "duration": 60, "timezone": "Africa/Lagos"}],
    )
    platform.wait_ready(NAME)
    annotate(platform, restart_requested_at="now")
    platform.wait_condition("Instance", NAME, "ApprovalNeeded", "True")
    annotate(platform, approve=tenant.status["plan"]["hash"])
    platform.wait_condition("Instance", NAME, "Ready", "Unknown", reason="WaitingForWindow")
    assert tenant.status["nextWindow"].endswith("T02:00:00Z")
    assert container_ids(tenant) == before
    statuses = set()
    annotate(platform, force_window="true")

    def restarted() -> bool:
        statuses.add(tenant.ask().status_code)
        ready = condition(tenant.object, "Ready")
        return bool(ready and ready["status"] == "True") and tenant.status.get("lastHandledRestartAt") == "now"

    platform.wait("the new containers serve", restarted, about=NAME)
    assert statuses == {200}
    after = container_ids(tenant)
    assert {name for name in before if "-database-" in name} == {name for name in before if name in after}


def test_a_trial_ends_on_the_second(platform: Platform, tenant: Tenant) -> None:
    end = datetime.now(UTC) + timedelta(seconds=4)
    edit(platform, trial={"expiresAt": end.strftime("%Y-%m-%dT%H:%M:%SZ")})
    platform.wait_ready(NAME)
    wait_state(platform, tenant, "TrialExpired")
    assert tenant.ask().status_code == 503


def test_the_last_dump_outlives_a_deletion_with_the_data(platform: Platform, tenant: Tenant) -> None:
    """Its database stands still, and is started once more for it."""
    edit(platform, deletion={"policy": "Delete", "finalBackup": True})
    host = tenant.host
    platform.delete("Instance", NAME)
    platform.wait_gone(NAME)
    left = host.docker("volume", "ls", "--quiet", "--filter", f"name=dotmac-{NAME}-").split()
    assert left == [f"dotmac-{NAME}-backups"]
    told = host.docker(
        "run", "--rm", "--user", "0", "--network", "none", "--volume", f"{left[0]}:/backups", "--entrypoint", "sh",
        releases.POSTGRESQL, "-c", "cd /backups && sha256sum -c *-final-*.sha256",
    )  # fmt: skip
    assert told.count(": OK") == 2, "the one of the archive and that of the deletion"
    host.docker("volume", "rm", left[0])
