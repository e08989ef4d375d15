"""Two operators and one control plane: one acts, the other takes over, and nothing is done twice.

Both run on this machine. Where one is killed the other can see that it is gone; where one is stopped it cannot, and the
Lease has to run out, as it does between machines.
"""

import json
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e import releases
from tests.e2e.platform import Operator, Platform, Tenant
from tests.kits.dockerhost import DockerHost
from tests.kits.rights import SYSTEM

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

TAKEOVER = 15.0
"""Seconds from the end of a leader to the first act of the next."""
RELEASED = 6.0
"""The same when it has released the Lease, which would run out after 8 s: a look each 0.75 s, on a busy machine."""
SLOW = [{"name": f"SLEEP_{part}", "value": "1"} for part in ("MIGRATE", "BOOTSTRAP", "START")]
PREFIX = "platform.dotmac.io/"


@pytest.fixture(scope="module")
def standby(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """A second operator beside the platform's own, which is the one that is left when all is over."""
    kubeconfig = Path(platform.operator._env["KUBECONFIG"])
    made = Operator(kubeconfig, tmp_path_factory.mktemp("standby") / "operator.log", SYSTEM)
    made.start()
    yield made
    if made.alive():
        made.stop()
    if not platform.operator.alive():
        platform.operator.start()
    wait_leader(platform, platform.operator)


class Watched:
    """Counts containers of each (instance, role, replica, hash) on a host from its Engine's own events."""

    def __init__(self, lines: list[str]) -> None:
        self.most: Counter[tuple[str, ...]] = Counter()
        alive: dict[str, tuple[str, ...]] = {}
        for event in map(json.loads, lines):
            own = event["Actor"]["Attributes"]
            if event["Action"] == "create" and PREFIX + "role" in own:
                key = tuple(own.get(PREFIX + part, "") for part in ("instance", "role", "index", "hash"))
                alive[event["Actor"]["ID"]] = key
                self.most[key] = max(self.most[key], Counter(alive.values())[key])
            elif event["Action"] == "destroy":
                alive.pop(event["Actor"]["ID"], None)


@contextmanager
def watching(host: DockerHost) -> Iterator[list[str]]:
    """Lines of `docker events` about containers, while the block runs; complete after it."""
    argv = ["docker", "--host", f"unix://{host.docker_socket}", "events", "--filter", "type=container",
            "--format", "{{json .}}"]  # fmt: skip
    lines: list[str] = []
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()
    time.sleep(0.3)
    try:
        yield lines
    finally:
        time.sleep(0.3)
        process.terminate()
        process.wait(10)
        reader.join(10)


def lease(platform: Platform) -> releases.Object:
    place = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/dotmac-operator"
    answer = platform.plane.client.get(place)
    return answer.json()["spec"] if answer.is_success else {}


def leads(platform: Platform, operator: Operator) -> bool:
    return f"-{operator.pid}-" in lease(platform).get("holderIdentity", "")


def wait_leader(platform: Platform, operator: Operator, seconds: float = TAKEOVER) -> float:
    started = time.monotonic()
    while not leads(platform, operator):
        assert time.monotonic() - started < seconds, f"no takeover within {seconds} s: {lease(platform)}"
        time.sleep(0.05)
    return time.monotonic() - started


def wait_standby(operator: Operator, mark: int = 0) -> None:
    deadline = time.monotonic() + 20
    while "standing by" not in operator.text(mark):
        assert operator.alive() and time.monotonic() < deadline, operator.tail()
        time.sleep(0.05)


def under_way(operator: Operator, mark: int, action: str) -> None:
    deadline = time.monotonic() + 30
    while f'"message": "{action}' not in operator.text(mark):
        assert time.monotonic() < deadline, operator.tail()
        time.sleep(0.005)


def fence(host: DockerHost) -> int:
    return int((host._runtime / "fence" / "record").read_text().split()[0])


def test_killed_in_the_middle_of_a_deploy_the_other_finishes_it(platform: Platform, standby: Operator) -> None:
    tenant = Tenant(platform, "heir", "two")
    first, host = platform.operator, platform.hosts["two"]
    wait_leader(platform, first)
    wait_standby(standby)
    kept, mark = fence(host), first.mark()
    with watching(host) as lines:
        platform.apply(releases.instance("heir", "sample-2", serverRef={"name": "two"}, env=SLOW))
        under_way(first, mark, "run container dotmac-heir-migrate-")
        first.kill()
        assert wait_leader(platform, standby) < TAKEOVER
        platform.wait_ready("heir", 45)
    assert set(Watched(lines).most.values()) == {1}
    assert fence(host) > kept
    assert tenant.runs().count("bootstrap") <= 1
    first.start()


def test_stopped_in_the_middle_of_a_deploy_it_wakes_up_to_no_effect(platform: Platform, standby: Operator) -> None:
    """`standby` leads now. Its last calls are cut off by the host, and it ends by itself with an error."""
    first, host, tenant = platform.operator, platform.hosts["two"], Tenant(platform, "sleeper", "two")
    wait_leader(platform, standby)
    kept, mark = fence(host), standby.mark()
    with watching(host) as lines:
        platform.apply(releases.instance("sleeper", "sample-2", serverRef={"name": "two"}, env=SLOW))
        under_way(standby, mark, "run container dotmac-sleeper-web-")
        assert standby._process is not None
        standby._process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        wait_leader(platform, first)
        platform.wait("the next one acts on the host", lambda: fence(host) > kept, TAKEOVER)
        assert time.monotonic() - began < TAKEOVER
        platform.wait_ready("sleeper", 45)
        before = tenant.ids()
        standby._process.send_signal(signal.SIGCONT)
        assert standby._process.wait(20) == 1
    assert "has taken the leader's Lease" in standby.text(mark)
    assert tenant.ids() == before
    platform.wait_ready("sleeper")
    assert set(Watched(lines).most.values()) == {1}
    standby._process = None


def test_a_clean_end_hands_over_within_seconds(platform: Platform, standby: Operator) -> None:
    first = platform.operator
    mark = standby.mark()
    if not standby.alive():
        standby.start()
    wait_standby(standby, mark)
    wait_leader(platform, first)
    ids = Tenant(platform, "heir", "two").ids()
    assert first._process is not None
    first._process.terminate()
    taken = wait_leader(platform, standby)
    assert taken < RELEASED, f"took over after {taken:.1f} s although the Lease was released"
    assert first._process.wait(20) == 0
    assert "the leader's Lease is released" in first.text()
    mark = first.mark()
    first.start()
    wait_standby(first, mark)
    standby.stop()
    wait_leader(platform, first)
    assert Tenant(platform, "heir", "two").ids() == ids
    for name in ("heir", "sleeper"):
        platform.let_go(name)
