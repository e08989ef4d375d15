"""A dockerd of our own beside whatever the machine has: own data, state, socket and bridge; `remove` leaves nothing."""

import grp
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from dotmac_local.demo.processes import (
    CommandFailed,
    Daemon,
    DaemonFailed,
    all_pids,
    attempt,
    descendants,
    end,
    mentioning,
    run,
)


@dataclass(frozen=True)
class DockerdSettings:
    """`data` is kept across restarts; `runtime` must be short (sockets) and below /run; `group` may use the socket."""

    data: Path
    runtime: Path
    log: Path
    group: str
    bridge: str | None = None
    """Name of a bridge to make and use; None leaves dockerd its docker0 (right in a network namespace of its own)."""
    bridge_cidr: str | None = None
    address_pool: str | None = None
    """CIDR that networks are cut from (/26 each), so that two engines on one machine never overlap."""
    prefix: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Further options of dockerd."""


class Dockerd:
    """Control of one dockerd process and of all it leaves on the machine."""

    def __init__(self, settings: DockerdSettings) -> None:
        self.settings = settings
        self.socket = settings.runtime / "docker.sock"
        self.daemon = Daemon("dockerd", settings.runtime / "dockerd.started", settings.log)

    def command(self) -> list[str]:
        """argv of dockerd; no configuration file, whatever this machine's own Docker is set to."""
        wanted = self.settings
        argv = [
            *wanted.prefix,
            "dockerd",
            "--config-file=",
            f"--data-root={wanted.data}",
            f"--exec-root={wanted.runtime / 'exec'}",
            f"--pidfile={wanted.runtime / 'dockerd.pid'}",
            f"--host=unix://{self.socket}",
            f"--group={wanted.group}",
            f"--storage-driver={storage_driver(wanted.data)}",
            "--log-opt=max-size=10m",
            "--log-opt=max-file=2",
            *wanted.options,
        ]
        if wanted.bridge is not None:
            argv.append(f"--bridge={wanted.bridge}")
        elif wanted.bridge_cidr is not None:
            argv.append(f"--bip={wanted.bridge_cidr}")
        if wanted.address_pool is not None:
            argv.append(f"--default-address-pool=base={wanted.address_pool},size=26")
        return argv

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers; DaemonFailed with its log otherwise."""
        if self.daemon.pid() is None:
            self._forget_pid_files()
            self.settings.runtime.mkdir(parents=True, exist_ok=True, mode=0o755)
            self.settings.data.mkdir(parents=True, exist_ok=True)
            if self.settings.bridge is not None:
                self._make_bridge(self.settings.bridge)
        # Debian's dockerd lies in /usr/sbin, which a plain user's PATH under sudo may lack.
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"
        try:
            self.daemon.start(self.command(), self.answers, timeout=90, env={**os.environ, "PATH": path})
        except FileNotFoundError as missing:
            raise DaemonFailed("dockerd is not installed: `apt-get install docker.io` brings it") from missing

    def answers(self) -> bool:
        """Whether the Engine answers a ping on its socket."""
        return answers(self.socket)

    def stop(self) -> None:
        """End it as an orderly shutdown would (containers stop with it)."""
        self.daemon.stop(grace=30)

    def kill(self) -> None:
        """SIGKILL: containers keep running without it until it is started again."""
        self.daemon.kill()

    def remove(self) -> None:
        """End it with its containers, and remove mounts, bridge and data; also what a killed earlier run left."""
        if self.daemon.pid() is not None and self.answers():
            self._remove_containers()
        self.daemon.stop(grace=20)
        self._end_leftovers()
        for root in (self.settings.runtime, self.settings.data):
            unmount_below(root)
        if self.settings.bridge is not None:
            attempt(["ip", "link", "delete", self.settings.bridge])
        for root in (self.settings.runtime, self.settings.data):
            shutil.rmtree(root, ignore_errors=True)

    def _remove_containers(self) -> None:
        docker = ["docker", "--host", f"unix://{self.socket}"]
        try:
            containers = run([*docker, "ps", "--all", "--quiet"]).split()
        except CommandFailed:
            return
        if containers:
            attempt([*docker, "rm", "--force", "--volumes", *containers], timeout=120)

    def _end_leftovers(self) -> None:
        """containerd and its shims outlive a killed dockerd; they are known by the exec root in their command line."""
        runtime = str(self.settings.runtime / "exec")
        for pid in mentioning(runtime):
            end([*descendants(pid), pid], grace=3)
        end(self._container_processes(), grace=3)

    def _container_processes(self) -> list[int]:
        """Processes in containers of this Engine, by the container's id in their cgroup: a killed shim leaves them."""
        folder = self.settings.data / "containers"
        ids = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        found = []
        for pid in all_pids():
            try:
                group = Path(f"/proc/{pid}/cgroup").read_text()
            except OSError:
                continue
            if any(identity in group for identity in ids):
                found.append(pid)
        return found

    def _forget_pid_files(self) -> None:
        """dockerd refuses to start when the pid in a stale file has been given to any other process."""
        end(mentioning(f"--exec-root={self.settings.runtime / 'exec'}"), grace=10)
        (self.settings.runtime / "dockerd.pid").unlink(missing_ok=True)
        if not mentioning(str(self.settings.runtime / "exec/containerd")):
            (self.settings.runtime / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def _make_bridge(self, name: str) -> None:
        if not Path(f"/sys/class/net/{name}").exists():
            run([*self.settings.prefix, "ip", "link", "add", name, "type", "bridge"])
            run(
                [
                    *self.settings.prefix,
                    "ip",
                    "address",
                    "add",
                    self.settings.bridge_cidr or "10.230.255.1/24",
                    "dev",
                    name,
                ]
            )
        run([*self.settings.prefix, "ip", "link", "set", name, "up"])


def storage_driver(data: Path) -> str:
    """overlay2, or the slow vfs where the data would lie on an overlay already (inside a container)."""
    existing = next(path for path in (data, *data.parents) if path.exists())
    kind = run(["stat", "--file-system", "--format=%T", str(existing)]).strip()
    return "vfs" if kind == "overlayfs" else "overlay2"


def answers(engine_socket: Path) -> bool:
    """Whether a Docker Engine answers a ping on this UNIX socket within 2 s."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            client.connect(str(engine_socket))
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in client.recv(64)
    except OSError:
        return False


def unmount_below(root: Path) -> None:
    """Unmount everything mounted at or below `root`, deepest first (mountinfo writes a space as \\040)."""
    prefix = str(root).replace(" ", "\\040")
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed([point for point in points if point == prefix or point.startswith(prefix + "/")]):
        attempt(["umount", "--lazy", point.replace("\\040", " ")])


def ensure_group(name: str) -> int:
    """The id of a system group, made when absent."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        run(["groupadd", "--system", name])
        return grp.getgrnam(name).gr_gid


def set_membership(user: str, group: str, *, member: bool) -> None:
    """Put a user into a group or take it out; takes effect at its next login."""
    listed = user in grp.getgrnam(group).gr_mem
    if listed != member:
        run(["gpasswd", "--add" if member else "--delete", user, group])


def socket_group(engine_socket: Path) -> str:
    """Name of the group that owns an Engine's socket."""
    return grp.getgrgid(engine_socket.stat().st_gid).gr_name
