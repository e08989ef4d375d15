"""Start, find and stop daemons of ours by pid, also those that an earlier, killed run left behind."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class CommandFailed(RuntimeError):  # noqa: N818 - reads as the sentence it is
    """A command of the system exited non-zero; the message names it and shows the end of what it said."""


class DaemonFailed(RuntimeError):  # noqa: N818
    """A daemon ended or did not become ready in time; the message shows the end of its log."""


def run(
    argv: Sequence[str], *, data: bytes | None = None, timeout: float = 60, env: Mapping[str, str] | None = None
) -> str:
    """Run argv to its end and return its standard output; CommandFailed on a bad exit, time-out or no such program."""
    try:
        done = subprocess.run(argv, input=data, capture_output=True, timeout=timeout, check=False, env=env)
    except FileNotFoundError as missing:
        raise CommandFailed(f"{argv[0]} is not installed") from missing
    except subprocess.TimeoutExpired as late:
        raise CommandFailed(f"`{' '.join(argv)}` did not end within {timeout:.0f} s") from late
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-800:]
        raise CommandFailed(f"`{' '.join(argv)}` exited {done.returncode}: {said or 'it said nothing'}")
    return done.stdout.decode(errors="replace")


def attempt(argv: Sequence[str], *, timeout: float = 60) -> bool:
    """Run argv for its effect; False instead of an error, for clean-up of what may not exist."""
    try:
        run(argv, timeout=timeout)
    except CommandFailed:
        return False
    return True


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command name (index 0 is the state), or None without such a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def started_at(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot (proc(5), field 22); None when it is gone or a zombie."""
    fields = _stat_fields(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return fields[19]


def all_pids() -> Iterator[int]:
    """Every process id visible now."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            yield int(entry)


def descendants(pid: int) -> list[int]:
    """Children, grandchildren and so on of a process, nearest first."""
    children: dict[int, list[int]] = {}
    for other in all_pids():
        fields = _stat_fields(other)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(other)
    found: list[int] = []
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(0), []):
            found.append(child)
            queue.append(child)
    return found


def mentioning(text: str) -> list[int]:
    """Processes other than this one with `text` in their command line: a path that only daemons of ours are given."""
    needle = text.encode()
    found = []
    for pid in all_pids():
        try:
            command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if needle in command_line and pid != os.getpid():
            found.append(pid)
    return found


def end(pids: Sequence[int], *, grace: float = 5) -> None:
    """Terminate these processes, and kill those that still live after `grace` seconds."""
    started = {pid: started_at(pid) for pid in pids}
    alive = [pid for pid in pids if started[pid] is not None]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in alive:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + grace
        while alive and time.monotonic() < deadline:
            _reap()
            alive = [pid for pid in alive if started_at(pid) == started[pid]]
            time.sleep(0.02)


def _reap() -> None:
    """Collect children of ours that have ended: a zombie would otherwise look alive to its own pid file."""
    with _reaping:  # several hosts may be ended at the same time, each by a thread of its own
        _children[:] = [child for child in _children if child.poll() is None]


_children: list[subprocess.Popen[bytes]] = []
_reaping = threading.Lock()


@dataclass(frozen=True)
class Daemon:
    """A background process remembered by `pid_file` (pid and start time: a reused pid is never taken for ours)."""

    name: str
    pid_file: Path
    log: Path

    def pid(self) -> int | None:
        """The pid while our daemon runs, else None."""
        try:
            number, started = self.pid_file.read_text().split()
        except (OSError, ValueError):
            return None
        _reap()
        return int(number) if started_at(int(number)) == started else None

    def start(
        self, argv: Sequence[str], ready: Callable[[], bool], *, timeout: float = 60, env: dict[str, str] | None = None
    ) -> None:
        """Start detached unless it runs, and wait until `ready`; DaemonFailed with the end of the log otherwise."""
        if self.pid() is None:
            self.pid_file.parent.mkdir(parents=True, exist_ok=True)
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as out:
                child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd="/", env=env
                )
            with _reaping:
                _children.append(child)
            self.pid_file.write_text(f"{child.pid} {started_at(child.pid)}\n")
        deadline = time.monotonic() + timeout
        while not ready():
            if self.pid() is None:
                raise DaemonFailed(f"{self.name} ended at once. The end of {self.log}:\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise DaemonFailed(
                    f"{self.name} was not ready within {timeout:.0f} s. The end of {self.log}:\n{self.last_lines()}"
                )
            time.sleep(0.05)

    def stop(self, *, grace: float = 20) -> None:
        """Terminate it, kill it after `grace` seconds, forget it. Nothing happens when it does not run."""
        pid = self.pid()
        if pid is not None:
            end([pid], grace=grace)
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            while started_at(pid) is not None:
                _reap()
                time.sleep(0.02)
        self.pid_file.unlink(missing_ok=True)

    def last_lines(self, count: int = 8) -> str:
        """The end of its log, for an error message."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        except OSError:
            return "(no log)"
