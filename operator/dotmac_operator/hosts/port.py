"""The port to a Docker host: what the rest of the operator may ask of one, and how it can fail.

Adapters live beside this file. Calls block and have a deadline; run them in a worker thread. Every method may raise
a `HostError`, and NotLeading when another operator leads; nothing else leaves an adapter.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


class HostError(Exception):
    """A call to a host failed. `reason` is a condition reason (CamelCase); the text says what to do next."""

    reason = "HostError"
    retryable = True
    """False: the same call cannot succeed until somebody changes the Server, the Secret or the host."""


class HostUnreachable(HostError):
    """No TCP connection, a reset, a time-out, or the breaker is open."""

    reason = "Unreachable"


class CircuitOpen(HostUnreachable):
    """The host failed repeatedly and is left alone until `retry_after` seconds have passed."""

    reason = "CircuitOpen"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HostKeyUnknown(HostError):
    """The host offers a key although none is pinned and policy forbids trusting the first one."""

    reason = "HostKeyUnknown"
    retryable = False


class HostKeyChanged(HostError):
    """The host's key is none of the pinned ones: a reinstalled host, or somebody in between."""

    reason = "HostKeyChanged"
    retryable = False


class AuthenticationFailed(HostError):
    """The host refused the user or the private key, or the key cannot be read."""

    reason = "AuthenticationFailed"
    retryable = False


class DockerNotPermitted(HostError):
    """The user may not use the engine's socket."""

    reason = "DockerNotPermitted"
    retryable = False


class DockerAbsent(HostError):
    """There is no docker client, or no engine behind it."""

    reason = "DockerAbsent"


class DockerTooOld(HostError):
    """The engine is older than the oldest one this operator was tested with."""

    reason = "DockerTooOld"
    retryable = False


class NotLeading(Exception):
    """This process does not lead (any more), so it may not act; nothing was done.

    No HostError: it says nothing of the host, so it ends a pass without a word in any status.
    """


class Fenced(NotLeading):
    """The host has seen a newer leader than this process; nothing was done."""

    def __init__(self, message: str, kept: int) -> None:
        super().__init__(message)
        self.kept = kept


class ManagedElsewhere(HostError):
    """Operators of another control plane manage this host; nothing was done."""

    reason = "ManagedElsewhere"
    retryable = False


class FenceUnavailable(HostError):
    """The host cannot keep the number of the leader, so that nothing may be changed there."""

    reason = "FenceUnavailable"


class DeadlineExceeded(HostError):
    """The call did not finish in time; its effect on the host is unknown, so observe before acting again."""

    reason = "DeadlineExceeded"


class HostBusy(DeadlineExceeded):
    """The call did not get its turn in time; nothing was done."""

    reason = "HostBusy"


class ForwardingRefused(HostError):
    """sshd refuses TCP forwarding (AllowTcpForwarding no), so containers cannot be probed."""

    reason = "ForwardingRefused"
    retryable = False


class EngineError(HostError):
    """The engine answered with an error."""

    reason = "EngineError"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotFound(EngineError):
    """The object does not exist (404)."""

    reason = "NotFound"


class Conflict(EngineError):
    """The name is taken or the object is in the wrong state (409)."""

    reason = "Conflict"


@dataclass(frozen=True)
class HostAddress:
    """Where a host is and how to prove it is the right one. Built from a Server; compared to notice an edit."""

    name: str
    """`namespace/name` of the Server, for messages, metrics and the pool."""
    address: str
    port: int
    user: str
    private_key: SecretStr
    passphrase: SecretStr | None
    host_keys: tuple[str, ...]
    """Pinned: OpenSSH public key lines (`ssh-ed25519 AAAA...`) or fingerprints (`SHA256:...`)."""
    trust_on_first_use: bool = False
    """With no pinned key: accept the first, and report it through `Host.offered_host_key`."""
    max_operations: int = 4
    use_sudo: bool = False


@dataclass(frozen=True)
class ExecResult:
    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True)
class Survey:
    """What `Engine.survey` found."""

    containers: tuple[ContainerFact, ...]
    networks: tuple[NetworkFact, ...]
    volumes: tuple[VolumeFact, ...]
    images: Mapping[str, ImageFact]
    """By reference; those that the host does not have are left out."""
    file_version: str | None
    """As `Engine.file_version`; None: there is no such container, or no such file in it."""


Progress = Callable[[str], None]
"""Called with a short line of progress, such as `pulling dotmac/tryton:6.0: 34 of 80 MiB`."""


Sent = Callable[[], None]
"""Called once requests are under way, before their answers are waited for. It must not wait for anything itself."""


def nothing() -> None:
    """There is nothing to do meanwhile."""


class EventStream(Protocol):
    """Events as they happen. Ends without an error when it, or its host's pool, is closed; raises HostError on loss."""

    def __iter__(self) -> Iterator[DockerEvent]: ...

    def __next__(self) -> DockerEvent: ...

    def close(self) -> None:
        """May be called from another thread; the reader leaves its loop."""


