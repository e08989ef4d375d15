"""A change of anything rolls without one failed request, under load that never tries again.

`DOTMAC_TEST_LONG=1 pytest tests/e2e/test_rolling.py` rolls every kind of change, and kills the operator in each action.
"""

import json
import os
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import releases
from tests.e2e.load import Load, asking, steady
from tests.e2e.platform import Platform, Tenant, condition
from tests.e2e.test_crashes import kill_at

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "river"
PROGRAM = (Path(__file__).parent / "rolling_app.py").read_text()
HEALTH = {"http": {"path": "/health"}, "interval": 1, "timeout": 1, "retries": 2, "startPeriod": 10}
long = pytest.mark.skipif("DOTMAC_TEST_LONG" not in os.environ, reason="minutes: set DOTMAC_TEST_LONG=1")


def app_release(name: str, version: str, image: str, replicas: int = 1) -> releases.Object:
    web = {
        "name": "web",
        "image": "app",
        "command": ["python3", "-c", PROGRAM],
        "port": 8000,
        "expose": True,
        "health": HEALTH,
        "replicas": replicas,
        "stopGracePeriod": 2,
    }
    volumes = [{"name": "data", "mountPath": "/data", "roles": ["web"]}]
    made = releases.sample(name, version, image, roles=[web], volumes=volumes)
    del made["spec"]["migrate"], made["spec"]["bootstrap"]
    return made


def river(release: str = "river-1", colour: str = "red", **changes: Any) -> releases.Object:
    env = [{"name": "COLOUR", "value": colour}]
    return releases.instance(NAME, release, serverRef={"name": "two"}, env=env, **changes)


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    roomy = releases.small_class()
    roomy["metadata"]["name"] = "roomy"
    roomy["spec"]["resources"] |= {
        "default": {"cpu": "1", "memory": "192Mi", "pids": 96},
        "database": {"cpu": "1", "memory": "384Mi", "pids": 160},
        "cache": {"cpu": "1", "memory": "96Mi", "pids": 96},
    }
    platform.apply(
        roomy,
        app_release("river-1", "1.0", releases.SAMPLE_1),
        app_release("river-2", "2.0", releases.SAMPLE_2, replicas=2),
    )
    with platform.tenant(river()) as made:
        yield made
        if not platform.operator.alive():
            platform.operator.start()


def assert_unhurt(tenant: Tenant, load: Load, body: str) -> None:
    """Not one request failed, no POST was lost or repeated, every kind of client did something. Kept connections were
    asked to leave, not cut, and WebSockets ended with a close frame of code 1001."""
    assert load.failures == []
    expected = {"fresh", "kept", "kept, asked to leave", "post", "websocket", "websocket closed"}
    expected |= {"/slow?10", "/stream?12"}
    assert expected - set(load.answers) == set(), load.answers
    assert load.bodies[body] > 0, load.bodies
    written = tenant.exec("web", "cat", "/data/posts").split()
    assert sorted(set(load.posted)) == sorted(load.posted)
    assert [written.count(body) for body in load.posted] == [1] * len(load.posted)


def roll(platform: Platform, tenant: Tenant, wanted: releases.Object, body: str) -> float:
    """Applies under load; the seconds until the new version serves alone."""
    old = {c["Id"] for c in tenant.containers("web")}
    with steady(tenant) as load:
        time.sleep(1)
        began = time.monotonic()
        platform.apply(wanted)
        platform.wait_ready(NAME, seconds=90)
        taken = time.monotonic() - began
        assert not old & {c["Id"] for c in tenant.containers("web")}
        time.sleep(0.5)
    assert_unhurt(tenant, load, body)
    return taken


def test_a_new_environment_rolls_without_a_failed_request(platform: Platform, tenant: Tenant) -> None:
    roll(platform, tenant, river(colour="blue"), "blue")


