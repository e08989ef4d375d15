"""Where a case happens: a simulated host, a namespace, an operator that can be killed, and eyes on all of it."""

import base64
import itertools
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.faults.apiproxy import ApiCall, ApiFault, ApiProxy
from tests.faults.operator_process import OperatorProcess
from tests.kits import controlplane
from tests.kits.controlplane import ControlPlane
from tests.kits.tenant import RELEASE
from tests.simhost import Behaviour, Call, Fault, FleetSettings, Match, Phase, SimFleet, SimHost

from dotmac_crds.base import API_VERSION
from dotmac_crds.kinds import KINDS
from dotmac_operator.core import names, proxy

type Object = dict[str, Any]

NAME = "acme"
PATIENCE = 60.0
"""Seconds until a case that did not come to its end has failed."""
LEADS = "leading, as "
"""What the operator logs when its passes begin."""
QUIET = 1.0
"""Seconds without a change after which nobody is at work any more, on a machine that others keep busy."""
POLL = 0.15
"""Seconds between looks, each of which costs the control plane that all cases share a request."""
OLD, NEW, BAD = "erp-1", "erp-2", "erp-bad"
LISTED = tuple((kind.plural, kind.scope) for kind in KINDS)
"""What an operator lists when it starts: plural and scope."""
_GROUP = "/apis/platform.dotmac.io/v1alpha1"


class NeverEnded(AssertionError):
    """What was waited for did not come about."""


def _release(name: str, version: str, image: str, retries: int = 10) -> Object:
    """Few retries for the one that fails, since each is waited for; a busy machine must not fail the others."""
    health = {"http": {"path": "/health"}, "interval": 1, "timeout": 1, "retries": retries, "startPeriod": 1}
    roles = [{**RELEASE["roles"][0], "health": health, "stopGracePeriod": 1, "drainTimeout": 1}, RELEASE["roles"][1]]
    spec = {**RELEASE, "version": version, "roles": roles, "images": {**RELEASE["images"], "app": image}}
    return {"apiVersion": API_VERSION, "kind": "Release", "metadata": {"name": name}, "spec": spec}


@dataclass
class Lab:
    """The control plane and the hosts that all cases share; each case has its own namespace and host."""

    directory: Path
    plane: ControlPlane
    fleet: SimFleet
    _serial: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def world(self) -> Iterator["World"]:
        made = World(self, f"case-{next(self._serial)}")
        try:
            made.open()
            yield made
        finally:
            made.close()


@contextmanager
def lab(directory: Path) -> Iterator[Lab]:
    """A control plane with the catalog, and a fleet without hosts."""
    plane = controlplane.start(directory / "control-plane")
    try:
        plane.apply_crds()
        for release in (_release(OLD, "1.0", "example/app:1"), _release(NEW, "2.0", "example/app:2")):
            plane.create(release)
        plane.create(_release(BAD, "3.0", "example/app:bad", retries=1))
        small = {"cpu": "1", "memory": "64Mi", "pids": 64}
        plane.create(
            {
                "apiVersion": API_VERSION, "kind": "InstanceClass", "metadata": {"name": "small"},
                "spec": {"resources": {"default": small}},
            }
        )  # fmt: skip
        with SimFleet(FleetSettings(hosts=0)) as fleet:
            yield Lab(directory, plane, fleet)
    finally:
        plane.stop()


