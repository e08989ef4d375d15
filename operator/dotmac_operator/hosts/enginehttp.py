"""Requests to a Docker engine over `docker system dial-stdio`: HTTP/1.1 on channels that are kept and used again.

Why not docker-py: it polls an exec's socket without a time-out, so no deadline holds on a dead network; it reads the
operator's own ~/.docker; and requests adds more time to a call than the round trip takes. See also stream.py.
"""

import http.client
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from enum import Enum
from itertools import batched
from typing import Any, Protocol
from urllib.parse import urlencode

from dotmac_operator.core.secret import SecretStr, mask
from dotmac_operator.hosts.deadline import Deadline
from dotmac_operator.hosts.port import (
    Conflict,
    DeadlineExceeded,
    DockerAbsent,
    DockerNotPermitted,
    DockerTooOld,
    EngineError,
    Fenced,
    HostBusy,
    HostError,
    HostUnreachable,
    NotFound,
    Sent,
)
from dotmac_operator.hosts.stream import Ending, Stream, StreamConnection

OLDEST_API = (1, 41)
"""Docker 20.10, the oldest engine this is tested with."""
NEWEST_API = (1, 47)
"""Docker 27; newer engines speak it too. What they added since is not used."""

OUTPUT_LIMIT = 64 * 1024 * 1024
"""Bytes of one answer, output or file: a larger one is an error instead of an exhausted operator."""

PING_SECONDS = 5.0

_LOST = (OSError, http.client.HTTPException)


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

    def reads(self, what: str, most: int, seconds: float) -> AbstractContextManager[tuple[Deadline, int]]:
        """As `operation`, for several reads at the same time: yields how many of them have a turn, 1 to `most`."""

    def dial(self, deadline: Deadline, *, events: bool = False) -> Stream:
        """`docker system dial-stdio` on a new channel."""

    def counted(self, *, requests: int = 0, execs: int = 0) -> None: ...

    def refusal(self, stderr: str) -> HostError | Fenced | None:
        """The error, when the host's fence did not let the channel begin."""

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


PING = Request("GET", "/_ping", repeatable=True)


@dataclass(frozen=True)
class Answer:
    """A whole one."""

    body: bytes
    headers: Message


@dataclass(frozen=True)
class Heartbeat:
    """The answer to a quick question."""

    body: bytes
    date: str
    """The host's clock, as HTTP writes it; empty when the engine does not tell."""


