"""The Docker Engine API over `docker system dial-stdio`: HTTP/1.1 on channels that are kept and used again.

Why not docker-py: it polls an exec's socket without a time-out, so no deadline holds on a dead network; it reads the
operator's own ~/.docker; and requests adds more time to a call than the round trip takes. See hosts/stream.py.
"""

import http.client
import io
import json
import re
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from posixpath import dirname, join, normpath
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from dotmac_operator.core.facts import ContainerFact, DockerEvent, EngineInfo, ImageFact, NetworkFact, VolumeFact
from dotmac_operator.core.secret import SecretStr, mask
from dotmac_operator.hosts.deadline import Deadline
from dotmac_operator.hosts.enginefacts import (
    PullProgress,
    container_fact,
    docker_event,
    engine_info,
    frames,
    image_fact,
    network_fact,
    split_reference,
    volume_fact,
)
from dotmac_operator.hosts.port import (
    Conflict,
    DeadlineExceeded,
    DockerAbsent,
    DockerNotPermitted,
    DockerTooOld,
    EngineError,
    ExecResult,
    HostBusy,
    HostError,
    HostUnreachable,
    NotFound,
    Progress,
)
from dotmac_operator.hosts.stream import Ending, Stream, StreamConnection, feeding, read_lines

OLDEST_API = (1, 41)
"""Docker 20.10, the oldest engine this is tested with."""
NEWEST_API = (1, 47)
"""Docker 27; newer engines speak it too. What they added since is not used."""

READ_SECONDS = 30.0
CHANGE_SECONDS = 60.0
OUTPUT_LIMIT = 64 * 1024 * 1024
"""Bytes kept of an exec's output or read from a file: a larger answer is an error instead of an exhausted operator."""

