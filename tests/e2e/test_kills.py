"""kill -9 of the operator at each action of a stop, a way back, a Recreate, a rollback and a repair.

`DOTMAC_TEST_LONG=1 pytest tests/e2e/test_kills.py`: minutes. A deploy, an upgrade, a deletion are in test_crashes.py, a
rolling update in test_rolling.py, a restore in test_rollback.py, two operators in test_leader.py. On fakes and on
simulated hosts every call of every journey is a place to die at: tests/operator/reconcile, tests/faults.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant
from tests.e2e.test_crashes import kill_at, nothing_twice
from tests.e2e.test_rolling import long

pytestmark = [pytest.mark.e2e, pytest.mark.docker, long]

NAME = "wind"
WEB, WORKER, DATABASE = (f"container dotmac-{NAME}-{role}-" for role in ("web", "worker", "database"))


@dataclass(frozen=True)
class Journey:
    """An edit, the actions to die at on its way, and how it ends."""

    spec: dict[str, Any]
    actions: tuple[str, ...]
    running: bool = True
    version: str = ""
    """What is served in the end; empty: a page."""
    reason: str = ""
    """Of Stalled; empty: it ends Ready."""
    runs: tuple[str, ...] = ("migrate 1", "bootstrap 1")


STOP_ALL = ("route ", f"stop {WEB}", f"stop {DATABASE}")
BACK = (f"start {DATABASE}", f"start {WEB}", "route ", "request http")
UPGRADED = ("migrate 1", "bootstrap 1", "migrate 2")
UP, RECREATE, ZERO = {"state": "Running"}, {"strategy": "Recreate"}, {"strategy": "ZeroDowntime"}
JOURNEYS = {
    "suspended": Journey({"state": "Suspended"}, STOP_ALL, running=False),
    "back from suspended": Journey(UP, BACK, version="1"),
    "archived": Journey(
        {"state": "Archived"},
        (
            "route ",
            f"stop {WEB}",
            f"run container dotmac-{NAME}-backup-",
            "record backup ",
            f"remove {WEB}",
            f"remove {DATABASE}",
            "remove network ",
        ),
        running=False,
    ),
    "back from archived": Journey(
        UP, ("create network ", f"run {DATABASE}", f"run {WEB}", "route ", "request http"), version="1"
    ),
    "recreated": Journey(
        {"update": RECREATE, "releaseRef": {"name": "sample-2"}},
        (
            f"run container dotmac-{NAME}-backup-",
            "route ",
            f"stop {WEB}",
            f"run container dotmac-{NAME}-migrate-",
            f"run {WEB}",
            "route ",
            "request http",
            f"remove {WEB}",
        ),
        version="2",
        runs=UPGRADED,
    ),
    "recreated and taken back": Journey(
        {"releaseRef": {"name": "sample-bad"}},
        (f"stop {WEB}", f"run {WEB}", f"remove {WEB}", f"start {WEB}"),
        version="2",
        reason="UpgradeRolledBack",
        runs=(*UPGRADED, "migrate 3-bad"),
    ),
    "taken back": Journey(
        {"update": ZERO, "env": [{"name": "ANOTHER", "value": "try"}]},
        (f"run {WEB}", "probe ", f"remove {WEB}"),
        version="2",
        reason="UpgradeRolledBack",
        runs=(*UPGRADED, "migrate 3-bad"),
    ),
    "the same version again": Journey({"releaseRef": {"name": "sample-2"}, "env": []}, (), version="2", runs=UPGRADED),
}


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    with platform.tenant(releases.instance(NAME, "sample-1", serverRef={"name": "two"})) as made:
        yield made
        if not platform.operator.alive():
            platform.operator.start()


def running(tenant: Tenant) -> set[str]:
    labels = (c["Config"]["Labels"] for c in tenant.containers() if c["State"]["Running"])
    return {own["platform.dotmac.io/role"] for own in labels}


@pytest.mark.parametrize("name", JOURNEYS)
def test_killed_at_each_action_it_comes_to_the_same_end(platform: Platform, tenant: Tenant, name: str) -> None:
    journey = JOURNEYS[name]
    volumes, credentials = tenant.volumes(), tenant.credentials()
    mark = platform.operator.mark()
    platform.patch("Instance", NAME, {"spec": journey.spec})
    for action in journey.actions:
        kill_at(platform, mark, action, seconds=60)
        nothing_twice(tenant)
        mark = platform.operator.mark()
        platform.operator.start()
    if journey.reason:
        platform.wait_condition("Instance", NAME, "Stalled", "True", reason=journey.reason, seconds=90)
    else:
        platform.wait_ready(NAME, seconds=90)
    nothing_twice(tenant)
    assert (tenant.volumes(), tenant.credentials()) == (volumes, credentials)
    assert running(tenant) == ({"web", "worker", "database"} if journey.running else set())
    if journey.version:
        assert tenant.ask().json() | {"host": "", "requested": ""} == {
            "version": journey.version, "host": "", "requested": "", "database": True, "cache": None,
        }  # fmt: skip
        assert tenant.runs()[: len(journey.runs)] == list(journey.runs)
    else:
        assert tenant.ask().status_code in (410, 503)


@pytest.mark.parametrize(
    ("harm", "role", "action"),
    [
        (("rm", "--force"), "web", "run container "),
        (("kill",), "web", "start container "),
        (("rm", "--force"), "database", "run container "),
        (("pause",), "worker", "unpause container "),
        (("network", "disconnect", f"dotmac-{NAME}"), "web", "connect "),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_killed_while_it_repairs(
    platform: Platform, tenant: Tenant, harm: tuple[str, ...], role: str, action: str
) -> None:
    volumes, mark = tenant.volumes(), platform.operator.mark()
    (before,) = tenant.containers(role)
    tenant.host.docker(*harm, before["Name"].lstrip("/"))
    kill_at(platform, mark, action)
    nothing_twice(tenant)
    platform.operator.start()

    def mended() -> bool:
        found = tenant.containers(role)
        states = [(c["State"]["Running"], c["State"]["Paused"], list(c["NetworkSettings"]["Networks"])) for c in found]
        return states == [(True, False, [f"dotmac-{NAME}"])] and tenant.ask().is_success

    platform.wait("it is repaired", mended, about=NAME)
    platform.wait_ready(NAME)
    nothing_twice(tenant)
    assert tenant.volumes() == volumes
