"""The kit itself: what other tests take for granted about a host, and that nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import paramiko
import pytest
from tests.kits.dockerhost import DockerHost, docker_host

from dotmac_local.demo.processes import mentioning

pytestmark = pytest.mark.docker


def connect(host: DockerHost, timeout: float = 5) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    kind, key = host.host_key.split()[:2]
    name = host.address if host.port == 22 else f"[{host.address}]:{host.port}"
    client.get_host_keys().add(name, kind, paramiko.PKey.from_type_string(kind, b64decode(key)))
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    client.connect(
        host.address,
        host.port,
        host.user,
        pkey=paramiko.Ed25519Key.from_private_key(StringIO(host.private_key)),
        timeout=timeout,
        allow_agent=False,
        look_for_keys=False,
    )
    return client


def execute(host: DockerHost, command: str) -> tuple[int, str]:
    client = connect(host)
    try:
        _, out, err = client.exec_command(command, timeout=20)
        said = (out.read() + err.read()).decode()
        return out.channel.recv_exit_status(), said
    finally:
        client.close()


def test_docker_answers_over_ssh_as_an_unprivileged_user(host: DockerHost) -> None:
    assert execute(host, "id -u")[1].strip() != "0"
    status, said = execute(host, "docker version --format '{{.Server.Version}}'")
    assert status == 0, said
    assert said.strip() == host.docker("version", "--format", "{{.Server.Version}}").strip()


def test_a_user_outside_the_group_is_denied_and_let_in_again(host: DockerHost) -> None:
    host.deny_docker()
    try:
        status, said = execute(host, "docker ps")
    finally:
        host.allow_docker()
    assert status != 0 and "permission denied" in said
    assert execute(host, "docker ps")[0] == 0


def test_a_host_without_a_docker_client(host: DockerHost) -> None:
    host.no_docker()
    try:
        status, said = execute(host, "docker ps")
        assert execute(host, "cat /etc/os-release | grep -c .")[0] == 0
    finally:
        host.with_docker()
    assert status == 127, said


def test_an_unreachable_host_comes_back(host: DockerHost) -> None:
    host.unreachable()
    try:
        with pytest.raises((OSError, paramiko.SSHException)):
            connect(host, timeout=1)
    finally:
        host.reachable()
    assert execute(host, "true")[0] == 0


def test_a_rebuilt_host_shows_another_key(host: DockerHost) -> None:
    before = host.host_key
    assert host.new_host_key() != before
    assert execute(host, "true")[0] == 0


def test_restarting_sshd_cuts_sessions(host: DockerHost) -> None:
    client = connect(host)
    host.restart_sshd()
    time.sleep(0.2)
    assert not (transport := client.get_transport()) or not transport.is_active()
    assert execute(host, "true")[0] == 0


def test_dockerd_survives_being_killed(host: DockerHost) -> None:
    host.kill_dockerd()
    host.start_dockerd()
    assert host.docker("ps", "--quiet") == ""


def test_two_hosts_do_not_disturb_each_other(make_host: Callable[[str], DockerHost]) -> None:
    one, two = make_host("one"), make_host("two")
    assert one.address != two.address
    one.unreachable()
    assert execute(two, "docker ps")[0] == 0


@pytest.mark.timeout(120)
def test_what_a_killed_run_left_is_removed() -> None:
    base = Path(__file__).resolve().parents[2] / ".local" / "test-hosts"  # where deploy/test looks for what was left
    script = (
        "import sys, time; from pathlib import Path; from tests.kits.dockerhost import docker_host\n"
        "with docker_host('left', Path(sys.argv[1])) as host: print(host.user, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(base)], stdout=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert run.stdout is not None
        try:
            user = run.stdout.readline().strip()
        finally:
            run.send_signal(signal.SIGKILL)
    assert mentioning(f"--data-root={base}/left/"), "the killed run's dockerd should still be there"
    with docker_host("left", base) as host:
        assert host.user == user
        assert execute(host, "docker ps")[0] == 0
    assert not mentioning(f"{base}/left/")
    assert not (base / "left").exists()
    assert user not in Path("/etc/passwd").read_text()
    assert user not in Path("/proc/self/mountinfo").read_text()
    assert user not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert (
        user.removeprefix("dmt-")
        not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    )
