"""Every engine call, on a real dockerd behind a real sshd."""

import hashlib
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dotmac_operator.hosts.port import Conflict, DeadlineExceeded, EngineError, NotFound

pytestmark = pytest.mark.docker


def test_info_is_what_the_engine_says_of_itself(connect, host):
    info = connect().engine.info()
    said = json.loads(host.docker("info", "--format", "{{json .}}"))
    assert (info.version, info.cpus, info.memory) == (said["ServerVersion"], said["NCPU"], said["MemTotal"])
    assert info.data_root == said["DockerRootDir"]
    assert tuple(map(int, info.api_version.split("."))) >= (1, 41)


def test_a_container_from_creation_to_removal(connect, tiny, name):
    engine = connect().engine
    labels = {"dotmac.test": name, "odd": 'a=b, ünï\n"quoted" $(x)'}
    body = {"Image": tiny, "Cmd": ["sleep", "600"], "Labels": labels, "StopSignal": "SIGKILL"}
    made = engine.create_container(name, body)

    (created,) = engine.containers([f"dotmac.test={name}"])
    assert (created.id, created.name, created.state, created.exit_code) == (made, name, "created", None)
    assert created.labels == labels
    assert created.image == tiny

    engine.start_container(name)
    engine.start_container(made)
    (running,) = engine.containers([f"dotmac.test={name}", "odd"])
    assert running.running
    assert running.networks["bridge"].count(".") == 3
    assert running.image_id == engine.image(tiny).id
    assert abs(running.created - time.time()) < 60

    engine.stop_container(name, 1)
    engine.stop_container(name, 1)
    (stopped,) = engine.containers([f"dotmac.test={name}"])
    assert (stopped.state, stopped.exit_code, stopped.health) == ("exited", 137, "")

    engine.remove_container(name)
    engine.remove_container(name)
    engine.stop_container(name, 1)
    assert engine.containers([f"dotmac.test={name}"]) == []


def test_create_says_when_the_name_is_taken_or_the_image_absent(sleeper, tiny):
    host, name = sleeper
    with pytest.raises(Conflict, match=name):
        host.engine.create_container(name, {"Image": tiny, "Cmd": ["true"]})
    with pytest.raises(NotFound, match="No such image"):
        host.engine.create_container(name + "x", {"Image": "dotmac/absent:9"})
    for call in (host.engine.start_container, host.engine.inspect_container, host.engine.logs):
        with pytest.raises(NotFound):
            call(name + "absent")


def test_an_invalid_environment_is_refused_without_its_value(connect, tiny, name):
    with pytest.raises(EngineError) as told:
        connect().engine.create_container(name, {"Image": tiny, "Env": ["=canary-in-env"]})
    assert "canary-in-env" not in f"{told.value}{told.value!r}{told.value.__cause__!r}{told.value.__context__!r}"


def test_hostile_values_reach_the_container_as_they_are(connect, tiny, name):
    engine = connect().engine
    values = {"A": "$(touch /tmp/x)", "B": 'it\'s "quoted"\nnew line', "C": "ünï 漢字", "D": "-rf --", "E": "%s\\"}
    body = {"Image": tiny, "Cmd": ["sleep", "600"], "Env": [f"{key}={value}" for key, value in values.items()]}
    engine.create_container(name, body)
    engine.start_container(name)
    for key, value in values.items():
        assert engine.exec(name, ["printenv", key]).stdout.decode() == value + "\n"
        assert engine.exec(name, ["sh", "-c", 'printf %s "$1"', "x", value]).stdout.decode() == value


def test_health_is_read_from_the_list(connect, tiny, name):
    engine = connect().engine
    second = 1_000_000_000
    check = {"Test": ["CMD", "false"], "Interval": second, "Timeout": second, "Retries": 1}
    engine.create_container(name, {"Image": tiny, "Cmd": ["sleep", "60"], "Healthcheck": check})
    engine.start_container(name)

    def health() -> str:
        return next(fact.health for fact in engine.containers() if fact.name == name)

    assert health() == "starting"
    until = time.monotonic() + 10
    while health() != "unhealthy":
        assert time.monotonic() < until
        time.sleep(0.2)


