"""`dotmac-local` as people use it: twice, after crashes, with the port taken, with files that lie."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from tests.kits.controlplane import PYTHONPATH

# Processes of their own, and seconds each: left out by deploy/test --fast.
pytestmark = pytest.mark.e2e


class Cli:
    """The command with a state directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "dotmac_local.cli", *args, "--dir", str(self.directory)]
        env = {**os.environ, "PYTHONPATH": PYTHONPATH}
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)

    def up(self, *args: str) -> int:
        """Start on a free port; returns the pid."""
        done = self("up", *(args or ("--port", "0")))
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"export KUBECONFIG={self.directory}/kubeconfig\n"
        assert "never for production" in done.stderr
        found = re.search(r"pid (\d+)", done.stderr)
        assert found
        return int(found[1])

    @property
    def url(self) -> str:
        config = yaml.safe_load((self.directory / "kubeconfig").read_text())
        found: str = config["clusters"][0]["cluster"]["server"]
        return found


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    made = Cli(tmp_path / "state")
    yield made
    made("down")


def test_up_twice_is_one_server(cli: Cli) -> None:
    pid = cli.up()
    assert cli.up() == pid
    assert cli("status").returncode == 0
    assert str(pid) in cli("status").stdout
    down = cli("down")
    assert down.returncode == 0 and "Stopped." in down.stderr
    again = cli("down")
    assert again.returncode == 0 and "It was not running." in again.stderr
    assert cli("status").returncode == 3


def test_the_kubeconfig_survives_a_restart(cli: Cli) -> None:
    cli.up()
    before = cli("kubeconfig").stdout
    cli("down")
    cli.up("--timeout", "20")
    assert cli("kubeconfig").stdout == before


def test_a_kill_leaves_nothing_in_the_way(cli: Cli) -> None:
    pid = cli.up()
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert cli("status").returncode == 3
    assert cli.up("--timeout", "20") != pid


@pytest.mark.parametrize(
    "content",
    [
        "",
        "garbage",
        "{}",
        "SOMEBODY",
        "1",
        "1073741824",
    ],
)
def test_a_pid_file_that_is_not_ours_is_not_believed(cli: Cli, content: str) -> None:
    cli.directory.mkdir()
    (cli.directory / "server.pid").write_text(content.replace("SOMEBODY", str(os.getpid())))
    assert cli("status").returncode == 3
    assert cli("down").returncode == 0
    os.kill(os.getpid(), 0)


def test_two_at_once_are_one_server(cli: Cli) -> None:
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: cli("up", "--timeout", "50"), range(3)))
    assert cli("status").returncode == 0
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr for one in done]
    assert len({re.findall(r"pid (\d+)", one.stderr)[0] for one in done}) == 1


def test_a_port_that_is_taken(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = cli("up", "--port", port)
        assert done.returncode == 1
        assert f"port {port}" in done.stderr and "choose another with --port" in done.stderr
        assert cli("status").returncode == 3


def test_another_port_while_it_runs(cli: Cli) -> None:
    cli.up()
    done = cli("up", "--port", "1")
    assert done.returncode == 1 and "it runs already on https://127.0.0.1:" in done.stderr


def test_purge_deletes_what_is_its_own(cli: Cli) -> None:
    cli.up()
    (cli.directory / "mine.txt").write_text("keep")
    done = cli("down", "--purge")
    assert done.returncode == 0
    assert [path.name for path in cli.directory.iterdir()] == ["mine.txt"]
    (cli.directory / "mine.txt").unlink()
    cli.up()
    assert cli("down", "--purge").returncode == 0
    assert not cli.directory.exists()


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = Cli(tmp_path / "file" / "state")("up")
    assert done.returncode == 1 and "choose another place with --dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_kubeconfig_before_up(cli: Cli) -> None:
    done = cli("kubeconfig")
    assert done.returncode == 1 and "run `dotmac-local up` first" in done.stderr


def test_a_server_that_hangs_is_told_from_one_that_runs(cli: Cli) -> None:
    pid = cli.up()
    os.kill(pid, signal.SIGSTOP)
    try:
        status = cli("status")
        assert status.returncode == 4 and "does not answer" in status.stdout
    finally:
        os.kill(pid, signal.SIGCONT)


def test_it_listens_on_loopback_alone(cli: Cli) -> None:
    cli.up()
    port = int(cli.url.rpartition(":")[2])
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_help_everywhere(tmp_path: Path) -> None:
    for command in ((), ("up",), ("down",), ("status",), ("kubeconfig",)):
        argv = [sys.executable, "-m", "dotmac_local.cli", *command, "--help"]
        done = subprocess.run(
            argv, env={**os.environ, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0 and "Usage" in done.stdout
