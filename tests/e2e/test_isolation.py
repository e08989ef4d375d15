"""What somebody can reach who runs code in one tenant's container, and what not. SECURITY.md promises this."""

import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.e2e import releases
from tests.e2e.platform import HTTP_PORT, HTTPS_PORT, Platform, Tenant
from tests.kits.dockerhost import DockerHost

from dotmac_local.demo.processes import run
from dotmac_operator.core.names import PROXY_CONTAINER

SECURITY = Path(__file__).resolve().parents[2] / "SECURITY.md"
NETWORK_POOL = "10.210.0.0/16"
"""The default of `Server.spec.capacity`."""
METADATA = "169.254.169.254"

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

# Each target: [host, port]. Answers: open, closed (refused, filtered) or nameless.
CONNECT = """
import json, os, socket, sys
os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"  # a name that nobody knows is asked for outside too
made = {}
for host, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((host, port), timeout=1.5).close()
        made[f"{host}:{port}"] = "open"
    except socket.gaierror:
        made[f"{host}:{port}"] = "nameless"
    except OSError:
        made[f"{host}:{port}"] = "closed"
print(json.dumps(made))
"""
SCAN = """
import json, socket, sys
found = []
for port in range(1, 65536):
    with socket.socket() as made:
        made.settimeout(1)
        if made.connect_ex((sys.argv[1], port)) == 0:
            found.append(port)
print(json.dumps(found))
"""
LISTEN = """
import signal, socket, sys
listening = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("listening", flush=True)
signal.pause()
"""
SOCKETS = """
import json, os, stat
found = []
for top in ("/run", "/var/run", "/tmp", "/data", "/var/lib", "/srv", "/mnt"):
    for folder, _, names in os.walk(top):
        paths = (os.path.join(folder, name) for name in names)
        found += [path for path in paths if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode)]
print(json.dumps(found))
"""
POWERS = """
import json, os, socket
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
refused = []
for family, kind in ((socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_INET, socket.SOCK_RAW)):
    try:
        socket.socket(family, kind, socket.IPPROTO_ICMP).close()
    except PermissionError:
        refused.append(family.name)
print(json.dumps({"uid": os.getuid(), "caps": status["CapEff"], "bounding": status["CapBnd"],
                  "no_new_privs": status["NoNewPrivs"], "seccomp": status["Seccomp"], "raw_refused": refused,
                  "disks": [name for name in os.listdir("/dev") if name.startswith(("sd", "vd", "nvme", "mem"))],
                  "processes": sum(name.isdigit() for name in os.listdir("/proc"))}))
"""


@dataclass
class Neighbours:
    """Two tenants on one host."""

    mallory: Tenant
    """Where the attacker is."""
    victim: Tenant
    host: DockerHost

    def run(self, program: str, *argv: str, tenant: Tenant | None = None) -> object:
        return json.loads((tenant or self.mallory).exec("web", "python3", "-c", program, *argv))

    def connect(self, *targets: tuple[str, int], tenant: Tenant | None = None) -> object:
        return self.run(CONNECT, json.dumps(targets), tenant=tenant)

    def answers(self, *targets: tuple[str, int], tenant: Tenant | None = None) -> list[str]:
        """Of each target, in their order."""
        found = self.connect(*targets, tenant=tenant)
        assert isinstance(found, dict)
        return [found[f"{host}:{port}"] for host, port in targets]

    def addresses(self, container: str) -> dict[str, str]:
        """Network -> address of a container."""
        found = json.loads(self.host.docker("inspect", container))[0]["NetworkSettings"]["Networks"]
        return {name: network["IPAddress"] for name, network in found.items()}

    def targets(self, tenant: Tenant) -> dict[str, tuple[str, int]]:
        """Role -> address and port of what a tenant runs."""
        ports = {"database": 5432, "cache": 6379, "web": 8000}
        made = {}
        for found in tenant.containers():
            role = found["Config"]["Labels"]["platform.dotmac.io/role"]
            if role in ports and found["State"]["Running"]:
                (address,) = self.addresses(found["Id"]).values()
                made[role] = (address, ports[role])
        return made


@pytest.fixture(scope="module")
def neighbours(platform: Platform) -> Iterator[Neighbours]:
    images = {"app": releases.SAMPLE_1, "postgresql": releases.POSTGRESQL, "redis": releases.REDIS}
    platform.apply(releases.sample("isolated", "1.0", releases.SAMPLE_1, images=images, cache={"image": "redis"}))
    with ExitStack() as stack:
        made = [
            stack.enter_context(platform.tenant(releases.instance(name, "isolated"), seconds=120))
            for name in ("mallory", "victim")
        ]
        yield Neighbours(*made, platform.hosts["one"])


