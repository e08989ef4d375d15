"""The same Engine calls to a simulated host and to a real dockerd behind a real sshd: their answers must be the same.

Compared are status codes, the JSON with what is random or about the machine taken out, and the events. A field that
only one of them has, or that differs, fails, unless `ALLOWED` says why it may.
"""

import base64
import difflib
import io
import json
import re
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import pytest
from tests.integration.hosts.conftest import address_of
from tests.kits.tinyimage import ensure_tiny_image
from tests.simhost import FleetSettings, SimFleet

from dotmac_operator.hosts.deadline import Deadline
from dotmac_operator.hosts.diagnostics import LogQuery
from dotmac_operator.hosts.enginehttp import Request
from dotmac_operator.hosts.pool import SshHost, SshHostPool, SshSettings
from dotmac_operator.hosts.port import EngineError

pytestmark = pytest.mark.docker

ALLOWED = {
    # What a simulated machine does not have.
    "GraphDriver": "no file systems", "HostnamePath": "no files", "HostsPath": "no files", "LogPath": "no files",
    "ResolvConfPath": "no files", "SandboxID": "no network namespaces", "SandboxKey": "no network namespaces",
    "MountLabel": "no SELinux", "ProcessLabel": "no SELinux", "Driver": "overlay2 or vfs", "Mountpoint": "another root",
    "Source": "another root", "MaskedPaths": "no /proc", "ReadonlyPaths": "no /proc", "CgroupnsMode": "of the kernel",
    "DeviceCgroupRules": "no devices", "DeviceRequests": "no devices", "IOMaximumBandwidth": "not for Linux",
    "IOMaximumIOps": "not for Linux", "Isolation": "not for Linux", "CpuCount": "not for Linux",
    "CpuPercent": "not for Linux", "ConsoleSize": "not for Linux", "CpuRealtimePeriod": "old", "UTSMode": "old",
    "CpuRealtimeRuntime": "old", "CpusetMems": "old", "BlkioDeviceReadBps": "no devices", "Cgroup": "old",
    "BlkioDeviceReadIOps": "no devices", "BlkioDeviceWriteBps": "no devices", "BlkioDeviceWriteIOps": "no devices",
    "BlkioWeightDevice": "no devices", "KernelMemory": "old", "KernelMemoryTCP": "old", "Links": "old",
    "HairpinMode": "old", "LinkLocalIPv6Address": "no IPv6", "LinkLocalIPv6PrefixLen": "no IPv6",
    "SecondaryIPAddresses": "old", "SecondaryIPv6Addresses": "old", "Gateway": "old, repeated", "MacAddress": "random",
    "GlobalIPv6Address": "old, repeated", "GlobalIPv6PrefixLen": "old, repeated",
    "IPv6Gateway": "old, repeated",
    "IPPrefixLen": "old, repeated", "Pid": "random", "Log": "no checks are run",
    "Options": "of the default bridge", "DriverOpts": "unset",
}  # fmt: skip
"""Fields that are not compared, and why."""


