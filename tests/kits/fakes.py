"""In-memory doubles of the ports: Docker hosts, the Kubernetes API, and a World that runs the reconcilers on them.

Small and faithful: what a real engine or API server refuses, these refuse. A test can make any call fail.
"""

import hashlib
import json
import marshal
import pickle
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, Literal

import pytest
from tests.kits.tenant import INSTANCE, RELEASE, SERVER

from dotmac_crds.base import API_VERSION, FINALIZER
from dotmac_crds.kinds import KINDS
from dotmac_local.schema import Schema
from dotmac_operator.core import archive, connections, database, names, pages, proxy, tenancy
from dotmac_operator.core.facts import (
    ContainerFact,
    DiskFact,
    DockerEvent,
    EngineInfo,
    ImageFact,
    NetworkFact,
    VolumeFact,
)
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.port import (
    Conflict,
    EngineError,
    EventStream,
    ExecResult,
    HostAddress,
    HostError,
    HostUnreachable,
    NotFound,
    ProbeRefused,
    Progress,
    Sent,
    Survey,
    nothing,
)
from dotmac_operator.reconcile.backups import BackupReconciler
from dotmac_operator.reconcile.catalog import CatalogReconciler
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.instance import InstanceReconciler
from dotmac_operator.reconcile.ports import Gone, ObjectRef, Outcome, Stale
from dotmac_operator.reconcile.proof import Prover
from dotmac_operator.reconcile.restores import RestoreReconciler
from dotmac_operator.reconcile.server import ServerReconciler
from dotmac_operator.reconcile.store import Store, parse
from dotmac_operator.reconcile.turns import Turns

SSH_KEY = "CANARY-private-key"
OFFERED = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeHostKeyFakeHostKeyFakeHostKeyFakeHost"


_HEALTH = {"http": {"path": "/health"}, "interval": 1, "timeout": 1, "retries": 1, "startPeriod": 1}
QUICK: dict[str, Any] = {**RELEASE, "roles": [{**RELEASE["roles"][0], "health": _HEALTH}, RELEASE["roles"][1]]}
"""A Release that shows within seconds that it does not work."""


class Crash(Exception):
    """The operator's process ends here."""


def _never() -> float:
    raise AssertionError("a copy without a clock")


# -- hosts -----------------------------------------------------------------------------------------------------


@dataclass
class Box:
    """One container."""

    id: str
    name: str
    body: dict[str, Any]
    networks: dict[str, str]
    created: int
    state: str = "created"
    exit_code: int | None = None
    log: str = ""
    image_id: str = ""
    restarts: int = 0

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.body["Labels"]
        return found

    @property
    def role(self) -> str:
        return self.labels.get(names.ROLE, "")

    @property
    def env(self) -> dict[str, str]:
        return dict(item.split("=", 1) for item in self.body["Env"])


_TASKS = {
    archive.DUMP_COMMAND: "dump",
    archive.ARCHIVE_COMMAND: "archive",
    archive.ERASE_COMMAND: "erase",
    archive.PREPARE_COMMAND: "prepare",
    database.RESTORE_COMMAND: "database",
    archive.EXCHANGE_COMMAND: "exchange",
    archive.TIDY_COMMAND: "tidy",
}