class Connection:
    """One channel that speaks HTTP with the engine."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.api = ""
        """Version that requests are made in; negotiated by the first ping."""
        self.engine_api = ""
        """Newest version that the engine speaks."""
        self.used = False
        self._http = StreamConnection(stream)

    def exchange(self, request: Request, deadline: Deadline) -> http.client.HTTPResponse:
        """Sends and reads the head of the answer. A lost connection is an OSError or an HTTPException."""
        self.send(request, deadline)
        return self.receive()

    def send(self, request: Request, deadline: Deadline) -> None:
        """The first half of `exchange`."""
        self.stream.deadline = deadline
        target = (f"/v{self.api}" if self.api else "") + request.path
        if request.query:
            target += "?" + urlencode(request.query)
        body = None if request.body is None else json.dumps(request.body).encode()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self._http.request(request.method, target, body, headers)

    def receive(self) -> http.client.HTTPResponse:
        """The head of the answer to what was sent."""
        return self._http.getresponse()

    def answers(self, name: str) -> bool:
        """Whether a ping comes back within PING_SECONDS."""
        try:
            return self.exchange(PING, Deadline(PING_SECONDS, f"{name}: ping")).read() == b"OK"
        except (*_LOST, DeadlineExceeded):
            return False

    def close(self) -> None:
        self.stream.close()


class KeptConnections:
    """Idle connections; the most recently used one is taken first."""

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

    def __len__(self) -> int:
        return len(self._idle)

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


class EngineClient:
    """Sends requests on kept connections and turns what goes wrong into the port's errors."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self.kept = KeptConnections()
        self.heartbeats = 0
        """Checks of silent streams; not counted as requests."""
        self.latency: float | None = None
        """Seconds of the last round trip that was measured."""

    def ask(self, request: Request, deadline: Deadline) -> bytes:
        """The whole body of the answer."""
        with self.sent(request, deadline) as (_, response):
            return self.read_all(response)

    def ask_json(self, request: Request, deadline: Deadline) -> Any:
        """The answer's JSON; {} when it is empty."""
        answer = self.ask(request, deadline)
        return self.parse(answer) if answer.strip() else {}

    def parse(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            raise EngineError(f"{self._carrier.name}: the engine's answer is not JSON", 502) from None

    def ask_together(
        self, requests: Sequence[Request], at_once: int, deadline: Deadline, sent: Sent
    ) -> list[Answer | NotFound]:
        """The answers to repeatable requests, of which `at_once` are under way at the same time: one round trip.

        The first is read last: it is the one to take long. All of it in the caller's thread: threads that wake each
        other at every packet cost more processor time than the requests.
        """
        self._have_ready(min(at_once, len(requests)), deadline)
        answers: list[Answer | NotFound] = []
        for wave in batched(requests, at_once):
            begun: list[Connection | None] = []
            try:
                for request in wave:
                    begun.append(self._begin(request, deadline))  # noqa: PERF401 - what was begun is closed below
                if not answers:
                    sent()
                read = [self._finish(request, begun.pop(), deadline) for request in reversed(wave)]
            finally:
                for connection in begun:
                    if connection is not None:
                        connection.close()
            answers += reversed(read)
        return answers

    def _have_ready(self, wanted: int, deadline: Deadline) -> None:
        """Makes the connections that are missing, at the same time: each takes some round trips."""
        kept = len(self.kept)
        missing = wanted - kept
        if missing > 0 and wanted > 1:
            with ThreadPoolExecutor(missing, thread_name_prefix="dial") as threads:
                for made in [threads.submit(self._dial_and_keep, deadline) for _ in range(missing)]:
                    try:
                        made.result()
                    except HostUnreachable:
                        if not kept:  # else the request on one that is kept finds out, and is sent again
                            raise

    def _dial_and_keep(self, deadline: Deadline) -> None:
        self.kept.keep(self.dial(deadline))

    def _begin(self, request: Request, deadline: Deadline) -> Connection | None:
        """Sends on a kept connection, and does not wait; None: it is still to be sent."""
        connection = self.kept.take()
        if connection is None:
            return None
        try:
            connection.send(request, deadline)
        except BaseException as error:
            connection.close()
            if isinstance(error, _LOST):
                return None
            raise
        return connection

    def _finish(self, request: Request, begun: Connection | None, deadline: Deadline) -> Answer | NotFound:
        try:
            with self.sent(request, deadline, begun=begun) as (_, response):
                return Answer(self.read_all(response), response.headers)
        except NotFound as error:
            return error

    @contextmanager
    def sent(
        self, request: Request, deadline: Deadline, *, counted: bool = True, begun: Connection | None = None
    ) -> Iterator[tuple[Connection, http.client.HTTPResponse]]:
        """The answer, to be read in the block. A connection whose answer was read to its end is kept, else closed.

        `begun`: a kept connection that the request was already sent on.
        """
        if counted:
            self._carrier.counted(requests=1)
        connection, response = self._send(request, deadline, begun)
        sound = True
        try:
            self.check_status(request, response)
            yield connection, response
        except _LOST as error:
            sound = False
            raise self.lost(connection, error) from error
        finally:
            if sound and response.isclosed() and not response.will_close:
                self.kept.keep(connection)
            else:
                connection.close()

    def _send(
        self, request: Request, deadline: Deadline, begun: Connection | None = None
    ) -> tuple[Connection, http.client.HTTPResponse]:
        while True:
            connection = begun or self._ready(request, deadline)
            try:
                response = connection.exchange(request, deadline) if begun is None else begun.receive()
                return connection, response
            except _LOST as error:
                begun = None
                failure = self.lost(connection, error)
                connection.close()
                if not (connection.used and request.repeatable):
                    raise failure from error
                self.kept.clear()  # What ended one kept connection (a restarted engine) has ended the others.
            except BaseException:
                connection.close()
                raise

    def _ready(self, request: Request, deadline: Deadline) -> Connection:
        """A kept connection, or a new one. Before a change that must not be sent twice a kept one proves itself."""
        while (kept := self.kept.take()) is not None:
            if request.repeatable or kept.answers(self._carrier.name):
                return kept
            kept.close()
        return self.dial(deadline)

    def dial(self, deadline: Deadline, *, events: bool = False) -> Connection:
        """A new connection that has answered a ping: what is wrong with docker on the host shows before any change."""
        connection = Connection(self._carrier.dial(deadline, events=events))
        try:
            response = connection.exchange(PING, deadline)
            body = self.read_all(response)
            if response.status != http.client.OK:
                raise self.refused("ping", response.status, message_of(body))
            connection.engine_api = response.headers.get("Api-Version", "")
            connection.api = self._negotiate(connection.engine_api)
            return connection
        except _LOST as error:
            failure = self.lost(connection, error)
            connection.close()
            raise failure from error
        except BaseException:
            connection.close()
            raise

    def _negotiate(self, offered: str) -> str:
        found = re.fullmatch(r"(\d+)\.(\d+)", offered)
        version = (int(found[1]), int(found[2])) if found else (0, 0)
        if version < OLDEST_API:
            raise DockerTooOld(
                f"{self._carrier.name}: the engine speaks API {offered or 'unknown'}, at least "
                f"{_dotted(OLDEST_API)} is needed: install Docker 20.10 or later on the host"
            )
        return _dotted(min(version, NEWEST_API))

    def check_alive(self) -> None:
        """Raises HostUnreachable when the host has gone silent, and drops the connection. Not counted."""
        try:
            self.heartbeat(PING)
        except DeadlineExceeded as error:
            self._carrier.distrust()
            raise HostUnreachable(f"{self._carrier.name}: the connection has gone silent") from error

    def heartbeat(self, request: Request) -> Heartbeat | None:
        """A quick question on a kept connection, not counted as a request; None when there is no channel for it.

        Raises:
            DeadlineExceeded: no answer within PING_SECONDS; the connection is left as it is.
        """
        deadline = Deadline(PING_SECONDS, f"{self._carrier.name}: check a silent connection")
        self.heartbeats += 1
        try:
            started = time.perf_counter()
            with self.sent(request, deadline, counted=False) as (connection, response):
                body = self.read_all(response)
                if connection.used:  # else it was made for this, which takes several round trips
                    self.latency = time.perf_counter() - started
                return Heartbeat(body, response.headers.get("Date", ""))
        except HostBusy:
            return None  # Every channel is in use by calls with deadlines of their own.

    def read_all(self, response: http.client.HTTPResponse) -> bytes:
        data = bytearray()
        while part := response.read(1024 * 1024):
            data += part
            if len(data) > OUTPUT_LIMIT:
                raise EngineError(f"{self._carrier.name}: the answer exceeds {OUTPUT_LIMIT >> 20} MiB", 413)
        return bytes(data)

    def check_status(self, request: Request, response: http.client.HTTPResponse) -> None:
        if response.status >= 300 and response.status != http.client.NOT_MODIFIED:
            text = mask(message_of(self.read_all(response)), secrets_of(request.body))
            raise self.refused(f"{request.method} {request.path}", response.status, text)

    def refused(self, what: str, status: int, message: str) -> EngineError:
        """The typed error of an error answer."""
        text = f"{self._carrier.name}: {what}: {message[:600]}"
        if status == http.client.NOT_FOUND:
            return NotFound(text, status)
        # 403 is what the engine answers for a subnet in use, a network in use and a container that is attached already.
        taken = any(sign in message.lower() for sign in ("overlap", "active endpoints", "already"))
        if status == http.client.CONFLICT or (status == http.client.FORBIDDEN and taken):
            return Conflict(text, status)
        return EngineError(text, status)

    def lost(self, connection: Connection, error: Exception) -> HostError | Fenced:
        """The typed error of a connection that ended: what docker or sudo said on stderr, if they did."""
        if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
            return HostError(
                f"{self._carrier.name}: something else than the Docker engine answers: the user's login shell must "
                "print nothing for a command (look for echo in ~/.bashrc or a ForceCommand)"
            )
        if isinstance(error, OSError):
            ending = connection.stream.ending()
            failure = self._carrier.refusal(ending.stderr) or dial_failure(self._carrier.name, ending)
            if failure is not None:
                return failure
        return HostUnreachable(
            f"{self._carrier.name}: the connection to the Docker engine was lost ({type(error).__name__}); "
            "the host is observed again on a new one"
        )


_NO_SOCKET = "failed to open the raw stream connection"
"""How dial-stdio itself begins; the rest is the reason, from the socket."""


_SIGNALLED = 128
"""A shell adds the number of the signal that ended a program."""


def dial_failure(name: str, ending: Ending) -> HostError | None:
    """Why `docker system dial-stdio` ended without an answer; None when it says nothing about docker."""
    said = " ".join(ending.stderr.split())[:400]
    low = said.lower()
    if "permission denied" in low and ("docker" in low or _NO_SOCKET in low):
        return DockerNotPermitted(
            f"{name}: the user may not use the engine's socket: add it to the docker group "
            f"(usermod -aG docker USER). The host says: {said}"
        )
    if ending.exit_code == 127 and "sudo" in low and "docker" not in low:
        return DockerNotPermitted(f"{name}: there is no sudo on the host: install it, or use the docker group instead")
    if low.startswith("sudo:") and "docker: command not found" not in low:
        return DockerNotPermitted(
            f"{name}: sudo wants a password: allow `sh` without one (NOPASSWD) in sudoers, or "
            f"use the docker group instead. The host says: {said}"
        )
    if ending.exit_code == 127 or "command not found" in low:
        return DockerAbsent(
            f"{name}: there is no docker command for this user: install Docker on the host. The host says: {said}"
        )
    if any(
        sign in low for sign in (_NO_SOCKET, "cannot connect to the docker daemon", "failed to connect to the docker")
    ):
        return DockerAbsent(
            f"{name}: the Docker engine does not run: look at `systemctl status docker` on the host. It says: {said}"
        )
    if "is not a docker command" in low or "unknown command" in low:
        return DockerTooOld(f"{name}: docker has no `system dial-stdio`: install Docker 20.10 or later on the host")
    if ending.exit_code is not None and ending.exit_code > _SIGNALLED:
        return None  # Ended from outside: by the fence of a newer leader, or by the host's administrator.
    if ending.exit_code not in (None, 0):
        return DockerAbsent(f"{name}: `docker system dial-stdio` ended with code {ending.exit_code}: {said}")
    return None


def message_of(body: bytes) -> str:
    """The engine's own words in an error answer."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:600].decode(errors="replace").strip() or "no reason given"


def secrets_of(body: Mapping[str, Any] | None) -> frozenset[SecretStr]:
    """Environment values of a create body: the engine quotes an invalid one in its error."""
    texts = {text for entry in (body or {}).get("Env") or () for text in (entry, entry.partition("=")[2])}
    return frozenset(SecretStr(text) for entry in texts for text in (entry, json.dumps(entry)[1:-1]))


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