def test_wait_returns_the_exit_code(connect, tiny, name):
    engine = connect().engine
    engine.create_container(name, {"Image": tiny, "Cmd": ["sh", "-c", "sleep 0.5; exit 42"]})
    engine.start_container(name)
    assert engine.wait_container(name, 20) == 42


def test_wait_gives_up_at_its_deadline_and_leaves_the_container_running(sleeper):
    host, name = sleeper
    with pytest.raises(DeadlineExceeded):
        host.engine.wait_container(name, 0.5)
    assert host.engine.inspect_container(name)["State"]["Running"]
    with pytest.raises(NotFound):
        host.engine.wait_container(name + "absent", 1)


def test_logs_are_the_last_lines_of_both_streams(connect, tiny, name):
    engine = connect().engine
    script = "for i in 1 2 3; do echo out$i; sleep 0.05; echo err$i >&2; sleep 0.05; done; printf '\\377'"
    engine.create_container(name, {"Image": tiny, "Cmd": ["sh", "-c", script]})
    engine.start_container(name)
    engine.wait_container(name, 20)
    assert engine.logs(name).splitlines() == ["out1", "err1", "out2", "err2", "out3", "err3", "\ufffd"]
    assert engine.logs(name, tail=2).splitlines() == ["err3", "\ufffd"]


def test_logs_of_a_terminal(connect, tiny, name):
    engine = connect().engine
    engine.create_container(name, {"Image": tiny, "Cmd": ["sh", "-c", "echo one; echo two >&2"], "Tty": True})
    engine.start_container(name)
    engine.wait_container(name, 20)
    assert engine.logs(name).split() == ["one", "two"]


def test_exec_keeps_streams_and_exit_code_apart(sleeper):
    host, name = sleeper
    result = host.engine.exec(name, ["sh", "-c", "cat; echo told; echo warned >&2; exit 3"], stdin=b"given\n")
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"given\ntold\n", b"warned\n")


def test_exec_with_empty_input_sees_its_end(sleeper):
    host, name = sleeper
    assert host.engine.exec(name, ["wc", "-c"], stdin=b"", deadline=10).stdout == b"0\n"
    assert host.engine.exec(name, ["true"]).exit_code == 0


def test_exec_takes_a_mebibyte_and_gives_it_back(sleeper):
    host, name = sleeper
    data = bytes(range(256)) * 4096
    assert (
        host.engine.exec(name, ["sha256sum"], stdin=data).stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    )
    assert host.engine.exec(name, ["cat"], stdin=data).stdout == data


def test_exec_that_does_not_read_its_input_ends(sleeper):
    host, name = sleeper
    assert host.engine.exec(name, ["true"], stdin=b"x" * (8 << 20), deadline=20).exit_code == 0


def test_exec_of_what_is_not_there_is_an_exit_code(sleeper):
    host, name = sleeper
    assert host.engine.exec(name, ["no-such-program"]).exit_code in (126, 127)
    host.engine.stop_container(name, 0)
    with pytest.raises(Conflict):
        host.engine.exec(name, ["true"])
    with pytest.raises(NotFound):
        host.engine.exec(name + "absent", ["true"])


def test_exec_deadline(sleeper):
    host, name = sleeper
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        host.engine.exec(name, ["sleep", "30"], deadline=1.0)
    assert time.monotonic() - started < 15
    assert host.engine.exec(name, ["true"]).exit_code == 0


def test_files_are_read_running_or_not(sleeper):
    host, name = sleeper
    assert host.engine.read_file(name, "/etc/motd") == b"hello\n"
    assert host.engine.read_file(name, "/etc/link") == b"hello\n"
    assert host.engine.read_file(name, "/etc/far") == b"hello\n"
    assert host.engine.read_file(name, "/etc/empty") == b""
    host.engine.stop_container(name, 0)
    assert host.engine.read_file(name, "etc/motd") == b"hello\n"