def _sum(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


class Quiet:
    """An event stream on which nothing happens; tests tell the inventory what they changed."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[DockerEvent]:
        return self

    def __next__(self) -> DockerEvent:
        self._closed.wait()
        raise StopIteration

    def close(self) -> None:
        self._closed.set()


@dataclass
class FakeEngine:
    """Implements `hosts.port.Engine`."""

    clock: Callable[[], float]
    containers_: dict[str, Box] = field(default_factory=dict)
    networks_: dict[str, NetworkFact] = field(default_factory=dict)
    volumes_: dict[str, VolumeFact] = field(default_factory=dict)
    images_: set[str] = field(default_factory=set)
    ids_: dict[str, str] = field(default_factory=dict)
    """Reference -> image id, where a tag points to another image than the first one."""
    autosave: bytes | None = None
    """The configuration that the proxy runs."""
    connections_: str = "  sl  local_address rem_address   st"
    """The proxy's table of connections, as `/proc/net/tcp` tells it."""
    exit_codes: dict[tuple[str, str], int] = field(default_factory=dict)
    """(role, image) -> how its one-shot ends."""
    logs_: dict[str, str] = field(default_factory=dict)
    """Role -> what its containers print."""
    schema: str = ""
    """Image that last worked on the database, also in vain."""
    dumps: dict[str, str] = field(default_factory=dict)
    """File -> the schema that is in it."""
    rows: str = ""
    """What the application has written to the database."""
    data: dict[str, str] = field(default_factory=dict)
    """Volume -> what the application has written to it."""
    saved: dict[str, str] = field(default_factory=dict)
    """Volume for backups and path in it -> the content of a file of a Backup."""
    beside: dict[str, str] = field(default_factory=dict)
    """Volume -> what a Restore has unpacked in it, beside what the application uses."""
    displaced: set[str] = field(default_factory=set)
    """Names of databases that a Restore has displaced."""
    ends: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Task of a Backup or Restore -> (exit code, log) of its next runs, in place of doing it."""
    hates: set[tuple[str, str]] = field(default_factory=set)
    """(image, schema): an application that answers 500 with this database."""
    sick: set[str] = field(default_factory=set)
    """Images whose containers answer 503, and stay `unhealthy` where Docker checks them."""
    down: HostError | None = None
    """Raised by every call while it is set."""
    mutations: list[str] = field(default_factory=list)
    reads: int = 0
    fault: tuple[int, str] | None = None
    """(number of the mutation, "before" or "after"): there the process crashes."""
    hook: Callable[[str], None] | None = None
    """Called after every mutation."""
    _serial: int = 0

    def _read(self) -> None:
        self.reads += 1
        if self.down is not None:
            raise self.down

    def _mutate[T](self, what: str, effect: Callable[[], T]) -> T:
        if self.down is not None:
            raise self.down
        number = len(self.mutations)
        if self.fault == (number, "before"):
            raise Crash(what)
        made = effect()
        self.mutations.append(what)
        if self.fault == (number, "after"):
            raise Crash(what)
        if self.hook is not None:
            self.hook(what)
        return made

    def _box(self, container: str) -> Box:
        for box in self.containers_.values():
            if container in (box.id, box.name):
                return box
        raise NotFound(f"no such container: {container}", 404)

    # facts

    def info(self) -> EngineInfo:
        self._read()
        return EngineInfo("20.10", "1.41", "Debian", "6.1", "x86_64", 4, 8 * 2**30, "/var/lib/docker")

    def containers(self, labels: Sequence[str] = ()) -> list[ContainerFact]:
        self._read()
        return [self._fact(box) for box in self.containers_.values() if _matches(box.labels, labels)]

    def _fact(self, box: Box) -> ContainerFact:
        health = ""
        if box.state == "running" and box.body["Healthcheck"]["Test"] != ["NONE"]:
            health = "unhealthy" if box.body["Image"] in self.sick else "healthy"
        running = box.state == "running"
        image = box.body["Image"]
        if image not in self.images_ or self._id(image) != box.image_id:
            image = box.image_id  # a name that means another image by now is not told
        return ContainerFact(
            box.id, box.name, image, box.image_id, box.state, box.labels, health, box.exit_code,
            {name: ip if running else "" for name, ip in box.networks.items()}, box.created,
        )  # fmt: skip

    def networks(self) -> list[NetworkFact]:
        self._read()
        return list(self.networks_.values())

    def volumes(self, labels: Sequence[str] = ()) -> list[VolumeFact]:
        self._read()
        return [volume for volume in self.volumes_.values() if _matches(volume.labels, labels)]

    def image(self, reference: str) -> ImageFact | None:
        self._read()
        if reference.startswith("sha256:"):
            return ImageFact(reference, reference) if reference in self._ids() else None
        return ImageFact(self._id(reference), reference) if reference in self.images_ else None

    def _id(self, reference: str) -> str:
        return self.ids_.get(reference, f"sha256:{hashlib.sha256(reference.encode()).hexdigest()}")

    def _ids(self) -> set[str]:
        """Images that are there: those that are named, and those that a container was made from."""
        return {self._id(name) for name in self.images_} | {box.image_id for box in self.containers_.values()}

    def inspect_container(self, container: str) -> Mapping[str, Any]:
        self._read()
        box = self._box(container)
        return {
            "Id": box.id,
            "Config": {"Labels": box.labels},
            "HostConfig": box.body["HostConfig"],
            "RestartCount": box.restarts,
        }

    def logs(self, container: str, tail: int = 50) -> str:
        self._read()
        return self._box(container).log

    def read_file(self, container: str, path: str) -> bytes:
        self._read()
        self._box(container)
        if path != proxy.AUTOSAVE or self.autosave is None:
            raise NotFound(f"no such file: {path}", 404)
        return self.autosave

    def survey(
        self, labels: Sequence[str], references: Sequence[str], file: tuple[str, str], sent: Sent = nothing
    ) -> Survey:
        sent()
        try:
            version = self.file_version(*file)
        except NotFound:
            version = None
        return Survey(
            tuple(self.containers(labels)),
            tuple(self.networks()),
            tuple(self.volumes()),
            {reference: image for reference in references if (image := self.image(reference)) is not None},
            version,
        )

    def file_version(self, container: str, path: str) -> str:
        return hashlib.sha256(self.read_file(container, path)).hexdigest()

    def wait_container(self, container: str, deadline: float) -> int:
        return self._box(container).exit_code or 0

    def events(self, since: int, labels: Sequence[str] = ()) -> EventStream:
        return Quiet()

    # changes

    def pull(self, reference: str, progress: Progress | None = None, *, deadline: float = 1800.0) -> ImageFact:
        def effect() -> ImageFact:
            if reference.startswith("absent/"):
                raise NotFound(f"manifest for {reference} not found", 404)
            if progress is not None:
                progress(f"pulling {reference}: 3 of 8 MiB")
            self.images_.add(reference)
            return ImageFact(self._id(reference), reference)

        return self._mutate(f"pull {reference}", effect)

    def create_container(self, name: str, body: Mapping[str, Any]) -> str:
        def effect() -> str:
            if name in self.containers_:
                raise Conflict(f"the name {name} is taken", 409)
            if body["Image"] not in self.images_ | self._ids():
                raise NotFound(f"no such image: {body['Image']}", 404)
            self._check(body)
            self._serial += 1
            id_ = hashlib.sha256(f"{name} {self._serial}".encode()).hexdigest()
            networks = {network: self._address(network) for network in body["NetworkingConfig"]["EndpointsConfig"]}
            self.containers_[name] = Box(id_, name, _copy(dict(body)), networks, int(self.clock()))
            image = str(body["Image"])
            self.containers_[name].image_id = image if image.startswith("sha256:") else self._id(image)
            return id_

        return self._mutate(f"create {name}", effect)

    def _check(self, body: Mapping[str, Any]) -> None:
        json.dumps(body)
        for mount in body["HostConfig"]["Mounts"]:
            if mount["Source"] not in self.volumes_:
                raise EngineError(f"volume {mount['Source']} would be made without labels", 500)
        taken = {json.dumps(box.body["HostConfig"].get("PortBindings")) for box in self.containers_.values()} - {"null"}
        if json.dumps(body["HostConfig"].get("PortBindings")) in taken:
            raise EngineError("port is already allocated", 500)

    def _address(self, network: str) -> str:
        found = self.networks_.get(network)
        if found is None:
            raise NotFound(f"network {network} not found", 404)
        stem, last = found.subnets[0].split("/")[0].rsplit(".", 1)
        taken = {box.networks.get(network) for box in self.containers_.values()}
        return next(ip for n in range(int(last) + 2, 255) if (ip := f"{stem}.{n}") not in taken)

    def start_container(self, container: str) -> None:
        def effect() -> None:
            box = self._box(container)
            if box.state == "running":
                return
            if box.state == "paused":
                raise Conflict("cannot start a paused container, try unpause instead", 409)
            if box.state == "dead":
                raise Conflict("container is marked for removal and cannot be started", 409)
            for network in box.networks:
                if network not in self.networks_:
                    raise NotFound(f"network {network} not found", 404)
            box.restarts = 0
            box.state, box.exit_code, box.log = "running", None, self.logs_.get(box.role, "")
            if box.body["HostConfig"]["RestartPolicy"]["Name"] == "no":
                box.state, box.exit_code = "exited", self.exit_codes.get((box.role, box.body["Image"]), 0)
                self._one_shot(box)

        self._mutate(f"start {container}", effect)

    def _job(self, box: Box) -> None:
        """A one-shot of a Backup or Restore."""
        mounts = {m["Target"]: m for m in box.body["HostConfig"]["Mounts"]}
        task = _TASKS[tuple(box.body["Entrypoint"])]
        if task not in ("dump", "database"):
            assert not box.networks, f"{task} needs no network"
        if self.ends.get(task):
            box.exit_code, box.log = self.ends[task].pop(0)
            return
        box.exit_code, box.log = getattr(self, f"_{task}")(box.env, mounts)

    def _write(self, where: str, name: str, content: str) -> str:
        self.saved[f"{where}/{name}"] = content
        return f"dotmac-file sha256={_sum(content)} size={len(content)} name={name}\n"

    def _dump(self, env: dict[str, str], mounts: dict[str, Any]) -> tuple[int, str]:
        self._one_server(mounts)
        where = f"{mounts[env['BACKUP_DIRECTORY']]['Source']}/{env['BACKUP_PATH']}"
        return 0, self._write(where, "database.dump", json.dumps([self.schema, self.rows]))

    def _archive(self, env: dict[str, str], mounts: dict[str, Any]) -> tuple[int, str]:
        where = f"{mounts['/dotmac/backups']['Source']}/{env['BACKUP_PATH']}"
        log = ""
        for volume in env["BACKUP_VOLUMES"].split():
            mount = mounts[f"/dotmac/volumes/{volume}"]
            assert mount["ReadOnly"], "the application's files are only read"
            log += self._write(where, f"{volume}.tar.gz", self.data.get(mount["Source"], ""))
        return 0, log

    def _erase(self, env: dict[str, str], mounts: dict[str, Any]) -> tuple[int, str]:
        where = f"{mounts['/dotmac/backups']['Source']}/{env['BACKUP_PATH']}/"
        self.saved = {path: content for path, content in self.saved.items() if not path.startswith(where)}
        return 0, ""

    def _prepare(self, env: dict[str, str], mounts: dict[str, Any]) -> tuple[int, str]:
        assert mounts["/dotmac/backups"]["ReadOnly"]
        volume = mounts["/dotmac/backups"]["Source"]
        for line in env["RESTORE_SUMS"].splitlines():
            sum_, name = line.split("  ")
            if _sum(self.saved.get(f"{volume}/{name}", "gone")) != sum_:
                return 65, f"not as recorded, or gone:\n{name}: FAILED\n"
        for name in env["RESTORE_VOLUMES"].split():
            source = mounts[f"/dotmac/volumes/{name}"]["Source"]
            self.beside[source] = self.saved[f"{volume}/{env['BACKUP_PATH']}/{name}.tar.gz"]
        return 0, ""

    def _database(self, env: dict[str, str], mounts: dict[str, Any]) -> tuple[int, str]:
        self._nobody_writes(mounts)
        self._one_server(mounts)
        if env["RESTORE_DISPLACED"] in self.displaced:
            return 0, "dotmac-restore: done before\n"
        content = self.saved.get(f"{mounts[env['BACKUP_DIRECTORY']]['Source']}/{env['BACKUP_FILE']}", "gone")
        if _sum(content) != env["BACKUP_SHA256"]:
            return 65, "the checksum is not the recorded one"
        self.schema, self.rows = json.loads(content)
        self.displaced = {env["RESTORE_DISPLACED"]}
        return 0, "dotmac-restore: done\n"

    def _exchange(self, env: dict[str, str], mounts: dict[str, Any]) -> tuple[int, str]:
        self._nobody_writes(mounts)
        for mount in mounts.values():
            if mount["Source"] in self.beside:
                self.data[mount["Source"]] = self.beside.pop(mount["Source"])
        return 0, ""

    def _tidy(self, env: dict[str, str], mounts: dict[str, Any]) -> tuple[int, str]:
        for mount in mounts.values():
            self.beside.pop(mount["Source"], None)
        return 0, ""

    def _of_tenant(self, mounts: dict[str, Any]) -> list[Box]:
        """The containers on the network of the tenant whose volumes are mounted."""
        network = next(iter(mounts.values()))["Source"].rpartition("-")[0]
        return [box for box in self.containers_.values() if network in box.networks and names.JOB not in box.labels]

    def _one_server(self, mounts: dict[str, Any]) -> None:
        states = [box.state for box in self._of_tenant(mounts) if box.role == names.DATABASE]
        assert states.count("running") == 1, states

    def _nobody_writes(self, mounts: dict[str, Any]) -> None:
        running = [box for box in self._of_tenant(mounts) if box.state == "running"]
        writers = [box.name for box in running if names.is_app(box.labels) or box.role == names.CACHE]
        assert not writers, f"{writers} are there while the data is exchanged"

    def _one_shot(self, box: Box) -> None:
        if names.JOB in box.labels:
            self._job(box)
        elif box.role == names.MIGRATE:
            self.schema = str(box.body["Image"])
        elif box.role == names.BACKUP and box.exit_code == 0:
            self.dumps[box.env["BACKUP_FILE"]] = self.schema
            box.log = self.logs_.get(names.BACKUP, f"dotmac-backup sha256={'a' * 64} size=1024\n")
        elif box.role == names.RESTORE and box.exit_code == 0:
            writers = [b.name for b in self.containers_.values() if names.is_app(b.labels) and b.state == "running"]
            assert not writers, f"{writers} write while the database is exchanged"
            assert [b.state for b in self.containers_.values() if b.role == names.DATABASE].count("running") == 1
            self.schema = self.dumps[box.env["BACKUP_FILE"]]

    def stop_container(self, container: str, grace: float) -> None:
        def effect() -> None:
            box = self.containers_.get(container)
            if box is not None and box.state in ("running", "paused", "restarting"):
                box.state, box.exit_code = "exited", 0

        self._mutate(f"stop {container}", effect)

    def remove_container(self, container: str) -> None:
        self._mutate(f"remove {container}", lambda: self.containers_.pop(container, None))

    def unpause_container(self, container: str) -> None:
        def effect() -> None:
            box = self.containers_.get(container)
            if box is not None and box.state == "paused":
                box.state = "running"

        self._mutate(f"unpause {container}", effect)

    def rename_container(self, container: str, name: str) -> None:
        def effect() -> None:
            if name in self.containers_:
                raise Conflict(f"the name {name} is taken", 409)
            box = self._box(container)
            del self.containers_[box.name]
            box.name = name
            self.containers_[name] = box

        self._mutate(f"rename {container} {name}", effect)

    def update_container(self, container: str, body: Mapping[str, Any]) -> None:
        def effect() -> None:
            box = self._box(container)
            box.body = {**box.body, "HostConfig": {**box.body["HostConfig"], **body}}

        self._mutate(f"update {container}", effect)

    def exec(
        self, container: str, argv: Sequence[str], *, stdin: bytes | None = None, deadline: float = 60.0
    ) -> ExecResult:
        if tuple(argv) == connections.ARGV:
            self._read()
            return ExecResult(0, self.connections_.encode(), b"")

        if tuple(argv) != proxy.RELOAD_ARGV:  # a health check
            self._read()
            return ExecResult(int(self._box(container).body["Image"] in self.sick), b"", b"")

        def effect() -> ExecResult:
            if self._box(container).state != "running":
                raise Conflict(f"container {container} is not running", 409)
            json.loads(stdin or b"")
            self.autosave = stdin
            return ExecResult(0, b"", b"")

        return self._mutate(f"reload {container}", effect)

    def exec_code(self, container: str, argv: Sequence[str], *, deadline: float = 60.0) -> int:
        return self.exec(container, argv, deadline=deadline).exit_code

    def exec_runs(self, exec_id: str) -> bool:
        self._read()
        return False

    def create_network(self, name: str, subnet: str, labels: Mapping[str, str], *, internal: bool = False) -> str:
        def effect() -> str:
            if name in self.networks_:
                raise Conflict(f"network {name} exists", 409)
            if any(subnet in network.subnets for network in self.networks_.values()):
                raise EngineError("Pool overlaps with other one on this address space", 403)
            self.networks_[name] = NetworkFact(f"n-{name}", name, dict(labels), (subnet,), internal)
            return f"n-{name}"

        return self._mutate(f"network {name}", effect)

    def remove_network(self, network: str) -> None:
        def effect() -> None:
            if any(network in box.networks for box in self.containers_.values()):
                raise Conflict(f"network {network} has active endpoints", 409)
            self.networks_.pop(network, None)

        self._mutate(f"remove network {network}", effect)

    def connect_network(self, network: str, container: str, aliases: Sequence[str] = ()) -> None:
        def effect() -> None:
            box = self._box(container)
            box.networks.setdefault(network, self._address(network))

        self._mutate(f"connect {container} {network}", effect)

    def disconnect_network(self, network: str, container: str) -> None:
        def effect() -> None:
            if container in self.containers_:
                self.containers_[container].networks.pop(network, None)

        self._mutate(f"disconnect {container} {network}", effect)

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        self._mutate(f"volume {name}", lambda: self.volumes_.setdefault(name, VolumeFact(name, dict(labels))))

    def remove_volume(self, name: str) -> None:
        def effect() -> None:
            used = {m["Source"] for box in self.containers_.values() for m in box.body["HostConfig"]["Mounts"]}
            if name in used:
                raise Conflict(f"volume {name} is in use", 409)
            self.volumes_.pop(name, None)

        self._mutate(f"remove volume {name}", effect)

    # what a test looks at

    def of(self, role: str, org: str = "ACME") -> list[Box]:
        return [b for b in self.containers_.values() if b.role == role and b.labels.get(names.ORG) == org]

    def shape(self) -> dict[str, Any]:
        """What exists, without ids and addresses: the end that every way must come to."""
        return {
            "containers": {
                b.name: (b.state, b.exit_code, sorted(b.networks), b.labels.get(names.HASH))
                for b in self.containers_.values()
            },
            "networks": sorted(self.networks_),
            "volumes": sorted(self.volumes_),
            # Without the moment of the switch and the number of loads, which are others for each way.
            "routes": json.loads(re.sub(rb"@\d+|-[01]\.sock", b"", self.autosave or b"{}")),
        }

    def served(self, host: str) -> int:
        """The status code that a user gets under this host name."""
        box = self.containers_.get(names.PROXY_CONTAINER)
        if box is None or box.state != "running":
            raise ProbeRefused("connection refused")
        config = proxy.parse((self.autosave or b"").decode())
        owner = proxy.owner_of_host(config, host)
        route = proxy.route_of(config, owner) if owner else None
        if route is None:
            return 404
        if route.page:
            return pages.PAGES[route.page].status
        targets = [self.containers_.get(upstream.rpartition(":")[0]) for upstream in route.upstreams]
        alive = [t for t in targets if t is not None and t.state == "running" and set(t.networks) & set(box.networks)]
        if any((t.body["Image"], self.schema) in self.hates for t in alive):
            return 500
        return 200 if alive and all(t.body["Image"] not in self.sick for t in alive) else 502


def _matches(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    return all(labels.get(item.partition("=")[0]) == item.partition("=")[2] for item in wanted)


@dataclass
class FakeHost:
    """Implements `hosts.port.Host`."""

    address: HostAddress
    engine: FakeEngine
    offered_host_key: str | None = OFFERED
    execs: int = 0

    @property
    def round_trips(self) -> int:
        return self.engine.reads + len(self.engine.mutations)

    def probe(self) -> float:
        self.engine._read()
        return 0.001

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 60.0) -> ExecResult:
        raise AssertionError("no step runs a program on the host")

    def release(self) -> None:
        self.released = True

    def disk(self, path: str) -> DiskFact:
        self.engine._read()
        return DiskFact(100 * 2**30, 50 * 2**30)

    def http(
        self,
        address: str,
        port: int,
        path: str,
        *,
        headers: Mapping[str, str],
        tls_server_name: str | None = None,
        deadline: float = 10.0,
    ) -> int:
        self.engine._read()
        if address == "127.0.0.1":
            return self.engine.served(headers["Host"])
        box = next((b for b in self.engine.containers_.values() if address in b.networks.values()), None)
        if box is None or box.state != "running":
            raise ProbeRefused(f"{address}:{port}: connection refused")
        return 503 if box.body["Image"] in self.engine.sick else 200

    def tcp(self, address: str, port: int, *, deadline: float = 5.0) -> None:
        self.http(address, port, "/", headers={})


class FakePool:
    """Implements `hosts.port.HostPool`: engines by the address of the Server, as machines are."""

    def __init__(self, engines: dict[str, FakeEngine], clock: Callable[[], float]) -> None:
        self._engines = engines
        self._clock = clock
        self.addresses: list[HostAddress] = []

    def get(self, address: HostAddress) -> FakeHost:
        self.addresses.append(address)
        engine = self._engines.setdefault(address.address, FakeEngine(self._clock))
        return FakeHost(address, engine)

    def forget(self, name: str) -> None:
        pass

    def close(self) -> None:
        pass


# -- the Kubernetes API ----------------------------------------------------------------------------------------


@cache
def _definition(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(k for k in KINDS if k.name == kind).crd()
    return found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]  # type: ignore[no-any-return]


@cache
def _schema(kind: str) -> Schema:
    return Schema(_definition(kind))


@cache
def _status_schema(kind: str) -> Schema:
    """What a write to /status is held against: no rule of these kinds compares a status with its spec."""
    whole = _definition(kind)
    assert "x-kubernetes-validations" not in whole, "a rule of the whole object may speak of its status"
    return Schema({"type": "object", "properties": {"status": whole["properties"]["status"]}})


@lru_cache(2048)
def _refusals(kind: str, status: str) -> tuple[str, ...]:
    """What the API server would refuse or drop in a status, given as JSON. Most tests begin with the same ones."""
    body = {"status": json.loads(status)}
    refused = [f"refuse: {cause}" for cause in _status_schema(kind).validate(body, None)]
    return (*refused, *(f"prune: {path}" for path in _status_schema(kind).prune(body)))


def _copy[T](value: T) -> T:
    """Of an object as it comes from JSON; several times faster than copy.deepcopy."""
    return marshal.loads(marshal.dumps(value))  # type: ignore[no-any-return]  # noqa: S302


@dataclass
class FakeCluster:
    """Implements `reconcile.ports.Cluster`; stores nothing that the CRDs refuse."""

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    """Secret -> uid of its owner; the garbage collector takes it with that."""
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """Secret -> its labels."""
    types: dict[str, str] = field(default_factory=dict)
    """Secret -> its type, where it is not Opaque."""
    events: list[tuple[str, str, str, str]] = field(default_factory=list)
    """(kind/key, type, reason, message)."""
    writes: list[str] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    version: int = 100
    before_write: Callable[[str, str], None] | None = None
    checked: bool = True
    """Whether each status is held against its schema, which takes most of a test's time."""

    def get(self, kind: str, key: str) -> dict[str, Any]:
        return self.objects[(kind, key)]

    def secret(self, namespace: str, name: str) -> tenancy.Secret | None:
        place = f"{namespace}/{name}"
        if place not in self.secrets:
            return None
        uid = self.owners.get(place, "")
        return tenancy.Secret(
            name=name,
            values={key: SecretStr(value) for key, value in self.secrets[place].items()},
            type=self.types.get(place, "Opaque"),
            labels=dict(self.labels.get(place, {})),
            owners=(tenancy.Owner(self._named(uid), uid),) if uid else (),
        )

    def _named(self, uid: str) -> str:
        """The object with this uid, or the one that had it."""
        found = (body["metadata"] for (kind, _), body in self.objects.items() if kind == "Instance")
        return next((str(meta["name"]) for meta in found if meta["uid"] == uid), "gone")

    def write_credentials(self, owner: ObjectRef, name: str, org_code: str, values: Mapping[str, SecretStr]) -> None:
        self.writes.append(f"secret {name}")
        place = f"{owner.namespace}/{name}"
        kept = self.secrets.setdefault(place, {})
        for key, value in values.items():
            kept.setdefault(key, value.reveal())
        self._claim(owner, place, org_code)

    def _claim(self, owner: ObjectRef, place: str, org_code: str) -> None:
        self.owners[place] = owner.uid
        self.labels[place] = tenancy.labels(org_code, owner.name)

    def release_credentials(self, owner: ObjectRef, name: str) -> None:
        if self.owners.pop(f"{owner.namespace}/{name}", None):
            self.writes.append(f"release {name}")

    def claim_credentials(self, owner: ObjectRef, name: str, org_code: str) -> None:
        place = f"{owner.namespace}/{name}"
        if place in self.secrets:
            self._claim(owner, place, org_code)
            self.writes.append(f"claim {name}")

    def plant(self, name: str, values: Mapping[str, str], org_code: str = "ACME") -> None:
        """A Secret with credentials that somebody has put there for an organisation."""
        self.secrets[f"tenants/{name}"] = dict(values)
        self.labels[f"tenants/{name}"] = {names.ORG: org_code}

    def apply_status(self, ref: ObjectRef, status: dict[str, Any], exactly: bool = False) -> dict[str, Any]:
        if self.before_write is not None:
            self.before_write(ref.kind, ref.key)
        body = self._current(ref)
        if exactly and ref.resource_version != body["metadata"].get("resourceVersion", ""):
            raise Stale(f"{ref.kind} {ref.key} has changed", _copy(body))
        self.writes.append(f"status {ref.kind} {ref.key}")
        self.statuses.append(_copy(status))
        if body.get("status") != status:
            body["status"] = _copy(status)
            if self.checked:
                self._check(body)
            self._bump(body)
        return _copy(body)

    def set_finalizer(self, ref: ObjectRef, present: bool, finalizers: list[str]) -> dict[str, Any] | None:
        body = self._current(ref)
        self.writes.append(f"finalizer {ref.kind} {ref.key}")
        body["metadata"]["finalizers"] = [f for f in finalizers if f != FINALIZER] + ([FINALIZER] if present else [])
        self._bump(body)
        if "deletionTimestamp" in body["metadata"] and not body["metadata"]["finalizers"]:
            self.remove(ref.kind, ref.key)
            return None
        return _copy(body)

    def event(self, ref: ObjectRef, type_: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self.writes.append(f"event {reason}")
        self.events.append((f"{ref.kind} {ref.key}", type_, reason, message))

    def remove(self, kind: str, key: str) -> None:
        uid = self.objects.pop((kind, key))["metadata"]["uid"]
        for name in [name for name, owner in self.owners.items() if owner == uid]:
            del self.owners[name]
            del self.secrets[name]
            self.labels.pop(name, None)

    def reasons(self) -> list[str]:
        return [reason for _, _, reason, _ in self.events]

    def _current(self, ref: ObjectRef) -> dict[str, Any]:
        body = self.objects.get((ref.kind, ref.key))
        if body is None or body["metadata"]["uid"] != ref.uid:
            raise Gone(f"{ref.kind} {ref.key} is gone")
        return body

    def _bump(self, body: dict[str, Any]) -> None:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)

    @staticmethod
    def _check(body: dict[str, Any]) -> None:
        refused = _refusals(body["kind"], json.dumps(body["status"]))
        assert not refused, f"the API server would not keep this status as it is: {refused}"


@dataclass
class Counts:
    """Implements `reconcile.ports.Meter`."""

    steps: list[tuple[str, str]] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    jobs: list[tuple[str, str, int]] = field(default_factory=list)

    def step_finished(self, step: str, outcome: Literal["succeeded", "failed"], seconds: float) -> None:
        assert seconds >= 0
        self.steps.append((step, outcome))

    def drift_repaired(self, kind: str) -> None:
        self.drift.append(kind)

    def job_finished(self, kind: str, outcome: Literal["succeeded", "failed"], seconds: float, size: int) -> None:
        assert seconds >= 0
        self.jobs.append((kind, outcome, size))


_ORDER = ("Release", "InstanceClass", "Server", "Instance", "Backup", "Restore")


# -- all together ----------------------------------------------------------------------------------------------


class World:
    """One namespace with Servers, Instances and their hosts. Time passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.engines: dict[str, FakeEngine] = {}
        self.cluster = FakeCluster()
        self.cluster.secrets["tenants/ssh-key"] = {"ssh-privatekey": SSH_KEY}
        self.counts = Counts()
        self._serial = 0
        self.restart()

    def clock(self) -> float:
        return self.now

    @property
    def engine(self) -> FakeEngine:
        """The first host."""
        return self.engines.setdefault("192.0.2.1", FakeEngine(self.clock))

    def restart(self) -> None:
        """A new process of the operator: it knows what the API and the hosts know."""
        old = getattr(self, "hosts", None)
        if old is not None:
            old.close()
        self.woken: set[tuple[str, str]] = set()
        self.store = Store()
        self.pool = FakePool(self.engines, self.clock)
        self.hosts = Hosts(self.pool, lambda key, event: None)
        wake = self.woken.add
        turns = Turns()
        self.instances = InstanceReconciler(
            self.store, self.cluster, self.hosts, lambda key: wake(("Server", key)), self.clock, self.counts, turns
        )
        services = self.instances.services
        self.backups = BackupReconciler(services, turns, lambda *place: wake(place))
        self.restores = RestoreReconciler(services, turns, lambda *place: wake(place), self.instances.forget)
        self.prover = Prover(self.instances, lambda *place: wake(place))
        self.servers = ServerReconciler(
            self.store, self.cluster, self.hosts, self._wake_instances, self.prover, self.clock, self.counts
        )
        self.catalog = CatalogReconciler(self.store, self.cluster, self.clock)
        for body in self.cluster.objects.values():
            self.store.put(_copy(body))
        self.woken.update(self.cluster.objects)

    def copy(self) -> "World":
        """The same world as it is now, with an operator that has just started."""
        made = World()
        made.now, made._serial = self.now, self._serial
        made.cluster = pickle.loads(pickle.dumps(replace(self.cluster, before_write=None)))  # noqa: S301
        made.cluster.checked = False
        for address, engine in self.engines.items():
            twin = pickle.loads(pickle.dumps(replace(engine, clock=_never, hook=None)))  # noqa: S301
            made.engines[address] = replace(twin, clock=made.clock)
        made.restart()
        return made

    def _wake_instances(self, server: str) -> None:
        self.woken.update(("Instance", i.key) for i in self.store.instances())

    # what users do

    def create(self, kind: str, name: str, spec: Mapping[str, Any], **meta: Any) -> None:
        self._serial += 1
        scope = next(k.scope for k in KINDS if k.name == kind)
        metadata = {"name": name, "uid": f"uid-{name}-{self._serial}", "generation": 1, **meta}
        if scope == "Namespaced":
            metadata["namespace"] = "tenants"
        body = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": _copy(dict(spec))}
        _schema(kind).default(body)
        assert _schema(kind).validate(body, None) == []
        self.cluster.objects[(kind, parse(body).key)] = body
        self._changed(body)

    def edit(self, kind: str, key: str, **spec: Any) -> None:
        """Changes fields of the spec; None takes a field away."""
        body = self.cluster.get(kind, key)
        for name, value in spec.items():
            body["spec"][name] = value
            if value is None:
                del body["spec"][name]
        body["metadata"]["generation"] += 1
        self._changed(body)

    def annotate(self, kind: str, key: str, **values: str) -> None:
        body = self.cluster.get(kind, key)
        annotations = body["metadata"].setdefault("annotations", {})
        annotations |= {names.PREFIX + name.replace("_", "-"): value for name, value in values.items()}
        self._changed(body)

    def delete(self, kind: str, key: str) -> None:
        body = self.cluster.get(kind, key)
        if not body["metadata"].get("finalizers"):
            self.cluster.remove(kind, key)
            self.store.drop(kind, key, body["metadata"]["uid"])
            return
        body["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
        body["metadata"]["generation"] += 1
        self._changed(body)

    def _changed(self, body: dict[str, Any]) -> None:
        self.cluster._bump(body)
        self.store.put(_copy(body))
        self.woken.add((body["kind"], parse(body).key))
        if body["kind"] != "Instance":
            self._wake_instances("")

    # what the operator does

    def run(self, kind: str, key: str) -> Outcome:
        """One pass."""
        passes: dict[str, Callable[[str], Outcome]] = {
            "Instance": self.instances.reconcile,
            "Server": self.servers.reconcile,
            "Release": self.catalog.release,
            "InstanceClass": self.catalog.instance_class,
            "Backup": self.backups.reconcile,
            "Restore": self.restores.reconcile,
        }
        outcome = passes[kind](key)
        if (kind, key) not in self.cluster.objects:  # the watch tells of its end
            kept = self.store._get(kind, key)
            if kept is not None:
                self.store.drop(kind, key, kept.ref.uid)
                self.woken.update(self.cluster.objects)
        return outcome

    def settle(self, most: int = 80) -> None:
        """Passes until nobody is woken and nobody waits for less than a minute."""
        waiting: dict[tuple[str, str], float] = {}
        for _ in range(most):
            if self.woken:
                place = sorted(self.woken, key=lambda p: _ORDER.index(p[0]))[0]
                self.woken.discard(place)
            elif waiting:
                place = min(waiting, key=lambda p: waiting[p])
                self.now = max(self.now, waiting.pop(place))
            else:
                return
            waiting.pop(place, None)
            outcome = self.run(*place)
            delay = 15.0 if outcome.failed else outcome.after
            if delay is not None and not outcome.gone:
                waiting[place] = self.now + delay
            self.now += 0.01
            if all(at - self.now >= 9.9 for at in waiting.values()) and not self.woken:
                return
        raise AssertionError(f"the world does not come to rest: {waiting}")

    # what everybody sees

    def status(self, key: str = "tenants/acme", kind: str = "Instance") -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.get(kind, key).get("status", {})
        return found

    def condition(self, type_: str, key: str = "tenants/acme", kind: str = "Instance") -> tuple[str, str, str]:
        """(status, reason, message)."""
        found = {c["type"]: c for c in self.status(key, kind)["conditions"]}
        return (c["status"], c["reason"], c.get("message", "")) if (c := found.get(type_)) else ("", "", "")

    def touch(self, *containers: Box) -> None:
        """Something happened on the hosts (to these containers), and their event streams tell of it."""
        for server in self.store.servers("tenants"):
            inventory = self.hosts.inventory(server.key)
            if inventory is not None:
                inventory.invalidate()
                for box in containers:
                    inventory._take(DockerEvent("container", "update", box.id, box.labels))
        self.woken.update(key for key in self.cluster.objects if key[0] in ("Server", "Instance"))


def deployed(**instance: Any) -> World:
    """A World with one tenant that is served."""
    world = prepared(**instance)
    world.settle()
    assert world.condition("Ready")[0] == "True", world.status()["conditions"]
    return world


def prepared(**instance: Any) -> World:
    """A World in which everything was applied and nothing was done yet."""
    world = World()
    world.create("InstanceClass", "starter", {})
    world.create("Release", "erp-1", QUICK)
    world.create("Server", "host-1", SERVER)
    world.create("Instance", "acme", INSTANCE | instance)
    return world


def upgrade(world: World, **release: Any) -> None:
    """Asks for the next version."""
    images = {**RELEASE["images"], "app": "example/app:2"}
    world.create("Release", "erp-2", {**QUICK, "version": "2.0", "images": images, **release})
    world.edit("Instance", "tenants/acme", releaseRef={"name": "erp-2"})


def crashed_at_each_call(start: World, straight: World, when: str, rounds: int = 200) -> Iterator[tuple[str, World]]:
    """For each call by which `straight`, which began as `start`, has changed the host: where the process ended
    (`when`: before or after the call), and the world once a new process has come to its end."""
    calls = straight.engine.mutations
    for number in range(len(start.engine.mutations), len(calls)):
        world = start.copy()
        world.engine.fault = (number, when)
        with pytest.raises(Crash):
            world.settle(rounds)
        world.engine.fault = None
        world.restart()
        world.settle(rounds)
        yield f"{when} {calls[number]}", world


def unreachable() -> HostError:
    return HostUnreachable("192.0.2.1:22: no route to host")
