"""Somebody changes a real host by hand: told by Docker's event stream, repaired within a second, recorded."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e import releases
from tests.e2e.platform import Platform, Tenant, condition
from tests.kits import kubectl
from tests.kits.dockerhost import DockerHost

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

NAME = "comet"
PROXY = "dotmac-proxy"
SECONDS = 1.0
"""From the end of the command to the beginning of the repair, by the operator's log; median of all."""
DELAYS: list[float] = []


@pytest.fixture(scope="module")
def tenant(platform: Platform) -> Iterator[Tenant]:
    with platform.tenant(releases.instance(NAME, "sample-1", serverRef={"name": "two"})) as made:
        yield made


type Harm = Callable[[DockerHost, str], object]

ROLES = ("web", "database")
HARMS: dict[str, tuple[Harm, str, str]] = {
    "killed": (lambda host, name: host.docker("kill", name), "start container ", "ContainerStopped"),
    "stopped": (lambda host, name: host.docker("stop", "--time", "0", name), "start container ", "ContainerStopped"),
    "removed": (lambda host, name: host.docker("rm", "--force", name), "run container ", "ContainerMissing"),
    "paused": (lambda host, name: host.docker("pause", name), "unpause container ", "ContainerPaused"),
    "renamed": (lambda host, name: host.docker("rename", name, "somebody"), "rename container ", "ContainerRenamed"),
    "limited": (
        lambda host, name: host.docker("update", "--cpus", "0.5", "--memory", "64m", "--memory-swap", "64m", name),
        "set the limits ",
        "LimitsChanged",
    ),
    "not restarted": (
        lambda host, name: host.docker("update", "--restart", "no", name),
        "set the limits ",
        "LimitsChanged",
    ),
    "cut off": (
        lambda host, name: host.docker("network", "disconnect", f"dotmac-{NAME}", name),
        "connect ",
        "NetworkDisconnected",
    ),
    "elsewhere": (
        lambda host, name: host.docker("network", "connect", "bridge", name),
        "disconnect ",
        "NetworkForeign",
    ),
}
"""What is done, the action that takes it back, and the kind that the metric counts."""

ROOT = Path(__file__).resolve().parents[2]
PASTED = 'kubectl() { command %s -n %s "$@"; }\n'


