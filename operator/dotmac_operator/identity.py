"""Which process this is, in words that another process of the same machine can check."""

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_IDENTITY = re.compile(r"(?P<host>.+)_(?P<boot>[0-9a-f]{8})-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<started>\d+)")
_STATE, _STARTED = 0, 19
"""Fields of /proc/PID/stat after the program's name (proc(5): fields 3 and 22)."""


@dataclass(frozen=True)
class Process:
    """A process, told apart from all others that ever had its pid."""

    host: str
    boot: str
    """The first 8 digits of the boot's id."""
    namespace: int
    """Inode of its pid namespace."""
    pid: int
    started: int
    """Clock ticks since the boot."""

    def __str__(self) -> str:
        return f"{self.host}_{self.boot}-{self.namespace}-{self.pid}-{self.started}"


def this_process() -> Process:
    """Where there is no /proc, random digits take the place of what is read there."""
    host = socket.gethostname()[:128]
    pid = os.getpid()
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text()[:8]
        namespace = (PROC / "self/ns/pid").stat().st_ino
        return Process(host, boot, namespace, pid, int(_stat(pid)[_STARTED]))
    except (OSError, ValueError, IndexError):
        return Process(host, os.urandom(4).hex(), 0, pid, int.from_bytes(os.urandom(4)))


def ended(identity: str) -> bool:
    """Whether the process with this identity ran beside this one, on this boot, and is proven to be no more.

    False whenever that cannot be told: another machine, another container, no /proc.
    """
    found = _IDENTITY.fullmatch(identity)
    if found is None:
        return False
    process = Process(found["host"], found["boot"], int(found["namespace"]), int(found["pid"]), int(found["started"]))
    here = this_process()
    if (process.host, process.boot, process.namespace) != (here.host, here.boot, here.namespace):
        return False
    try:
        fields = _stat(process.pid)
        return fields[_STATE] in ("Z", "X") or int(fields[_STARTED]) != process.started
    except (OSError, ValueError, IndexError):
        return not _exists(process.pid)  # /proc may hide the processes of other users (hidepid)


def _stat(pid: int) -> list[str]:
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
