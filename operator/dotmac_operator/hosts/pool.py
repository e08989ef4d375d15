"""Docker hosts by name: connected on demand, limited, watched, and left alone while they are down."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from tenacity import Retrying, retry_if_exception_type, sleep_using_event, wait_random_exponential

from dotmac_operator.core.facts import DiskFact
from dotmac_operator.hosts.breaker import Breaker
from dotmac_operator.hosts.deadline import Deadline
from dotmac_operator.hosts.engine import READ_SECONDS, DockerEngine
from dotmac_operator.hosts.enginehttp import OUTPUT_LIMIT, Lane
from dotmac_operator.hosts.fence import RELEASE, Fence, fenced, refusal
from dotmac_operator.hosts.hostkeys import PinnedKeys, key_blob
from dotmac_operator.hosts.port import (
    CircuitOpen,
    DeadlineExceeded,
    ExecResult,
    Fenced,
    HostAddress,
    HostError,
    HostUnreachable,
)
from dotmac_operator.hosts.probe import HttpProbe, get_status
from dotmac_operator.hosts.shell import DF, command_line, parse_df
from dotmac_operator.hosts.ssh import ChannelStream, SessionsUsedUp, SshTimes, SshTransport, connect, load_private_key
from dotmac_operator.hosts.stream import feeding

Observer = Callable[[str, str, float, bool], None]
"""Called after each call with host, operation, seconds and whether it succeeded."""

MAX_CHANNELS = 8
"""Per host; sshd's MaxSessions is 10. One is the event stream's."""


@dataclass(frozen=True)
class SshSettings:
    times: SshTimes = SshTimes()
    attempts: int = 3
    """Connection attempts in one cycle, with jittered pauses of up to 2 and 4 seconds between them."""
    breaker_failures: int = 3
    breaker_seconds: float = 60.0
    refusal_seconds: float = 10.0
    """A host that refused us (wrong key, wrong user) is not asked again for so long: repeated failures get clients
    banned, and the answer changes only when somebody acts."""


class Turns:
    """Who may start: changes up to the Server's limit, at most two pulls, and always room for one more read."""

    def __init__(self, max_operations: int) -> None:
        everyone = threading.BoundedSemaphore(MAX_CHANNELS - 1)
        heavy = threading.BoundedSemaphore(MAX_CHANNELS - 2)
        changes = threading.BoundedSemaphore(max(1, min(max_operations, MAX_CHANNELS - 2)))
        pulls = threading.BoundedSemaphore(2)
        self._order = {
            Lane.READ: (everyone,),
            Lane.CHANGE: (changes, heavy, everyone),
            Lane.PULL: (pulls, heavy, everyone),
        }

    @contextmanager
    def taken(self, lane: Lane, deadline: Deadline) -> Iterator[None]:
        with ExitStack() as held:
            for turn in self._order[lane]:
                if not turn.acquire(timeout=deadline.left()):
                    raise deadline.busy()
                held.callback(turn.release)
            yield

    @contextmanager
    def taken_together(self, most: int, deadline: Deadline) -> Iterator[int]:
        """Waits for the turn of one read, and takes those of others where they are free; yields how many."""
        (turn,) = self._order[Lane.READ]
        with self.taken(Lane.READ, deadline), ExitStack() as held:
            count = 1
            while count < most and turn.acquire(blocking=False):
                held.callback(turn.release)
                count += 1
            yield count


