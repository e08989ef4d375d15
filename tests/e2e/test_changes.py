"""One Instance through its life: nothing to do, an edit, drift, replicas, an upgrade, an upgrade that fails."""

import json
import shutil
import time
from collections.abc import Iterator

import httpx
import pytest
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant, condition

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "moon"
OPERATOR_LABEL = "label=platform.dotmac.io/managed-by=dotmac-operator"


def moon(release: str = "sample-1", **changes: object) -> releases.Object:
    return releases.instance(NAME, release, serverRef={"name": "two"}, **changes)


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    with platform.tenant(moon()) as made:
        yield made


def versions(platform: Platform) -> dict[str, str]:
    """resourceVersion of every object that the operator could write; a Server's facts move with the disk, so its
    status is compared without them."""
    made = {}
    for resource in ("instances", "releases", "instanceclasses", "servers"):
        scope = "" if resource in ("releases", "instanceclasses") else f"namespaces/{releases.NAMESPACE}/"
        listed = platform.plane.client.get(f"/apis/platform.dotmac.io/v1alpha1/{scope}{resource}").json()["items"]
        for item in listed:
            version = item["metadata"]["resourceVersion"]
            if resource == "servers":
                version = json.dumps([item["spec"], item["status"]["conditions"], item["status"]["allocated"]])
            made[f"{resource}/{item['metadata']['name']}"] = version
    for resource in ("secrets", "events"):
        listed = platform.plane.client.get(f"/api/v1/namespaces/{releases.NAMESPACE}/{resource}").json()["items"]
        made |= {f"{resource}/{i['metadata']['name']}": i["metadata"]["resourceVersion"] for i in listed}
    return made


def changes_on(tenant: Tenant, since: float) -> list[str]:
    """What the Engine says happened to objects of ours. Health checks' execs and reading a file are no change."""
    told = tenant.host.docker(
        "events", "--since", f"{since:.3f}", "--until", f"{time.time():.3f}", "--filter", OPERATOR_LABEL,
        "--format", "{{.Action}} {{.Actor.Attributes.name}}",
    )  # fmt: skip
    return [line for line in told.splitlines() if not line.startswith(("exec_", "archive-path "))]


def test_a_fresh_deploy_runs_each_one_shot_once(tenant: Tenant) -> None:
    assert tenant.ask().json()["version"] == "1"
    assert tenant.ask().json()["database"] is True
    assert tenant.runs() == ["migrate 1", "bootstrap 1"]


def test_applying_the_same_again_changes_nothing(platform: Platform, tenant: Tenant) -> None:
    """Neither an API write nor a change on the host: not for the same YAML, not for another operator process."""
    apply_by_hand(platform)  # takes over the fields: kubectl's own annotation
    platform.wait_ready(NAME)
    platform.wait("the passes that the annotation woke have ended", lambda: quiet(platform, seconds=1.5))
    before, ids, began = versions(platform), tenant.ids(), time.time()
    assert apply_by_hand(platform)
    assert quiet(platform, seconds=3)
    platform.operator.restart()
    platform.wait("the new process has looked at the tenant", lambda: woken(platform))
    assert quiet(platform, seconds=3)
    assert versions(platform) == before
    assert tenant.ids() == ids
    assert changes_on(tenant, began) == []


def apply_by_hand(platform: Platform) -> bool:
    """With kubectl, where there is one; whether it says that nothing changed."""
    if shutil.which("kubectl") is None:
        platform.apply(moon())
        return True
    return "unchanged" in platform.plane.kubectl("apply", "-f", "-", stdin=json.dumps(moon()))


def quiet(platform: Platform, seconds: float) -> bool:
    """Watches for a while; True when no object moved."""
    before = versions(platform)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if versions(platform) != before:
            return False
        time.sleep(0.2)
    return True


def woken(platform: Platform) -> bool:
    started = platform.operator.text().rfind('"watching ')
    return f"wake Instance {releases.NAMESPACE}/{NAME}" in platform.operator.text()[started:]