def test_no_other_tenants_parts_are_reachable(neighbours: Neighbours) -> None:
    own, others = neighbours.targets(neighbours.mallory), neighbours.targets(neighbours.victim)
    assert sorted(own) == sorted(others) == ["cache", "database", "web"]
    # The same probe finds all of them open from where they may be reached: it can tell the difference.
    assert set(neighbours.connect(*own.values()).values()) == {"open"}  # type: ignore[attr-defined]
    at_home = neighbours.connect(*others.values(), tenant=neighbours.victim)
    assert set(at_home.values()) == {"open"}  # type: ignore[attr-defined]
    away = neighbours.connect(*others.values())
    assert set(away.values()) == {"closed"}, away  # type: ignore[attr-defined]


def test_no_other_tenants_names_are_known(neighbours: Neighbours) -> None:
    (own,) = (str(found["Name"]).lstrip("/") for found in neighbours.mallory.containers("web"))
    assert neighbours.connect((own, 8000)) == {f"{own}:8000": "open"}
    roles = [*neighbours.victim.containers("web"), *neighbours.victim.containers("database")]
    found = neighbours.connect(*((str(container["Name"]).lstrip("/"), 8000) for container in roles))
    assert set(found.values()) == {"nameless"}, found  # type: ignore[attr-defined]


def test_of_the_proxy_only_the_two_public_ports_are_reachable(neighbours: Neighbours) -> None:
    addresses = neighbours.addresses(PROXY_CONTAINER)
    networks = neighbours.addresses(str(neighbours.mallory.containers("web")[0]["Id"]))
    (shared,) = set(networks) & set(addresses)
    # No admin API, on any port: it is a UNIX socket inside the proxy's own container.
    assert neighbours.run(SCAN, addresses[shared]) == [80, 443]
    behind = neighbours.connect(*((address, 2019) for address in addresses.values()))
    assert set(behind.values()) == {"closed"}, behind  # type: ignore[attr-defined]


def test_of_the_host_only_what_it_offers_to_everybody_is_reachable(neighbours: Neighbours) -> None:
    """sshd and the proxy, as from any machine in its network: said so in SECURITY.md."""
    (network,) = neighbours.mallory.containers("web")[0]["NetworkSettings"]["Networks"].values()
    gateway = network["Gateway"]
    found = neighbours.run(SCAN, gateway)
    assert set(found) <= {neighbours.host.port, HTTP_PORT, HTTPS_PORT}, found  # type: ignore[call-overload]
    # The Engine speaks on no port at all.
    engine = neighbours.connect(
        *((address, port) for address in (gateway, neighbours.host.address) for port in (2375, 2376))
    )
    assert set(engine.values()) == {"closed"}, engine  # type: ignore[attr-defined]


def test_another_tenants_network_leads_no_further(neighbours: Neighbours) -> None:
    """Host and proxy have an address in each tenant's network."""
    ((name, network),) = neighbours.victim.containers("web")[0]["NetworkSettings"]["Networks"].items()
    found = neighbours.run(SCAN, network["Gateway"])
    assert set(found) <= {neighbours.host.port, HTTP_PORT, HTTPS_PORT}, found  # type: ignore[call-overload]
    proxy = [(neighbours.addresses(PROXY_CONTAINER)[name], port) for port in (80, 443)]
    assert neighbours.answers(*proxy, tenant=neighbours.victim) == ["open", "open"]
    assert neighbours.answers(*proxy) == ["closed", "closed"]


def test_nothing_of_a_tenant_is_published_on_the_host(neighbours: Neighbours) -> None:
    for tenant in (neighbours.mallory, neighbours.victim):
        for container in tenant.containers():
            assert not container["HostConfig"]["PortBindings"], container["Name"]
            assert not any((container["NetworkSettings"]["Ports"] or {}).values()), container["Name"]