class SshHost:
    """Implements `port.Host` and `engine.Carrier`."""

    def __init__(
        self, address: HostAddress, settings: SshSettings, observer: Observer | None, fence: Fence | None, seen: str
    ) -> None:
        """`seen`: the host key to trust, when none is pinned and one was seen before; "" for none."""
        self._address = address
        self._settings = settings
        self._observer = observer
        self._fence = fence
        self._first_seen = seen
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_seconds)
        self._turns = Turns(address.max_operations)
        self._connecting = threading.Lock()
        self._lock = threading.Lock()
        self._live: SshTransport | None = None
        self._retired: list[SshTransport] = []
        self._last_failure: tuple[float, HostError] | None = None
        self._channels = 0
        self._events = threading.BoundedSemaphore(1)
        self._closing = threading.Event()
        self._engine = DockerEngine(self)
        self.round_trips = 0
        self.execs = 0

    @property
    def address(self) -> HostAddress:
        return self._address

    @property
    def name(self) -> str:
        return self._address.name

    @property
    def engine(self) -> DockerEngine:
        return self._engine

    @property
    def offered_host_key(self) -> str | None:
        return self._first_seen or None

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    @property
    def breaker_state(self) -> str:
        """closed, open (left alone for now) or half-open (the next attempt decides)."""
        return self._breaker.state

    @property
    def heartbeats(self) -> int:
        """Questions whether the event stream is alive; not among the round trips."""
        return self._engine.heartbeats

    @property
    def latency(self) -> float | None:
        """Seconds of the last round trip that was measured; None before the first."""
        return self._engine.latency

    # ---- what the port offers

    def probe(self) -> float:
        return self._engine.ping()

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 60.0) -> ExecResult:
        with self.operation(f"run {argv[0]}", Lane.CHANGE, deadline) as until:
            said = self._run(self._command(argv), stdin, until)
            self._raise_if_refused(said.stderr.decode(errors="replace"))
            return said

    def release(self) -> None:
        if self._fence is not None:
            self.run([RELEASE], deadline=READ_SECONDS)

    def disk(self, path: str) -> DiskFact:
        command = command_line([*DF, path])
        with self.operation("disk", Lane.READ, READ_SECONDS) as until:
            said = self._run(command, b"", until)
        found = parse_df(said.stdout) if said.exit_code == 0 else None
        if found is None:
            reason = said.stderr.decode(errors="replace").strip()[:300]
            raise HostError(f"{self.name}: df cannot tell the disk of {path!r}: {reason or said.stdout[:300]!r}")
        return found

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
        with self.operation(f"http {address}:{port}", Lane.READ, deadline) as until:
            stream = self._open_tcp(address, port, until)
            try:
                where = f"{self.name}: {address} port {port}"
                return get_status(stream, HttpProbe(path, headers, tls_server_name), where)
            finally:
                stream.close()

    def tcp(self, address: str, port: int, *, deadline: float = 5.0) -> None:
        with self.operation(f"tcp {address}:{port}", Lane.READ, deadline) as until:
            self._open_tcp(address, port, until).close()

    def _run(self, command: str, stdin: bytes, deadline: Deadline) -> ExecResult:
        with self._room(deadline):
            stream = self._session(command, deadline, self._gone)
        self.counted(execs=1)
        try:
            with feeding(stream, stdin):
                out, err = _read_both(stream)
                code = stream.ending().exit_code
        except OSError as error:
            raise HostUnreachable(f"{deadline.what}: the SSH connection was lost") from error
        finally:
            stream.close()
        if code is None:
            raise HostUnreachable(
                f"{deadline.what}: no exit code: the connection was lost, or a signal ended the program"
            )
        return ExecResult(code, out, err)

    def _open_tcp(self, address: str, port: int, deadline: Deadline) -> ChannelStream:
        transport = self._transport(deadline)
        with self._room(deadline):
            return transport.open_tcp(address, port, deadline, self._gone)

    # ---- what the engine needs

    @contextmanager
    def operation(self, what: str, lane: Lane, seconds: float) -> Iterator[Deadline]:
        with self._observed(what, seconds) as deadline, self._turns.taken(lane, deadline):
            yield deadline

    @contextmanager
    def reads(self, what: str, most: int, seconds: float) -> Iterator[tuple[Deadline, int]]:
        with self._observed(what, seconds) as deadline, self._turns.taken_together(most, deadline) as count:
            yield deadline, count

    @contextmanager
    def _observed(self, what: str, seconds: float) -> Iterator[Deadline]:
        if self._fence is not None:
            self._fence.token()  # Not leading: no call, not even on a channel that is open.
        deadline = Deadline(seconds, f"{self.name}: {what}")
        started = time.monotonic()
        succeeded = False
        try:
            yield deadline
            succeeded = True
        finally:
            if self._observer is not None:
                self._observer(self.name, what.split()[0], time.monotonic() - started, succeeded)

    def dial(self, deadline: Deadline, *, events: bool = False) -> ChannelStream:
        command = self._command(["docker", "system", "dial-stdio"])
        if not events:
            with self._room(deadline):
                return self._session(command, deadline, self._gone)
        if not self._events.acquire(timeout=deadline.left()):
            raise deadline.busy()
        try:
            return self._session(command, deadline, self._events.release)
        except BaseException:
            self._events.release()
            raise

    def _command(self, argv: Sequence[str]) -> str:
        """What starts a program that may change the host."""
        behind = argv if self._fence is None else fenced(argv, self._fence.token())
        return command_line(behind, sudo=self._address.use_sudo)

    def refusal(self, stderr: str) -> HostError | Fenced | None:
        found = refusal(self.name, stderr)
        if self._fence is not None and isinstance(found, Fenced):
            self._fence.refused(found.kept)
        return found

    def _raise_if_refused(self, stderr: str) -> None:
        found = self.refusal(stderr)
        if found is not None:
            raise found

    def counted(self, *, requests: int = 0, execs: int = 0) -> None:
        with self._lock:
            self.round_trips += requests
            self.execs += execs

    def distrust(self) -> None:
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.close()
        self._engine.drop_idle()

    # ---- channels

    def _session(self, command: str, deadline: Deadline, on_close: Callable[[], None]) -> ChannelStream:
        transport = self._transport(deadline)
        try:
            return transport.open_session(command, deadline, on_close)
        except SessionsUsedUp:
            # A program that outlived its deadline holds its session until it ends: leave it that connection.
            self._retire(transport)
            return self._transport(deadline).open_session(command, deadline, on_close)

    def _retire(self, transport: SshTransport) -> None:
        with self._lock:
            if self._live is transport:
                self._live = None
            self._retired = [each for each in self._retired if each.alive and each is not transport] + [transport]
        self._engine.drop_idle()
        transport.retire()

    @contextmanager
    def _room(self, deadline: Deadline) -> Iterator[None]:
        """A channel's place: calls in progress hold one each, the rest are idle engine connections that can go."""
        while True:
            with self._lock:
                if self._channels < MAX_CHANNELS - 1:
                    self._channels += 1
                    break
            if not self._engine.evict_idle():
                if deadline.left() <= 0:
                    raise deadline.busy()
                time.sleep(0.005)  # Another thread is about to give its channel back.
        try:
            yield
        except BaseException:
            self._gone()
            raise

    def _gone(self) -> None:
        with self._lock:
            self._channels -= 1

    # ---- the connection

    def _transport(self, deadline: Deadline) -> SshTransport:
        live = self._live
        if live is not None and live.alive:
            return live
        asked = time.monotonic()
        if not self._connecting.acquire(timeout=deadline.left()):
            raise HostUnreachable(f"{deadline.what}: the connection is still being made")
        try:
            if self._live is not None and self._live.alive:
                return self._live
            self._refuse_early(asked)
            self._engine.drop_idle()
            self._live = self._connect(deadline)
            self._first_seen = self._live.host_key
            if self.closed:
                self._live.close()
                raise HostUnreachable(f"{self.name}: the host was dropped from the pool")
            return self._live
        finally:
            self._connecting.release()

    def _refuse_early(self, asked: float) -> None:
        """Raises when it is known already how an attempt would end."""
        if self.closed:
            raise HostUnreachable(f"{self.name}: the host was dropped from the pool")
        wait = self._breaker.retry_after()
        why = f": {self._last_failure[1]}" if self._last_failure else ""
        if wait > 0:
            raise CircuitOpen(f"{self.name}: failed repeatedly, next attempt in {wait:.0f} s{why}", wait)
        if self._last_failure is None:
            return
        failed_at, error = self._last_failure
        refused_lately = not error.retryable and time.monotonic() - failed_at < self._settings.refusal_seconds
        if failed_at > asked or refused_lately:  # Somebody tried for us while we waited, or a moment ago.
            raise type(error)(*error.args)

    def _connect(self, deadline: Deadline) -> SshTransport:
        try:
            transport = self._cycle(deadline)
        except HostError as error:
            if isinstance(error, HostUnreachable):
                self._breaker.failed()
            if not isinstance(error, DeadlineExceeded):  # That was the caller's own, and says nothing to others.
                self._last_failure = (time.monotonic(), error)
            raise
        self._breaker.succeeded()
        self._last_failure = None
        return transport

    def _cycle(self, deadline: Deadline) -> SshTransport:
        address = self._address
        key = load_private_key(address.private_key, address.passphrase, self.name)
        trusted = address.host_keys
        if not trusted and address.trust_on_first_use and self._first_seen:
            trusted = (self._first_seen,)
        limit = 1 if self._breaker.half_open else self._settings.attempts
        attempts = Retrying(
            retry=retry_if_exception_type(HostUnreachable),
            stop=lambda state: (
                state.attempt_number >= limit or state.upcoming_sleep >= deadline.left() or self._closing.is_set()
            ),
            wait=wait_random_exponential(multiplier=1, max=4),
            sleep=sleep_using_event(self._closing),
            reraise=True,
        )
        return attempts(connect, address, PinnedKeys(trusted), key, deadline, self._settings.times)

    # ---- the pool's side

    def readdress(self, address: HostAddress) -> bool:
        """Takes on an address that differs in what is pinned only, if the connection satisfies it."""
        same = replace(address, host_keys=self._address.host_keys, trust_on_first_use=self._address.trust_on_first_use)
        if same != self._address or self._live is None:
            return False
        blob, pinned = key_blob(self._live.host_key), PinnedKeys(address.host_keys)
        proven = blob is not None and (pinned.match(blob) if pinned else address.trust_on_first_use)
        if proven:
            self._address = address
        return proven

    def close(self) -> None:
        self._closing.set()
        self.distrust()
        for retired in self._retired:
            retired.close()


