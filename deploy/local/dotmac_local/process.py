"""The server as a background process: a pid file that is believed only when the process really is ours."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from dotmac_local.kubeconfig import path_in
from dotmac_local.storage import HistoryLimits
from dotmac_local.storage.log import LogUnusable

_PID = "server.pid"
LOG = "server.log"
_PREFERRED_PORT = 6443
_STOP_SECONDS = 15.0
_CLAIM_TRIES = 50
# Everything a server keeps in its directory; purge deletes these and no other files.
_OWN = (_PID, LOG, "kubeconfig", "state.db", "state.db-wal", "state.db-shm", "tls")


class CannotStart(RuntimeError):
    """Why the server does not run, and what to do."""


class CannotStop(RuntimeError):
    """Why the server still runs, and what to do."""


@dataclass(frozen=True)
class Options:
    """Where and how to run. `port` None: the last one, 6443, or any free one; 0: any free one. `timeout` in seconds."""

    directory: Path
    host: str = "127.0.0.1"
    port: int | None = None
    timeout: float = 30.0
    history: int = HistoryLimits.revisions


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    pid: int
    url: str
    fresh: bool


@dataclass(frozen=True)
class State:
    """What `status` says, and its exit code."""

    text: str
    code: int


def run(options: Options) -> None:
    """Serve in this process until it is told to stop."""
    options.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _claim(options.directory):
        _serve(options)


def _serve(options: Options) -> None:
    # The server with all its libraries takes a second to load; status, down and kubeconfig do without.
    from dotmac_local.server.run import Listen, serve

    port = options.port
    if port is None:
        port = _remembered_port(options.directory) or _PREFERRED_PORT
    limits = HistoryLimits(revisions=options.history)
    try:
        serve(options.directory, Listen(options.host, port), limits)
    except LogUnusable as error:
        raise CannotStart(str(error)) from error
    except OSError as error:
        if options.port is not None or error.errno not in (errno.EACCES, errno.EADDRINUSE):
            raise CannotStart(
                f"cannot listen on {options.host} port {port}: {error.strerror}; choose another with --port"
            ) from error
        serve(options.directory, Listen(options.host, 0), limits)


def _remembered_port(directory: Path) -> int:
    """The port of the last run, so that kubeconfigs in use stay valid over a restart."""
    try:
        return int(_server_url(directory).rpartition(":")[2])
    except (OSError, ValueError):
        return 0


@contextmanager
def _claim(directory: Path) -> Iterator[None]:
    """Hold the pid file for as long as this process serves: the kernel lets go of it, however the process ends."""
    descriptor = os.open(directory / _PID, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(f"it runs already (pid {_alive(directory)}); `dotmac-local down` stops it") from None
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
        file.seek(0)
        file.truncate()


def _alive(directory: Path) -> int | None:
    """The pid of the server of a directory. What the file says counts only while somebody holds it."""
    try:
        with (directory / _PID).open() as file:
            for _ in range(_CLAIM_TRIES):
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return None
                file.seek(0)
                if (noted := file.read().strip()).isdecimal():
                    return int(noted)
                time.sleep(0.02)  # it is held, and about to be written
    except OSError:
        return None
    return None


def start(options: Options) -> Running:
    """Start in the background and wait until it answers; does nothing when it runs already. Raises CannotStart."""
    directory = options.directory
    if pid := _alive(directory):
        _await_other(pid, options)
        url = _server_url(directory)
        if options.port and not url.endswith(f":{options.port}"):
            raise CannotStart(f"it runs already on {url}; `dotmac-local down` first to change the port")
        return Running(pid, url, fresh=False)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = (directory / LOG).open("ab")
    except OSError as error:
        raise CannotStart(f"cannot write to {directory}: {error.strerror}; choose another place with --dir") from error
    argv = [sys.executable, "-m", "dotmac_local.cli", "up", "--foreground", "--dir", str(directory)]
    argv += ["--host", options.host]
    if options.port is not None:
        argv += ["--port", str(options.port)]
    with log:
        at = log.tell()
        child = subprocess.Popen(  # noqa: S603 - our own program and arguments
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/", env=_environment()
        )
    return _await_answer(child, options, at)


def _await_other(pid: int, options: Options) -> None:
    """Somebody else has started it, maybe this very moment."""
    directory, deadline = options.directory, time.monotonic() + options.timeout
    while not _answers(directory):
        if time.monotonic() > deadline or _alive(directory) != pid:
            raise CannotStart(
                f"process {pid} runs but does not answer; see {directory / LOG}, or `dotmac-local down` first"
            )
        time.sleep(0.1)


def _environment() -> dict[str, str]:
    """The child finds the same packages, also when they are on PYTHONPATH or relative to here."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)}


def _await_answer(child: subprocess.Popen[bytes], options: Options, log_offset: int) -> Running:
    directory, deadline = options.directory, time.monotonic() + options.timeout
    while time.monotonic() < deadline:
        pid = _alive(directory)
        if child.poll() is not None and pid is None:
            raise CannotStart(_last_words(directory, log_offset))
        if pid is not None and _answers(directory):
            # Another `up` of the same moment may have been first; its server is as good.
            return Running(pid, _server_url(directory), fresh=pid == child.pid)
        time.sleep(0.05)
    child.terminate()
    raise CannotStart(f"it did not answer within {options.timeout:g} s; see {directory / LOG}")


def _last_words(directory: Path, offset: int) -> str:
    with (directory / LOG).open("rb") as file:
        file.seek(offset)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    words = lines[-1].removeprefix("dotmac-local: ") if lines else "it ended without a word"
    return f"{words} (log: {directory / LOG})"


def _server_url(directory: Path) -> str:
    config = yaml.safe_load(path_in(directory).read_text())
    url: str = config["clusters"][0]["cluster"]["server"]
    return url


def _answers(directory: Path) -> bool:
    """Whether the server of the kubeconfig is ready, over its own CA."""
    try:
        url = urlsplit(_server_url(directory))
        context = ssl.create_default_context(cafile=str(directory / "tls" / "ca.crt"))
        connection = HTTPSConnection(url.hostname or "", url.port, timeout=3, context=context)
        with closing(connection):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return False


def stop(directory: Path) -> bool:
    """End the server; False when none runs. Raises CannotStop."""
    pid = _alive(directory)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise CannotStop(f"process {pid} belongs to another user; stop it as that user") from error
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        if _alive(directory) is None:
            return True
        time.sleep(0.05)
    raise CannotStop(
        f"process {pid} did not end within {_STOP_SECONDS:g} s; `kill -9 {pid}` loses nothing that was acknowledged"
    )


def purge(directory: Path) -> None:
    """Delete a stopped server's files, and the directory when nothing else is in it."""
    for name in _OWN:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def look(directory: Path) -> State:
    """Whether it runs, and answers."""
    pid = _alive(directory)
    if pid is None:
        return State(f"not running ({directory})", 3)
    if not _answers(directory):
        return State(f"process {pid} runs but does not answer; see {directory / LOG}", 4)
    return State(f"running: {_server_url(directory)}, pid {pid}, KUBECONFIG={path_in(directory)}", 0)


__all__ = ["CannotStart", "CannotStop", "Options", "look", "purge", "run", "start", "stop"]