class Engine(Protocol):
    """The Docker Engine API, as much as the steps use. Names and ids are interchangeable, as in the API itself."""

    def info(self) -> EngineInfo: ...

    def containers(self, labels: Sequence[str] = ()) -> list[ContainerFact]:
        """Running or not; `labels` are `key` or `key=value` filters, all of which must match."""

    def networks(self) -> list[NetworkFact]:
        """Every network of the host, because a new subnet must avoid all of them."""

    def volumes(self, labels: Sequence[str] = ()) -> list[VolumeFact]: ...

    def image(self, reference: str) -> ImageFact | None:
        """None when the host does not have it."""

    def survey(
        self, labels: Sequence[str], references: Sequence[str], file: tuple[str, str], sent: Sent = nothing
    ) -> Survey:
        """Containers with these labels, every network and volume, these images, and the version of a file (container,
        path), all asked for at the same time, so that a host far away costs one round trip."""

    def pull(self, reference: str, progress: Progress | None = None, *, deadline: float = 1800.0) -> ImageFact: ...

    def inspect_container(self, container: str) -> Mapping[str, Any]: ...

    def create_container(self, name: str, body: Mapping[str, Any]) -> str:
        """`body` is the Engine API's create body. Returns the id. `Conflict` when the name is taken."""

    def start_container(self, container: str) -> None:
        """A running container stays as it is."""

    def stop_container(self, container: str, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds. A stopped or absent one is no error."""

    def unpause_container(self, container: str) -> None:
        """One that is not paused, or absent, is no error."""

    def rename_container(self, container: str, name: str) -> None:
        """`Conflict` when the name is taken."""

    def update_container(self, container: str, body: Mapping[str, Any]) -> None:
        """`body` is the Engine API's update body: limits and restart policy of a container, running or not."""

    def remove_container(self, container: str) -> None:
        """Forced; anonymous volumes go with it, named volumes never. An absent one is no error."""

    def wait_container(self, container: str, deadline: float) -> int:
        """Blocks until it has stopped; returns its exit code. `DeadlineExceeded` leaves it running."""

    def logs(self, container: str, tail: int = 50) -> str:
        """The last lines of stdout and stderr together, undecodable bytes replaced."""

    def exec(
        self, container: str, argv: Sequence[str], *, stdin: bytes | None = None, deadline: float = 60.0
    ) -> ExecResult: ...

    def exec_code(self, container: str, argv: Sequence[str], *, deadline: float = 60.0) -> int:
        """As `exec`, for a program of which only the exit code is wanted: cheaper for the host."""

    def exec_runs(self, exec_id: str) -> bool:
        """Whether a program that was started in a container, by whomever, has not ended."""

    def read_file(self, container: str, path: str) -> bytes:
        """One regular file out of a container, running or not. `NotFound` when it is absent."""

    def file_version(self, container: str, path: str) -> str:
        """A word that another one takes the place of when the file is written: its time to the nanosecond, and size.

        `NotFound` when it is absent. Reading a file costs the host a process, this costs it a system call.
        """

    def create_network(self, name: str, subnet: str, labels: Mapping[str, str], *, internal: bool = False) -> str: ...

    def remove_network(self, network: str) -> None:
        """An absent one is no error; `Conflict` while containers are attached."""

    def connect_network(self, network: str, container: str, aliases: Sequence[str] = ()) -> None:
        """An attached container is no error."""

    def disconnect_network(self, network: str, container: str) -> None:
        """A container that is not attached, or absent, is no error."""

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None: ...

    def remove_volume(self, name: str) -> None:
        """An absent one is no error; `Conflict` while a container uses it."""

    def events(self, since: int, labels: Sequence[str] = ()) -> EventStream:
        """Events from `since` (nanoseconds on the host's clock; 0: from now) until the stream breaks (HostError).

        The stream is open when this returns, so a list made afterwards misses nothing. To resume, pass the last
        `time_nano`; then list once, because an engine remembers 256 events and none across its own restart. `labels`
        are a container's: events of networks and volumes carry no labels and come only without a filter. Health checks'
        exec_* events are left out. A host has one stream: opening another ends the one before.
        """


class Host(Protocol):
    """One Docker host. Thread-safe. At most `HostAddress.max_operations` changes, execs and programs run at once, and
    two pulls beside them; others wait their turn (HostBusy at their deadline). Reads always find a place.
    """

    @property
    def address(self) -> HostAddress: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def offered_host_key(self) -> str | None:
        """The OpenSSH public key line that the host proved to hold on the last connection."""

    @property
    def round_trips(self) -> int:
        """Engine requests made so far, for metrics and for tests that nothing is asked twice."""

    @property
    def execs(self) -> int:
        """Programs started so far, on the host or in its containers."""

    def probe(self) -> float:
        """Connects if need be and returns the seconds of one engine round trip (`/_ping`)."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 60.0) -> ExecResult:
        """One program on the host, by argv only: quoted by one function, never a shell string. Values go by stdin."""

    def release(self) -> None:
        """Lets the operators of another control plane manage this host, which else refuses them."""

    def disk(self, path: str) -> DiskFact:
        """The file system that holds `path`."""

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
        """One GET to an address as the host itself sees it (`direct-tcpip`); returns the status code.

        `ConnectionRefusedError` of the remote side is a `HostError` with reason `ProbeRefused`. With
        `tls_server_name` it speaks TLS and does not verify the chain: it proves the route, not the certificate.
        """

    def tcp(self, address: str, port: int, *, deadline: float = 5.0) -> None:
        """Connects to an address as the host itself sees it and hangs up; same errors as `http`."""


class ProbeRefused(HostError):
    """Nothing answers at the probed address yet."""

    reason = "ProbeRefused"


class HostPool(Protocol):
    """Hosts by name, connected on demand, dropped when their address, key or user changes."""

    def get(self, address: HostAddress) -> Host:
        """The kept host when `address` equals the kept one, else a new one (and the old one is closed)."""

    def forget(self, name: str) -> None:
        """Closes and drops a host whose Server is gone."""

    def close(self) -> None: ...
