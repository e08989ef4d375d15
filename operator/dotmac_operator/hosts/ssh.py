"""One SSH connection to a host: verified before authentication, watched while it lives. The only user of paramiko."""

import io
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.deadline import Deadline
from dotmac_operator.hosts.hostkeys import PinnedKeys, fingerprint, preference
from dotmac_operator.hosts.port import (
    AuthenticationFailed,
    DeadlineExceeded,
    ForwardingRefused,
    HostAddress,
    HostError,
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    ProbeRefused,
)
from dotmac_operator.hosts.stream import Ending

# paramiko logs handshakes, and tracebacks of every lost connection. Each of those is a typed error here.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

_LARGEST_PACKET = 32 * 1024
_STDERR_KEPT = 8 * 1024
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
"""GCM first: beside another cipher a MAC of each packet is compared, and paramiko does that in Python."""
_ADMINISTRATIVELY_PROHIBITED = 1  # RFC 4254, 5.1


@dataclass(frozen=True)
class SshTimes:
    """Seconds."""

    connect: float = 10.0
    """For the TCP connection, and again for each of handshake and authentication."""
    keep_alive: float = 5.0
    silent: int = 15
    """After so long without an answer to a keep-alive the connection is dead."""


def load_private_key(text: SecretStr, passphrase: SecretStr | None, owner: str) -> paramiko.PKey:
    """An RSA, ECDSA or Ed25519 key in OpenSSH, PKCS#1, SEC1 or PKCS#8 form, encrypted or not.

    Raises AuthenticationFailed with the remedy; its text and its chain hold nothing of the key or the passphrase.
    """
    pem = "\n".join(line.strip() for line in text.reveal().strip().splitlines()) + "\n"
    password = passphrase.reveal().encode() if passphrase is not None and passphrase.reveal() else None
    try:
        key = _parse_private_key(pem.encode(), password)
    except (ValueError, UnsupportedAlgorithm, TypeError) as error:
        raise AuthenticationFailed(_key_remedy(pem, password, str(error), owner)) from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise AuthenticationFailed(
            f"{owner}: the private key is neither RSA, ECDSA nor Ed25519: make one with ssh-keygen"
        )
    # paramiko reads fewer forms than cryptography, and every key type in this one.
    form = serialization.PrivateFormat.OpenSSH
    try:
        plain = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    except ValueError:
        message = f"{owner}: the private key is on a curve that SSH does not know: make one with ssh-keygen"
        raise AuthenticationFailed(message) from None
    if isinstance(key, rsa.RSAPrivateKey):
        return paramiko.RSAKey.from_private_key(io.StringIO(plain))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return paramiko.ECDSAKey.from_private_key(io.StringIO(plain))
    return paramiko.Ed25519Key.from_private_key(io.StringIO(plain))


def _parse_private_key(pem: bytes, password: bytes | None) -> object:
    load = (
        serialization.load_ssh_private_key
        if b"BEGIN OPENSSH PRIVATE KEY" in pem
        else serialization.load_pem_private_key
    )
    try:
        return load(pem, password)
    except TypeError:
        if password is None:
            raise
        return load(pem, None)  # The key is not encrypted: a passphrase in the Secret does no harm.


def _key_remedy(pem: str, password: bytes | None, reason: str, owner: str) -> str:
    if pem.startswith(("ssh-", "ecdsa-", "-----BEGIN PUBLIC", "---- BEGIN SSH2 PUBLIC")):
        return f"{owner}: `ssh-privatekey` of the Secret holds a public key: put the private key there"
    if "PRIVATE KEY-----" not in pem:
        return (
            f"{owner}: `ssh-privatekey` of the Secret is not a private key: -----BEGIN ... PRIVATE KEY----- is missing"
        )
    encrypted = "encrypted" in reason.lower() or "password" in reason.lower() or "ENCRYPTED" in pem
    if encrypted and password is None:
        return f"{owner}: the private key is encrypted: add its `passphrase` to the Secret"
    if password is not None:
        return f"{owner}: the private key cannot be opened with the `passphrase` of the Secret: one of them is wrong"
    return f"{owner}: the private key of the Secret is damaged or of an unknown type: copy it again, whole"