class World:
    """One case's own part of the lab."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self.lab = lab
        self.namespace = namespace
        self.client: httpx.Client = lab.plane.connect()
        self.host: SimHost = lab.fleet.add(namespace)
        self.api = ApiProxy(lab.plane.url, str(lab.plane.ca)).start()
        directory = lab.directory / namespace
        directory.mkdir()
        self._directory = directory
        self.operators = [self._operator("first")]
        self.dead = threading.Event()
        """Set when the operator was killed and somebody should start it again."""
        self.on_call: Callable[[Call, Phase], Fault | None] | None = None
        self.on_request: Callable[[ApiCall, Phase], ApiFault | None] | None = None
        self.violations: list[str] = []
        """What must never be, as it was seen."""
        self.remembered: dict[str, bytes] = {}
        """Path -> the list as it was before the journey, which a lagging API server may still give."""
        self.tenant = NAME
        """Whose end the case is about."""
        self._volumes: dict[str, int] = {}
        self.may_remove_volumes = False
        self._killed = 0
        """Operators that were killed and started again."""
        self._created = 0
        self._generation = self._edited = 0
        """The last one that an edit has made, and how often one did."""

    # ---- life

    def open(self) -> None:
        self.host.hook = self._seen
        self.api.hook = lambda call, phase: self.on_request(call, phase) if self.on_request else None
        self.lab.fleet.call(
            lambda: self.host.engine.behave(Match(image="*app:bad", role="web"), Behaviour(http_status=500))
        )
        self._create("/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        self._create(self._path("secrets", group="/api/v1"), self.lab.fleet.secret(self.namespace))
        self._create(self._path("servers"), self.lab.fleet.server(self.host, self.namespace, baseDomain="erp.example"))
        self.operators[0].start()
        self.wait("the Server to be ready", lambda: _true(self.get("servers", self.host.name), "Ready"))

    def close(self) -> None:
        self.on_call = self.on_request = None
        for operator in self.operators:
            operator.kill()
            operator.wait()
        self.api.close()
        self.lab.fleet.call(self.host.close)
        self.client.close()

    def _operator(self, name: str) -> OperatorProcess:
        config = yaml.safe_load(self.lab.plane.kubeconfig.read_text())
        config["clusters"][0]["cluster"] = {"server": self.api.url}
        kubeconfig = self._directory / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        short = {
            "DOTMAC_OPERATOR_LEADER_ELECTION_LEASE_DURATION": "4",
            "DOTMAC_OPERATOR_LEADER_ELECTION_RENEW_DEADLINE": "3",
            "DOTMAC_OPERATOR_LEADER_ELECTION_RETRY_PERIOD": "1",
        }
        return OperatorProcess(kubeconfig, self.namespace, self._directory / f"{name}.log", short)

    # ---- faults that are no answer to a call

    def kill(self) -> None:
        """SIGKILL of the first operator; whoever waits starts it again."""
        self.operators[0].kill()
        self.dead.set()

    def freeze(self) -> None:
        os.kill(self.operators[0].pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.operators[0].pid, signal.SIGCONT)

    def second(self) -> None:
        """Another operator for the same Servers, which stands by."""
        made = self._operator("second")
        made.start()
        self.operators.append(made)

    def later(self, seconds: float, work: Callable[[], object]) -> None:
        timer = threading.Timer(seconds, work)
        timer.daemon = True
        timer.start()

    # ---- the API, past the proxy

    def _path(self, plural: str, name: str = "", group: str = _GROUP) -> str:
        return f"{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def _create(self, path: str, body: Object) -> None:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 201, answer.text

    def get(self, plural: str = "instances", name: str = "") -> Object | None:
        """An object; the tenant that the case is about unless another is named."""
        answer = self.client.get(self._path(plural, name or self.tenant))
        assert answer.status_code in (200, 404), answer.text
        return dict(answer.json()) if answer.status_code == 200 else None

    def create(self, name: str = NAME, **spec: Any) -> None:
        usual = {
            "orgCode": "ACME", "orgName": "Acme Ltd", "serverRef": {"name": self.host.name},
            "releaseRef": {"name": OLD}, "classRef": {"name": "small"}, "admin": {"email": "admin@acme.example"},
        }  # fmt: skip
        body = {"apiVersion": API_VERSION, "kind": "Instance", "metadata": {"name": name}, "spec": {**usual, **spec}}
        self._created += 1  # before the operator can act on it: whoever counts from its first act counts this one in
        self._create(self._path("instances"), body)

    def patch(self, spec: Object | None = None, annotations: Object | None = None) -> None:
        body: Object = {"spec": spec} if spec else {}
        if annotations:
            body["metadata"] = {"annotations": annotations}
        headers = {"Content-Type": "application/merge-patch+json"}
        answer = self.client.patch(self._path("instances", self.tenant), json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        before, self._generation = self._generation, answer.json()["metadata"]["generation"]
        self._edited += self._generation > before

    def delete(self) -> None:
        assert self.client.delete(self._path("instances", NAME)).status_code in (200, 202, 404)

    def listed(self, plural: str, group: str = _GROUP) -> list[Object]:
        return list(self.client.get(self._path(plural, group=group)).json()["items"])

    def remember(self) -> None:
        """Keeps the lists of all kinds as they are now."""
        paths = [self._path(name) if scope == "Namespaced" else f"{_GROUP}/{name}" for name, scope in LISTED]
        self.remembered = {path: self.client.get(path).content for path in paths}

    # ---- what has happened

    def counts(self) -> Counter[str]:
        """How often what, until now: by which a fault shows that it was taken. See `Kind.shows`."""
        counts = Counter(self.api.counts)
        led = [operator.text().count(LEADS) for operator in self.operators]
        counts["operators killed"] = self._killed + self.operators[0].killed
        counts["leaders"], counts["leaders of the second"] = sum(led), sum(led[1:])
        counts["SSH connections"], counts["lost on the way"] = self.host.connections, self.host.link.lost
        counts["engine's starts"], counts["engine's channels"] = self.host.engine_starts, self.host.calls["SSH dial"]
        counts["engine's errors"] = self.host.errors
        counts["creations"], counts["edits"] = self._created, self._edited
        return counts

    # ---- waiting

    def wait(self, what: str, done: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Starts a killed operator again meanwhile. Looks while something changes, and every second."""
        deadline = time.monotonic() + seconds
        seen, changed, looked = (-1, -1), 0.0, 0.0
        while True:
            now, mark = time.monotonic(), (self.host.mutations, self.api.writes)
            if mark != seen:
                seen, changed = mark, now
            if now - changed < 2 * POLL or now - looked > 1.0:
                looked = now
                if done():
                    return
            self._revive()
            if now > deadline:
                raise NeverEnded(f"{what}: not within {seconds:.0f} s; status: {_told(self.get())}")
            time.sleep(POLL)

    def _revive(self) -> bool:
        """Starts a killed operator again."""
        if not self.dead.is_set():
            return False
        self.dead.clear()
        self.operators[0].wait()
        self._killed += self.operators[0].killed
        self.operators[0].start()
        return True

    def leads(self) -> bool:
        """Whether the first operator has led since it was started last, and was not killed since."""
        return not self.dead.is_set() and self.operators[0].text().count(LEADS) > self._killed

    def settle(self) -> None:
        """Until nothing has been changed for a while, by an operator that lives."""
        self._revive()  # unless it was while something was waited for: then it may not lead yet
        if not self.leads():
            self.wait("the operator to lead again", self.leads)
            time.sleep(1.0)
        quiet, before = time.monotonic(), (-1, -1)
        deadline = quiet + PATIENCE
        while time.monotonic() - quiet < QUIET:
            now = (self.host.mutations, self.api.writes)
            if now != before:
                quiet, before = time.monotonic(), now
            if time.monotonic() > deadline:
                raise NeverEnded("the operator does not come to rest")
            time.sleep(POLL)

    # ---- what must never be

    def _seen(self, call: Call, phase: Phase) -> Fault | None:
        if call.mutating and phase is Phase.AFTER:
            self._look()
        return self.on_call(call, phase) if self.on_call else None

    def _look(self) -> None:
        """In the hosts' loop, after each change of the host."""
        seen = set()
        for container in self.host.engine.containers.values():
            labels = container.body.get("Labels") or {}
            if names.INSTANCE_UID not in labels:
                continue
            place = tuple(labels.get(key) for key in (names.INSTANCE_UID, names.ROLE, names.INDEX, names.HASH))
            if place in seen:
                self.violations.append(f"two containers for {place[1]} {place[2]} of one version")
            seen.add(place)
        volumes = {name: volume.birth for name, volume in self.host.engine.volumes.all.items()}
        for name, birth in self._volumes.items():
            if volumes.get(name) != birth and not self.may_remove_volumes:
                self.violations.append(f"volume {name} was lost")
        self._volumes = volumes

    def overlaps(self) -> list[str]:
        """Ports of the host and domains that two have."""

        def look() -> list[str]:
            engine = self.host.engine
            ports: Counter[str] = Counter()
            for container in engine.containers.values():
                for bound in (container.host_config.get("PortBindings") or {}).items():
                    ports.update(f"{place.get('HostIp')}:{place.get('HostPort')}/{bound[0]}" for place in bound[1])
            config = proxy.parse((engine.read(engine.get(names.PROXY_CONTAINER), proxy.AUTOSAVE) or b"").decode())
            return [
                *(f"port {port} is taken twice" for port, times in ports.items() if times > 1),
                *(f"domain {host} is taken twice" for host, times in routes(config).items() if times > 1),
            ]

        found: list[str] = self.lab.fleet.call(look)
        return found

    def hosts(self) -> dict[str, str]:
        """Domain -> tenant whose container the proxy sends its requests to."""

        def look() -> dict[str, str]:
            engine = self.host.engine
            config = proxy.parse((engine.read(engine.get(names.PROXY_CONTAINER), proxy.AUTOSAVE) or b"").decode())
            labels = {c.name: c.body.get("Labels") or {} for c in engine.containers.values()}
            owners = {told[names.INSTANCE_UID] for told in labels.values() if names.INSTANCE_UID in told}
            found: dict[str, str] = {}
            for route in [proxy.route_of(config, owner) for owner in owners]:
                if route is not None:
                    served_by = labels.get(route.upstreams[0].partition(":")[0] if route.upstreams else "", {})
                    found |= {host: served_by.get(names.INSTANCE, "") for host, _ in route.hosts}
            return found

        made: dict[str, str] = self.lab.fleet.call(look)
        return made

    def secrets(self) -> set[str]:
        """Every secret value that must not be seen anywhere."""
        found = {line for line in self.lab.fleet.private_key.splitlines() if len(line) > 40}
        for secret in self.listed("secrets", "/api/v1"):
            for value in (secret.get("data") or {}).values():
                text = base64.b64decode(value).decode(errors="replace")
                if "PRIVATE KEY" not in text:
                    found.add(text)
        return found

    def said(self) -> Iterator[tuple[str, str]]:
        """(where, text) of everything that people and programs can read."""
        for operator in self.operators:
            yield "the log", operator.text()
        for plural in ("instances", "servers"):
            yield f"the status of {plural}", self.client.get(self._path(plural)).text
        yield "names, labels and arguments of containers", self.lab.fleet.call(self._shown)
        yield "Events", self.client.get(self._path("events", group="/api/v1")).text

    def _shown(self) -> str:
        """What everybody on the host sees of its containers."""
        told = [
            (c.name, c.body.get("Labels"), c.body.get("Entrypoint"), c.body.get("Cmd"), c.body.get("Healthcheck"))
            for c in self.host.engine.containers.values()
        ]
        return json.dumps(told)


def routes(config: Any) -> Counter[str]:
    """Host names that the proxy serves, each as often as it is there."""
    found: Counter[str] = Counter()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for match in value.get("match", ()) if isinstance(value.get("match"), list) else ():
                found.update(match.get("host", ()) if isinstance(match, dict) else ())
            for part in value.values():
                walk(part)
        elif isinstance(value, list):
            for part in value:
                walk(part)

    walk(config)
    return found


def _true(obj: Object | None, type_: str) -> bool:
    return condition(obj, type_) == "True"


def condition(obj: Object | None, type_: str) -> str:
    """True, False, Unknown, or empty; of the present generation only."""
    status = (obj or {}).get("status") or {}
    if obj is None or status.get("observedGeneration") != obj["metadata"]["generation"]:
        return ""
    return next((str(c["status"]) for c in status.get("conditions", []) if c["type"] == type_), "")


def _told(obj: Object | None) -> str:
    if obj is None:
        return "the Instance does not exist"
    found = [
        f"{c['type']}={c['status']} {c['reason']} {c.get('message', '')}"
        for c in obj.get("status", {}).get("conditions", [])
    ]
    return "; ".join(found)[:1500]