def test_a_file_has_another_version_once_it_is_written(sleeper):
    host, name = sleeper
    engine = host.engine
    engine.exec(name, ["sh", "-c", "echo one >/tmp/f"])
    seen = [engine.file_version(name, "/tmp/f")]
    assert engine.file_version(name, "/tmp/f") == seen[0], "looking changes nothing"
    for again in ("one", "two"):  # the same size, and once the same content
        engine.exec(name, ["sh", "-c", f"echo {again} >/tmp/f"])
        seen.append(engine.file_version(name, "/tmp/f"))
    assert len(set(seen)) == 3
    kept = len(engine._client.kept._idle)
    assert engine.file_version(name, "/tmp/f") == seen[2]
    assert len(engine._client.kept._idle) == kept, "the connection is used again"
    for absent in ("/tmp/g", "/no/such/dir/x"):
        with pytest.raises(NotFound):
            engine.file_version(name, absent)


def test_a_survey_says_what_the_single_questions_say(sleeper):
    host, name = sleeper
    engine = host.engine
    engine.exec(name, ["sh", "-c", "echo one >/tmp/f"])
    (box,) = (each for each in engine.containers() if each.name == name)
    for path, version in (("/tmp/f", engine.file_version(name, "/tmp/f")), ("/tmp/none", None)):
        found = engine.survey([], [box.image, "dotmac/none:1"], (name, path))
        assert {each.id for each in found.containers} == {each.id for each in engine.containers()}
        assert {each.id for each in found.networks} == {each.id for each in engine.networks()}
        assert {each.name for each in found.volumes} == {each.name for each in engine.volumes()}
        assert found.images == {box.image: engine.image(box.image)}
        assert found.file_version == version
    before = host.round_trips
    engine.survey([], [box.image], (name, "/tmp/f"))
    assert host.round_trips == before + 5
    assert host._live._transport.remote_cipher.endswith("-gcm@openssh.com")


def test_exit_codes_without_a_stream(sleeper):
    host, name = sleeper
    engine = host.engine
    engine.ping()
    dialled = len(engine._client.kept._idle)
    assert [engine.exec_code(name, ["sh", "-c", f"exit {code}"]) for code in (0, 3)] == [0, 3]
    assert engine.exec_code(name, ["no-such-program"]) in (126, 127)
    assert len(engine._client.kept._idle) == dialled, "no channel is used up"
    with pytest.raises(DeadlineExceeded):
        engine.exec_code(name, ["sleep", "5"], deadline=0.5)
    engine.stop_container(name, 0)
    with pytest.raises(Conflict):
        engine.exec_code(name, ["true"])
    with pytest.raises(NotFound):
        engine.exec_code(name + "absent", ["true"])


@pytest.mark.parametrize("path", ["/etc/absent", "/etc/broken", "/no/such/dir/x", "/etc/$(id)"])
def test_a_file_that_is_not_there(sleeper, path):
    host, name = sleeper
    with pytest.raises(NotFound):
        host.engine.read_file(name, path)


@pytest.mark.parametrize("path", ["/etc", "/etc/loop", "/dev/null"])
def test_what_is_no_regular_file(sleeper, path):
    host, name = sleeper
    with pytest.raises(EngineError):
        host.engine.read_file(name, path)


def test_networks(sleeper):
    host, name = sleeper
    engine = host.engine
    subnet = "10.254.77.0/24"
    made = engine.create_network(name, subnet, {"a": "b"}, internal=True)
    (fact,) = [network for network in engine.networks() if network.name == name]
    assert (fact.id, fact.subnets, fact.internal, fact.labels) == (made, (subnet,), True, {"a": "b"})
    with pytest.raises(Conflict):
        engine.create_network(name, "10.254.78.0/24", {})
    with pytest.raises(Conflict):
        engine.create_network(name + "x", "10.254.77.128/25", {})

    for _ in range(2):
        engine.connect_network(name, name, ["database"])
    (container,) = [fact for fact in engine.containers() if fact.name == name]
    assert container.networks[name].startswith("10.254.77.")
    assert "database" in engine.inspect_container(name)["NetworkSettings"]["Networks"][name]["Aliases"]
    with pytest.raises(Conflict):
        engine.remove_network(name)
    for _ in range(2):
        engine.disconnect_network(name, name)
    engine.disconnect_network(name, name + "absent")
    engine.disconnect_network(name + "absent", name)
    with pytest.raises(NotFound):
        engine.connect_network(name + "absent", name)
    for _ in range(2):
        engine.remove_network(name)


