"""The connection: kept, limited, lost and made again; on an SSH server in this process."""

import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import paramiko
import pytest
from tests.kits.canned_ssh import Answer, CannedEngine, failing, http

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.pool import MAX_CHANNELS, SshSettings
from dotmac_operator.hosts.port import (
    CircuitOpen,
    Conflict,
    DeadlineExceeded,
    DockerAbsent,
    DockerNotPermitted,
    DockerTooOld,
    EngineError,
    ForwardingRefused,
    HostBusy,
    HostError,
    HostUnreachable,
    ProbeRefused,
)
from dotmac_operator.hosts.probe import ProbeInvalid
from dotmac_operator.hosts.shell import CommandInvalid
from dotmac_operator.hosts.ssh import SshTimes


def engine(**answers: Answer) -> CannedEngine:
    made = CannedEngine()
    made.answers["GET /containers/json"] = Answer(body=[])
    made.answers["POST /containers/create"] = Answer(201, {"Id": "abc"})
    return made


def test_many_requests_share_one_connection_and_one_channel(canned):
    said = engine()
    made = canned(said)
    host = made.host()
    for _ in range(20):
        assert host.engine.containers() == []
    assert made.server.connections == 1
    assert made.server.commands == ["env LC_ALL=C docker system dial-stdio"]
    assert host.round_trips == 20
    assert host.execs == 0


def test_sudo_is_used_when_the_server_says_so(canned):
    made = canned(engine())
    made.host(use_sudo=True).engine.containers()
    assert made.server.commands == ["env LC_ALL=C sudo -n -- docker system dial-stdio"]


def test_nagle_is_off_and_the_kernel_watches(canned):
    host = canned(engine()).host()
    host.probe()
    sock = host._live._transport.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15000


@pytest.mark.parametrize(
    ("allowed", "taken"),
    [
        ((), "aes128-gcm@openssh.com"),
        (("aes256-gcm@openssh.com", "aes256-ctr"), "aes256-gcm@openssh.com"),
        (("aes192-ctr", "aes128-cbc"), "aes192-ctr"),
    ],
)
def test_a_cipher_that_costs_little_is_taken(canned, allowed, taken):
    made = canned(engine())
    made.server.ciphers = allowed
    host = made.host()
    assert host.engine.containers() == []
    assert host._live._transport.remote_cipher == taken


def test_a_host_of_old_ciphers_is_told_which_to_allow(canned):
    made = canned(engine())
    made.server.ciphers = ("aes256-cbc", "3des-cbc")
    with pytest.raises(HostUnreachable, match="no acceptable ciphers.*sshd_config has to allow.*aes256-ctr"):
        made.host().engine.containers()


def test_after_a_restart_of_sshd_the_next_call_works(canned):
    made = canned(engine())
    host = made.host()
    host.probe()
    made.server.drop_connections()
    assert host.engine.create_container("web", {"Image": "x"}) == "abc"
    assert made.server.connections == 2


def test_a_read_is_repeated_once_when_the_kept_connection_breaks_off(canned):
    said = engine()
    made = canned(said)
    host = made.host()
    host.engine.containers()
    said.answers["GET /networks"] = Answer(break_off=True)
    with pytest.raises(HostUnreachable, match="lost"):
        host.engine.networks()
    assert said.seen.count("GET /networks") == 2


def test_a_change_that_breaks_off_is_never_sent_again(canned):
    said = engine()
    host = canned(said).host()
    host.engine.containers()
    said.answers["POST /containers/create"] = Answer(break_off=True)
    with pytest.raises(HostUnreachable, match="lost"):
        host.engine.create_container("web", {"Image": "x"})
    assert said.seen.count("POST /containers/create") == 1


def test_a_change_first_proves_a_kept_connection(canned):
    said = engine()
    said.answers["GET /containers/json"] = Answer(body=[], hang_up_after=True)
    host = canned(said).host()
    for number in range(5):
        host.engine.containers()  # The engine hangs up behind every answer, as one that restarts does.
        assert host.engine.create_container(f"web-{number}", {"Image": "x"}) == "abc"
    assert said.seen.count("POST /containers/create") == 5


