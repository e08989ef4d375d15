"""The script that starts programs on a host, run by this machine's own shell, and what the pool makes of it."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.kits.canned_ssh import CannedEngine, failing

from dotmac_operator.hosts.fence import ARGV0, REFUSED, RELEASE, SCRIPT, FenceToken, fenced, refusal
from dotmac_operator.hosts.port import Fenced, FenceUnavailable, ManagedElsewhere, NotLeading

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the script reads /proc")

OURS, THEIRS = "demo.dotmac-operator.1", "demo.dotmac-operator.2"


class FencedHost:
    """A directory of its own to keep the number in."""

    def __init__(self, home: Path) -> None:
        self.directory = home / "fence"
        self._env = {"PATH": os.environ["PATH"], "DOTMAC_FENCE_DIR": str(self.directory)}
        self._started: list[subprocess.Popen[str]] = []

    def start(self, number: int, *argv: str, domain: str = OURS) -> subprocess.Popen[str]:
        command = fenced(argv, FenceToken(number, domain))
        self._started.append(
            subprocess.Popen(command, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return self._started[-1]

    def channel(self, number: int) -> subprocess.Popen[str]:
        """A program that runs until it is ended, as a channel does."""
        made = self.start(number, "sh", "-c", "echo open; exec sleep 60")
        assert made.stdout is not None and made.stdout.readline() == "open\n"
        return made

    def run(self, number: int, *argv: str, domain: str = OURS) -> tuple[int, str, str]:
        done = self.start(number, *argv, domain=domain)
        out, err = done.communicate(timeout=30)
        return done.returncode, out, err

    @property
    def record(self) -> str:
        return (self.directory / "record").read_text().strip()

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FencedHost]:
    made = FencedHost(tmp_path)
    yield made
    made.close()


def test_the_program_runs_with_its_own_arguments(host):
    hostile = ["a b", "$(touch /tmp/no)", "'; exit 3; '", "*", "-n", "\n"]
    assert host.run(5, "printf", "%s|", *hostile) == (0, "".join(f"{word}|" for word in hostile), "")
    assert host.record == f"5 {OURS} held"


def test_an_older_number_is_refused_and_nothing_runs(host, tmp_path):
    host.run(5, "true")
    code, _, said = host.run(4, "touch", str(tmp_path / "done"))
    assert code == REFUSED
    assert not (tmp_path / "done").exists()
    error = refusal("demo/one", said)
    assert isinstance(error, Fenced) and error.kept == 5
    assert host.record == f"5 {OURS} held"


def test_numbers_are_compared_as_numbers(host):
    assert host.run(9, "true")[0] == 0
    assert host.run(10, "true")[0] == 0
    assert host.run(9, "true")[0] == REFUSED


def test_numbers_beyond_32_bits(host):
    number = 1_795_392_000_000_007
    assert host.run(number, "true")[0] == 0
    assert host.run(number - 1, "true")[0] == REFUSED


def test_a_newer_number_ends_the_channels_of_older_ones(host):
    old = [host.channel(5), host.channel(5)]
    assert [each.poll() for each in old] == [None, None]
    assert host.run(6, "true")[0] == 0
    assert [each.wait(1) for each in old] == [-9, -9]


def test_a_channel_of_the_same_number_stays(host):
    old = host.channel(5)
    host.run(5, "true")
    assert old.poll() is None


def test_a_stopped_channel_is_ended_too(host):
    old = host.channel(5)
    old.send_signal(19)  # SIGSTOP
    assert host.run(6, "true")[0] == 0
    assert old.wait(1) == -9


def test_a_process_that_has_taken_over_the_number_of_a_channel_is_left_alone(host):
    """Pids are used again: the start time tells a namesake apart."""
    bystander = subprocess.Popen(["sleep", "60"])
    time.sleep(0.05)  # start times are counted in hundredths of a second
    try:
        channel = host.channel(5)
        (mark,) = (host.directory / "channels").iterdir()
        number, domain, _, since, boot = mark.name.split("@")
        channel.kill()
        channel.wait()
        mark.rename(mark.with_name(f"{number}@{domain}@{bystander.pid}@{since}@{boot}"))
        assert host.run(6, "true")[0] == 0
        assert bystander.poll() is None
        assert len(list((host.directory / "channels").iterdir())) == 1
    finally:
        bystander.kill()
        bystander.wait()


def test_marks_of_an_earlier_boot_end_nobody(host):
    channel = host.channel(5)
    (mark,) = (host.directory / "channels").iterdir()
    mark.rename(mark.with_name(mark.name.rpartition("@")[0] + "@another-boot"))
    assert host.run(6, "true")[0] == 0
    assert channel.poll() is None


def test_marks_of_ended_channels_do_not_pile_up(host):
    for _ in range(5):
        host.run(5, "true")
    assert len(list((host.directory / "channels").iterdir())) == 1


def test_another_domain_is_refused_whatever_its_number(host):
    host.run(5, "true")
    for number in (1, 5, 99):
        code, _, said = host.run(number, "true", domain=THEIRS)
        assert code == REFUSED
        error = refusal("demo/one", said)
        assert isinstance(error, ManagedElsewhere)
        assert OURS in str(error) and str(host.directory / "record") in str(error)
    assert host.record == f"5 {OURS} held"


def test_a_released_host_goes_to_another_domain_but_not_back_to_an_old_leader(host):
    host.run(5, "true")
    assert host.run(5, RELEASE)[0] == 0
    assert host.run(4, "true")[0] == REFUSED
    assert host.run(1, "true", domain=THEIRS)[0] == 0
    assert host.run(5, "true")[0] == REFUSED
    assert host.record == f"1 {THEIRS} held"


def test_an_older_leader_cannot_release(host):
    host.run(5, "true")
    assert host.run(4, RELEASE)[0] == REFUSED
    assert host.record == f"5 {OURS} held"


@pytest.mark.parametrize("content", ["", "\n", "x\n", f"5x {OURS} held\n", "5\n", f" {OURS} held\n"])
def test_a_damaged_record_lets_nobody_through(host, content):
    host.run(5, "true")
    (host.directory / "record").write_text(content)
    code, _, said = host.run(6, "true")
    assert code == REFUSED
    error = refusal("demo/one", said)
    assert isinstance(error, FenceUnavailable) and "damaged" in str(error)


def test_many_at_once_leave_the_highest_number(host):
    with ThreadPoolExecutor(12) as threads:
        ended = dict(zip(range(1, 25), threads.map(lambda n: host.run(n, "echo", "ran"), range(1, 25)), strict=True))
    assert host.record == f"24 {OURS} held"
    for code, out, said in ended.values():
        # Ran, was refused, or was ended as the channel of an older one.
        assert (code, out) in ((0, "ran\n"), (REFUSED, ""), (-9, ""), (-9, "ran\n")), said
    assert ended[24][0] == 0


def test_a_lock_whose_holder_died_is_free(host):
    host.run(5, "true")
    argv = ["sh", "-c", 'exec 9>>"$1"; flock 9; echo held; exec sleep 60', "sh", str(host.directory / "lock")]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    waiting = host.start(6, "true")
    time.sleep(0.3)
    assert waiting.poll() is None
    holder.kill()
    holder.wait()
    assert waiting.wait(5) == 0


def test_without_a_place_to_keep_the_number_nothing_runs(tmp_path):
    (tmp_path / "file").write_text("")
    env = {"PATH": os.environ["PATH"], "DOTMAC_FENCE_DIR": str(tmp_path / "file" / "below")}
    done = subprocess.run(fenced(["echo", "ran"], FenceToken(1, OURS)), env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (REFUSED, "")
    assert isinstance(refusal("demo/one", done.stderr), FenceUnavailable)


def test_a_program_that_is_not_there_is_no_refusal(host):
    code, _, said = host.run(5, "no-such-program")
    assert code == 127
    assert refusal("demo/one", said) is None


@pytest.mark.parametrize("domain", ["", "A", "a b", "a@b", "-a", "a\n", "a" * 201, "$(x)"])
def test_a_domain_that_is_none(domain):
    with pytest.raises(ValueError, match="domain"):
        FenceToken(1, domain)


@pytest.mark.parametrize("number", [-1, 2**63])
def test_a_number_that_no_shell_can_compare(number):
    with pytest.raises(ValueError, match="number"):
        FenceToken(number, OURS)


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_other_shells(shell, tmp_path):
    program = subprocess.run(["which", shell], capture_output=True, text=True).stdout.strip()
    if not program:
        pytest.skip(f"no {shell} on this machine: apt-get install {shell}")
    argv = [program, *(["sh"] if shell == "busybox" else []), *fenced(["echo", "ran"], FenceToken(7, OURS))[1:]]
    env = {"PATH": os.environ["PATH"], "DOTMAC_FENCE_DIR": str(tmp_path / "fence")}
    for _ in range(2):
        assert subprocess.run(argv, env=env, capture_output=True, text=True).stdout == "ran\n"


# ---- the pool


class GivenFence:
    def __init__(self, number: int = 7) -> None:
        self.number = number
        self.leading = True
        self.heard: list[int] = []

    def token(self) -> FenceToken:
        if not self.leading:
            raise NotLeading("this process does not lead")
        return FenceToken(self.number, OURS)

    def refused(self, kept: int) -> None:
        self.heard.append(kept)


def test_each_channel_is_opened_through_the_script(canned):
    made = canned(CannedEngine(), fence=GivenFence())
    made.host().probe()
    made.host(use_sudo=True).probe()
    plain, sudo = (shlex.split(command) for command in made.server.commands)
    behind = ["sh", "-c", SCRIPT, ARGV0, "7", OURS, "docker", "system", "dial-stdio"]
    assert plain == ["env", "LC_ALL=C", *behind]
    assert sudo == ["env", "LC_ALL=C", "sudo", "-n", "--", *behind]


def test_programs_on_the_host_go_through_it_too(canned):
    made = canned(failing(0, ""), fence=GivenFence())
    made.host().run(["touch", "/etc/x"])
    assert shlex.split(made.server.commands[0])[-5:] == [ARGV0, "7", OURS, "touch", "/etc/x"]


@pytest.mark.parametrize(
    "call", [lambda host: host.probe(), lambda host: host.run(["true"]), lambda host: host.engine.events(0)]
)
def test_a_refusal_is_typed_and_told_to_the_election(canned, call: Callable[..., object]):
    fence = GivenFence()
    made = canned(failing(REFUSED, "dotmac-fence: refused 8\n"), fence=fence)
    with pytest.raises(Fenced, match="newer leader"):
        call(made.host())
    assert fence.heard == [8]


def test_who_does_not_lead_sends_nothing_even_on_an_open_channel(canned):
    fence, said = GivenFence(), CannedEngine()
    made = canned(said, fence=fence)
    host = made.host()
    host.probe()
    before = list(said.seen)
    fence.leading = False
    for call in (host.probe, host.engine.containers, lambda: host.run(["true"]), lambda: host.disk("/")):
        with pytest.raises(NotLeading):
            call()
    assert said.seen == before and len(made.server.commands) == 1