def pasted(platform: Platform, server: str) -> str:
    """What the commands of deploy/docs/proof.md print, pasted into a shell, for this Server."""
    found = re.search(r"```sh\n(.*?)```", (ROOT / "deploy" / "docs" / "proof.md").read_text(), re.DOTALL)
    assert found is not None
    commands = re.sub(r"\bserver([ /])demo\b", rf"server\1{server}", found[1])
    time.sleep(1)  # the token is a second's number
    script = PASTED % (kubectl.current(), releases.NAMESPACE) + commands
    env = {**os.environ, "KUBECONFIG": str(platform.plane.kubeconfig)}
    done = subprocess.run(["sh", "-euc", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_token_on_the_server_proves_its_tenants(platform: Platform, tenant: Tenant) -> None:
    platform.wait_ready(NAME)
    before = platform.get("Instance", NAME)
    told = pasted(platform, "two")
    assert NAME not in told, told
    (result,) = re.findall(r"^(\d+)/(\d+)$", told, re.MULTILINE)
    assert int(result[0]) >= 1
    assert platform.get("Instance", NAME) == before, "one in sync is not written to"
    paused = "platform.dotmac.io/paused"
    platform.patch("Instance", NAME, {"metadata": {"annotations": {paused: "true"}}})
    try:
        platform.wait_condition("Instance", NAME, "Paused", "True")
        assert f"{NAME}\tNotProven\tPaused\t" in pasted(platform, "two")
    finally:
        platform.patch("Instance", NAME, {"metadata": {"annotations": {paused: None}}})
    platform.wait_ready(NAME)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("harm", HARMS)
def test_a_change_by_hand_is_taken_back(platform: Platform, tenant: Tenant, role: str, harm: str) -> None:
    (before,) = tenant.containers(role)
    volumes, mark, events, counts = tenant.volumes(), platform.operator.mark(), told(platform), counted(platform)
    harm_, began, kind = HARMS[harm]
    harm_(tenant.host, before["Name"].lstrip("/"))
    done = time.time()
    DELAYS.append(repaired(platform, tenant, began, mark) - done)
    (after,) = tenant.containers(role)
    assert after["Name"] == before["Name"]
    assert after["State"]["Status"] == "running"
    assert list(after["NetworkSettings"]["Networks"]) == [f"dotmac-{NAME}"]
    limits = ("Memory", "NanoCpus", "PidsLimit", "RestartPolicy")
    assert [after["HostConfig"][key] for key in limits] == [before["HostConfig"][key] for key in limits]
    assert (after["Id"] == before["Id"]) == (harm != "removed")
    assert tenant.volumes() == volumes
    assert role in tenant.status["drift"]["what"]
    assert told(platform) == events + 1
    assert counted(platform) - counts == {kind: 1}
    assert tenant.ask().json()["database"] is True


def told(platform: Platform, name: str = NAME) -> int:
    """Events about repairs; the API folds equal ones into one with a count."""
    return sum(event.get("count") or 1 for event in platform.events(name) if event["reason"] == "DriftRepaired")


def counted(platform: Platform) -> Counter[str]:
    """Kind -> repairs, as the metric of this process has them."""
    text = httpx.get(platform.operator.url("metrics and health") + "/metrics", timeout=10).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return Counter({s.labels["kind"]: int(s.value) for s in samples if s.name == "dotmac_drift_repaired_total"})


@contextmanager
def looking_away(platform: Platform) -> Iterator[None]:
    """The operator stands still for what takes several commands, and is told of them all when it goes on."""
    os.kill(platform.operator.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(platform.operator.pid, signal.SIGCONT)


def repaired(platform: Platform, tenant: Tenant, began: str, mark: int) -> float:
    """Waits until it is mended and on record; Unix seconds of the moment at which the repair began."""

    def mended() -> bool:
        done = any(line.startswith(began) for line in platform.operator.messages(NAME, mark))
        ready = condition(tenant.object, "Ready")
        return done and bool(ready and ready["status"] == "True")

    platform.wait("it is repaired", mended, 20, about=NAME)
    lines = platform.operator.lines(mark)
    times = [str(line["time"]) for line in lines if str(line["message"]).startswith(began)]
    return datetime.fromisoformat(times[0]).timestamp()


def test_repairs_begin_within_a_second() -> None:
    assert len(DELAYS) == len(ROLES) * len(HARMS)
    assert median(DELAYS) < SECONDS


def test_a_route_that_is_deleted_comes_back(platform: Platform, tenant: Tenant) -> None:
    """By the proxy's own program, as an administrator of the host would; nothing else happens on the host."""
    config = json.loads(tenant.host.docker("exec", PROXY, "cat", "/config/caddy/autosave.json"))
    config["apps"]["http"]["servers"]["plain"]["routes"] = []
    socket = "unix//run/caddy/admin.sock"
    argv = ("exec", "--interactive", PROXY, "caddy", "reload", "--config", "-", "--address", socket)
    mark, events, counts = platform.operator.mark(), told(platform), counted(platform)
    tenant.host.docker(*argv, data=json.dumps(config).encode())
    done = time.time()
    assert repaired(platform, tenant, f"route {NAME}.", mark) - done < 3 * SECONDS
    assert served(tenant)
    assert f"route {NAME}." in tenant.status["drift"]["what"]
    assert (told(platform), (counted(platform) - counts)["RouteChanged"]) == (events + 1, 1)


PROXY_HARMS: dict[str, tuple[tuple[str, ...], str]] = {
    "removed": (("rm", "--force"), "ContainerMissing"),
    "killed": (("kill",), "ContainerStopped"),
    "paused": (("pause",), "ContainerPaused"),
}


def repairing(platform: Platform, server: str) -> bool:
    found = platform.get("Server", server) or {}
    ready = condition(found, "Ready")
    return "repairing" in found["status"] or ready is None or ready["status"] != "True"


@pytest.mark.parametrize("harm", PROXY_HARMS)
def test_the_proxy_comes_back_with_every_route(platform: Platform, tenant: Tenant, harm: str) -> None:
    command, kind = PROXY_HARMS[harm]
    platform.wait("nothing is being repaired", lambda: not repairing(platform, "two"), 20, about=NAME)
    ids, events, counts = tenant.ids(), told(platform, "two"), counted(platform)
    before = (platform.get("Server", "two") or {})["status"].get("drift")
    tenant.host.docker(*command, PROXY)
    platform.wait("it is served again", lambda: served(tenant), 15, about=NAME)

    def recorded() -> bool:
        drift = (platform.get("Server", "two") or {})["status"].get("drift")
        return drift != before and PROXY in drift["what"] and told(platform, "two") > events

    platform.wait("the repair is on record", recorded, 10, about=NAME)
    assert (counted(platform) - counts)[kind] == 1
    platform.wait_condition("Server", "two", "Ready", "True")
    platform.wait_ready(NAME)
    assert tenant.ids() == ids, "no container of the tenant was touched"


def test_a_data_volume_that_is_gone_is_told_and_never_made_anew(
    platform: Platform, tenant: Tenant, tmp_path: Path
) -> None:
    """What its message asks for is then done by hand, with the labels as it names them."""
    host, volume = tenant.host, f"dotmac-{NAME}-data"
    runs = tenant.runs()
    where = Path(json.loads(host.docker("volume", "inspect", volume))[0]["Mountpoint"])
    owner = where.stat()
    with looking_away(platform):
        host.docker("rm", "--force", *host.docker("ps", "-aq", "--filter", f"volume={volume}").split())
        shutil.copytree(where, tmp_path / "data")
        host.docker("volume", "rm", volume)
    found = platform.wait_condition("Instance", NAME, "Stalled", "True", reason="DataVolumeMissing")
    message = condition(found, "Stalled")["message"]  # type: ignore[index]
    assert volume in message
    time.sleep(2)
    assert volume not in host.docker("volume", "ls", "--quiet").split()
    assert tenant.containers("web") == tenant.containers("worker") == []

    labels = re.findall(r"platform\.dotmac\.io/[a-z-]+=[\w-]+", message)
    host.docker("volume", "create", *(f"--label={label}" for label in labels), volume)
    where = Path(json.loads(host.docker("volume", "inspect", volume))[0]["Mountpoint"])
    shutil.copytree(tmp_path / "data", where, dirs_exist_ok=True)
    for path in (where, *where.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    asked = {"metadata": {"annotations": {"platform.dotmac.io/reconcile-requested-at": "the volume is back"}}}
    platform.patch("Instance", NAME, asked)  # else it looks again within half a minute
    platform.wait_condition("Instance", NAME, "Ready", "True")
    assert tenant.runs() == runs
    assert served(tenant)


def test_an_image_that_is_tagged_anew_changes_nothing(platform: Platform, tenant: Tenant) -> None:
    host, web, counts = tenant.host, tenant.containers("web")[0], counted(platform)
    try:
        host.docker("tag", releases.SAMPLE_2, releases.SAMPLE_1)

        def told_of() -> bool:
            found = condition(tenant.object, "InSync")
            return bool(found and (found["status"], found["reason"]) == ("True", "ImageMoved"))

        platform.wait("it is told", told_of, 10, about=NAME)
        assert releases.SAMPLE_1 in tenant.status["drift"]["what"]
        platform.wait("it is counted", lambda: (counted(platform) - counts)["ImageMoved"] == 1, 5, about=NAME)
        assert tenant.containers("web")[0]["Id"] == web["Id"]
        host.docker("rm", "--force", web["Id"])
        mark = platform.operator.mark()
        repaired(platform, tenant, "run container ", mark)
        assert tenant.containers("web")[0]["Image"] == web["Image"], "made from the image that it ran"
        assert tenant.ask().json()["version"] == "1"
    finally:
        host.docker("tag", web["Image"], releases.SAMPLE_1)


def kill(container: str, tenant: Tenant) -> None:
    """Kills the program in a container as if it had ended by itself, so that Docker restarts it."""
    for found in tenant.containers():
        state = found["State"]
        if found["Id"] == container and state["Running"] and state["Pid"] > 1:  # 0 while it restarts
            os.kill(state["Pid"], signal.SIGKILL)


def crashed(tenant: Tenant, role: str, reason: str) -> bool:
    """Lets the containers of a role crash; whether that is told as stalled."""
    for container in tenant.containers(role):
        kill(container["Id"], tenant)
    stalled = condition(tenant.object, "Stalled")
    return bool(stalled and (stalled["status"], stalled["reason"]) == ("True", reason))


def test_a_crash_loop_is_told_and_not_fought(platform: Platform, tenant: Tenant) -> None:
    web, mark = tenant.containers("web")[0], platform.operator.mark()

    platform.wait("it is told", lambda: crashed(tenant, "web", "CrashLooping"), 40, about=NAME)
    assert tenant.containers("web")[0]["Id"] == web["Id"]
    assert not [line for line in platform.operator.messages(NAME, mark) if " container " in line]
    # A new container is another one; its crashes are counted anew.
    tenant.host.docker("rm", "--force", web["Id"])
    platform.wait_condition("Instance", NAME, "Ready", "True")


def test_a_database_server_that_does_not_start_gives_way_to_the_old_one(platform: Platform, tenant: Tenant) -> None:
    old = tenant.containers("database")[0]
    volumes = tenant.volumes()
    images = {"app": releases.SAMPLE_1, "postgresql": releases.SAMPLE_2}
    platform.apply(releases.sample("comet-2", "1.1", releases.SAMPLE_1, images=images))
    platform.apply(releases.instance(NAME, "comet-2", serverRef={"name": "two"}))
    new = platform.wait("the new one runs", lambda: [c for c in tenant.containers("database") if c["Id"] != old["Id"]])
    assert [c["State"]["Running"] for c in tenant.containers("database") if c["Id"] == old["Id"]] == [False]

    def taken_back() -> bool:
        stalled = condition(tenant.object, "Stalled")
        if stalled and stalled["reason"] == "UpgradeRolledBack":
            return True
        kill(new[0]["Id"], tenant)
        return False

    platform.wait("it is taken back", taken_back, 60, about=NAME)
    (now,) = tenant.containers("database")
    assert (now["Id"], now["State"]["Running"]) == (old["Id"], True)
    assert tenant.volumes() == volumes
    platform.wait("it is served", lambda: served(tenant) and tenant.ask().json()["database"], about=NAME)
    platform.apply(releases.instance(NAME, "sample-1", serverRef={"name": "two"}))
    platform.wait_ready(NAME)


def test_a_network_that_is_removed_comes_back(platform: Platform, tenant: Tenant) -> None:
    """Told by the event stream, as all drift."""
    network = f"dotmac-{NAME}"
    host = tenant.host
    names = [c["Name"].lstrip("/") for c in tenant.containers() if c["State"]["Running"]]
    mark, events, counts = platform.operator.mark(), told(platform), counted(platform)
    with looking_away(platform):
        for name in (*names, PROXY):
            host.docker("network", "disconnect", "--force", network, name)
        host.docker("network", "rm", network)
    repaired(platform, tenant, "create network ", mark)
    platform.wait("it is served again", lambda: served(tenant), about=NAME)
    assert tenant.ask().json()["database"] is True
    assert network in tenant.status["drift"]["what"]
    assert (told(platform), (counted(platform) - counts)["NetworkMissing"]) == (events + 1, 1)
    assert sorted(c["Name"].lstrip("/") for c in tenant.containers() if c["State"]["Running"]) == sorted(names)


def test_a_network_that_is_removed_under_stopped_containers_comes_back(platform: Platform, tenant: Tenant) -> None:
    """Docker then keeps the id of the network that is gone in the containers."""
    network = f"dotmac-{NAME}"
    host = tenant.host
    names = [c["Name"].lstrip("/") for c in tenant.containers() if c["State"]["Running"]]
    platform.operator.stop()
    host.docker("stop", "--time", "1", *names)
    host.docker("network", "disconnect", "--force", network, PROXY)
    host.docker("network", "rm", network)
    platform.operator.start()
    platform.wait("it is served again", lambda: served(tenant), about=NAME)
    assert tenant.ask().json()["database"] is True


def served(tenant: Tenant) -> bool:
    try:
        return tenant.ask(timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