def test_an_error_answer_keeps_the_connection(canned):
    said = engine()
    said.answers["POST /containers/create"] = Answer(409, {"message": "name is in use"})
    made = canned(said)
    host = made.host()
    for _ in range(3):
        with pytest.raises(Conflict, match="name is in use") as told:
            host.engine.create_container("web", {"Image": "x"})
        assert told.value.status == 409
    assert len(made.server.commands) == 1


@pytest.mark.parametrize(
    ("code", "stderr", "error", "remedy"),
    [
        (
            1,
            "permission denied while trying to connect to the Docker daemon socket",
            DockerNotPermitted,
            "docker group",
        ),
        (1, "Got permission denied while trying to connect to the Docker daemon", DockerNotPermitted, "usermod"),
        (1, "sudo: a password is required", DockerNotPermitted, "NOPASSWD"),
        (127, "env: 'sudo': No such file or directory", DockerNotPermitted, "use the docker group instead"),
        (127, "env: 'docker': No such file or directory", DockerAbsent, "install Docker"),
        (127, "sh: 1: docker: not found", DockerAbsent, "install Docker"),
        (1, "sudo: docker: command not found", DockerAbsent, "install Docker"),
        (1, "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", DockerAbsent, "systemctl status"),
        (
            1,
            "failed to open the raw stream connection: dial unix /s: connect: permission denied",
            DockerNotPermitted,
            "usermod",
        ),
        (
            1,
            "failed to open the raw stream connection: dial unix /s: connect: no such file",
            DockerAbsent,
            "does not run",
        ),
        (1, "failed to connect to the docker API at unix:///var/run/docker.sock", DockerAbsent, "systemctl status"),
        (1, "docker: 'dial-stdio' is not a docker command.", DockerTooOld, "20.10"),
        (3, "something new", DockerAbsent, "code 3: something new"),
        (137, "Killed", HostUnreachable, "lost"),
    ],
)
def test_what_docker_says_becomes_an_error_with_a_remedy(canned, code, stderr, error, remedy):
    with pytest.raises(error, match=remedy):
        canned(failing(code, stderr)).host().engine.containers()


def test_an_engine_before_20_10_is_too_old(canned):
    said = engine()
    said.api = "1.40"
    with pytest.raises(DockerTooOld, match="1.40.*1.41"):
        canned(said).host().engine.containers()


def test_a_newer_engine_is_spoken_to_in_a_version_that_was_tested(canned):
    said = engine()
    said.api = "1.99"
    said.answers["GET /info"] = Answer(body={"ServerVersion": "99.0"})
    assert canned(said).host().engine.info().api_version == "1.99"


def test_a_login_shell_that_prints_is_named(canned):
    def chatty(channel: paramiko.Channel, command: str) -> None:
        channel.sendall(b"Welcome to this server!\r\n\r\n")
        channel.recv(1024)

    with pytest.raises(HostError, match="login shell must print nothing"):
        canned(chatty).host().engine.containers()


def test_an_answer_that_is_not_json_is_an_error_of_the_engine(canned):
    said = engine()
    said.answers["GET /networks"] = Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<ht>")
    with pytest.raises(EngineError, match="not JSON"):
        canned(said).host().engine.networks()


def test_environment_values_never_reach_an_error(canned):
    said = engine()
    canary = 'hunter2"quoted\nline'
    said.answers["POST /containers/create"] = Answer(400, {"message": f"invalid: PGPASSWORD={canary} {canary!r:.40}"})
    host = canned(said).host()
    with pytest.raises(EngineError) as told:
        host.engine.create_container("web", {"Image": "x", "Env": [f"PGPASSWORD={canary}", "=odd"]})
    seen = f"{told.value} {told.value!r} {told.value.__cause__!r} {told.value.__context__!r}"
    assert canary not in seen
    assert "***" in seen