def test_killed_at_the_switch_and_while_it_drains_a_new_release_rolls_all_the_same(
    platform: Platform, tenant: Tenant
) -> None:
    """With two replicas; the new process finds on the host since when the old containers drain."""
    with steady(tenant) as load:
        time.sleep(0.5)
        mark = platform.operator.mark()
        platform.apply(river("river-2", "green"))
        for action in ("route ", "count open requests "):
            kill_at(platform, mark, action)
            mark = platform.operator.mark()
            platform.operator.start()
        platform.wait_ready(NAME, seconds=90)
        assert len(tenant.containers("web")) == 2
        time.sleep(0.5)
    assert_unhurt(tenant, load, "green 2")


def test_killed_while_it_drains_a_suspended_tenant_has_answered_everybody(platform: Platform, tenant: Tenant) -> None:
    """New requests get the page at once; those that were asked before are answered, then everything stops."""
    mark = platform.operator.mark()
    with asking(tenant, "/slow?5") as load:
        platform.patch("Instance", NAME, {"spec": {"state": "Suspended"}})
        kill_at(platform, mark, "count open requests ")
        assert tenant.ask().status_code == 503
        platform.operator.start()
    assert (load.failures, load.answers["/slow?5"]) == ([], 1)
    platform.wait_condition("Instance", NAME, "Suspended", "True")
    platform.wait_ready(NAME)
    assert not [c for c in tenant.containers() if c["State"]["Running"]]


KINDS = {
    "image": lambda: (river("river-3", "green"), "green 2"),
    "class": lambda: (river("river-3", "green", classRef={"name": "roomy"}), "green 2"),
    "environment": lambda: (river("river-3", "blue", classRef={"name": "roomy"}), "blue 2"),
    "release": lambda: (river("river-2", "violet", classRef={"name": "roomy"}), "violet 2"),
}


@long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replicas", [1, 2])
def test_every_kind_of_change_rolls(platform: Platform, tenant: Tenant, kind: str, replicas: int) -> None:
    """From river-1 by its image alone to river-3, and at last to another Release of it."""
    if kind == "image":
        names = {"river-1": releases.SAMPLE_1, "river-2": releases.SAMPLE_2, "river-3": releases.SAMPLE_2}
        for name, image in names.items():
            platform.apply(app_release(name, f"{image[-1]}.0", image, replicas))
        platform.apply(river("river-1", state="Running"))
        platform.wait_ready(NAME, seconds=90)
    wanted, body = KINDS[kind]()
    (database,) = tenant.containers("database")
    roll(platform, tenant, wanted, body)
    assert len(tenant.containers("web")) == replicas
    (after,) = tenant.containers("database")
    assert after["Id"] == database["Id"]
    assert after["HostConfig"]["PidsLimit"] == (64 if kind == "image" else 160)


def broken(step: str) -> releases.Object:
    """A Release that fails in a step and says its password, plainly and encoded."""
    made = app_release(f"river-ill-{step}", "3.0", releases.SAMPLE_2, replicas=2)
    env = [*made["spec"]["env"], *releases.PSQL_ENV[2:]]
    if step == "start":
        env.append({"name": "ILL", "value": "1"})
    else:
        script = f"import sys; __name__ = 'migrate'\n{PROGRAM}\ncomplain(); sys.exit(3)"
        made["spec"]["migrate"] = {"image": "app", "command": ["python3", "-c", script], "timeout": 60}
    made["spec"]["env"] = env
    return made


