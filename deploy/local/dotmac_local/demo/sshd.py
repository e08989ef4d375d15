"""An sshd of our own: own host key, one unprivileged user with its own key pair, nothing but public keys accepted."""

import os
import pwd
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from dotmac_local.demo.processes import Daemon, descendants, end


def key_pair(path: Path) -> tuple[str, str]:
    """The Ed25519 pair kept at `path` (made when absent, mode 0600): private key as PEM, public key as one line."""
    if path.exists():
        pem = path.read_bytes()
        key = load_ssh_private_key(pem, password=None)
    else:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(pem)
        draft.rename(path)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return pem.decode(), public.decode()


@dataclass(frozen=True)
class SshdSettings:
    """Where an sshd listens, whom it lets in, and the environment its sessions see."""

    address: str
    port: int
    user: str
    environment: dict[str, str]
    prefix: tuple[str, ...] = ()
    """Words put before the command, for instance nsenter and its arguments."""


class Sshd:
    """`keys` keeps the key pairs across runs; `runtime` (below /run) holds what sshd reads as the unprivileged user."""

    def __init__(self, settings: SshdSettings, *, keys: Path, runtime: Path, log: Path) -> None:
        self.settings = settings
        self.private_key, self._authorized = key_pair(keys / "client_ed25519")
        _, self.host_key = key_pair(keys / "host_ed25519")
        self._keys = keys
        self._runtime = runtime
        self.daemon = Daemon("sshd", runtime / "sshd.started", log)

    def configuration(self) -> str:
        """sshd_config(5). MaxSessions and MaxStartups stay at OpenSSH's defaults, as on most hosts."""
        quoted = " ".join(f'"{name}={value}"' for name, value in self.settings.environment.items())
        lines = [
            f"ListenAddress {self.settings.address}",
            f"Port {self.settings.port}",
            f"HostKey {self._runtime / 'host_ed25519'}",
            f"AuthorizedKeysFile {self._runtime / 'authorized_keys'}",
            f"AllowUsers {self.settings.user}",
            f"PidFile {self._runtime / 'sshd.pid'}",
            "AuthenticationMethods publickey",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin no",
            "UsePAM no",
            "UseDNS no",
            "X11Forwarding no",
            "AllowTcpForwarding local",  # health probes reach containers through the host
            "PrintMotd no",
            "LogLevel VERBOSE",
        ]
        return "\n".join([*lines, f"SetEnv {quoted}"] if quoted else lines) + "\n"

    def write_files(self) -> None:
        """Lay out its files; the next connection (or start, for the configuration) uses them."""
        self._runtime.mkdir(parents=True, exist_ok=True, mode=0o755)
        # sshd drops privileges into this directory and refuses to start without it; Debian's own unit makes it too.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        shutil.copyfile(self._keys / "host_ed25519", self._runtime / "host_ed25519")
        (self._runtime / "host_ed25519").chmod(0o600)
        (self._runtime / "authorized_keys").write_text(self._authorized + "\n")
        (self._runtime / "sshd_config").write_text(self.configuration())

    def start(self) -> None:
        """Start it unless it runs, and wait until it greets a client."""
        self.write_files()
        # sshd re-executes itself for every connection and so insists on an absolute path.
        program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin") or "/usr/sbin/sshd"
        command: Sequence[str] = [*self.settings.prefix, program, "-D", "-e", "-f", str(self._runtime / "sshd_config")]
        self.daemon.start(command, self.greets, timeout=20)

    def greets(self) -> bool:
        """Whether something at its address answers with an SSH banner."""
        try:
            with socket.create_connection((self.settings.address, self.settings.port), timeout=2) as client:
                return client.recv(4) == b"SSH-"
        except OSError:
            return False

    def stop(self) -> None:
        """End it and every session: the listener's children would otherwise keep serving."""
        pid = self.daemon.pid()
        sessions = descendants(pid) if pid is not None else []
        self.daemon.stop()
        end(sessions, grace=2)


def user_exists(name: str) -> bool:
    """Whether the system knows this user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