@pytest.mark.parametrize("name", ["../../etc", "a b", "", "-x", "a/b", "a?x=1", "x" * 300, "ü", "a\nb"])
def test_a_hostile_name_never_reaches_a_url(canned, name):
    said = engine()
    host = canned(said).host()
    calls = [
        lambda: host.engine.remove_container(name),
        lambda: host.engine.create_container(name, {}),
        lambda: host.engine.remove_volume(name),
        lambda: host.engine.remove_network(name),
        lambda: host.engine.connect_network("net", name),
        lambda: host.engine.exec(name, ["id"]),
        lambda: host.engine.read_file(name, "/etc/motd"),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="not a Docker object name"):
            call()
    assert said.seen == []


@pytest.mark.parametrize("reference", ["", "-a", "a/../b", "a//b", "a b", "a?x", "a#b", "a\nb"])
def test_a_hostile_reference_never_reaches_a_url(canned, reference):
    said = engine()
    host = canned(said).host()
    for call in (host.engine.image, host.engine.pull):
        with pytest.raises(EngineError, match="not an image reference"):
            call(reference)
    assert said.seen == []


def test_output_that_ends_before_its_program_is_not_taken_for_the_whole(canned, monkeypatch):
    """Regression: an sshd that was stopped ended the stream in good order, and the exit code was waited for on another
    connection."""
    monkeypatch.setattr("dotmac_operator.hosts.engine.STREAM_SETTLES", 0.2)
    said = engine()
    said.answers["POST /containers/web/exec"] = Answer(201, {"Id": "e1"})
    half = b"\x01\0\0\0\0\0\0\x04half"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: close\r\n\r\n"
    said.answers["POST /exec/e1/start"] = Answer(raw=head + half, hang_up_after=True)
    said.answers["GET /exec/e1/json"] = Answer(body={"Running": True, "ExitCode": None})
    host = canned(said).host()
    with pytest.raises(HostUnreachable, match="cut off while it ran"):
        host.engine.exec("web", ["sleep", "21"])
    said.answers["GET /exec/e1/json"] = Answer(body={"Running": False, "ExitCode": 0})
    assert host.engine.exec("web", ["echo"]).stdout == b"half"


def test_a_deadline_ends_a_call_and_closes_its_channel(canned):
    said = engine()
    said.answers["POST /images/create"] = Answer(hang=5)
    made = canned(said)
    host = made.host()
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="unknown"):
        host.engine.pull("a:1", deadline=0.3)
    assert time.monotonic() - started < 4
    assert host.engine.containers() == []


def test_an_error_inside_a_pull_is_an_error(canned):
    said = engine()
    lines = (
        b'{"status":"Pulling","id":"1"}\r\n{"errorDetail":{"message":"unexpected EOF"},"error":"unexpected EOF"}\r\n'
    )
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(lines), lines)
    said.answers["POST /images/create"] = Answer(raw=chunked)
    told: list[str] = []
    with pytest.raises(EngineError, match="unexpected EOF"):
        canned(said).host().engine.pull("a:1", told.append)
    assert told == ["pulling a:1: Pulling"]


def test_never_more_channels_than_sshd_allows(canned):
    said = engine()
    said.answers["GET /containers/json"] = Answer(body=[], hang=0.05)
    said.answers["POST /containers/create"] = Answer(201, {"Id": "abc"}, hang=0.05)
    made = canned(said)
    host = made.host(max_operations=20)

    def work(number: int) -> None:
        if number % 2:
            host.engine.create_container(f"web-{number}", {})
        else:
            host.engine.containers()

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(48)))
    assert 3 <= said.most_channels <= MAX_CHANNELS - 1
    assert made.server.connections == 1


def test_changes_wait_their_turn_but_reads_do_not(canned):
    said = engine()
    release = threading.Event()
    busy = threading.Semaphore(0)

    def wait(channel: paramiko.Channel, command: str) -> None:
        if "dial-stdio" in command:
            said(channel, command)
        else:
            busy.release()
            release.wait(10)
            channel.send_exit_status(0)

    host = canned(wait).host(max_operations=2)
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(host.run, ["sleep", "1"]) for _ in range(2)]
        busy.acquire()
        busy.acquire()
        with pytest.raises(HostBusy, match="nothing was done"):
            host.run(["true"], deadline=0.2)
        assert host.engine.containers() == []
        release.set()
        assert [each.result().exit_code for each in running] == [0, 0]