@contextmanager
def metadata_service(host: DockerHost) -> Iterator[None]:
    """A machine beyond the host that answers where a cloud's metadata service does."""
    name = f"{host.namespace}m"
    with ExitStack() as stack:
        run(["ip", "netns", "add", name])
        stack.callback(run, ["ip", "netns", "delete", name])
        host.in_namespace("ip", "link", "add", "meta0", "type", "veth", "peer", "name", "eth0", "netns", name)
        host.in_namespace("ip", "address", "add", "169.254.169.253/30", "dev", "meta0")
        host.in_namespace("ip", "link", "set", "meta0", "up")
        for command in (
            f"address add {METADATA}/30 dev eth0",
            "link set eth0 up",
            "route add default via 169.254.169.253",
        ):
            run(["ip", "-n", name, *command.split()])
        serve = ("nsenter", f"--net=/run/netns/{name}", sys.executable, "-c", LISTEN, METADATA, "80")
        service = stack.enter_context(subprocess.Popen(serve, stdout=subprocess.PIPE))
        stack.callback(service.kill)
        assert service.stdout is not None and service.stdout.readline()
        yield


def rules(internal: str) -> list[list[str]]:
    """The rules for a host's firewall as SECURITY.md has them, with values for what it leaves open."""
    lines = re.findall(r"^\s*(iptables .*?)(?:\s+#.*)?$", SECURITY.read_text(), re.MULTILINE)
    assert len(lines) == 3
    return [
        shlex.split(line.replace("<networkPool>", NETWORK_POOL).replace("<internal network>", internal))
        for line in lines
    ]


def test_the_rules_of_the_page_close_what_is_open_as_built(neighbours: Neighbours) -> None:
    host = neighbours.host
    (gateway,) = re.findall(r"default via (\S+)", host.in_namespace("ip", "route"))
    with metadata_service(host), socket.create_server((gateway, 0)) as internal, ExitStack() as stack:
        beyond = [(METADATA, 80), (gateway, internal.getsockname()[1]), (host.address, host.port)]
        assert neighbours.answers(*beyond) == ["open", "open", "open"]
        for rule in rules(f"{gateway}/32"):
            host.in_namespace(*rule)
            stack.callback(host.in_namespace, *("-D" if word == "-I" else word for word in rule))
        assert neighbours.answers(*beyond) == ["closed", "closed", "closed"]
        # The tenants are served, and have what is theirs.
        assert set(neighbours.answers(*neighbours.targets(neighbours.mallory).values())) == {"open"}
        url = f"https://{host.address}:{HTTPS_PORT}/healthz"
        domain = neighbours.victim.domain
        with httpx.Client(verify=False, trust_env=False) as client:  # noqa: S501 - a certificate of the proxy's own
            served = client.get(url, headers={"Host": domain}, extensions={"sni_hostname": domain})
        assert served.status_code == 200
        probe = "import socket; socket.create_connection(('169.254.169.254', 80), 2)"
        host.in_namespace(sys.executable, "-c", probe)


def test_no_socket_of_docker_nor_of_anything_else(neighbours: Neighbours) -> None:
    assert neighbours.run(SOCKETS) == []
    for tenant in (neighbours.mallory, neighbours.victim):
        for container in tenant.containers():
            sources = [mount.get("Name", mount["Source"]) for mount in container["Mounts"]]
            assert all(name.startswith(f"dotmac-{tenant.name}-") for name in sources), (container["Name"], sources)
            assert not container["HostConfig"]["Privileged"]
            assert not container["HostConfig"].get("Devices")
            assert container["HostConfig"]["PidMode"] == container["HostConfig"]["UTSMode"] == ""


def test_no_powers_to_go_further(neighbours: Neighbours) -> None:
    found = neighbours.run(POWERS)
    assert isinstance(found, dict)
    assert found["uid"] != 0
    assert int(found["caps"], 16) == int(found["bounding"], 16) == 0
    assert (found["no_new_privs"], found["seccomp"]) == ("1", "2")
    # Without raw sockets nobody answers for another's address on the network that the proxy shares.
    assert found["raw_refused"] == ["AF_PACKET", "AF_INET"]
    assert found["disks"] == []
    assert found["processes"] < 10, "only those of its own container are seen"


def test_no_way_to_the_control_plane(neighbours: Neighbours) -> None:
    """Neither credentials nor settings of the operator are in a tenant's environment."""
    names = json.loads(
        neighbours.mallory.exec("web", "python3", "-c", "import json,os;print(json.dumps(list(os.environ)))")
    )
    assert not [
        name for name in names if name.startswith(("DOTMAC_OPERATOR_", "DOTMAC_API_", "KUBE", "SSH_", "DOCKER_"))
    ]
