"""Logs, consumption and health of one Instance's containers, read from its host. Blocking; nothing here knows HTTP.

It has SSH connections of its own, made on demand and closed when idle: sshd counts sessions per connection, so a log
that is followed for an hour takes no channel, turn or lock from the passes.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dotmac_operator.core import names
from dotmac_operator.core.facts import ContainerFact, VolumeFact
from dotmac_operator.core.masking import masked, printed_forms
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.core.server import HostProblem
from dotmac_operator.hosts.diagnostics import (
    LINE_LIMIT,
    SIZE_SECONDS,
    Diagnosing,
    LogLine,
    LogLines,
    LogQuery,
    Sample,
    cpu_percent,
)
from dotmac_operator.hosts.port import HostAddress, HostError, NotFound
from dotmac_operator.reconcile.context import secrets_of
from dotmac_operator.reconcile.hosts import Hosts, host_address
from dotmac_operator.reconcile.ports import Cluster, ClusterError
from dotmac_operator.reconcile.store import Instance, Store, server_name

TAIL_MOST = 2_000
BYTES_MOST = 4 * 1024 * 1024
"""Of the lines of one answer; the oldest ones give way."""
FOLLOW_SECONDS = 3600.0
FOLLOWS_PER_HOST = 4
"""Log streams of one host at once. The connection has 7 channels; 3 stay for everything else."""
FOLLOWS = 32
IDLE_SECONDS = 120.0
SAMPLE_SECONDS = 0.5
"""Between the two samples that a percentage needs."""
SIZES_KEPT = 600.0
"""Seconds that the sizes of a host's volumes are told from memory: measuring them reads every file's inode."""
SIZES_PATIENCE = 2.0
"""Seconds that a request waits for a measurement; without one the sizes are null."""


class Refused(Exception):
    """A request that cannot be answered. `code` is for programs, the text tells the remedy."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class DiagnosedEngine(Protocol):
    """What is asked of an engine."""

    @property
    def diagnostics(self) -> Diagnosing: ...

    def containers(self, labels: Sequence[str] = ()) -> list[ContainerFact]: ...

    def volumes(self, labels: Sequence[str] = ()) -> list[VolumeFact]: ...

    def inspect_container(self, container: str) -> Mapping[str, Any]: ...


class DiagnosedHost(Protocol):
    @property
    def engine(self) -> DiagnosedEngine: ...


class Pool(Protocol):
    """Connections for diagnostics only."""

    def get(self, address: HostAddress) -> DiagnosedHost: ...

    def forget(self, name: str) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class LogRequest:
    role: str = ""
    container: str = ""
    tail: int = 200
    since: str = ""
    """Unix seconds with an optional fraction, or empty."""


@dataclass(frozen=True)
class Line:
    """One line of an answer, masked."""

    container: str
    role: str
    time: str
    stream: str
    line: str


@dataclass(frozen=True)
class Target:
    """An Instance and the way to its host."""

    instance: Instance
    server: str
    """Key of the Server."""
    engine: DiagnosedEngine


@dataclass
class _Sizes:
    """What is known of the sizes of one host's volumes."""

    at: float = float("-inf")
    bytes: Mapping[str, int] | None = None
    measuring: threading.Event | None = None


class Follow:
    """A followed log: one reader thread for each container of it. `close` ends them all."""

    def __init__(
        self, streams: Mapping[str, tuple[str, LogLines]], forms: frozenset[SecretStr], end: Callable[[], None]
    ):
        self._streams = streams
        self._forms = forms
        self._end = end
        self._closed = threading.Event()

    @property
    def containers(self) -> tuple[str, ...]:
        return tuple(self._streams)

    def lines(self, container: str) -> Iterator[Line]:
        """Lines of one container until it is removed, the hour is over or the stream is closed.

        Raises:
            HostError: the host was lost.
        """
        role, stream = self._streams[container]
        for line in stream:
            if self._closed.is_set():
                return
            yield _line(container, role, line, self._forms)

    def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        for _, stream in self._streams.values():
            stream.close()
        self._end()