@long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", ["start", "migrate"])
def test_a_version_that_fails_leaves_the_previous_one_serving(platform: Platform, tenant: Tenant, step: str) -> None:
    """Under load; told with its last lines; not tried again by another process, but when somebody asks for it. Step
    verify is below."""
    ill = broken(step)
    platform.apply(ill, app_release("river-2", "2.0", releases.SAMPLE_2, replicas=2), river("river-2", "violet"))
    platform.wait_ready(NAME, seconds=90)
    before, mark = {c["Id"] for c in tenant.containers("web")}, platform.operator.mark()
    with steady(tenant) as load:
        time.sleep(0.5)
        platform.apply(river(ill["metadata"]["name"], "violet"))
        found = platform.wait_condition("Instance", NAME, "Stalled", "True", reason="UpgradeRolledBack", seconds=90)
        time.sleep(1)
    assert (load.failures, set(load.bodies)) == ([], {"violet 2"})
    assert {c["Id"] for c in tenant.containers("web")} == before

    message = condition(found, "Stalled")["message"]  # type: ignore[index]
    assert f"step {step}: " in message and "cannot log in with ***, Basic " in message
    password = tenant.credentials()["database-password"]
    forms = (password, b64encode(f"erp:{password}".encode()).decode()[6:-4], password.encode().hex())
    told = json.dumps([found, platform.events(NAME)]) + platform.operator.text(mark)
    assert [form for form in forms if form in told] == []
    back = found["status"]["rollback"]
    assert (back["previous"], back["target"]) == ("river-2", ill["metadata"]["name"])
    assert f"step {step}: " in back["reason"]
    assert [e["type"] for e in platform.events(NAME) if e["reason"] == "UpgradeRolledBack"][-1:] == ["Warning"]

    mark = platform.operator.mark()
    platform.operator.restart()
    looked = f"wake Instance {releases.NAMESPACE}/{NAME}"
    platform.wait("the new process has looked at the tenant", lambda: looked in platform.operator.text(mark))
    time.sleep(3)
    assert not [line for line in platform.operator.messages(NAME, mark) if "run container" in line]
    mark = platform.operator.mark()
    asked = {"metadata": {"annotations": {"platform.dotmac.io/reconcile-requested-at": f"once more {step}"}}}
    platform.patch("Instance", NAME, asked)
    role = "web" if step == "start" else "migrate"
    again = f"run container dotmac-{NAME}-{role}-"
    platform.wait("it is tried again", lambda: again in platform.operator.text(mark), 60)
    platform.apply(river("river-2", "violet"))
    platform.wait_ready(NAME, seconds=90)
    assert {c["Id"] for c in tenant.containers("web")} == before


@long
@pytest.mark.timeout(400)
def test_a_version_that_only_users_find_ill_is_taken_back_without_a_failed_request(
    platform: Platform, tenant: Tenant
) -> None:
    """Found by step verify, 90 s after the switch, with its requests under way; killed at both ends of the drain."""
    wanted = river("river-2", "mauve")
    wanted["spec"]["env"].append({"name": "HIDE", "value": "1"})
    platform.apply(river("river-2", "violet"))
    platform.wait_ready(NAME, seconds=90)
    before = {c["Id"]: c["Name"].lstrip("/") for c in tenant.containers("web")}
    back = f"route {tenant.domain} to {min(before.values())}:"
    with steady(tenant, always=("/slow?4", "/stream?6")) as load:
        time.sleep(0.5)
        mark = platform.operator.mark()
        platform.apply(wanted)
        for action in ("route ", back, "count open requests ", "remove container "):
            kill_at(platform, mark, action, seconds=150)
            mark = platform.operator.mark()
            platform.operator.start()
        platform.wait_condition("Instance", NAME, "Stalled", "True", reason="UpgradeRolledBack", seconds=90)
        assert {c["Id"] for c in tenant.containers("web")} == set(before)
        time.sleep(1)
    assert_unhurt(tenant, load, "violet 2")
    assert load.bodies["mauve 2"] > 0, "it did serve"
    assert load.answers["/slow?4"] > 10 and load.answers["/stream?6"] > 10
    platform.apply(river("river-2", "violet"))
    platform.wait_ready(NAME, seconds=90)


@long
def test_killed_in_each_action_of_an_update(platform: Platform, tenant: Tenant) -> None:
    colours = iter(f"colour-{number}" for number in range(10))
    for action in ("run container ", "probe ", "route ", "request http", "count open requests ", "remove container "):
        colour = next(colours)
        with steady(tenant) as load:
            time.sleep(0.5)
            mark = platform.operator.mark()
            platform.apply(river("river-2", colour))
            kill_at(platform, mark, action)
            platform.operator.start()
            platform.wait_ready(NAME, seconds=90)
            time.sleep(0.5)
        assert_unhurt(tenant, load, f"{colour} 2")