def test_an_edit_rolls_new_beside_old(platform: Platform, tenant: Tenant) -> None:
    old = tenant.ids()
    platform.apply(moon(env=[{"name": "COLOUR", "value": "blue"}, {"name": "SHOW_ENV", "value": "COLOUR"}]))
    answers = []

    def rolled() -> bool:
        answers.append(tenant.ask().status_code)
        found = tenant.object
        generation = found["metadata"]["generation"]
        ready = condition(found, "Ready")
        return bool(ready and ready["status"] == "True" and ready["observedGeneration"] == generation)

    platform.wait("the new environment serves", rolled, about=NAME)
    assert set(answers) == {200}, "a request failed while the new containers took over"
    assert tenant.ask("/env").json()["COLOUR"] == "blue"
    new = tenant.ids()
    database = next(name for name in old if "-database-" in name)
    assert new[database] == old[database], "an edit of the application's environment must not touch the database"
    assert [name for name in new if "-web-" in name] != [name for name in old if "-web-" in name]
    assert len(tenant.containers("web")) == len(tenant.containers("worker")) == 1
    assert tenant.runs() == ["migrate 1", "bootstrap 1"]


@pytest.mark.parametrize("role", ["web", "worker", "database"])
def test_a_container_that_is_removed_comes_back(platform: Platform, tenant: Tenant, role: str) -> None:
    volumes, before = tenant.volumes(), tenant.ids()
    victim = tenant.containers(role)[0]
    tenant.host.docker("rm", "--force", victim["Id"])
    platform.wait(f"{role} runs again", lambda: replaced(tenant, role, victim["Id"]), about=NAME)
    platform.wait("it serves", lambda: tenant.ask().status_code == 200, about=NAME)
    platform.wait_ready(NAME)
    after = tenant.ids()
    assert set(after) == set(before)
    untouched = set(before) - {victim["Name"]}
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
    assert tenant.volumes() == volumes
    platform.wait("the repair is told", lambda: role in (tenant.status.get("drift") or {}).get("what", ""), about=NAME)
    assert any(event["reason"] == "DriftRepaired" for event in platform.events(NAME))


def replaced(tenant: Tenant, role: str, old: str) -> bool:
    running = [c for c in tenant.containers(role) if c["State"]["Running"]]
    return bool(running) and running[0]["Id"] != old


def test_a_proxy_that_lost_the_tenants_network_gets_it_back(platform: Platform, tenant: Tenant) -> None:
    ids = tenant.ids()
    tenant.host.docker("network", "disconnect", f"dotmac-{NAME}", "dotmac-proxy")
    platform.wait("the proxy reaches the tenant", lambda: answers(tenant), about=NAME)
    platform.wait_ready(NAME)
    assert tenant.ids() == ids


def answers(tenant: Tenant) -> bool:
    """The proxy may still hold connections of its lost network, on which a request hangs."""
    try:
        return tenant.ask(timeout=2).status_code == 200
    except httpx.TimeoutException:
        return False


def test_an_upgrade_backs_up_migrates_and_then_switches(platform: Platform, tenant: Tenant) -> None:
    mark, old_web = platform.operator.mark(), tenant.containers("web")[0]["Name"]
    platform.apply(moon("sample-2", env=[{"name": "SLEEP_MIGRATE", "value": "2"}]))
    served: list[str] = []

    def upgraded() -> bool:
        answer = tenant.ask()
        served.append(str(answer.json().get("version")) if answer.status_code == 200 else str(answer.status_code))
        return served[-1] == "2"

    platform.wait("version 2 serves", upgraded, about=NAME)
    assert set(served) == {"1", "2"}, "the old version must serve until the new one does"
    platform.wait_ready(NAME)
    assert tenant.runs() == ["migrate 1", "bootstrap 1", "migrate 2"]
    assert [c["Name"] for c in tenant.containers("web")] != [old_web]
    assert len(tenant.containers("web")) == 1
    release = tenant.status["release"]
    assert (release["current"], release["previous"]) == ("sample-2", "sample-1")

    done = platform.operator.messages(NAME, mark)
    order = ["record backup", "-migrate-", "-web-", "route ", "request http", f"remove container {old_web[1:]}"]
    found = [next(n for n, line in enumerate(done) if word in line) for word in order]
    assert found == sorted(found), f"wrong order: {done}"


def test_the_backup_of_the_upgrade_has_the_checksum_that_is_told(tenant: Tenant) -> None:
    backup = tenant.status["lastBackup"]
    assert backup["release"] == "sample-1"
    volume, image = f"dotmac-{NAME}-backups:/backups", releases.POSTGRESQL
    script = 'cd /backups && sha256sum "$0" && wc -c < "$0" && pg_restore --list "$0" | grep -c dbname'
    told = tenant.host.docker(
        "run", "--rm", "--user", "0", "--network", "none", "--volume", volume, "--entrypoint", "sh", image,
        "-c", script, backup["file"],
    ).split()  # fmt: skip
    assert told[0] == backup["sha256"]
    assert int(told[2]) == backup["size"] > 0
    assert told[3] == "1"


