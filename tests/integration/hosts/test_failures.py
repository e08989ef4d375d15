"""A host that is misconfigured, goes away, comes back, or lies."""

import subprocess
import threading
import time
from queue import Queue

import pytest
from tests.integration.hosts.conftest import address_of, eventually

from dotmac_local.demo.sshd import Sshd
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.hostkeys import fingerprint, key_blob
from dotmac_operator.hosts.pool import SshHostPool, SshSettings
from dotmac_operator.hosts.port import (
    AuthenticationFailed,
    CircuitOpen,
    DeadlineExceeded,
    DockerAbsent,
    DockerNotPermitted,
    ForwardingRefused,
    HostError,
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    ProbeRefused,
)

pytestmark = pytest.mark.docker


def test_the_pinned_key_or_its_fingerprint_is_believed(connect, host):
    assert connect().probe() < 1
    assert connect(host_keys=(fingerprint(key_blob(host.host_key)),)).probe() < 1
    trusting = connect(host_keys=(), trust_on_first_use=True)
    trusting.probe()
    assert key_blob(trusting.offered_host_key) == key_blob(host.host_key)


def test_an_unknown_host_key_stops(connect):
    with pytest.raises(HostKeyUnknown):
        connect(host_keys=()).probe()


def test_a_changed_host_key_stops_and_the_new_pin_mends(connect, host):
    kept = connect()
    kept.probe()
    old = host.host_key
    host.new_host_key()
    with pytest.raises(HostKeyChanged):
        kept.probe()
    with pytest.raises(HostKeyChanged):
        connect(host_keys=(old,)).probe()
    assert connect().probe() < 1


def test_a_wrong_key_and_a_wrong_user(connect, host, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "other"], check=True)
    with pytest.raises(AuthenticationFailed, match="authorized_keys"):
        connect(private_key=SecretStr((tmp_path / "other").read_text())).probe()
    with pytest.raises(AuthenticationFailed):
        connect(user="nobody").probe()


def test_the_socket_is_denied(connect, host):
    host.deny_docker()
    try:
        with pytest.raises(DockerNotPermitted, match="docker group"):
            connect().engine.containers()
    finally:
        host.allow_docker()
    assert connect().engine.info().cpus > 0


def test_docker_is_absent(connect, host):
    host.no_docker()
    try:
        with pytest.raises(DockerAbsent, match="install Docker"):
            connect().engine.containers()
        assert connect().run(["true"]).exit_code == 0
    finally:
        host.with_docker()


def test_sudo_that_may_not(connect):
    with pytest.raises(DockerNotPermitted):
        connect(use_sudo=True).engine.containers()


def test_the_engine_stops_and_starts(connect, host):
    reached = connect()
    reached.engine.containers()
    host.stop_dockerd()
    with pytest.raises(DockerAbsent, match="does not run"):
        reached.engine.containers()
    host.start_dockerd()
    assert reached.engine.create_volume("restarted", {}) is None
    reached.engine.remove_volume("restarted")


def test_the_engine_is_killed(connect, host):
    reached = connect()
    reached.engine.containers()
    host.kill_dockerd()
    with pytest.raises(HostError):
        reached.engine.containers()
    host.start_dockerd()
    assert isinstance(reached.engine.containers(), list)


def test_sshd_is_restarted_between_two_calls(connect, host):
    reached = connect()
    reached.engine.containers()
    host.restart_sshd()
    # A change, which is never repeated blindly: the dead connection was noticed before it was sent.
    reached.engine.create_volume("after-restart", {})
    reached.engine.remove_volume("after-restart")


def _wait_for_program(host, container: str, program: str) -> None:
    """Until it really runs: on a busy machine that takes more than a moment."""
    deadline = time.monotonic() + 20
    while program not in host.docker("top", container, "-eo", "pid,args"):
        assert time.monotonic() < deadline, f"{program} was not started"
        time.sleep(0.1)


def test_sshd_is_restarted_during_a_call(sleeper, host):
    reached, name = sleeper
    failed: Queue[Exception] = Queue()

    def work() -> None:
        try:
            reached.engine.exec(name, ["sleep", "21"])
        except HostError as error:
            failed.put(error)

    thread = threading.Thread(target=work)
    thread.start()
    _wait_for_program(host, name, "sleep 21")
    started = time.monotonic()
    host.restart_sshd()
    assert isinstance(failed.get(timeout=15), HostUnreachable)
    assert time.monotonic() - started < 15
    thread.join()
    assert reached.engine.exec(name, ["true"]).exit_code == 0


def test_nobody_listens(connect, host):
    reached = connect(SshSettings(attempts=2))
    host.stop_sshd()
    try:
        started = time.monotonic()
        with pytest.raises(HostUnreachable, match="refused"):
            reached.probe()
        assert time.monotonic() - started < 10
    finally:
        host.start_sshd()
    assert reached.probe() < 1