def _read_both(stream: ChannelStream) -> tuple[bytes, bytes]:
    """stdout and stderr to their ends; a second thread reads stderr, because a full window there would block both."""
    errors: list[bytes] = []

    def read_stderr() -> None:
        try:
            errors.append(stream.read_stderr(OUTPUT_LIMIT))
        except (OSError, HostError):
            return

    thread = threading.Thread(target=read_stderr, name="dotmac-stderr", daemon=True)
    thread.start()
    out = bytearray()
    while part := stream.recv(65536):
        out += part
        if len(out) > OUTPUT_LIMIT:
            raise HostError(f"{stream.deadline.what}: more than {OUTPUT_LIMIT >> 20} MiB of output")
    thread.join(timeout=stream.deadline.left())
    return bytes(out), errors[0] if errors else b""


class SshHostPool:
    """Implements `port.HostPool`."""

    def __init__(
        self, settings: SshSettings | None = None, observer: Observer | None = None, fence: Fence | None = None
    ) -> None:
        """Without a `fence` programs are started as they are: for a single process that nobody else works beside."""
        self._settings = settings or SshSettings()
        self._observer = observer
        self._fence = fence
        self._lock = threading.Lock()
        self._hosts: dict[str, SshHost] = {}
        self._closed = False

    def get(self, address: HostAddress) -> SshHost:
        with self._lock:
            if self._closed:
                raise HostUnreachable(f"{address.name}: the pool is closed")
            kept = self._hosts.get(address.name)
            if kept is not None and (kept.address == address or kept.readdress(address)):
                return kept
            seen = self._remembered(kept, address)
            host = SshHost(address, self._settings, self._observer, self._fence, seen)
            self._hosts[address.name] = host
        if kept is not None:
            kept.close()
        return host

    @staticmethod
    def _remembered(kept: SshHost | None, address: HostAddress) -> str:
        """The key seen first stays pinned while the process lives, unless the Server now means another machine."""
        if kept is None or (kept.address.address, kept.address.port) != (address.address, address.port):
            return ""
        return kept.offered_host_key or ""

    def forget(self, name: str) -> None:
        with self._lock:
            host = self._hosts.pop(name, None)
        if host is not None:
            host.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            hosts, self._hosts = list(self._hosts.values()), {}
        for host in hosts:
            host.close()
