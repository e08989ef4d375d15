"""The simulated host through the operator's own adapters: what it does, and each way in which it can fail."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from tests.simhost import (
    Behaviour,
    Call,
    Delay,
    Error,
    Fault,
    Hang,
    HangUp,
    Hook,
    Match,
    Phase,
    Reset,
    Run,
    Said,
)

from dotmac_operator.core import names, proxy
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.engine import DockerEngine
from dotmac_operator.hosts.fence import FenceToken
from dotmac_operator.hosts.pool import SshHost, SshHostPool, SshSettings
from dotmac_operator.hosts.port import (
    AuthenticationFailed,
    Conflict,
    DeadlineExceeded,
    DockerAbsent,
    EngineError,
    Fenced,
    ForwardingRefused,
    HostError,
    HostKeyChanged,
    HostUnreachable,
    ManagedElsewhere,
    NotFound,
    ProbeRefused,
)


def fact(engine: DockerEngine, name: str) -> ContainerFact:
    return next(found for found in engine.containers() if found.name == name)


def wait_for(check: Callable[[], object], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until
        time.sleep(0.01)


def once(wanted: str, phase: Phase, fault: Fault) -> Hook:
    """The fault at the first call of this template, in this phase."""
    left = [fault]

    def hook(call: Call, at: Phase) -> Fault | None:
        return left.pop() if left and call.template == wanted and at is phase else None

    return hook


def test_only_the_pinned_key_and_the_right_user_get_in(fleet, sim):
    other = fleet["sim-1"]
    pool = SshHostPool(SshSettings(attempts=1))
    with pytest.raises(HostKeyChanged):
        pool.get(fleet.address_of(sim, host_keys=(other.host_key,))).probe()
    with pytest.raises(AuthenticationFailed):
        pool.get(fleet.address_of(sim, name="a/b", user="root")).probe()
    stranger = SecretStr(type(fleet)().private_key)
    with pytest.raises(AuthenticationFailed):
        pool.get(fleet.address_of(sim, name="a/c", private_key=stranger)).probe()
    pool.close()


def test_hosts_share_nothing(fleet, sim, box):
    pool = SshHostPool()
    other = pool.get(fleet.address_of(fleet["sim-1"], name="tenants/other"))
    assert other.engine.containers() == []
    with pytest.raises(NotFound, match="No such image"):
        other.engine.create_container("box", {"Image": "dotmac/tiny:1"})
    pool.close()


@pytest.mark.parametrize(
    ("phase", "fault", "error", "made"),
    [
        (Phase.BEFORE, Reset(), HostUnreachable, False),
        (Phase.AFTER, Reset(), HostUnreachable, True),
        (Phase.BEFORE, HangUp(), HostError, False),
        (Phase.AFTER, HangUp(), HostError, True),
        (Phase.BEFORE, Error(500, "no space left on device"), EngineError, False),
        (Phase.AFTER, Error(500, "boom"), EngineError, True),
        (Phase.BEFORE, Error(409, "taken"), Conflict, False),
    ],
)
def test_a_fault_before_or_after_the_effect(fleet, sim, connect, phase, fault, error, made):
    fleet.call(lambda: sim.engine.images.add("dotmac/tiny:1"))
    sim.hook = once("/containers/create", phase, fault)
    engine = connect().engine
    with pytest.raises(error):
        engine.create_container("box", {"Image": "dotmac/tiny:1"})
    assert [found.name for found in engine.containers()] == (["box"] if made else [])


def test_calls_are_numbered_and_named(fleet, sim, box):
    seen: list[tuple[Call, Phase]] = []

    def hook(call: Call, phase: Phase) -> None:
        seen.append((call, phase))

    sim.hook = hook
    host, _ = box
    identity = fact(host.engine, "box").id
    host.engine.stop_container(identity, 0)
    (before, after) = [(call, phase) for call, phase in seen if call.mutating]
    assert (before[1], after[1]) == (Phase.BEFORE, Phase.AFTER)
    assert before[0] is after[0]
    assert (before[0].method, before[0].template) == ("POST", "/containers/{name}/stop")
    assert before[0].names == ("box",)
    assert before[0].mutation == sim.mutations == 3
    assert [call.number for call, phase in seen if phase is Phase.BEFORE] == sorted({call.number for call, _ in seen})


def test_a_function_is_run_at_a_call_and_another_fault_may_follow(fleet, sim, connect):
    ran = threading.Event()
    fleet.call(lambda: sim.engine.images.add("dotmac/tiny:1"))
    sim.hook = once("/containers/create", Phase.AFTER, Run(ran.set, Reset()))
    with pytest.raises(HostUnreachable):
        connect().engine.create_container("box", {"Image": "dotmac/tiny:1"})
    assert ran.is_set()


def test_no_answer_and_a_late_one(fleet, sim, box):
    host, _ = box
    sim.hook = once("/_ping", Phase.BEFORE, Delay(0.2))
    started = time.monotonic()
    host.probe()
    assert time.monotonic() - started > 0.2
    sim.hook = once("/_ping", Phase.BEFORE, Hang())
    with pytest.raises(DeadlineExceeded):
        host.engine.ping(0.3)
    sim.hook = None
    assert host.probe() > 0


def test_the_network_is_slow_then_silent_then_back(fleet, sim, box):
    host, _ = box
    sim.link.delay_in = sim.link.delay_out = 0.02
    assert host.probe() >= 0.04
    sim.link.delay_in = sim.link.delay_out = 0.0
    fleet.call(sim.blackhole)
    with pytest.raises(HostError):
        host.engine.ping(0.5)
    fleet.call(lambda: sim.blackhole(False))
    host.distrust()
    assert host.probe() > 0


def test_the_engine_restarts_and_tells_nobody_what_it_knew(fleet, sim, box):
    host, name = box
    events = host.engine.events(0)
    fleet.call(sim.stop_engine)
    with pytest.raises(HostError):
        next(events)
    with pytest.raises(DockerAbsent, match="does not run"):
        host.probe()
    fleet.call(sim.start_engine)
    assert fact(host.engine, name).running


def test_without_live_restore_the_containers_go_through_a_restart(fleet, sim, box):
    host, name = box
    body = {"Image": "dotmac/tiny:1", "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}}}
    host.engine.create_container("kept", body)
    host.engine.start_container("kept")
    before = fact(host.engine, "kept").id
    fleet.call(lambda: sim.restart_engine(0.05, live_restore=False))
    assert fact(host.engine, name).state == "exited"
    assert (fact(host.engine, "kept").state, fact(host.engine, "kept").id) == ("running", before)


def test_after_a_reboot_only_what_has_a_restart_policy_runs(fleet, sim, box):
    host, name = box
    host.engine.create_volume("data", {})
    body = {"Image": "dotmac/tiny:1", "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}}}
    for other in ("kept", "stopped"):
        host.engine.create_container(other, body)
        host.engine.start_container(other)
    host.engine.stop_container("stopped", 0)
    fleet.call(lambda: sim.reboot(0.1))
    wait_for(lambda: host.probe())
    states = {found.name: (found.state, found.exit_code) for found in host.engine.containers()}
    assert states == {name: ("exited", 255), "kept": ("running", None), "stopped": ("exited", 0)}
    assert [volume.name for volume in host.engine.volumes()] == ["data"]


def test_one_shots_restarts_and_slow_health(fleet, sim, connect):
    engine = connect().engine
    second = 10**9
    check = {"Test": ["CMD", "x"], "Interval": second // 20, "Retries": 2}

    def script() -> None:
        sim.engine.images.add("dotmac/tiny:1")
        sim.engine.behave(Match(name="fails"), Behaviour.one_shot(0.05, 3, "it broke\n"))
        sim.engine.behave(Match(name="loops"), Behaviour(runs=0.01, exit_code=1))
        sim.engine.behave(Match(name="sick"), Behaviour(healthy_after=None))
        sim.engine.behave(Match(name="slow"), Behaviour(healthy_after=0.3, says=(Said(0.1, 2, b"hm\n"),)))

    fleet.call(script)
    for name in ("fails", "loops", "sick", "slow"):
        policy = {"RestartPolicy": {"Name": "unless-stopped" if name == "loops" else "no"}}
        engine.create_container(name, {"Image": "dotmac/tiny:1", "HostConfig": policy, "Healthcheck": check})
        engine.start_container(name)
    assert engine.wait_container("fails", 5) == 3
    assert engine.logs("fails") == "it broke\n"
    assert fact(engine, "slow").health == "starting"
    wait_for(lambda: fact(engine, "slow").health == "healthy")
    wait_for(lambda: fact(engine, "sick").health == "unhealthy")
    assert engine.logs("slow") == "hm\n"
    wait_for(lambda: engine.inspect_container("loops")["RestartCount"] >= 2)


def test_a_backup_prints_the_line_that_is_looked_for(fleet, sim, connect):
    engine = connect().engine
    fleet.call(lambda: sim.engine.images.add("dotmac/postgresql:15"))
    body = {"Image": "dotmac/postgresql:15", "Labels": {names.ROLE: names.BACKUP}, "Env": ["BACKUP_FILE=a.dump"]}
    engine.create_container("dump", body)
    engine.start_container("dump")
    assert engine.wait_container("dump", 5) == 0
    assert engine.logs("dump").startswith("dotmac-backup sha256=")


def test_pulls(fleet, sim, connect):
    engine = connect().engine
    told: list[str] = []
    pulled = engine.pull("registry.example:5000/a/b:1", told.append)
    assert told
    assert engine.image("registry.example:5000/a/b:1") == pulled
    assert engine.image(pulled.digests[0]).id == pulled.id
    sim.engine.images.absent.add("absent/")
    with pytest.raises(NotFound):
        engine.pull("absent/b:1")
    sim.engine.images.disk_full = True
    with pytest.raises(EngineError, match="no space left"):
        engine.pull("registry.example:5000/a/c:1")
    assert engine.image("registry.example:5000/a/c:1") is None


def test_the_proxy_serves_what_it_was_told(fleet, sim, connect):
    host = connect()
    engine = host.engine
    fleet.call(lambda: [sim.engine.images.add(name) for name in ("dotmac/caddy:2.6", "dotmac/app:1")])
    engine.create_network(names.PROXY_NETWORK, "10.210.0.0/27", {})
    for volume in (names.PROXY_CONFIG_VOLUME, names.PROXY_DATA_VOLUME):
        engine.create_volume(volume, {})
    mounts = [{"Type": "volume", "Source": names.PROXY_CONFIG_VOLUME, "Target": "/config"}]
    ports = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}
    on = {"NetworkMode": names.PROXY_NETWORK, "Mounts": mounts, "PortBindings": ports}
    engine.create_container("dotmac-proxy", {"Image": "dotmac/caddy:2.6", "HostConfig": on})
    engine.create_container("app", {"Image": "dotmac/app:1", "HostConfig": {"NetworkMode": names.PROXY_NETWORK}})
    with pytest.raises(NotFound):
        engine.read_file("dotmac-proxy", proxy.AUTOSAVE)
    with pytest.raises(ProbeRefused):
        host.tcp("127.0.0.1", 8080)
    for name in ("dotmac-proxy", "app"):
        engine.start_container(name)
    handler = {"handler": "reverse_proxy", "upstreams": [{"dial": "app:8000"}]}
    route = {"match": [{"host": ["a.example"]}], "handle": [handler]}
    config = {"apps": {"http": {"servers": {"plain": {"listen": [":80"], "routes": [route, proxy.REFUSAL]}}}}}
    assert engine.exec("dotmac-proxy", proxy.RELOAD_ARGV, stdin=b"{").exit_code == 1
    assert engine.exec("dotmac-proxy", proxy.RELOAD_ARGV, stdin=json.dumps(config).encode()).exit_code == 0
    assert json.loads(engine.read_file("dotmac-proxy", proxy.AUTOSAVE)) == config
    version = engine.file_version("dotmac-proxy", proxy.AUTOSAVE)
    assert engine.file_version("dotmac-proxy", proxy.AUTOSAVE) == version
    assert engine.exec("dotmac-proxy", proxy.RELOAD_ARGV, stdin=json.dumps(config).encode()).exit_code == 0
    assert engine.file_version("dotmac-proxy", proxy.AUTOSAVE) != version
    assert engine.exec_code("dotmac-proxy", ["no-such-program"]) == 126
    assert host.http("127.0.0.1", 8080, "/", headers={"Host": "a.example"}) == 200
    assert host.http("127.0.0.1", 8080, "/", headers={"Host": "b.example"}) == 404
    assert host.http(fact(engine, "app").networks[names.PROXY_NETWORK], 8000, "/", headers={}) == 200
    engine.stop_container("app", 1)
    assert host.http("127.0.0.1", 8080, "/", headers={"Host": "a.example"}) == 502
    sim.forwarding = False
    with pytest.raises(ForwardingRefused):
        host.tcp("127.0.0.1", 8080)


def test_the_host_runs_few_programs(fleet, sim, box):
    host, _ = box
    assert host.disk("/var/lib/docker").total > host.disk("/").free > 0
    sim.programs["uname"] = (0, b"Linux\n", b"")
    assert host.run(["uname", "-s"]).stdout == b"Linux\n"
    assert host.run(["no-such-program"]).exit_code == 127


@dataclass
class Leading:
    """A fence whose number a test gives."""

    number: int
    domain: str = "one"

    def token(self) -> FenceToken:
        return FenceToken(self.number, self.domain)

    def refused(self, kept: int) -> None:
        """Nobody to tell."""


def test_the_fence_ends_what_older_operators_do_and_lets_them_in_no_more(fleet, sim):
    with ExitStack() as pools:

        def operator(number: int, domain: str = "one") -> SshHost:
            pool = SshHostPool(SshSettings(attempts=1, refusal_seconds=0.0), fence=Leading(number, domain))
            pools.callback(pool.close)
            return pool.get(fleet.address_of(sim))

        old, new = operator(4), operator(5)
        events = old.engine.events(0)
        old.probe()
        new.probe()
        with pytest.raises(HostError):
            next(events)
        with pytest.raises(Fenced) as told:
            old.probe()
        assert told.value.kept == sim.fence.number == 5
        with pytest.raises(ManagedElsewhere):
            operator(6, "two").probe()
        operator(6).run(["true"])
        assert sim.fence.number == 6
        operator(6).release()
        with pytest.raises(Fenced):
            operator(5).probe()
        operator(1, "two").probe()
        with pytest.raises(ManagedElsewhere):
            operator(7).probe()
