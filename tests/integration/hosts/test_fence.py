"""A leader that was overtaken: what reaches a real host from it, and what the host remembers."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.hosts.conftest import address_of
from tests.kits.controlplane import PYTHONPATH
from tests.kits.dockerhost import DockerHost

from dotmac_operator.hosts.fence import FenceToken
from dotmac_operator.hosts.pool import SshHost, SshHostPool, SshSettings
from dotmac_operator.hosts.port import Fenced, FenceUnavailable, HostError, HostUnreachable, ManagedElsewhere

pytestmark = pytest.mark.docker

OURS, THEIRS = "erp.dotmac-operator.1", "erp.dotmac-operator.2"


class Leader:
    """Shows a number whatever the time: the host alone must stop it."""

    def __init__(self, number: int, domain: str = OURS) -> None:
        self.shown = FenceToken(number, domain)
        self.heard: list[int] = []

    def token(self) -> FenceToken:
        return self.shown

    def refused(self, kept: int) -> None:
        self.heard.append(kept)


@pytest.fixture
def record(host: DockerHost) -> Iterator[Path]:
    """Where the host keeps the number; a host that never saw an operator."""
    directory = host._runtime / "fence"
    for path in (*directory.glob("channels/*"), directory / "record"):
        path.unlink(missing_ok=True)
    yield directory / "record"
    (directory / "record").unlink(missing_ok=True)


@pytest.fixture
def lead(host: DockerHost, record: Path) -> Iterator[Callable[..., SshHost]]:
    """The host as the leader with this number reaches it."""
    with ExitStack() as pools:

        def make(number: int, domain: str = OURS) -> SshHost:
            pool = SshHostPool(SshSettings(refusal_seconds=0.0), fence=Leader(number, domain))
            pools.callback(pool.close)
            return pool.get(address_of(host))

        yield make


def test_an_overtaken_leader_changes_nothing_and_loses_its_channels(host, lead, tiny, name, record):
    old, new = lead(5), lead(6)
    old.engine.create_container(name, {"Image": tiny, "Cmd": ["sleep", "600"], "StopSignal": "SIGKILL"})
    old.engine.start_container(name)
    stream = old.engine.events(0)
    before = host.docker("ps", "--all", "--quiet", "--no-trunc")

    new.probe()
    assert record.read_text() == f"6 {OURS} held\n"
    with pytest.raises(HostError):
        for _ in stream:
            pass
    calls = (
        lambda: old.engine.create_container(f"{name}-2", {"Image": tiny}),
        lambda: old.engine.remove_container(name),
        lambda: old.engine.exec(name, ["true"]),
        lambda: old.engine.containers(),
        lambda: old.run(["touch", "/tmp/dotmac-must-not-be"]),
        lambda: old.engine.events(0),
        old.release,
    )
    for call in calls:
        with pytest.raises(Fenced, match="number 6"):
            call()
    assert old._fence.heard == [6] * len(calls)
    assert host.docker("ps", "--all", "--quiet", "--no-trunc") == before
    assert not Path("/tmp/dotmac-must-not-be").exists()
    assert new.engine.exec(name, ["true"]).exit_code == 0


def test_a_call_that_is_under_way_ends_with_the_channel(lead, sleeper, name):
    old, new = lead(5), lead(6)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(old.engine.exec, name, ["sleep", "60"])
        while old.execs == 0:
            assert not running.done()
        threading.Event().wait(0.3)
        new.probe()
        with pytest.raises((HostUnreachable, Fenced)):
            running.result(10)


WAKING = """
import json, sys
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.fence import FenceToken
from dotmac_operator.hosts.pool import SshHostPool
from dotmac_operator.hosts.port import HostAddress, HostError, Fenced

class Leader:
    def token(self): return FenceToken(5, sys.argv[2])
    def refused(self, kept): pass

given = json.loads(sys.argv[1])
given["private_key"] = SecretStr(sys.stdin.read())
host = SshHostPool(fence=Leader()).get(HostAddress(passphrase=None, **given))
for number in range(100000):
    try:
        host.engine.create_volume(f"{sys.argv[3]}-{number}", {})
        print("made", number, flush=True)
    except Fenced as error:
        print("fenced", flush=True)
        break
    except HostError as error:
        print("failed", type(error).__name__, flush=True)
"""


def test_a_leader_that_was_stopped_and_wakes_up_has_no_effect(host, lead, name):
    """The process is stopped in the middle of its calls, so that some of them are half-way when it goes on."""
    reach = {"name": "demo/one", "address": host.address, "port": host.port, "user": host.user}
    argv = [sys.executable, "-c", WAKING, json.dumps({**reach, "host_keys": [host.host_key]}), OURS, name]
    old = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )
    assert old.stdin is not None and old.stdout is not None
    try:
        old.stdin.write(host.private_key)
        old.stdin.close()
        for _ in range(20):
            assert old.stdout.readline().startswith("made")
        old.send_signal(signal.SIGSTOP)
        new = lead(6)
        new.probe()
        threading.Event().wait(0.2)  # what the engine had received already is done by now
        before = {volume.name for volume in new.engine.volumes()}
        old.send_signal(signal.SIGCONT)
        said = old.stdout.read().split("\n")
        assert "fenced" in said
        assert {volume.name for volume in new.engine.volumes()} == before
    finally:
        old.kill()
        old.wait()


def test_the_number_outlives_sshd_and_the_engine(host, lead, record):
    lead(6).probe()
    host.stop_dockerd()
    host.restart_sshd()
    host.start_dockerd()
    with pytest.raises(Fenced):
        lead(5).probe()
    lead(6).probe()


def test_leaders_that_come_all_at_once_leave_the_newest(lead, record):
    hosts = {number: lead(number) for number in range(10, 18)}

    def use(number: int) -> str:
        try:
            for _ in range(10):
                hosts[number].engine.containers()
        except Fenced:
            return "fenced"
        except HostUnreachable:
            return "cut off"
        return "done"

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, hosts))
    assert record.read_text().split()[0] == "17"
    assert {number: use(number) for number in hosts} == {**dict.fromkeys(range(10, 17), "fenced"), 17: "done"}


def test_another_control_plane_is_told_whose_host_it_is(lead, record):
    lead(6).probe()
    theirs = lead(99, THEIRS)
    with pytest.raises(ManagedElsewhere, match=OURS) as told:
        theirs.probe()
    assert str(record) in str(told.value)
    lead(6).release()
    theirs.probe()
    with pytest.raises(ManagedElsewhere, match=THEIRS):
        lead(7).probe()


def test_a_host_that_cannot_keep_a_number_is_left_alone(lead, record):
    lead(6).probe()
    record.write_text("half a rec")
    with pytest.raises(FenceUnavailable, match="damaged"):
        lead(7).probe()
    record.unlink()
    lead(7).probe()