def test_a_host_that_refuses_connections_opens_the_breaker(canned):
    made = canned(engine(), SshSettings(attempts=1, breaker_failures=3, breaker_seconds=60))
    made.server.stop_listening()
    host = made.host()
    for _ in range(3):
        with pytest.raises(HostUnreachable) as told:
            host.probe()
        assert not isinstance(told.value, CircuitOpen)
    with pytest.raises(CircuitOpen, match="Connection refused") as opened:
        host.probe()
    assert 40 < opened.value.retry_after <= 72


def test_a_cycle_is_several_attempts_within_the_deadline(canned):
    made = canned(engine(), SshSettings(attempts=3))
    made.server.stop_listening()
    started = time.monotonic()
    with pytest.raises(HostUnreachable):
        made.host().run(["true"], deadline=0.5)
    assert time.monotonic() - started < 1.5


def test_those_who_waited_for_a_failed_attempt_share_its_failure(canned):
    silent = socket.create_server(("127.0.0.1", 0))
    made = canned(engine(), SshSettings(times=SshTimes(connect=0.5), attempts=1))
    host = made.host(port=silent.getsockname()[1])

    def attempt(_: int) -> float:
        started = time.monotonic()
        with pytest.raises(HostUnreachable):
            host.probe()
        return time.monotonic() - started

    with ThreadPoolExecutor(5) as threads:
        assert max(threads.map(attempt, range(5))) < 1.5
    silent.close()


@pytest.mark.parametrize("address", ["does-not-exist.invalid", "a" * 70 + ".invalid", "$(id)"])
def test_a_name_that_does_not_resolve_is_unreachable(canned, address):
    with pytest.raises(HostUnreachable):
        canned().host(address=address).probe()


def test_something_else_than_ssh_is_unreachable(canned):
    other = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        while True:
            try:
                other.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=hang_up, daemon=True).start()
    with pytest.raises(HostUnreachable, match="no SSH handshake"):
        canned().host(port=other.getsockname()[1]).probe()
    other.close()


def test_a_program_gets_its_input_and_gives_back_everything(canned):
    def cat(channel: paramiko.Channel, command: str) -> None:
        data = channel.makefile("rb").read()
        channel.sendall(data)
        channel.sendall_stderr(b"warned")
        channel.send_exit_status(7)

    big = bytes(range(256)) * 8192
    result = canned(cat).host().run(["cat"], stdin=big)
    assert (result.exit_code, result.stdout == big, result.stderr) == (7, True, b"warned")


def test_a_program_that_does_not_read_its_input_is_no_error(canned):
    def stop(channel: paramiko.Channel, command: str) -> None:
        channel.sendall(b"done")
        channel.send_exit_status(0)

    assert canned(stop).host().run(["true"], stdin=b"x" * (8 << 20), deadline=20).stdout == b"done"


def test_a_program_with_much_to_say_on_stderr_does_not_hang(canned):
    def shout(channel: paramiko.Channel, command: str) -> None:
        channel.sendall_stderr(b"e" * (4 << 20))
        channel.sendall(b"o")
        channel.send_exit_status(0)

    result = canned(shout).host().run(["shout"], deadline=20)
    assert (len(result.stderr), result.stdout) == (4 << 20, b"o")


def test_a_connection_lost_under_a_program_is_an_error_not_an_exit_code(canned):
    made = canned(lambda channel, command: made.server.drop_connections())
    with pytest.raises(HostUnreachable, match="lost"):
        made.host().run(["true"])


def test_a_command_that_cannot_be_carried_is_refused_before_a_connection_is_made(canned):
    made = canned()
    with pytest.raises(CommandInvalid):
        made.host().run(["echo", "a\0b"])
    assert made.server.connections == 0


def answer_http(status: int):
    def say(channel: paramiko.Channel, where: str) -> None:
        channel.recv(4096)
        channel.sendall(http(status, {"where": where}))

    return say


def test_a_probe_tells_the_status_code_and_keeps_no_channel(canned):
    made = canned(engine())
    host = made.host()
    made.server.forwarding = answer_http(503)
    for _ in range(12):
        assert host.http("10.0.0.5", 8000, "/health", headers={"Host": "a.example"}) == 503
    host.tcp("10.0.0.5", 8000)