EVENT_ACTIONS = (
    *("create", "start", "restart", "stop", "die", "oom", "pause", "unpause", "rename", "update", "destroy"),
    *("health_status", "connect", "disconnect", "remove", "delete", "pull", "tag", "untag", "reload", "prune"),
)
"""Everything that changes facts. Left out are exec_*: a health check causes three, with its command line."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,511}")


class Lane(Enum):
    """What a call waits its turn for."""

    READ = "read"
    CHANGE = "change"
    PULL = "pull"


class Carrier(Protocol):
    """What the engine needs of its host."""

    @property
    def name(self) -> str: ...

    def operation(self, what: str, lane: Lane, seconds: float) -> AbstractContextManager[Deadline]:
        """Waits for a turn, counts and times the call; yields its deadline."""

    def dial(self, deadline: Deadline, *, events: bool = False) -> Stream:
        """`docker system dial-stdio` on a new channel."""

    def counted(self, *, execs: int = 0) -> None:
        """One more engine request."""

    def distrust(self) -> None:
        """The connection does not answer any more: drop it."""

    @property
    def closed(self) -> bool: ...


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    repeatable: bool = False
    """Doing it twice is the same as once, so it may be sent again when a kept connection turns out dead."""


class Connection:
    """One channel that speaks HTTP with the engine."""

    def __init__(self, stream: Stream, api: str, engine_api: str) -> None:
        self.stream = stream
        self.http = StreamConnection(stream)
        self.api = api
        """What requests are made in."""
        self.engine_api = engine_api
        """The newest that the engine speaks."""
        self.used = False

    def close(self) -> None:
        self.stream.close()


class KeptConnections:
    """Idle connections, the most recently used one first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Connection] = []

    def take(self) -> Connection | None:
        """One that is still alive; dead ones are closed on the way."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not connection.stream.stale:
                return connection
            connection.close()

    def keep(self, connection: Connection) -> None:
        connection.used = True
        with self._lock:
            self._idle.append(connection)

    def evict(self) -> bool:
        """Closes the one that was idle longest, to make room for another channel. False when none is idle."""
        with self._lock:
            connection = self._idle.pop(0) if self._idle else None
        if connection is not None:
            connection.close()
        return connection is not None

    def clear(self) -> None:
        while self.evict():
            pass


class DockerEngine:
    """Implements `port.Engine`."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self.kept = KeptConnections()
        self._edge = EventEdge()

    # ---- facts

    def ping(self, seconds: float = READ_SECONDS) -> float:
        """Seconds of one round trip on a kept connection."""
        with self._carrier.operation("ping", Lane.READ, seconds) as deadline:
            self._ask(Request("GET", "/_ping", repeatable=True), deadline)  # Connects, if that is still to be done.
            started = time.perf_counter()
            self._ask(Request("GET", "/_ping", repeatable=True), deadline)
            return time.perf_counter() - started

    def info(self) -> EngineInfo:
        with self._carrier.operation("info", Lane.READ, READ_SECONDS) as deadline:
            with self._sent(Request("GET", "/info", repeatable=True), deadline) as (connection, response):
                return engine_info(json.loads(response.read()), connection.engine_api)

    def containers(self, labels: Sequence[str] = ()) -> list[ContainerFact]:
        query = {"all": "1", **_filters(label=labels)}
        return [container_fact(item) for item in self._read("containers", "/containers/json", query)]

    def networks(self) -> list[NetworkFact]:
        return [network_fact(item) for item in self._read("networks", "/networks")]

    def volumes(self, labels: Sequence[str] = ()) -> list[VolumeFact]:
        found = self._read("volumes", "/volumes", _filters(label=labels))
        return [volume_fact(item) for item in found.get("Volumes") or ()]

    def image(self, reference: str) -> ImageFact | None:
        try:
            return image_fact(self._read("image", f"/images/{self._reference(reference)}/json"), reference)
        except NotFound:
            return None

    def inspect_container(self, container: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._read("inspect_container", f"/containers/{self._name(container)}/json")
        return found

    def logs(self, container: str, tail: int = 50) -> str:
        path = f"/containers/{self._name(container)}/logs"
        request = Request("GET", path, {"stdout": "1", "stderr": "1", "tail": str(max(0, tail))}, repeatable=True)
        with self._carrier.operation("logs", Lane.READ, READ_SECONDS) as deadline:
            said = self._ask(request, deadline)
        return b"".join(payload for _, payload in frames(said)).decode(errors="replace")

    def read_file(self, container: str, path: str) -> bytes:
        name = self._name(container)
        with self._carrier.operation("read_file", Lane.READ, READ_SECONDS) as deadline:
            for _ in range(8):  # Symbolic links, such as /etc/os-release, come back as themselves.
                request = Request("GET", f"/containers/{name}/archive", {"path": path}, repeatable=True)
                found = _first_file(self._ask(request, deadline), path)
                if isinstance(found, bytes):
                    return found
                path = found
        raise EngineError(f"{self._carrier.name}: {path} in {container} is no regular file", 400)

    # ---- images

    def pull(self, reference: str, progress: Progress | None = None, *, deadline: float = 1800.0) -> ImageFact:
        self._reference(reference)
        wanted = split_reference(reference)
        request = Request("POST", "/images/create", {"fromImage": wanted.name, "tag": wanted.tag}, repeatable=True)
        with self._carrier.operation(f"pull {reference}", Lane.PULL, deadline) as until:
            with self._sent(request, until) as (_, response):
                self._follow_pull(reference, response, progress)
            path = f"/images/{self._reference(reference)}/json"
            return image_fact(json.loads(self._ask(Request("GET", path, repeatable=True), until)), reference)

    def _follow_pull(self, reference: str, response: http.client.HTTPResponse, progress: Progress | None) -> None:
        adding, said_at, said = PullProgress(reference), 0.0, ""
        for line in read_lines(response):
            message = json.loads(line)
            # The engine has already answered 200 when a layer fails, so the stream itself carries the error.
            detail = message.get("errorDetail") or message.get("error")
            if detail:
                text = detail.get("message") if isinstance(detail, Mapping) else str(detail)
                absent = any(sign in str(text).lower() for sign in ("manifest unknown", "not found", "does not exist"))
                raise self._error(f"pull {reference}", 404 if absent else 500, str(text))
            now, text = time.monotonic(), adding.add(message)
            if progress is not None and text != said and now - said_at >= 1.0:
                said_at, said = now, text
                progress(text)

    # ---- containers

    def create_container(self, name: str, body: Mapping[str, Any]) -> str:
        request = Request("POST", "/containers/create", {"name": self._name(name)}, body)
        return str(self._change(f"create {name}", request)["Id"])

    def start_container(self, container: str) -> None:
        self._change(
            f"start {container}", Request("POST", f"/containers/{self._name(container)}/start", repeatable=True)
        )

    def stop_container(self, container: str, grace: float) -> None:
        path = f"/containers/{self._name(container)}/stop"
        request = Request("POST", path, {"t": str(max(0, round(grace)))}, repeatable=True)
        self._change(f"stop {container}", request, absent_is_fine=True, seconds=grace + CHANGE_SECONDS)

    def remove_container(self, container: str) -> None:
        path = f"/containers/{self._name(container)}"
        request = Request("DELETE", path, {"force": "1", "v": "1"}, repeatable=True)
        with self._carrier.operation(f"remove {container}", Lane.CHANGE, CHANGE_SECONDS) as deadline:
            while True:
                try:
                    self._ask(request, deadline)
                    return
                except NotFound:
                    return
                except Conflict as error:
                    if "already in progress" not in str(error):
                        raise
                time.sleep(min(0.2, deadline.remaining()))

    def wait_container(self, container: str, deadline: float) -> int:
        """Looks again and again instead of holding a channel and a turn for as long as a migration takes.

        A lost connection therefore costs the waiting nothing but an error that the caller may answer by waiting again.
        """
        until = Deadline(deadline, f"{self._carrier.name}: wait for {container}")
        pause = 0.05
        while True:
            state = self.inspect_container(container)["State"]
            if state["Status"] in ("exited", "dead"):
                return int(state["ExitCode"])
            time.sleep(min(pause, until.remaining()))
            pause = min(1.0, pause * 1.5)

    def exec(
        self, container: str, argv: Sequence[str], *, stdin: bytes | None = None, deadline: float = 60.0
    ) -> ExecResult:
        """When the deadline passes the program keeps running: the engine has no call that ends an exec."""
        attach = {"AttachStdin": stdin is not None, "AttachStdout": True, "AttachStderr": True}
        create = Request("POST", f"/containers/{self._name(container)}/exec", body={**attach, "Cmd": list(argv)})
        with self._carrier.operation(f"exec in {container}", Lane.CHANGE, deadline) as until:
            self._carrier.counted(execs=1)
            path = f"/exec/{json.loads(self._ask(create, until))['Id']}"
            said = self._attached(Request("POST", f"{path}/start", body={"Detach": False, "Tty": False}), stdin, until)
            code = self._exec_code(Request("GET", f"{path}/json", repeatable=True), until)
        out, err = (b"".join(payload for kind, payload in said if kind == wanted) for wanted in (1, 2))
        return ExecResult(code, out, err)

    def _attached(self, start: Request, stdin: bytes | None, deadline: Deadline) -> list[tuple[int, bytes]]:
        with self._sent(start, deadline) as (connection, response):
            # From here the connection is a raw stream; it ends with the program and is not kept.
            if stdin is None:
                return frames(self._bounded(response))
            with feeding(connection.stream, stdin):
                return frames(self._bounded(response))

    def _exec_code(self, request: Request, deadline: Deadline) -> int:
        while True:  # The stream may end a moment before the engine has noted the exit code.
            found = json.loads(self._ask(request, deadline))
            if not found.get("Running") and found.get("ExitCode") is not None:
                return int(found["ExitCode"])
            time.sleep(min(0.01, deadline.remaining()))

    # ---- networks and volumes

    def create_network(self, name: str, subnet: str, labels: Mapping[str, str], *, internal: bool = False) -> str:
        body = {
            "Name": self._name(name),
            "CheckDuplicate": True,
            "Driver": "bridge",
            "Internal": internal,
            "IPAM": {"Config": [{"Subnet": subnet}]},
            "Labels": dict(labels),
        }
        return str(self._change(f"create network {name}", Request("POST", "/networks/create", body=body))["Id"])

    def remove_network(self, network: str) -> None:
        request = Request("DELETE", f"/networks/{self._name(network)}", repeatable=True)
        self._change(f"remove network {network}", request, absent_is_fine=True)

    def connect_network(self, network: str, container: str, aliases: Sequence[str] = ()) -> None:
        body = {"Container": self._name(container), "EndpointConfig": {"Aliases": list(aliases)}}
        request = Request("POST", f"/networks/{self._name(network)}/connect", body=body, repeatable=True)
        try:
            self._change(f"connect {container} to {network}", request)
        except EngineError as error:
            if "already exists in network" not in str(error):
                raise

    def disconnect_network(self, network: str, container: str) -> None:
        body = {"Container": self._name(container), "Force": True}
        request = Request("POST", f"/networks/{self._name(network)}/disconnect", body=body, repeatable=True)
        try:
            self._change(f"disconnect {container} from {network}", request, absent_is_fine=True)
        except EngineError as error:
            if "is not connected to" not in str(error):
                raise

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        body = {"Name": self._name(name), "Driver": "local", "Labels": dict(labels)}
        self._change(f"create volume {name}", Request("POST", "/volumes/create", body=body, repeatable=True))

    def remove_volume(self, name: str) -> None:
        request = Request("DELETE", f"/volumes/{self._name(name)}", repeatable=True)
        self._change(f"remove volume {name}", request, absent_is_fine=True)

    # ---- events

    def events(self, since: int, labels: Sequence[str] = ()) -> "EventStream":
        query = _filters(label=labels, event=EVENT_ACTIONS)
        if since > 0:
            query["since"] = f"{since // 10**9}.{since % 10**9:09d}"
        deadline = Deadline(READ_SECONDS, f"{self._carrier.name}: open the event stream")
        connection = self._dial(deadline, events=True)
        request = Request("GET", "/events", query)
        try:
            response = self._exchange(connection, request, deadline)
            self._check_status(request, response)
        except BaseException as error:
            failure = self._lost(connection, error) if isinstance(error, OSError | http.client.HTTPException) else error
            connection.close()
            raise failure from None
        return EventStream(self._carrier, connection, response, self._edge, since, self._check_alive)

    def _check_alive(self) -> None:
        """An event stream may be silent because nothing happens, or because nobody is there any more."""
        deadline = Deadline(5.0, f"{self._carrier.name}: check a silent connection")
        try:
            with self._sent(Request("GET", "/_ping", repeatable=True), deadline, counted=False) as (_, response):
                response.read()
        except HostBusy:
            return  # Every channel is in use by calls with deadlines of their own.
        except DeadlineExceeded as error:
            self._carrier.distrust()
            raise HostUnreachable(f"{self._carrier.name}: the connection has gone silent") from error

    # ---- requests

    def _read(self, what: str, path: str, query: Mapping[str, str] | None = None) -> Any:
        with self._carrier.operation(what, Lane.READ, READ_SECONDS) as deadline:
            return json.loads(self._ask(Request("GET", path, query or {}, repeatable=True), deadline))

    def _change(
        self, what: str, request: Request, *, absent_is_fine: bool = False, seconds: float = CHANGE_SECONDS
    ) -> Any:
        with self._carrier.operation(what, Lane.CHANGE, seconds) as deadline:
            try:
                answer = self._ask(request, deadline)
            except NotFound:
                if not absent_is_fine:
                    raise
                answer = b""
            return json.loads(answer) if answer.strip() else {}

    def _ask(self, request: Request, deadline: Deadline) -> bytes:
        with self._sent(request, deadline) as (_, response):
            return self._bounded(response)

    @contextmanager
    def _sent(
        self, request: Request, deadline: Deadline, *, counted: bool = True
    ) -> Iterator[tuple[Connection, http.client.HTTPResponse]]:
        """Sends on a kept connection or a new one. Kept again when the response was read to its end, else closed."""
        if counted:
            self._carrier.counted()
        connection, response = self._send(request, deadline)
        sound = True
        try:
            self._check_status(request, response)
            yield connection, response
        except (OSError, http.client.HTTPException) as error:
            sound = False
            raise self._lost(connection, error) from error
        finally:
            if sound and response.isclosed() and not response.will_close:
                self.kept.keep(connection)
            else:
                connection.close()

    def _send(self, request: Request, deadline: Deadline) -> tuple[Connection, http.client.HTTPResponse]:
        while True:
            connection = self.kept.take() or self._dial(deadline)
            try:
                return connection, self._exchange(connection, request, deadline)
            except (OSError, http.client.HTTPException) as error:
                failure = self._lost(connection, error)
                connection.close()
                if not (connection.used and request.repeatable):
                    raise failure from error
                self.kept.clear()  # What ended one kept connection (a restarted engine) has ended the others.
            except BaseException:
                connection.close()
                raise

    def _exchange(self, connection: Connection, request: Request, deadline: Deadline) -> http.client.HTTPResponse:
        connection.stream.deadline = deadline
        target = f"/v{connection.api}{request.path}"
        if request.query:
            target += "?" + urlencode(request.query)
        body = None if request.body is None else json.dumps(request.body).encode()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.http.request(request.method, target, body, headers)
        return connection.http.getresponse()

    def _check_status(self, request: Request, response: http.client.HTTPResponse) -> None:
        if response.status >= 300 and response.status != http.client.NOT_MODIFIED:
            text = mask(_message(self._bounded(response)), _secrets(request.body))
            raise self._error(f"{request.method} {request.path}", response.status, text)

    def _dial(self, deadline: Deadline, *, events: bool = False) -> Connection:
        """A new connection that has answered a ping: what is wrong with docker on the host shows before any change."""
        stream = self._carrier.dial(deadline, events=events)
        connection = Connection(stream, "", "")
        try:
            stream.deadline = deadline
            connection.http.request("GET", "/_ping")
            response = connection.http.getresponse()
            body = self._bounded(response)
            if response.status != http.client.OK:
                raise self._error("ping", response.status, _message(body))
            connection.api, connection.engine_api = self._negotiate(response.headers.get("Api-Version", ""))
            return connection
        except (OSError, http.client.HTTPException) as error:
            failure = self._lost(connection, error)
            stream.close()
            raise failure from error
        except BaseException:
            stream.close()
            raise

    def _negotiate(self, offered: str) -> tuple[str, str]:
        found = re.fullmatch(r"(\d+)\.(\d+)", offered)
        version = (int(found[1]), int(found[2])) if found else (0, 0)
        if version < OLDEST_API:
            raise DockerTooOld(
                f"{self._carrier.name}: the engine speaks API {offered or 'unknown'}, at least "
                f"{_dotted(OLDEST_API)} is needed: install Docker 20.10 or later on the host"
            )
        return _dotted(min(version, NEWEST_API)), offered

    def _bounded(self, response: http.client.HTTPResponse) -> bytes:
        data = bytearray()
        while part := response.read(1024 * 1024):
            data += part
            if len(data) > OUTPUT_LIMIT:
                raise EngineError(f"{self._carrier.name}: the answer exceeds {OUTPUT_LIMIT >> 20} MiB", 413)
        return bytes(data)

    # ---- errors

    def _lost(self, connection: Connection, error: Exception) -> HostError:
        if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
            return HostError(
                f"{self._carrier.name}: something else than the Docker engine answers: the user's login shell must "
                "print nothing for a command (look for echo in ~/.bashrc or a ForceCommand)"
            )
        if isinstance(error, OSError):
            failure = dial_failure(self._carrier.name, connection.stream.ending())
            if failure is not None:
                return failure
        return HostUnreachable(
            f"{self._carrier.name}: the connection to the Docker engine was lost ({type(error).__name__}); "
            "the host is observed again on a new one"
        )

    def _error(self, what: str, status: int, message: str) -> EngineError:
        text = f"{self._carrier.name}: {what}: {message[:600]}"
        low = message.lower()
        if status == 404:
            return NotFound(text, status)
        if status == 409 or (status == 403 and any(sign in low for sign in ("overlap", "active endpoints", "already"))):
            return Conflict(text, status)
        return EngineError(text, status)

    def _name(self, name: str) -> str:
        """`name`, which is a Docker object name or id; refused otherwise, before it reaches a URL."""
        if not _NAME.fullmatch(name):
            raise EngineError(f"{self._carrier.name}: {name[:80]!r} is not a Docker object name", 400)
        return name

    def _reference(self, reference: str) -> str:
        if not _REFERENCE.fullmatch(reference) or ".." in reference or "//" in reference:
            raise EngineError(f"{self._carrier.name}: {reference[:80]!r} is not an image reference", 400)
        return quote(reference, safe="/:@")


class EventEdge:
    """The events at the newest instant seen, so that a stream resumed from that instant does not tell them twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instant = 0
        self._seen: set[tuple[str, str, str]] = set()

    def first_time(self, event: DockerEvent) -> bool:
        key = (event.type, event.action, event.actor_id)
        with self._lock:
            if event.time_nano > self._instant:
                self._instant, self._seen = event.time_nano, set()
            if event.time_nano == self._instant:
                if key in self._seen:
                    return False
                self._seen.add(key)
            return True


class EventStream:
    """Implements `port.EventStream`. It is connected from the start: what happens after `events()` returned is told."""

    SILENCE_SECONDS = 15.0

    def __init__(
        self,
        carrier: Carrier,
        connection: Connection,
        response: http.client.HTTPResponse,
        edge: EventEdge,
        since: int,
        check_alive: Callable[[], None],
    ) -> None:
        self._carrier = carrier
        self._connection = connection
        self._edge = edge
        self._since = since
        self._lines = read_lines(response)
        self._closed = False
        connection.stream.deadline = Deadline(float("inf"), f"{carrier.name}: events")
        connection.stream.watch(self.SILENCE_SECONDS, check_alive)

    def __iter__(self) -> "EventStream":
        return self

    def __next__(self) -> DockerEvent:
        while True:
            event = docker_event(json.loads(self._line()))
            if event.time_nano >= self._since and self._edge.first_time(event):
                return event

    def _line(self) -> bytes:
        try:
            line = next(self._lines, None)
        except (OSError, http.client.HTTPException, HostError) as error:
            self._end(error)
        else:
            if line is not None:
                return line
            self._end(None)
        raise StopIteration

    def _end(self, error: Exception | None) -> None:
        """Returns when the stream was closed on purpose, else raises."""
        meant = self._closed or self._carrier.closed
        self.close()
        if meant:
            return
        if isinstance(error, HostError):
            raise error
        raise HostUnreachable(f"{self._carrier.name}: the event stream ended") from error

    def close(self) -> None:
        """Ends the stream; a thread that waits for the next event leaves its loop."""
        self._closed = True
        self._connection.close()


def dial_failure(name: str, ending: Ending) -> HostError | None:
    """Why `docker system dial-stdio` ended without an answer; None when it says nothing about docker."""
    said = " ".join(ending.stderr.split())[:400]
    low = said.lower()
    if "permission denied" in low:
        return DockerNotPermitted(
            f"{name}: the user may not use the engine's socket: add it to the docker group (usermod -aG docker USER) "
            f"or set useSudo. The host says: {said}"
        )
    if "sudo:" in low and "command not found" not in low:
        return DockerNotPermitted(
            f"{name}: sudo wants a password: allow `docker system dial-stdio` without one (NOPASSWD) in sudoers, or "
            f"unset useSudo. The host says: {said}"
        )
    if ending.exit_code == 127 or "command not found" in low or "no such file or directory" in low and "env:" in low:
        return DockerAbsent(
            f"{name}: there is no docker command for this user: install Docker on the host, or set "
            f"spec.bootstrap.docker. The host says: {said}"
        )
    if "cannot connect to the docker daemon" in low or "failed to connect to the docker api" in low:
        return DockerAbsent(
            f"{name}: the Docker engine does not run: look at `systemctl status docker` on the host. It says: {said}"
        )
    if "is not a docker command" in low or "unknown command" in low:
        return DockerTooOld(f"{name}: docker has no `system dial-stdio`: install Docker 20.10 or later on the host")
    if ending.exit_code not in (None, 0):
        return DockerAbsent(f"{name}: `docker system dial-stdio` ended with code {ending.exit_code}: {said}")
    return None


def _filters(**wanted: Sequence[str]) -> dict[str, str]:
    given = {key: list(values) for key, values in wanted.items() if values}
    return {"filters": json.dumps(given)} if given else {}


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:600].decode(errors="replace").strip() or "no reason given"


def _secrets(body: Mapping[str, Any] | None) -> set[SecretStr]:
    """Environment values of a create body: the engine quotes an invalid one in its error."""
    found = set()
    for entry in (body or {}).get("Env") or ():
        for text in (entry, entry.partition("=")[2]):
            found.update({SecretStr(text), SecretStr(json.dumps(text)[1:-1])})
    return found


def _first_file(archive: bytes, path: str) -> bytes | str:
    """The content of the regular file in a one-member archive, or where the symbolic link in it points to."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.next()
        if member is not None and member.issym():
            return normpath(join(dirname(path), member.linkname))
        content = tar.extractfile(member) if member is not None and member.isreg() else None
        if content is None:
            raise EngineError(f"{path} is no regular file", 400)
        return content.read()