class ChannelStream:
    """A channel as a `stream.Stream`."""

    def __init__(self, channel: paramiko.Channel, deadline: Deadline, on_close: Callable[[], None]) -> None:
        self.deadline = deadline
        self._channel = channel
        self._on_close = on_close
        self._closing = threading.Lock()
        self._closed = False
        self._idle: tuple[float, Callable[[], None]] | None = None

    def watch(self, seconds: float, check: Callable[[], None]) -> None:
        self._idle = (seconds, check)

    def recv(self, size: int) -> bytes:
        while True:
            left = self.deadline.remaining()
            self._channel.settimeout(min(left, self._idle[0]) if self._idle else left)
            try:
                with _as_oserror():
                    return self._channel.recv(size)
            except TimeoutError:
                if self._idle is None:
                    raise self.deadline.exceeded() from None
                self._idle[1]()

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._channel.settimeout(self.deadline.remaining())
            try:
                with _as_oserror():
                    sent = self._channel.send(bytes(view[:_LARGEST_PACKET]))
            except TimeoutError:
                raise self.deadline.exceeded() from None
            if sent == 0:
                raise ConnectionResetError("the channel is closed")
            view = view[sent:]

    def shutdown_write(self) -> None:
        with _as_oserror():
            self._channel.shutdown_write()

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        _hang_up(self._channel)
        self._on_close()

    @property
    def stale(self) -> bool:
        channel = self._channel
        transport = channel.get_transport()
        ended = channel.closed or channel.eof_received or not transport.is_active()
        return self._closed or bool(ended) or channel.recv_ready()

    def ending(self) -> Ending:
        # Data, exit status and stderr arrive in any order (RFC 4254, 6.10): give the status a moment.
        self._channel.status_event.wait(min(5.0, self.deadline.left()))
        code = self._channel.exit_status if self._channel.exit_status >= 0 else None
        return Ending(exit_code=code, stderr=self._drain_stderr())

    def _drain_stderr(self) -> str:
        said = b""
        while self._channel.recv_stderr_ready() and len(said) < _STDERR_KEPT:
            said += self._channel.recv_stderr(_STDERR_KEPT)
        return said.decode(errors="replace").strip()

    def read_stderr(self, limit: int) -> bytes:
        """Everything the program writes to stderr, until its end; what exceeds `limit` bytes is read and dropped."""
        said = bytearray()
        while True:
            self._channel.settimeout(self.deadline.remaining())
            try:
                with _as_oserror():
                    data = self._channel.recv_stderr(65536)
            except TimeoutError:
                raise self.deadline.exceeded() from None
            if not data:
                return bytes(said)
            said += data[: max(0, limit - len(said))]


class SessionsUsedUp(HostUnreachable):
    """sshd refuses another session on this connection; it counts them per connection."""