def test_a_stopped_container_can_be_connected(sleeper):
    host, name = sleeper
    host.engine.create_network(name, "10.254.79.0/24", {})
    host.engine.stop_container(name, 0)
    for _ in range(2):
        host.engine.connect_network(name, name)
    for _ in range(2):
        host.engine.disconnect_network(name, name)
    host.engine.remove_network(name)


def test_volumes(connect, tiny, name):
    engine = connect().engine
    for _ in range(2):
        engine.create_volume(name, {"dotmac.test": name})
    (fact,) = engine.volumes([f"dotmac.test={name}"])
    assert (fact.name, fact.labels) == (name, {"dotmac.test": name})
    body = {"Image": tiny, "Cmd": ["true"], "HostConfig": {"Binds": [f"{name}:/data"]}}
    engine.create_container(name, body)
    with pytest.raises(Conflict):
        engine.remove_volume(name)
    engine.remove_container(name)
    assert len(engine.volumes([f"dotmac.test={name}"])) == 1  # A named volume outlives its container.
    for _ in range(2):
        engine.remove_volume(name)
    assert engine.volumes([f"dotmac.test={name}"]) == []


def test_images(connect, tiny):
    engine = connect().engine
    found = engine.image(tiny)
    assert found.id.startswith("sha256:")
    assert found.reference == tiny
    assert engine.image(found.id).id == found.id
    assert engine.image("dotmac/absent:9") is None


REGISTRY = """version: 0.1
storage: {filesystem: {rootdirectory: %s}}
http: {addr: "127.0.0.1:5055"}
"""


@pytest.fixture
def registry(host, tmp_path):
    (tmp_path / "registry.yml").write_text(REGISTRY % (tmp_path / "registry"))
    argv = ["nsenter", f"--net=/run/netns/{host._namespace}", "docker-registry", "serve", tmp_path / "registry.yml"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield "127.0.0.1:5055"
        process.kill()


def test_pull(connect, host, tiny, registry):
    engine = connect().engine
    reference = f"{registry}/dotmac/tiny:1"
    host.docker("tag", tiny, reference)
    until = time.monotonic() + 10
    while True:
        try:
            host.docker("push", "--quiet", reference)
            break
        except Exception:
            assert time.monotonic() < until
            time.sleep(0.3)
    host.docker("rmi", reference)
    assert engine.image(reference) is None

    told: list[str] = []
    pulled = engine.pull(reference, told.append, deadline=60)
    assert pulled.id == engine.image(tiny).id
    (digest,) = [each for each in pulled.digests if each.startswith(registry)]
    assert told
    assert told[0].startswith(f"pulling {reference}: ")
    assert engine.pull(digest).id == pulled.id
    host.docker("rmi", "--force", reference)
    with pytest.raises(NotFound):
        engine.pull(f"{registry}/dotmac/tiny:absent")


def test_pull_from_where_nobody_is(connect):
    with pytest.raises(EngineError, match="refused"):
        connect().engine.pull("127.0.0.1:9/dotmac/tiny:1")


def test_eight_threads_share_the_channels(sleeper):
    host, name = sleeper

    def work(number: int) -> bytes:
        host.engine.containers()
        said = host.engine.exec(name, ["cat"], stdin=str(number).encode()).stdout
        host.run(["true"])
        host.engine.inspect_container(name)
        return said

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(32))) == [str(number).encode() for number in range(32)]
