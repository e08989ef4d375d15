"""kill -9 of the operator in the middle of each of the ten steps: everything converges, nothing is there twice.

One tenant goes through a fresh deploy (nine steps) and an upgrade (the backup). A step is known to be under way by the
operator's own log: it tells each action before it does it. Preflight does nothing and the images are on the host
already, so these two are made to last: by a Server that takes no new Instance, and by a registry.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant
from tests.e2e.registry import Registry

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "phoenix"
SLOW = [{"name": f"SLEEP_{part}", "value": "2"} for part in ("MIGRATE", "BOOTSTRAP", "START")]

KILLS = (
    ("secrets", "generate "),
    ("images", "pull image "),
    ("infra", "create network "),
    ("infra", "create volume "),
    ("infra", f"run container dotmac-{NAME}-database-"),
    ("migrate", f"run container dotmac-{NAME}-migrate-"),
    ("start", f"run container dotmac-{NAME}-web-"),
    ("bootstrap", f"run container dotmac-{NAME}-bootstrap-"),
    ("route", "route "),
    ("verify", "request http"),
)
"""Step, and the action that it is killed in."""


@pytest.fixture(scope="module")
def tenant(platform: Platform, registry: Registry) -> Iterator[Tenant]:
    first = registry.push(releases.SAMPLE_1, "phoenix:1")
    platform.apply(releases.sample("phoenix-1", "1.0", first), releases.sample("phoenix-2", "2.0", releases.SAMPLE_2))
    made = Tenant(platform, NAME)
    yield made
    if not platform.operator.alive():
        platform.operator.start()
    platform.patch("Server", "two", {"spec": {"schedulable": True}})
    platform.let_go(NAME)


def phoenix(release: str) -> releases.Object:
    return releases.instance(NAME, release, serverRef={"name": "two"}, env=SLOW)


def step_of(platform: Platform, mark: int, action: str = "") -> str:
    """The step of the last action that began since the mark and reads so. What waits for nothing begins together, so
    that the last of a step may be another one."""
    about = f"{releases.NAMESPACE}/{NAME}"
    lines = [line for line in platform.operator.lines(mark) if line.get("instance") == about and line.get("step")]
    found = [line for line in lines if str(line["message"]).startswith(action)]
    return str([line for line in found if action or not str(line["message"]).startswith("probe ")][-1]["step"])


def kill_at(platform: Platform, mark: int, action: str, seconds: float = 30) -> None:
    """kill -9 within some milliseconds of the log line that begins an action."""
    path, told = platform.operator.log, f'"message": "{action}'.encode()
    with path.open("rb") as log:
        log.seek(mark)
        seen = b""
        deadline = time.monotonic() + seconds
        while told not in seen:
            assert time.monotonic() < deadline, f"never came to {action!r}\n{platform.explain(NAME)}"
            fresh = log.read()
            seen = seen[-4096:] + fresh
            if not fresh:
                time.sleep(0.002)
    platform.operator.kill()


def nothing_twice(tenant: Tenant) -> None:
    """One container for each role, replica and hash; one network; no volume made anew."""
    labels = [c["Config"]["Labels"] for c in tenant.containers()]
    prefix = "platform.dotmac.io/"
    keys = Counter((own[prefix + "role"], own[prefix + "index"], own[prefix + "hash"]) for own in labels)
    assert [key for key, count in keys.items() if count > 1] == []
    assert len(tenant.networks()) <= 1


def test_killed_in_preflight_it_waits_on(platform: Platform, tenant: Tenant) -> None:
    platform.patch("Server", "two", {"spec": {"schedulable": False}})
    platform.apply(phoenix("phoenix-1"))
    platform.wait_condition("Instance", NAME, "Stalled", "True", reason="Unschedulable")
    assert [(step["name"], step["state"]) for step in tenant.status["steps"]][0] == ("preflight", "Failed")
    platform.operator.kill()
    assert (tenant.containers(), tenant.networks(), tenant.volumes()) == ([], [], {})


def test_killed_in_each_step_of_a_deploy_it_goes_on_where_it_was(platform: Platform, tenant: Tenant) -> None:
    platform.patch("Server", "two", {"spec": {"schedulable": True}})
    remembered: dict[str, Callable[[], object]] = {}
    kept: dict[str, object] = {}
    for step, action in KILLS:
        mark = platform.operator.mark()
        platform.operator.start()
        kill_at(platform, mark, action)
        assert step_of(platform, mark) == step_of(platform, mark, action), f"killed too late for {step}"
        nothing_twice(tenant)
        if step == "infra" and "run container" in action:
            remembered |= {"volumes": tenant.volumes, "credentials": tenant.credentials}
            kept = {name: look() for name, look in remembered.items()}
    platform.operator.start()
    platform.wait_ready(NAME)
    nothing_twice(tenant)
    assert {name: look() for name, look in remembered.items()} == kept, "volumes and secrets are the first ones"
    assert len(tenant.networks()) == 1
    assert tenant.runs() == ["migrate 1", "bootstrap 1"]
    assert tenant.ask().json() | {"host": "", "requested": ""} == {
        "version": "1", "host": "", "requested": "", "database": True, "cache": None,
    }  # fmt: skip
    for role in ("web", "worker", "database"):
        assert [c["State"]["Running"] for c in tenant.containers(role)] == [True]


@pytest.mark.parametrize(
    "action", [f"run container dotmac-{NAME}-backup-", "record backup "], ids=["while it dumps", "while it records"]
)
def test_killed_in_the_backup_of_an_upgrade(platform: Platform, tenant: Tenant, action: str) -> None:
    before, volumes = tenant.containers("web")[0]["Id"], tenant.volumes()
    mark = platform.operator.mark()
    if action.startswith("run "):
        platform.apply(phoenix("phoenix-2"))
    else:
        platform.operator.start()
    kill_at(platform, mark, action)
    assert tenant.ask().json()["version"] == "1", "the old version serves while nobody watches"
    assert tenant.containers("web")[0]["Id"] == before
    assert tenant.volumes() == volumes


def test_killed_while_the_old_version_is_removed(platform: Platform, tenant: Tenant) -> None:
    mark = platform.operator.mark()
    platform.operator.start()
    kill_at(platform, mark, f"remove container dotmac-{NAME}-web-", seconds=60)
    assert tenant.ask().json()["version"] == "2"
    platform.operator.start()
    platform.wait_ready(NAME)
    nothing_twice(tenant)
    assert tenant.ask().json()["version"] == "2"
    assert tenant.runs() == ["migrate 1", "bootstrap 1", "migrate 2"]
    assert len(tenant.containers("web")) == len(tenant.containers("worker")) == 1
    assert tenant.status["lastBackup"]["release"] == "phoenix-1"


def test_killed_in_the_middle_of_a_deletion(platform: Platform, tenant: Tenant) -> None:
    mark = platform.operator.mark()
    platform.patch("Instance", NAME, {"spec": {"deletion": {"policy": "Delete"}}})
    platform.delete("Instance", NAME)
    kill_at(platform, mark, f"remove container dotmac-{NAME}-database-")
    platform.operator.start()
    platform.wait_gone(NAME)
    left = platform.hosts["two"].docker("volume", "ls", "--quiet", "--filter", f"name={NAME}").split()
    assert left == []