def test_the_breaker_opens_and_one_probe_closes_it(connect, host):
    reached = connect(SshSettings(attempts=1, breaker_failures=3, breaker_seconds=1.0))
    host.stop_sshd()
    try:
        for _ in range(3):
            with pytest.raises(HostUnreachable, match="refused"):
                reached.probe()
        with pytest.raises(CircuitOpen) as opened:
            reached.probe()
        time.sleep(opened.value.retry_after + 0.05)
        with pytest.raises(HostUnreachable, match="refused"):
            reached.probe()
        with pytest.raises(CircuitOpen) as opened:
            reached.probe()
    finally:
        host.start_sshd()
    time.sleep(opened.value.retry_after + 0.05)
    assert reached.probe() < 1


def test_a_dead_network_costs_no_more_than_the_deadline(sleeper, host):
    reached, name = sleeper
    events = reached.engine.events(0)
    lost: Queue[tuple[str, float]] = Queue()
    host.unreachable()
    started = time.monotonic()

    def follow() -> None:
        try:
            list(events)
        except HostError as error:
            lost.put((error.reason, time.monotonic() - started))

    threading.Thread(target=follow, daemon=True).start()
    try:
        with pytest.raises(HostError):
            reached.engine.exec(name, ["true"], deadline=5)
        assert time.monotonic() - started < 7
        with pytest.raises(HostError):
            reached.run(["true"], deadline=5)
        assert time.monotonic() - started < 13
        reason, after = lost.get(timeout=30)
        assert reason == "Unreachable"
        assert after < 25
    finally:
        host.reachable()
    assert eventually(lambda: reached.engine.exec(name, ["true"]).exit_code) == 0


def test_a_host_that_was_never_reachable(host):
    pool = SshHostPool(SshSettings(attempts=1))
    host.unreachable()
    try:
        started = time.monotonic()
        with pytest.raises(HostUnreachable):
            pool.get(address_of(host)).run(["true"], deadline=3)
        assert time.monotonic() - started < 5
    finally:
        host.reachable()
        pool.close()


def test_programs_on_the_host(connect, host):
    reached = connect()
    result = reached.run(["sh", "-c", 'cat; printf "%s" "$1" >&2; exit 5', "x", "$(id) 'a' `b`\nc"], stdin=b"given")
    assert (result.exit_code, result.stdout, result.stderr) == (5, b"given", b"$(id) 'a' `b`\nc")
    assert reached.run(["wc", "-c"], stdin=b"x" * (1 << 20)).stdout.strip() == b"1048576"
    assert reached.run(["no-such-program"]).exit_code == 127
    disk = reached.disk("/var")
    assert disk.total > disk.free > 0
    with pytest.raises(HostError, match="No such file"):
        reached.disk("/no/such/place")


WEB = """
import http.server, ssl, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204 if self.headers["Host"] == "tenant.example" else 421)
        self.end_headers()
    def log_message(self, *a): pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    unknown = ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    context.sni_callback = lambda s, name, c: None if name == "tenant.example" else unknown
    server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"""


def test_probes_see_what_the_host_sees(connect, served, tmp_path):
    bundle = tmp_path / "tls.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-days", "1"]
    subprocess.run([*request, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True)
    bundle.write_text((tmp_path / "key").read_text() + (tmp_path / "cert").read_text())
    served(WEB, "8701")
    served(WEB, "8702", str(bundle))
    reached = connect()
    assert reached.http("127.0.0.1", 8701, "/", headers={"Host": "tenant.example"}) == 204
    assert reached.http("127.0.0.1", 8701, "/", headers={}) == 421
    secured = {"headers": {"Host": "tenant.example"}, "tls_server_name": "tenant.example"}
    assert reached.http("127.0.0.1", 8702, "/", **secured) == 204
    with pytest.raises(ProbeRefused):
        reached.http("127.0.0.1", 8702, "/", headers={}, tls_server_name="another.example")
    with pytest.raises(ProbeRefused):
        reached.http("127.0.0.1", 8701, "/", headers={}, tls_server_name="tenant.example")
    reached.tcp("127.0.0.1", 8701)
    for port in (8703, 1):
        with pytest.raises(ProbeRefused):
            reached.tcp("127.0.0.1", port)
    with pytest.raises(ProbeRefused):
        reached.tcp("10.255.255.1", 80, deadline=2)


def test_a_host_without_forwarding(connect, host, monkeypatch):
    configuration = Sshd.configuration
    with monkeypatch.context() as patched:
        patched.setattr(
            Sshd, "configuration", lambda sshd: configuration(sshd).replace("Forwarding local", "Forwarding no")
        )
        host.restart_sshd()
    try:
        with pytest.raises(ForwardingRefused, match="AllowTcpForwarding"):
            connect().tcp("127.0.0.1", 22)
    finally:
        host.restart_sshd()
    connect().tcp(host.address, host.port)


def test_programs_that_outlive_their_deadline_do_not_use_up_sshd(sleeper):
    host, name = sleeper
    # sshd frees a session (MaxSessions is 10) when its process ends, and this exec's ends with the program.
    for _ in range(11):
        with pytest.raises(DeadlineExceeded):
            host.engine.exec(name, ["sleep", "90"], deadline=0.5)
    assert host.engine.exec(name, ["true"]).exit_code == 0
    for _ in range(11):
        with pytest.raises(DeadlineExceeded):
            host.run(["sleep", "90"], deadline=0.2)
    assert host.run(["true"]).exit_code == 0