class Diagnostics:
    """Thread-safe. Raises Refused for what cannot be answered."""

    def __init__(self, store: Store, cluster: Cluster, hosts: Hosts, pool: Pool) -> None:
        """`pool` makes connections that nobody else uses; `hosts` tells which hosts this process drives."""
        self._store = store
        self._cluster = cluster
        self._hosts = hosts
        self._pool = pool
        self._lock = threading.Lock()
        self._used: dict[str, float] = {}
        self._busy: dict[str, int] = {}
        self._follows: dict[str, int] = {}
        self._sizes: dict[str, _Sizes] = {}
        self._sizing = ThreadPoolExecutor(4, thread_name_prefix="volume-sizes")

    # ---- what is asked

    def logs(self, namespace: str, name: str, request: LogRequest) -> tuple[list[Line], bool]:
        """The last lines of all chosen containers together, oldest first, and whether BYTES_MOST left some out."""
        with self._reached(namespace, name) as target:
            chosen = self._chosen(target, request)
            forms = self._forms(target.instance)
            query = LogQuery(request.tail, request.since)
            found: list[Line] = []
            cut = False
            for fact in chosen:
                lines, less = self._tail(target, fact, query, forms)
                found += lines
                cut = cut or less
        found.sort(key=lambda line: line.time)
        lines, less = _newest(found[-request.tail :] if request.tail else [])
        return lines, cut or less

    def follow(self, namespace: str, name: str, request: LogRequest) -> Follow:
        """The same lines, and then those to come. The caller closes it."""
        with self._reached(namespace, name) as target:
            chosen = self._chosen(target, request)
            forms = self._forms(target.instance)
            self._begin_follow(target.server, len(chosen))
        query = LogQuery(request.tail, request.since, follow=True, seconds=FOLLOW_SECONDS)
        diagnostics = target.engine.diagnostics
        streams = {
            fact.name: (fact.labels.get(names.ROLE, ""), diagnostics.log_lines(fact.id, query)) for fact in chosen
        }
        return Follow(streams, forms, lambda: self._end_follow(target.server, len(streams)))

    def usage(self, namespace: str, name: str) -> dict[str, Any]:
        """Consumption of each container that runs, and the bytes of each volume (null while they are not known)."""
        with self._reached(namespace, name) as target:
            own = [fact for fact in self._containers(target) if fact.running]
            before = self._samples(target, own)
            if before:
                time.sleep(SAMPLE_SECONDS)
            after = self._samples(target, own)
            volumes = self._volumes(target)
        return {
            "containers": [
                {
                    "role": fact.labels.get(names.ROLE, ""),
                    "container": fact.name,
                    "cpu_percent": cpu_percent(before[fact.id], after[fact.id]),
                    "memory_bytes": after[fact.id].memory,
                    "memory_limit_bytes": after[fact.id].memory_limit,
                    "pids": after[fact.id].pids,
                }
                for fact in own
                if fact.id in before and fact.id in after
            ],
            "volumes": volumes,
        }

    def health(self, namespace: str, name: str) -> dict[str, Any]:
        """Each container with Docker's word, its health and how often Docker restarted it."""
        with self._reached(namespace, name) as target:
            components = [self._component(target, fact) for fact in self._containers(target)]
        return {
            "instance": target.instance.key,
            "server": target.server,
            "phase": target.instance.status.phase,
            "components": [component for component in components if component is not None],
        }

    # ---- connections

    @contextmanager
    def _reached(self, namespace: str, name: str) -> Iterator[Target]:
        instance = self._store.instance(f"{namespace}/{name}")
        if instance is None:
            raise Refused(404, "InstanceNotFound", f"Instance {namespace}/{name} does not exist")
        server = server_name(instance)
        if not server:
            message = f"Instance {instance.key} has no Server yet: its conditions say what it waits for"
            raise Refused(409, "NotPlaced", message)
        key = f"{namespace}/{server}"
        try:
            with self._in_use(key):
                yield Target(instance, key, self._pool.get(self._address(key)).engine)
        except NotFound as error:
            raise Refused(404, "ContainerNotFound", f"{error}: it may just have been replaced, ask again") from error
        except HostError as error:
            raise Refused(503, error.reason, f"the host of Server {key} could not be asked: {error}") from error

    def _address(self, key: str) -> HostAddress:
        """The host's address as the passes use it; made from the Server where no pass runs: on a stand-by.

        What the passes have trusted is all that is trusted here: a second connection has no first use of its own.
        """
        inventory = self._hosts.inventory(key)
        if inventory is None:
            return replace(self._address_of_server(key), trust_on_first_use=False)
        address, proven = inventory.host.address, inventory.host.offered_host_key
        pinned = address.host_keys or ((proven,) if proven else ())
        return replace(address, host_keys=pinned, trust_on_first_use=False)

    def _address_of_server(self, key: str) -> HostAddress:
        server = self._store.server(key)
        if server is None or server.spec is None:
            raise Refused(503, "ServerNotFound", f"Server {key} does not exist: create it")
        try:
            address = host_address(self._cluster, server, server.spec)
        except ClusterError as error:
            raise Refused(503, "SecretsUnavailable", f"the Server's Secret cannot be read: {error}") from error
        if isinstance(address, HostProblem):
            raise Refused(503, address.reason, address.message)
        return address

    @contextmanager
    def _in_use(self, key: str) -> Iterator[None]:
        with self._lock:
            self._busy[key] = self._busy.get(key, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._busy[key] -= 1
                self._used[key] = time.monotonic()

    def close_idle(self) -> None:
        """Closes connections that were not used for IDLE_SECONDS. Call it now and then."""
        now = time.monotonic()
        with self._lock:
            idle = [key for key, at in self._used.items() if now - at > IDLE_SECONDS and not self._holds(key)]
            for key in idle:
                del self._used[key]
        for key in idle:
            self._pool.forget(key)

    def _holds(self, key: str) -> bool:
        return bool(self._busy.get(key) or self._follows.get(key))

    def close(self) -> None:
        self._sizing.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    def _begin_follow(self, key: str, count: int) -> None:
        with self._lock:
            here = self._follows.get(key, 0)
            if here + count > FOLLOWS_PER_HOST or sum(self._follows.values()) + count > FOLLOWS:
                message = (
                    f"{here} logs of this host are followed and {count} more are asked for; at most "
                    f"{FOLLOWS_PER_HOST} can be: choose one container, or try again later"
                )
                raise Refused(429, "TooManyStreams", message)
            self._follows[key] = here + count

    def _end_follow(self, key: str, count: int) -> None:
        with self._lock:
            self._follows[key] -= count
            self._used[key] = time.monotonic()

    # ---- containers

    def _containers(self, target: Target) -> list[ContainerFact]:
        """Only those that carry the Instance's uid: a name or id of somebody else's is not found."""
        uid = self._store.uid_on_host(target.instance)
        found = target.engine.containers([f"{names.INSTANCE_UID}={uid}"])
        own = (fact for fact in found if fact.labels.get(names.INSTANCE_UID) == uid)
        return sorted(own, key=lambda fact: fact.name)

    def _chosen(self, target: Target, request: LogRequest) -> list[ContainerFact]:
        own = self._containers(target)
        found = [
            fact
            for fact in own
            if request.role in ("", fact.labels.get(names.ROLE)) and request.container in ("", fact.name, fact.id)
        ]
        if found or not (request.role or request.container):
            return found
        there = ", ".join(f"{fact.name} ({fact.labels.get(names.ROLE)})" for fact in own) or "none"
        raise Refused(404, "ContainerNotFound", f"no container of {target.instance.key} matches; there are: {there}")

    def _component(self, target: Target, fact: ContainerFact) -> dict[str, Any] | None:
        try:
            found = target.engine.inspect_container(fact.id)
        except NotFound:
            return None
        state = found.get("State") or {}
        recorded = {c.container: c.health for c in target.instance.status.components or ()}
        running = bool(state.get("Running"))
        return {
            "role": fact.labels.get(names.ROLE, ""),
            "container": fact.name,
            "state": str(state.get("Status") or fact.state),
            # Where Docker makes no check, the operator makes one, and its result is in the status.
            "health": fact.health or (recorded.get(fact.name) or "" if running else ""),
            "restarts": int(found.get("RestartCount") or 0),
            "started_at": state.get("StartedAt") or None,
            "exit_code": None if running else state.get("ExitCode"),
            "oom_killed": bool(state.get("OOMKilled")),
        }

    @staticmethod
    def _samples(target: Target, facts: Sequence[ContainerFact]) -> dict[str, Sample]:
        found = {}
        for fact in facts:
            try:
                found[fact.id] = target.engine.diagnostics.sample(fact.id)
            except NotFound:
                continue
        return found

    # ---- log lines

    def _forms(self, instance: Instance) -> frozenset[SecretStr]:
        """Everything that has to be masked. Without it no line is told."""
        try:
            found = [self._cluster.secret(*place) for place in sorted(secrets_of(instance))]
        except ClusterError as error:
            message = f"the Instance's Secrets cannot be read, so its lines cannot be masked: {error}"
            raise Refused(503, "SecretsUnavailable", message) from error
        return printed_forms(value for content in found if content for value in content.values.values())

    @staticmethod
    def _tail(
        target: Target, fact: ContainerFact, query: LogQuery, forms: frozenset[SecretStr]
    ) -> tuple[list[Line], bool]:
        kept: deque[Line] = deque(maxlen=query.tail)
        size, cut = 0, False
        for line in target.engine.diagnostics.log_lines(fact.id, query):
            made = _line(fact.name, fact.labels.get(names.ROLE, ""), line, forms)
            if len(kept) == query.tail and kept:
                size -= len(kept[0].line)
            kept.append(made)
            size += len(made.line)
            while size > BYTES_MOST:
                size -= len(kept.popleft().line)
                cut = True
        return list(kept), cut

    # ---- volumes

    def _volumes(self, target: Target) -> list[dict[str, Any]]:
        uid = self._store.uid_on_host(target.instance)
        own = target.engine.volumes([f"{names.INSTANCE_UID}={uid}"])
        sizes = self._measured(target) if own else {}
        return [{"name": volume.name, "bytes": sizes.get(volume.name)} for volume in sorted(own, key=lambda v: v.name)]

    def _measured(self, target: Target) -> Mapping[str, int]:
        """Sizes of the host's volumes; at most one measurement of a host at once, and one in SIZES_KEPT seconds."""
        with self._lock:
            known = self._sizes.setdefault(target.server, _Sizes())
            if time.monotonic() - known.at < SIZES_KEPT:
                return known.bytes or {}
            if known.measuring is None:
                known.measuring = threading.Event()
                self._sizing.submit(self._measure, target, known, known.measuring)
            measuring = known.measuring
        measuring.wait(SIZES_PATIENCE)
        return known.bytes or {}

    def _measure(self, target: Target, known: _Sizes, done: threading.Event) -> None:
        sizes: Mapping[str, int] | None = None
        try:
            with self._in_use(target.server):
                sizes = target.engine.diagnostics.volume_sizes()
        except HostError:
            sizes = None
        finally:
            with self._lock:
                known.bytes = sizes if sizes is not None else known.bytes
                # A failed measurement is not tried again at once either: it is heavy when it fails by its deadline.
                known.at = time.monotonic() - (0 if sizes is not None else SIZES_KEPT - SIZE_SECONDS)
                known.measuring = None
            done.set()


def _line(container: str, role: str, line: LogLine, forms: frozenset[SecretStr]) -> Line:
    return Line(container, role, line.time, line.stream, masked(line.text, forms, LINE_LIMIT))


def _newest(lines: list[Line]) -> tuple[list[Line], bool]:
    """The newest lines that fit into BYTES_MOST."""
    size = 0
    for place in range(len(lines) - 1, -1, -1):
        size += len(lines[place].line)
        if size > BYTES_MOST:
            return lines[place + 1 :], True
    return lines, False