def test_a_container_that_refuses_is_not_there_yet(canned):
    made = canned(engine())
    made.server.forwarding = paramiko.OPEN_FAILED_CONNECT_FAILED
    for call in (lambda h: h.tcp("10.0.0.5", 8000), lambda h: h.http("10.0.0.5", 8000, "/", headers={})):
        with pytest.raises(ProbeRefused, match="10.0.0.5 port 8000"):
            call(made.host())


def test_sshd_without_forwarding_is_named(canned):
    with pytest.raises(ForwardingRefused, match="AllowTcpForwarding"):
        canned(engine()).host().tcp("10.0.0.5", 8000)


def test_a_container_that_hangs_up_or_talks_something_else_is_not_ready(canned):
    made = canned(engine())
    for said in (b"", b"SSH-2.0-OpenSSH\r\n", b"\x00\x01\x02"):
        made.server.forwarding = lambda channel, where, said=said: channel.sendall(said) if said else None
        with pytest.raises(ProbeRefused):
            made.host().http("10.0.0.5", 8000, "/", headers={})


def test_a_container_that_accepts_and_stays_silent_runs_into_the_deadline(canned):
    made = canned(engine())
    made.server.forwarding = lambda channel, where: time.sleep(3)
    with pytest.raises(DeadlineExceeded):
        made.host().http("10.0.0.5", 8000, "/", headers={}, deadline=0.3)


@pytest.mark.parametrize(
    ("path", "headers"), [("/a b", {}), ("/\r\nX: y", {}), ("/", {"X": "a\r\nY: b"}), ("/", {"X:": "a"})]
)
def test_a_probe_that_http_cannot_carry_is_refused(canned, path, headers):
    made = canned(engine())
    made.server.forwarding = answer_http(200)
    with pytest.raises(ProbeInvalid):
        made.host().http("10.0.0.5", 8000, path, headers=headers)


def test_a_closed_pool_and_a_forgotten_host_say_so(canned):
    made = canned(engine())
    host = made.host()
    host.probe()
    made.pool.forget("demo/alpha")
    with pytest.raises(HostUnreachable, match="dropped"):
        host.probe()
    assert made.host() is not host
    made.pool.close()
    with pytest.raises(HostUnreachable, match="closed"):
        made.host()


def test_every_call_is_observed(canned):
    seen: list[tuple[str, str, bool]] = []
    made = canned(engine(), observer=lambda host, what, seconds, ok: seen.append((host, what, ok)))
    made.host().engine.containers()
    with pytest.raises(ForwardingRefused):
        made.host().tcp("10.0.0.5", 1)
    assert seen == [("demo/alpha", "containers", True), ("demo/alpha", "tcp", False)]


def test_an_exit_code_that_comes_late_is_waited_for(canned):
    def slow(channel: paramiko.Channel, command: str) -> None:
        channel.makefile("rb").read()
        channel.shutdown_write()
        time.sleep(0.3)
        channel.send_exit_status(4)

    for given in (b"", b"input"):
        assert canned(slow).host().run(["slow"], stdin=given).exit_code == 4


def test_no_secret_reaches_a_log_or_a_command_line(canned, caplog):
    caplog.set_level(logging.DEBUG)
    said = engine()
    said.answers["POST /containers/create"] = Answer(500, {"message": "canary-in-env is odd"})

    def say(channel: paramiko.Channel, command: str) -> None:
        if "dial-stdio" in command:
            return said(channel, command)
        return channel.send_exit_status(0)

    made = canned(say)
    host = made.host(passphrase=SecretStr("canary-passphrase"))
    with pytest.raises(EngineError) as told:
        host.engine.create_container("web", {"Image": "x", "Env": ["P=canary-in-env"]})
    host.run(["cat"], stdin=b"canary-in-stdin")
    made.server.drop_connections()
    host.probe()
    key_lines = made.address.private_key.reveal().splitlines()[1:-1]
    seen = caplog.text + repr(made.server.commands) + repr(told.value) + repr(host.address)
    for secret in ("canary-in-env", "canary-in-stdin", "canary-passphrase", *key_lines):
        assert secret not in seen