@dataclass
class Both:
    """One of the two, with what has to be taken out of its answers."""

    host: SshHost
    image: str
    engine: Any = None
    """What is behind the simulated one."""

    def ask(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Status and normalised body."""
        request = Request(method, path, query or {}, body, repeatable=True)
        client, deadline = self.host.engine._client, Deadline(30, path)
        connection = client._ready(request, deadline)
        response = connection.exchange(request, deadline)
        answer = response.read()
        client.kept.keep(connection) if not response.will_close else connection.close()
        return response.status, self.normal(_parsed(answer))

    def normal(self, found: Any) -> Any:
        if isinstance(found, dict):
            made = {self._text(key): self.normal(value) for key, value in found.items() if key not in ALLOWED}
            return made
        if isinstance(found, list):
            return [self.normal(value) for value in found]
        return self._text(found) if isinstance(found, str) else found

    def _text(self, text: str) -> str:
        text = re.sub(r"(sha256:)?\b[0-9a-f]{64}\b", "ID", text)
        text = re.sub(r"\b[0-9a-f]{12}\b", "SHORT", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)", _time, text)
        text = re.sub(r"\b(1 second|Less than a second|\d seconds)\b", "MOMENT", text)
        return re.sub(r"\b\d+\.\d+\.\d+\.\d+\b", "IP", text)


def _time(found: re.Match[str]) -> str:
    return "NEVER" if found[0].startswith("0001") else "TIME"


def _parsed(answer: bytes) -> Any:
    try:
        return json.loads(answer) if answer.strip() else None
    except ValueError:
        return answer


@pytest.fixture(scope="module")
def pair(host) -> Iterator[tuple[Both, Both]]:
    """The simulated one has the real one's image."""
    tiny = ensure_tiny_image(host)
    pool = SshHostPool(SshSettings(refusal_seconds=0.0))
    with SimFleet(FleetSettings(hosts=1)) as fleet:
        real = Both(pool.get(address_of(host)), tiny)
        config = json.loads(host.docker("image", "inspect", tiny))[0]["Config"]
        engine = fleet["sim-0"].engine
        fleet.call(lambda: engine.images.add(tiny, config))
        yield Both(pool.get(fleet.address_of(fleet["sim-0"])), tiny, engine), real
        pool.close()


def differences(sim: Any, real: Any, path: str = "") -> list[str]:
    if isinstance(sim, dict) and isinstance(real, dict):
        found = []
        for key in sorted(sim.keys() | real.keys()):
            if key not in sim or key not in real:
                found.append(f"{path}.{key} only on the {'simulated' if key in sim else 'real'} one")
            else:
                found += differences(sim[key], real[key], f"{path}.{key}")
        return found
    if isinstance(sim, list) and isinstance(real, list) and len(sim) == len(real):
        return [
            told for n, (a, b) in enumerate(zip(sim, real, strict=True)) for told in differences(a, b, f"{path}[{n}]")
        ]
    return (
        []
        if sim == real and type(sim) is type(real)
        else [f"{path}: {sim!r} on the simulated, {real!r} on the real one"]
    )


SECOND = 10**9
LABELS = {"same.test": "1", "odd": 'a=b, ünï\n"quoted"'}
BODY = {
    "Cmd": ["sleep", "600"],
    "Env": ["A=1", "B=two words"],
    "Labels": LABELS,
    "StopSignal": "SIGKILL",
    "StopTimeout": 5,
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": SECOND, "Timeout": SECOND, "Retries": 3},
    "HostConfig": {
        "NetworkMode": "same-net",
        "RestartPolicy": {"Name": "unless-stopped"},
        "Memory": 64 * 2**20,
        "MemorySwap": 64 * 2**20,
        "NanoCpus": 500_000_000,
        "PidsLimit": 64,
        "CapDrop": ["ALL"],
        "CapAdd": [],
        "SecurityOpt": ["no-new-privileges"],
        "Mounts": [{"Type": "volume", "Source": "same-vol", "Target": "/data"}],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
    },
    "NetworkingConfig": {"EndpointsConfig": {"same-net": {"Aliases": ["database"]}}},
}
MINE = json.dumps({"label": ["same.test=1"]})
NET = {"Name": "same-net", "CheckDuplicate": True, "Driver": "bridge", "Internal": False, "Labels": {"same.test": "1"}}
NET["IPAM"] = {"Config": [{"Subnet": "172.30.77.0/27"}]}
VOL = {"Name": "same-vol", "Driver": "local", "Labels": {"same.test": "1"}}

CALLS: list[tuple[str, str, Any, dict[str, str]]] = [
    ("GET", "/_ping", None, {}),
    ("GET", "/no/such/call", None, {}),
    ("POST", "/networks/create", NET, {}),
    ("POST", "/networks/create", NET, {}),
    ("POST", "/networks/create", {**NET, "Name": "same-two"}, {}),
    ("GET", "/networks", None, {"filters": MINE}),
    ("GET", "/networks/same-net", None, {}),
    ("GET", "/networks/same-none", None, {}),
    ("POST", "/volumes/create", VOL, {}),
    ("POST", "/volumes/create", VOL, {}),
    ("GET", "/volumes", None, {"filters": MINE}),
    ("GET", "/volumes/same-vol", None, {}),
    ("GET", "/volumes/same-none", None, {}),
    ("POST", "/containers/create", BODY, {"name": "same-box"}),
    ("POST", "/containers/create", BODY, {"name": "same-box"}),
    ("POST", "/containers/create", {"Image": "dotmac/absent:9"}, {"name": "same-other"}),
    ("POST", "/containers/create", {**BODY, "Env": ["=x"]}, {"name": "same-other"}),
    ("POST", "/containers/create", BODY, {"name": "-same"}),
    ("GET", "/containers/json", None, {"all": "1", "filters": MINE}),
    ("GET", "/containers/json", None, {"filters": MINE}),
    ("GET", "/containers/same-box/json", None, {}),
    ("GET", "/containers/same-none/json", None, {}),
    ("POST", "/containers/same-none/start", None, {}),
    ("POST", "/containers/same-box/stop", None, {"t": "1"}),
    ("POST", "/containers/same-box/kill", None, {}),
    ("POST", "/containers/same-box/pause", None, {}),
    ("POST", "/containers/same-box/unpause", None, {}),
    ("POST", "/containers/same-box/exec", {"Cmd": ["true"]}, {}),
    ("POST", "/containers/same-box/start", None, {}),
    ("POST", "/containers/same-box/start", None, {}),
    ("HEALTHY", "same-box", None, {}),
    ("GET", "/containers/json", None, {"all": "1", "filters": MINE}),
    ("GET", "/containers/same-box/json", None, {}),
    ("GET", "/networks/same-net", None, {}),
    ("DELETE", "/networks/same-net", None, {}),
    ("DELETE", "/volumes/same-vol", None, {}),
    ("DELETE", "/containers/same-box", None, {}),
    ("POST", "/networks/bridge/connect", {"Container": "same-box"}, {}),
    ("POST", "/networks/bridge/connect", {"Container": "same-box"}, {}),
    ("POST", "/networks/same-none/connect", {"Container": "same-box"}, {}),
    ("POST", "/networks/bridge/connect", {"Container": "same-none"}, {}),
    ("GET", "/containers/same-box/json", None, {}),
    ("POST", "/networks/bridge/disconnect", {"Container": "same-box", "Force": True}, {}),
    ("POST", "/networks/bridge/disconnect", {"Container": "same-box", "Force": False}, {}),
    ("POST", "/networks/bridge/disconnect", {"Container": "same-box", "Force": True}, {}),
    ("POST", "/networks/bridge/disconnect", {"Container": "same-none", "Force": True}, {}),
    ("POST", "/containers/same-box/pause", None, {}),
    ("POST", "/containers/same-box/pause", None, {}),
    ("POST", "/containers/same-box/start", None, {}),
    ("POST", "/containers/same-box/exec", {"Cmd": ["true"]}, {}),
    ("GET", "/containers/json", None, {"all": "1", "filters": MINE}),
    ("POST", "/containers/same-box/unpause", None, {}),
    ("POST", "/containers/same-box/rename", None, {"name": "same-box"}),
    ("POST", "/containers/same-box/rename", None, {"name": "same-new"}),
    ("POST", "/containers/same-new/update", {"Memory": 96 * 2**20, "MemorySwap": 96 * 2**20}, {}),
    ("GET", "/containers/same-new/json", None, {}),
    ("POST", "/containers/same-new/kill", None, {"signal": "SIGKILL"}),
    ("GET", "/containers/same-new/json", None, {}),
    ("GET", "/containers/json", None, {"all": "1", "filters": MINE}),
    ("POST", "/containers/same-new/start", None, {}),
    ("POST", "/containers/same-new/stop", None, {"t": "1"}),
    ("GET", "/containers/same-new/logs", None, {"stdout": "1", "stderr": "1"}),
    ("GET", "/containers/same-new/logs", None, {}),
    ("GET", "/containers/same-new/archive", None, {"path": "/no/such/file"}),
    ("GET", "/images/dotmac/absent:9/json", None, {}),
    ("POST", "/networks/bridge/connect", {"Container": "same-new"}, {}),
    ("POST", "/networks/bridge/connect", {"Container": "same-new"}, {}),
    ("POST", "/networks/bridge/disconnect", {"Container": "same-new", "Force": True}, {}),
    ("POST", "/networks/bridge/disconnect", {"Container": "same-new", "Force": True}, {}),
    ("DELETE", "/containers/same-new", None, {"force": "1", "v": "1"}),
    ("DELETE", "/containers/same-new", None, {"force": "1", "v": "1"}),
    ("DELETE", "/networks/same-net", None, {}),
    ("DELETE", "/networks/same-net", None, {}),
    ("DELETE", "/volumes/same-vol", None, {}),
    ("DELETE", "/volumes/same-vol", None, {}),
]


def call(one: Both, method: str, path: str, body: Any, query: dict[str, str]) -> tuple[int, Any]:
    if method == "HEALTHY":
        until = time.monotonic() + 10
        while one.ask("GET", f"/containers/{path}/json")[1]["State"]["Health"]["Status"] != "healthy":
            assert time.monotonic() < until
            time.sleep(0.1)
        return 0, None
    given = {**body, "Image": body.get("Image", one.image)} if path == "/containers/create" else body
    return one.ask(method, path, given, query)


def test_answers(pair):
    sim, real = pair
    found = []
    for number, (method, path, body, query) in enumerate(CALLS):
        answers = [call(one, method, path, body, query) for one in (sim, real)]
        found += [f"{number} {method} {path}{told}" for told in differences(list(answers[0]), list(answers[1]))]
    assert not found, "\n".join(found)


def test_events(pair):
    told = []
    for one in pair:
        since = time.time()
        for method, path, body, query in CALLS:
            call(one, method, path, body, query)
        until = f"{time.time() + 0.2:.6f}"
        request = Request("GET", "/events", {"since": f"{since:.6f}", "until": until}, repeatable=True)
        with one.host.engine._client.sent(request, Deadline(30, "events")) as (_, response):
            lines = [json.loads(line) for line in response.read().splitlines()]
        told.append([_event(one, line) for line in lines if not line["Action"].startswith("exec_")])
    lines = difflib.unified_diff([str(event) for event in told[0]], [str(event) for event in told[1]], n=3, lineterm="")
    assert told[0] == told[1], "simulated against real\n" + "\n".join(lines)


def _event(one: Both, line: dict[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    attributes = one.normal({**line["Actor"]["Attributes"], "execDuration": ""})
    return line["Type"], line["Action"], tuple(sorted(f"{key}={value}" for key, value in attributes.items()))


# -- programs, their lines, files and images, by the operator's own calls

SCRIPT = "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three; exit 3"
PACKED = {"posts": b"first\nsecond\n", "empty": b""}


def outcome(one: Both, call: Callable[[], Any]) -> Any:
    """What a call returns, or its error: type, status and words without the host's name."""
    try:
        return one.normal(call())
    except EngineError as error:
        return type(error).__name__, error.status, one.normal(str(error).replace(one.host.address.name, "HOST"))


def compare(pair: tuple[Both, Both], told: str, call: Callable[[Both], Any]) -> list[str]:
    sim, real = (outcome(one, lambda one=one: call(one)) for one in pair)  # type: ignore[misc]
    return [f"{told}{line}" for line in differences(sim, real)]


@pytest.fixture
def boxes(pair: tuple[Both, Both], host: Any) -> Iterator[tuple[Both, Both]]:
    """On each: `same-said`, which has printed and ended, and `same-sleeps` with files in a volume."""
    sim, real = pair
    for one in pair:
        engine = one.host.engine
        engine.create_volume("same-files", {})
        mounts = [{"Type": "volume", "Source": "same-files", "Target": "/data"}]
        body = {"Image": one.image, "Env": ["A=1"], "HostConfig": {"Mounts": mounts}}
        engine.create_container("same-said", {**body, "Cmd": ["sh", "-c", SCRIPT]})
        engine.create_container("same-sleeps", {**body, "Cmd": ["sleep", "600"], "StopSignal": "SIGKILL"})
        engine.start_container("same-said")
        engine.start_container("same-sleeps")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in PACKED.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    host.docker("cp", "-", "same-sleeps:/data", data=made.getvalue())
    container = sim.host.engine.inspect_container("same-sleeps")["Id"]
    for name, content in PACKED.items():
        sim.engine.write(sim.engine.get(container), f"/data/{name}", content)
    yield pair
    for one in pair:
        for name in ("same-said", "same-sleeps"):
            one.host.engine.remove_container(name)
        one.host.engine.remove_volume("same-files")


def test_programs_and_their_lines(boxes: tuple[Both, Both]) -> None:
    def exec_(*argv: str, stdin: bytes | None = None) -> Callable[[Both], Any]:
        return lambda one: astuple(one.host.engine.exec("same-sleeps", argv, stdin=stdin))

    def code(*argv: str) -> Callable[[Both], int]:
        return lambda one: one.host.engine.exec_code("same-sleeps", argv)

    def lines(one: Both, name: str, **query: Any) -> list[tuple[str, str]]:
        said = one.host.engine.diagnostics.log_lines(name, LogQuery(**query))
        return [(line.stream, line.text) for line in said]

    found: list[str] = []
    calls: dict[str, Callable[[Both], Any]] = {
        "wait": lambda one: one.host.engine.wait_container("same-said", 10),
        "logs": lambda one: one.host.engine.logs("same-said"),
        "logs, the last": lambda one: one.host.engine.logs("same-said", tail=1),
        "logs, none of them": lambda one: one.host.engine.logs("same-said", tail=0),
        "logs of nobody": lambda one: one.host.engine.logs("same-none"),
        "lines": lambda one: lines(one, "same-said", tail=10),
        "lines, followed to the end": lambda one: lines(one, "same-said", tail=10, follow=True),
        "exec": exec_("sh", "-c", "echo out; echo err >&2; exit 4"),
        "exec with input": exec_("cat", stdin=b"given\n"),
        "exec with an environment": exec_("printenv", "A"),
        "exec of nothing": exec_("no-such-program"),
        "exit code": code("sh", "-c", "exit 5"),
        "exit code of nothing": code("no-such-program"),
        "exec in a stopped one": lambda one: one.host.engine.exec_code("same-said", ["true"]),
        "exec in nobody": lambda one: one.host.engine.exec_code("same-none", ["true"]),
        "an exec of nobody": lambda one: one.ask("GET", "/exec/same-none/json"),
        "the start of an exec of nobody": lambda one: one.ask("POST", "/exec/same-none/start", {"Detach": True}),
        "a new exec": lambda one: one.ask("POST", "/containers/same-sleeps/exec", {"Cmd": ["true"]}),
    }
    for told, call_ in calls.items():
        found += compare(boxes, told, call_)
    assert not found, "\n".join(found)


def test_files(boxes: tuple[Both, Both]) -> None:
    def stat(one: Both, path: str) -> Any:
        told = json.loads(base64.b64decode(one.host.engine.file_version("same-sleeps", path)))
        return {key: told[key] for key in ("name", "size", "mode", "linkTarget")}

    found: list[str] = []
    for path in ("/data/posts", "data/posts", "/data/empty", "/data/none", "/none/at/all"):
        found += compare(boxes, f"read {path}", lambda one, path=path: one.host.engine.read_file("same-sleeps", path))
        found += compare(boxes, f"stat {path}", lambda one, path=path: stat(one, path))
    found += compare(boxes, "read of nobody", lambda one: one.host.engine.read_file("same-none", "/data/posts"))
    found += compare(boxes, "stat of nobody", lambda one: one.host.engine.file_version("same-none", "/data/posts"))
    found += compare(boxes, "read a directory", lambda one: one.host.engine.read_file("same-sleeps", "/data"))
    assert not found, "\n".join(found)


def test_a_survey(boxes: tuple[Both, Both]) -> None:
    """What single questions say is compared elsewhere: here, that each answer is of its own question."""

    def survey(one: Both) -> Any:
        found = one.host.engine.survey([], [one.image, "same/none:1"], ("same-sleeps", "/data/posts"))
        return (
            sorted(box.name for box in found.containers if box.name.startswith("same-")),
            {"bridge", "host", "none"} <= {network.name for network in found.networks},
            [volume.name for volume in found.volumes if volume.name == "same-files"],
            [found.images[one.image].id == one.host.engine.image(one.image).id, len(found.images)],
            found.file_version == one.host.engine.file_version("same-sleeps", "/data/posts"),
            one.host.engine.survey([], [], ("same-sleeps", "/data/none")).file_version,
            one.host.engine.survey([], [], ("same-none", "/data/posts")).file_version,
        )

    told = survey(boxes[1])
    assert told == (["same-said", "same-sleeps"], True, ["same-files"], [True, 1], True, None, None)
    assert not compare(boxes, "survey", survey)


def shape(value: Any) -> Any:
    """Names and types, of the first item of a list."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def added(sim: Any, real: Any, path: str = "") -> list[str]:
    """What only the simulated one tells, or otherwise than the real one. It may tell less: nobody reads the rest."""
    if isinstance(sim, dict) and isinstance(real, dict):
        return [
            line
            for key, value in sim.items()
            for line in (added(value, real[key], f"{path}.{key}") if key in real else [f"{path}.{key} is made up"])
        ]
    if isinstance(sim, list) and isinstance(real, list):
        return added(sim[0], real[0], f"{path}[]") if sim and real else []
    return [] if sim == real or "NoneType" in (sim, real) else [f"{path}: {sim} on the simulated, {real} on the real"]


def test_facts_have_the_same_shape(boxes: tuple[Both, Both]) -> None:
    """What is about the machine differs in every value: names and types are compared."""
    found: list[str] = []
    for path, query in {
        "/version": {},
        "/info": {},
        "/system/df": {"type": "volume"},
        "/containers/same-sleeps/stats": {"stream": "0", "one-shot": "1"},
        f"/images/{boxes[0].image}/json": {},
        "/images/json": {"filters": json.dumps({"reference": [boxes[0].image]})},
    }.items():
        (status, sim), (other, real) = (one.ask("GET", path, query=query) for one in boxes)
        assert (status, other) == (200, 200)
        found += [f"{path}{line}" for line in added(shape(sim), shape(real))]
    assert not found, "\n".join(found)


def test_programs_are_told_as_events(boxes: tuple[Both, Both]) -> None:
    told = []
    for one in boxes:
        since = time.time()
        one.host.engine.exec("same-sleeps", ["true"])
        one.host.engine.exec_code("same-sleeps", ["sh", "-c", "exit 2"])
        until = f"{time.time() + 0.3:.6f}"
        request = Request("GET", "/events", {"since": f"{since:.6f}", "until": until}, repeatable=True)
        with one.host.engine._client.sent(request, Deadline(30, "events")) as (_, response):
            lines = [json.loads(line) for line in response.read().splitlines()]
        told.append([_event(one, line) for line in lines if line["Action"].startswith("exec_")])
    assert told[0] == told[1]
    assert len(told[0]) == 6
