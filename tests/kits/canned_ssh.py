"""An SSH server inside the test process whose `docker system dial-stdio` gives canned answers.

It exists for what a real sshd and dockerd do rarely or never: an answer that breaks off, an engine that is too old, a
login shell that prints, a count of what arrived. Real hosts are in tests/kits/dockerhost.py.
"""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.pool import SshHost, SshHostPool, SshSettings
from dotmac_operator.hosts.port import HostAddress
from dotmac_operator.hosts.ssh import load_private_key

Say = Callable[[paramiko.Channel, str], None]
"""What a command does: gets its channel and the command line."""


@dataclass
class Answer:
    status: int = 200
    body: object = None
    hang: float = 0.0
    """Seconds before answering."""
    break_off: bool = False
    """Hang up instead of answering."""
    hang_up_after: bool = False
    raw: bytes | None = None
    """The whole answer as it is, instead of status and body."""


@dataclass
class CannedEngine:
    """Answers HTTP like an engine. `answers` maps `METHOD /path` (without version and query) to what is said."""

    api: str = "1.41"
    answers: dict[str, Answer] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    open_channels: int = 0
    most_channels: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, channel: paramiko.Channel, command: str) -> None:
        with self._lock:
            self.open_channels += 1
            self.most_channels = max(self.most_channels, self.open_channels)
        try:
            reader = channel.makefile("rb")
            while self._one(channel, reader):
                pass
        finally:
            with self._lock:
                self.open_channels -= 1

    def _one(self, channel: paramiko.Channel, reader: paramiko.channel.ChannelFile) -> bool:
        line = reader.readline().decode()
        if not line:
            return False
        method, target, _ = line.split()
        size = 0
        while (header := reader.readline().decode().strip()) != "":
            name, _, value = header.partition(":")
            size = int(value) if name.lower() == "content-length" else size
        body = reader.read(size) if size else b""
        path = target.partition("?")[0]
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        with self._lock:
            self.seen.append(f"{method} {path}")
            self.bodies.append(body)
        answer = self.answers.get(f"{method} {path}", Answer(404, {"message": f"no canned answer for {method} {path}"}))
        if path == "/_ping" and "GET /_ping" not in self.answers:
            answer = Answer(raw=f"HTTP/1.1 200 OK\r\nApi-Version: {self.api}\r\nContent-Length: 2\r\n\r\nOK".encode())
        if answer.hang:
            threading.Event().wait(answer.hang)
        if answer.break_off:
            return False
        channel.sendall(answer.raw if answer.raw is not None else http(answer.status, answer.body))
        return not answer.hang_up_after


def http(status: int, body: object) -> bytes:
    text = json.dumps(body).encode() if body is not None else b""
    return f"HTTP/1.1 {status} Canned\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text


def failing(code: int, stderr: str) -> Say:
    """A command that prints to stderr and ends, as docker does without permission."""

    def say(channel: paramiko.Channel, command: str) -> None:
        channel.sendall_stderr(stderr.encode())
        channel.send_exit_status(code)

    return say


class CannedHost:
    """Listens on loopback until `close`. What it saw is in plain attributes."""

    def __init__(self, say: Say, *, host_keys: list[paramiko.PKey], user_key: paramiko.PKey) -> None:
        self.say = say
        self.host_keys = host_keys
        self.user_key = user_key
        self.forwarding: int | Say = paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        """A refusal code, or what the address beyond answers."""
        self.ciphers: tuple[str, ...] = ()
        """The only ones it takes; empty: paramiko's own."""
        self.connections = 0
        self.authentications = 0
        self.commands: list[str] = []
        self.open_sessions = 0
        self._transports: list[paramiko.Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            transport = _Transport(sock)
            for key in self.host_keys:
                transport.add_server_key(key)
            if self.ciphers:
                transport.get_security_options().ciphers = self.ciphers
            self._transports.append(transport)
            threading.Thread(target=self._serve, args=(transport,), daemon=True).start()

    def _serve(self, transport: paramiko.Transport) -> None:
        try:
            transport.start_server(server=_Session(self))
        except (paramiko.SSHException, EOFError, OSError):
            transport.close()

    def drop_connections(self) -> None:
        """As a restarted sshd does that ends its sessions."""
        for transport in self._transports:
            transport.close()
        self._transports.clear()

    def stop_listening(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # Else the thread in accept() takes one more.
        self._listener.close()

    def close(self) -> None:
        with suppress(OSError):
            self.stop_listening()
        self.drop_connections()


class _Transport(paramiko.Transport):
    """Starts a program once its request was accepted, as sshd does: paramiko says so after the session has agreed."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.starting: list[threading.Thread] = []

    def _send_user_message(self, data: paramiko.Message) -> None:
        super()._send_user_message(data)
        if threading.current_thread() is self:
            while self.starting:
                self.starting.pop(0).start()


class _Session(paramiko.ServerInterface):
    def __init__(self, host: CannedHost) -> None:
        self._host = host
        self._beyond: dict[int, Say] = {}

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self._host.authentications += 1
        good = username == "deployer" and key.asbytes() == self._host.user_key.asbytes()
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_UNKNOWN_CHANNEL_TYPE

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        beyond = self._host.forwarding
        if isinstance(beyond, int):
            return beyond
        threading.Thread(target=self._answer_beyond, args=(chanid, beyond, destination), daemon=True).start()
        return paramiko.OPEN_SUCCEEDED

    def _answer_beyond(self, chanid: int, say: Say, destination: tuple[str, int]) -> None:
        transport = self._host._transports[-1]
        channel = transport.accept(5)
        if channel is not None:
            with suppress(OSError, EOFError):
                say(channel, f"{destination[0]}:{destination[1]}")
            channel.close()

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        line = command.decode()
        self._host.commands.append(line)
        transport = channel.get_transport()
        assert isinstance(transport, _Transport)
        transport.starting.append(threading.Thread(target=self._run, args=(channel, line), daemon=True))
        return True

    def _run(self, channel: paramiko.Channel, line: str) -> None:
        with suppress(OSError, EOFError, ValueError):  # The client may go away in the middle.
            self._host.say(channel, line)
        with suppress(OSError, EOFError):
            channel.close()


def openssh(key: Any, passphrase: bytes | None = None) -> str:
    cover = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, cover).decode()


def new_ed25519() -> tuple[str, paramiko.PKey]:
    text = openssh(ed25519.Ed25519PrivateKey.generate())
    return text, load_private_key(SecretStr(text), None, "test")


def public_line(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.get_base64()}"


USER_TEXT, USER_KEY = new_ed25519()
HOST_ED = new_ed25519()[1]
HOST_RSA = paramiko.RSAKey.generate(2048)

QUICK = SshSettings(attempts=1, refusal_seconds=0.0)


@dataclass
class Canned:
    """A canned host, and a pool with the address that reaches it."""

    server: CannedHost
    pool: SshHostPool
    address: HostAddress

    def host(self, **changes: Any) -> SshHost:
        return self.pool.get(replace(self.address, **changes))