class SshTransport:
    """An authenticated connection. `host_key` is the OpenSSH line of the key that the host proved to hold."""

    def __init__(self, transport: paramiko.Transport, host_key: str, name: str) -> None:
        self._transport = transport
        self._name = name
        self._lock = threading.Lock()
        self._streams = 0
        self._retired = False
        self.host_key = host_key

    @property
    def alive(self) -> bool:
        return bool(self._transport.is_active())

    def close(self) -> None:
        self._transport.close()

    def retire(self) -> None:
        """Closes it once its last stream is closed; nothing new is started on it."""
        with self._lock:
            self._retired = True
            idle = self._streams == 0
        if idle:
            self.close()

    def _stream(self, channel: paramiko.Channel, deadline: Deadline, on_close: Callable[[], None]) -> ChannelStream:
        with self._lock:
            self._streams += 1

        def closed() -> None:
            on_close()
            with self._lock:
                self._streams -= 1
                last = self._retired and self._streams == 0
            if last:
                self.close()

        return ChannelStream(channel, deadline, closed)

    def open_session(self, command: str, deadline: Deadline, on_close: Callable[[], None]) -> ChannelStream:
        """Starts `command` (made by `shell.command_line`) on a channel of its own."""
        try:
            channel = self._transport.open_session(timeout=deadline.remaining())
            with _cut_off(channel, deadline):
                channel.exec_command(command)
        except paramiko.ChannelException as error:
            self._raise_if_lost(error)
            raise SessionsUsedUp(
                f"{self._name}: sshd refuses another session ({error.text}): raise MaxSessions to 10 in sshd_config"
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._failed(error, deadline) from error
        return self._stream(channel, deadline, on_close)

    def open_tcp(self, address: str, port: int, deadline: Deadline, on_close: Callable[[], None]) -> ChannelStream:
        """A connection from the host to an address as the host sees it (`direct-tcpip`)."""
        try:
            channel = self._transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=deadline.remaining()
            )
        except paramiko.ChannelException as error:
            self._raise_if_lost(error)
            if error.code == _ADMINISTRATIVELY_PROHIBITED:
                raise ForwardingRefused(
                    f"{self._name}: sshd forbids TCP forwarding, which health probes need: "
                    "set `AllowTcpForwarding local` (and no PermitOpen that excludes containers) in sshd_config"
                ) from error
            raise ProbeRefused(f"{self._name}: nothing answers at {address} port {port}: {error.text}") from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if self.alive:
                raise ProbeRefused(f"{self._name}: {address} port {port} does not answer in time") from error
            raise self._failed(error, deadline) from error
        return self._stream(channel, deadline, on_close)

    def _raise_if_lost(self, error: Exception) -> None:
        if not self.alive:
            raise HostUnreachable(f"{self._name}: the SSH connection was lost") from error

    def _failed(self, error: Exception, deadline: Deadline) -> HostError:
        if self.alive and deadline.left() <= 0:
            return deadline.exceeded()
        if self.alive:
            return HostUnreachable(f"{self._name}: sshd did not start the command: {error}")
        return HostUnreachable(f"{self._name}: the SSH connection was lost")


@contextmanager
def _as_oserror() -> Iterator[None]:
    """A connection that dies under a channel ends as EOFError or SSHException, depending on who notices first."""
    try:
        yield
    except (EOFError, paramiko.SSHException) as error:
        raise ConnectionResetError("the SSH connection was lost") from error


def _hang_up(channel: paramiko.Channel) -> None:
    with suppress(OSError, EOFError, paramiko.SSHException):  # The connection is gone, and the channel with it.
        channel.close()


@contextmanager
def _cut_off(channel: paramiko.Channel, deadline: Deadline) -> Iterator[None]:
    """Closes `channel` on an error and at the deadline: paramiko waits for a reply to a request without a limit."""
    timer = threading.Timer(deadline.left(), _hang_up, (channel,))
    timer.daemon = True
    timer.start()
    try:
        yield
    except BaseException:
        _hang_up(channel)
        raise
    finally:
        timer.cancel()


def connect(
    address: HostAddress, pinned: PinnedKeys, key: paramiko.PKey, deadline: Deadline, times: SshTimes
) -> SshTransport:
    """Connects, verifies the host key, then authenticates; nothing of the user is sent to an unverified host."""
    refusal: HostError | None = None
    for key_type in pinned.key_types():
        transport = _handshake(address, preference(key_type), deadline, times)
        try:
            offered = transport.get_remote_server_key()
            refusal = _judge(address, pinned, offered)
            if refusal is None:
                _authenticate(transport, address, key, min(times.connect, deadline.remaining()))
                transport.set_keepalive(int(times.keep_alive))
                return SshTransport(transport, f"{offered.get_name()} {offered.get_base64()}", address.name)
        except BaseException:
            transport.close()
            raise
        transport.close()
    if refusal is None:
        raise HostKeyChanged(f"{address.name}: none of the pinned host keys can be read; {_KEY_FORM}")
    raise refusal


_KEY_FORM = "write them as `ssh-keyscan` prints them without the host (`ssh-ed25519 AAAA...`) or as `SHA256:...`"