def test_a_failed_upgrade_leaves_the_old_version_serving(platform: Platform, tenant: Tenant) -> None:
    old = {c["Name"]: c["Id"] for role in ("web", "worker") for c in tenant.containers(role)}
    platform.apply(moon("sample-bad", env=[{"name": "SLEEP_MIGRATE", "value": "2"}]))
    served = set()

    def rolled_back() -> bool:
        served.add(tenant.ask().json().get("version"))
        stalled = condition(tenant.object, "Stalled")
        return bool(stalled and stalled["status"] == "True" and len(tenant.containers("web")) == 1)

    platform.wait("the failed version is taken back", rolled_back, 45, about=NAME)
    stalled = condition(tenant.object, "Stalled")
    assert stalled and stalled["reason"] == "UpgradeRolledBack", stalled
    assert "step start: web" in stalled["message"]
    back = tenant.status["rollback"]
    assert (back["previous"], back["target"]) == ("sample-2", "sample-bad")
    assert "step start: web" in back["reason"]
    assert [event["type"] for event in platform.events(NAME) if event["reason"] == "UpgradeRolledBack"] == ["Warning"]
    assert served == {"2"}
    assert {c["Name"]: c["Id"] for role in ("web", "worker") for c in tenant.containers(role)} == old
    assert tenant.status["release"]["current"] == "sample-2"

    mark = platform.operator.mark()
    platform.operator.restart()
    platform.wait("the new process has looked at the tenant", lambda: woken(platform))
    assert quiet(platform, seconds=2), "what failed is not tried again by itself, not by another process either"
    assert not [line for line in platform.operator.messages(NAME, mark) if "run container" in line]


def test_back_on_a_good_version_all_is_well(platform: Platform, tenant: Tenant) -> None:
    platform.apply(moon("sample-2", env=[{"name": "SLEEP_MIGRATE", "value": "2"}]))
    platform.wait_ready(NAME)
    assert tenant.ask().json()["version"] == "2"
    assert condition(tenant.object, "Stalled")["status"] == "False"  # type: ignore[index]


def test_replicas_share_the_requests(platform: Platform, tenant: Tenant) -> None:
    """A Release of the same version with two of its web role."""
    spec = releases.sample("twins", "2.0", releases.SAMPLE_2)["spec"]
    spec["roles"][0]["replicas"] = 2
    platform.apply(releases.resource("Release", "twins", spec), moon("twins"))
    platform.wait_ready(NAME)
    assert len(tenant.containers("web")) == 2
    hosts = {tenant.ask().json()["host"] for _ in range(10)}
    assert len(hosts) == 2
    ids = tenant.ids()
    victim = tenant.containers("web")[0]
    tenant.host.docker("stop", "--time", "0", victim["Id"])
    answers = {tenant.ask().status_code for _ in range(5)}
    assert answers == {200}, "the other one serves meanwhile"
    platform.wait("it runs again", lambda: len([c for c in tenant.containers("web") if c["State"]["Running"]]) == 2)
    platform.wait_ready(NAME)
    assert set(tenant.ids()) == set(ids)


def test_an_edit_and_then_a_deletion_in_the_middle_of_a_deploy(platform: Platform) -> None:
    """The edit is taken up before the next step, and the deletion does not wait for the deploy to end."""
    slow = [{"name": "SLEEP_MIGRATE", "value": "2"}, {"name": "SLEEP_START", "value": "20"}]
    made, mark = Tenant(platform, "hasty"), platform.operator.mark()
    try:
        platform.apply(releases.instance("hasty", "sample-1", serverRef={"name": "two"}, env=slow))
        platform.wait("it migrates", lambda: made.containers("migrate"), about="hasty")
        edited = [*slow, {"name": "COLOUR", "value": "red"}]
        platform.apply(releases.instance("hasty", "sample-1", serverRef={"name": "two"}, env=edited))
        found = platform.wait("it starts the application", lambda: made.containers("web"), about="hasty")
        assert [("COLOUR=red" in web["Config"]["Env"]) for web in found] == [True]
        assert len([line for line in platform.operator.messages("hasty", mark) if "-migrate-" in line]) == 1
    finally:
        platform.let_go("hasty")
    platform.wait_gone("hasty", seconds=15)
    assert (made.containers(), made.networks(), made.volumes()) == ([], [], {})
