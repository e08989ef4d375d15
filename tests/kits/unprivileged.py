"""Runs a system server as an unprivileged user, since some (PostgreSQL) refuse to run as root."""

import os
import pwd
import shutil
import socket
from pathlib import Path


def free_port() -> int:
    """A TCP port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def user_for(name: str) -> str | None:
    """The user to run a server as: none when we are not root, else `name` or nobody."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        return "nobody"


def memory_directory() -> str | None:
    """Where short-lived data can live in memory, if the system has such a place; else None, for the usual one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 2**28 else None


def give(directory: Path, user: str | None) -> None:
    """Hand a directory to the user that the server will run as."""
    if user is not None:
        shutil.chown(directory, user)
    directory.chmod(0o700)