def _handshake(
    address: HostAddress, algorithms: tuple[str, ...], deadline: Deadline, times: SshTimes
) -> paramiko.Transport:
    where = f"{address.name}: {address.address} port {address.port}"
    try:
        sock = socket.create_connection((address.address, address.port), min(times.connect, deadline.remaining()))
    except socket.gaierror as error:
        raise HostUnreachable(f"{where}: the name does not resolve: {error.strerror}") from error
    except (OSError, UnicodeError) as error:
        raise HostUnreachable(f"{where}: no connection: {getattr(error, 'strerror', None) or error}") from error
    try:
        _tune(sock, times)
        transport = paramiko.Transport(sock)
    except BaseException:
        sock.close()
        raise
    transport.banner_timeout = transport.handshake_timeout = times.connect
    options = transport.get_security_options()
    options.key_types, options.ciphers = algorithms, _CIPHERS
    try:
        transport.start_client(timeout=min(times.connect, deadline.remaining()))
        transport.get_remote_server_key()  # start_client returns at its time-out as if all were well.
    except (paramiko.SSHException, EOFError, OSError, DeadlineExceeded) as error:
        transport.close()
        if "signature verification" in str(error).lower():
            raise HostKeyChanged(f"{where}: the host cannot prove that it holds the key it shows") from error
        if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
            raise HostUnreachable(
                f"{where}: no SSH handshake: {error}: of ciphers, sshd_config has to allow one of {', '.join(_CIPHERS)}"
            ) from error
        raise HostUnreachable(f"{where}: no SSH handshake: {error or 'the connection was closed'}") from error
    return transport


def _tune(sock: socket.socket, times: SshTimes) -> None:
    # Without TCP_NODELAY a command waits 40 ms for a delayed acknowledgement (51 ms against 4.8 ms on loopback).
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # SSH keep-alives are sent without waiting for a reply; the kernel notices that nobody acknowledges them.
    for name, value in (
        ("TCP_USER_TIMEOUT", times.silent * 1000),
        ("TCP_KEEPIDLE", int(times.keep_alive)),
        ("TCP_KEEPINTVL", int(times.keep_alive)),
        ("TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _judge(address: HostAddress, pinned: PinnedKeys, offered: paramiko.PKey) -> HostError | None:
    """Why this host key may not be trusted; None when it may."""
    shown = f"{offered.get_name()} {fingerprint(offered.asbytes())}"
    if pinned:
        if pinned.match(offered.asbytes()):
            return None
        return HostKeyChanged(
            f"{address.name}: {address.address} shows {shown}, which is not a pinned host key. If the host was "
            "reinstalled, check the fingerprint on its console and update spec.hostKeys; else somebody is in between"
        )
    if address.trust_on_first_use:
        return None
    return HostKeyUnknown(
        f"{address.name}: no host key is pinned; {address.address} shows {shown}. Check the fingerprint on the host's "
        "console and add it to spec.hostKeys, or set hostKeyPolicy: TrustOnFirstUse"
    )


def _authenticate(transport: paramiko.Transport, address: HostAddress, key: paramiko.PKey, seconds: float) -> None:
    who = f"{address.user}@{address.address}"
    transport.auth_timeout = seconds
    try:
        factors = transport.auth_publickey(address.user, key)
    except paramiko.SSHException as error:
        if not transport.is_active() or "timeout" in str(error).lower():
            raise HostUnreachable(f"{address.name}: the connection was lost during authentication of {who}") from error
        raise AuthenticationFailed(
            f"{address.name}: the host refuses the key {fingerprint(key.asbytes())} for {who}: add its public key to "
            f"~{address.user}/.ssh/authorized_keys there, or correct spec.user or the Secret"
        ) from error
    except (EOFError, OSError) as error:
        raise HostUnreachable(f"{address.name}: the connection was lost during authentication of {who}") from error
    if factors:
        raise AuthenticationFailed(
            f"{address.name}: the host wants more than the key of {who} ({', '.join(factors)}): "
            "set `AuthenticationMethods publickey` for this user in sshd_config"
        )
