"""Real Docker hosts: a dockerd and an sshd of their own, in a network namespace, that a test may break in every way.

    with docker_host("one", base_dir) as host:
        connect(host.address, host.port, host.user, host.private_key, host.host_key)

Needs root. Whatever a killed earlier run left behind under the same name and directory is removed first.
`python -m tests.kits.dockerhost BASE_DIR` removes what is left of every host that was ever made there.
"""

import fcntl
import hashlib
import ipaddress
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from dotmac_local.demo.dockerd import Dockerd, DockerdSettings, ensure_group, set_membership, unmount_below
from dotmac_local.demo.images import archives_of
from dotmac_local.demo.processes import attempt, end, mentioning, run
from dotmac_local.demo.sshd import Sshd, SshdSettings, user_exists

SSH_PORT = 22
_LINKS = ipaddress.ip_network("10.231.0.0/16")
"""One /30 of these per host: .1 is this machine, .2 the host."""


class DockerHost:
    """One host. Plain attributes say how to reach it; the methods break and mend it."""

    def __init__(self, name: str, base_dir: Path, *, namespaced: bool = True, port: int = SSH_PORT) -> None:
        digest = hashlib.sha256(f"{base_dir.resolve()}/{name}".encode()).hexdigest()
        self.name = name
        self.namespaced = namespaced
        self.directory = base_dir.resolve() / name
        self.port = port
        self.user = f"dmt-{digest[:8]}"
        self._group = f"dmd-{digest[:8]}"
        self._id = digest[:8]
        self._runtime = Path("/run/dotmac-test") / self._id
        self._namespace = f"dmt-{self._id}"
        self._link = f"dmt{self._id}"
        self._lock: IO[str] | None = None
        self.address = "127.0.0.1"
        self._gateway = ""

    # How to reach it

    @property
    def namespace(self) -> str:
        """Its network namespace, by the name that `ip netns` knows."""
        self._need_namespace()
        return self._namespace

    @property
    def private_key(self) -> str:
        """The client's private key, OpenSSH PEM."""
        return self._sshd.private_key

    @property
    def host_key(self) -> str:
        """The host's public key as one OpenSSH line."""
        return self._sshd.host_key

    @property
    def docker_socket(self) -> str:
        """Path of the Engine's socket on this machine, so that a test can look behind the operator's back."""
        return str(self._dockerd.socket)

    def docker(self, *arguments: str, data: bytes | None = None, timeout: float = 120) -> str:
        """Run the docker client of this machine against the host's Engine; its standard output."""
        return run(["docker", "--host", f"unix://{self.docker_socket}", *arguments], data=data, timeout=timeout)

    def in_namespace(self, *argv: str, timeout: float = 60) -> str:
        """Run a command in the host's network namespace (nsenter: `ip netns exec` would remount /sys)."""
        return run([*self.prefix, *argv], timeout=timeout)

    # Life

    def start(self) -> None:
        """Make it from nothing."""
        if os.geteuid() != 0:
            raise PermissionError("a Docker host for tests needs root (dockerd, sshd and network namespaces)")
        self._hold_lock()
        self.remove()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._runtime.mkdir(parents=True, mode=0o755)
        (self.directory / "host.json").write_text(json.dumps({"name": self.name, "namespaced": self.namespaced}))
        ensure_group(self._group)
        if not user_exists(self.user):
            # `*` and not the default `!`: sshd refuses a locked account even with the right key.
            run(
                [
                    "useradd",
                    "--system",
                    "--shell",
                    "/bin/sh",
                    "--no-create-home",
                    "--home-dir",
                    "/",
                    "--password",
                    "*",
                    self.user,
                ]
            )
        set_membership(self.user, self._group, member=True)
        if self.namespaced:
            self._make_namespace()
        self._dockerd = Dockerd(self._dockerd_settings())
        # A host of its own has /var/lib for the leader's number; these share this machine's.
        fence = self._runtime / "fence"
        fence.mkdir(mode=0o700)
        shutil.chown(fence, self.user)
        environment = {"DOCKER_HOST": f"unix://{self._dockerd.socket}", "DOTMAC_FENCE_DIR": str(fence)}
        self._sshd = self._make_sshd(environment)
        self._dockerd.start()
        self._sshd.start()

    def remove(self) -> None:
        """End and remove everything of this host, also what a killed earlier run left."""
        end([pid for pid in mentioning(f"{self._runtime}/sshd_config")], grace=2)
        end(self._user_processes(), grace=2)
        Dockerd(self._dockerd_settings()).remove()
        self._remove_namespace()
        for path in (self._runtime, self.directory):
            unmount_below(path)
            shutil.rmtree(path, ignore_errors=True)
        if user_exists(self.user):
            run(["userdel", self.user])
        attempt(["groupdel", self._group])

    def close(self) -> None:
        """Remove the host and let others use its name. Without the lock it is another run's, and stays."""
        if self._lock is None:
            return
        try:
            self.remove()
        finally:
            self._lock.close()
            self._lock = None

    # Breaking and mending

    def restart_sshd(self) -> None:
        """Drop every session and listen again."""
        self._sshd.stop()
        self._sshd.start()

    def stop_sshd(self) -> None:
        """Refuse connections: nobody listens, every session is cut."""
        self._sshd.stop()

    def start_sshd(self) -> None:
        """Listen again after `stop_sshd`."""
        self._sshd.start()

    def new_host_key(self) -> str:
        """Give the host another key, as a rebuilt machine or an impostor would have; returns it."""
        self._sshd.stop()
        (self.directory / "keys" / "host_ed25519").unlink()
        self._sshd = self._make_sshd(self._sshd.settings.environment)
        self._sshd.start()
        return self.host_key

    def stop_dockerd(self) -> None:
        """Shut the Engine down; its containers stop."""
        self._dockerd.stop()

    def kill_dockerd(self) -> None:
        """Kill the Engine as a crash would; its containers run on until it is started again."""
        self._dockerd.kill()

    def start_dockerd(self) -> None:
        """Start the Engine again; containers come back by their restart policy."""
        self._dockerd.start()

    def unreachable(self) -> None:
        """Take the host's link down: packets to it vanish, its containers run on."""
        self._need_namespace()
        self.in_namespace("ip", "link", "set", "eth0", "down")

    def reachable(self) -> None:
        """Bring the link back."""
        self._need_namespace()
        self.in_namespace("ip", "link", "set", "eth0", "up")
        attempt([*self.prefix, "ip", "route", "replace", "default", "via", self._gateway])

    def deny_docker(self) -> None:
        """Take the user out of the socket's group: permission denied from its next session on (old ones are cut)."""
        set_membership(self.user, self._group, member=False)
        self.restart_sshd()

    def allow_docker(self) -> None:
        """Undo `deny_docker`."""
        set_membership(self.user, self._group, member=True)
        self.restart_sshd()

    def no_docker(self) -> None:
        """Hide the docker client from the user: its PATH holds every usual program but that one."""
        programs = self._runtime / "programs"
        programs.mkdir(exist_ok=True)
        for directory in ("/usr/bin", "/bin"):
            for program in os.scandir(directory):
                if not program.name.startswith("docker") and not (programs / program.name).is_symlink():
                    (programs / program.name).symlink_to(program.path)
        self._reconfigure_sshd({**self._sshd.settings.environment, "PATH": str(programs)})

    def with_docker(self) -> None:
        """Undo `no_docker`."""
        self._reconfigure_sshd(
            {name: value for name, value in self._sshd.settings.environment.items() if name != "PATH"}
        )

    def load_images(self, *tags: str) -> None:
        """Load images of deploy/images (built and cached by deploy/images/build) that the Engine does not have yet."""
        present = set(self.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())
        for archive in archives_of([tag for tag in tags if tag not in present]):
            self.docker("load", "--quiet", "--input", str(archive), timeout=300)

    # Parts

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command in the host's network."""
        return ("nsenter", f"--net=/run/netns/{self._namespace}") if self.namespaced else ()

    def _need_namespace(self) -> None:
        if not self.namespaced:
            raise RuntimeError("a host on loopback has no link of its own to take down; use namespaced=True")

    def _dockerd_settings(self) -> DockerdSettings:
        return DockerdSettings(
            data=self.directory / "docker",
            runtime=self._runtime / "docker",
            log=self.directory / "dockerd.log",
            group=self._group,
            bridge=None if self.namespaced else f"dmb{self._id}",
            bridge_cidr=None if self.namespaced else "10.230.255.1/24",
            address_pool="10.229.0.0/16" if self.namespaced else "10.230.0.0/17",
            prefix=self.prefix,
        )

    def _make_sshd(self, environment: dict[str, str]) -> Sshd:
        settings = SshdSettings(self.address, self.port, self.user, environment, self.prefix)
        return Sshd(settings, keys=self.directory / "keys", runtime=self._runtime, log=self.directory / "sshd.log")

    def _reconfigure_sshd(self, environment: dict[str, str]) -> None:
        self._sshd.stop()
        self._sshd = self._make_sshd(environment)
        self._sshd.start()

    def _user_processes(self) -> list[int]:
        """Processes of the host's user (sessions that outlived their sshd)."""
        if not user_exists(self.user):
            return []
        found = subprocess.run(["pgrep", "-U", self.user], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def _make_namespace(self) -> None:
        """A namespace joined to this machine by a pair of links, on the first /30 nobody uses."""
        with _exclusive(Path("/run/lock/dotmac-test-links")):
            used = run(["ip", "-4", "-o", "address"])
            start = int(self._id, 16)
            subnets = 2 ** (30 - _LINKS.prefixlen)
            for offset in range(subnets):
                base = _LINKS.network_address + 4 * ((start + offset) % subnets)
                if f" {base + 1}/" not in used:
                    break
            self._gateway, self.address = str(base + 1), str(base + 2)
            run(["ip", "netns", "add", self._namespace])
            run(["ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._namespace])
            run(["ip", "address", "add", f"{self._gateway}/30", "dev", self._link])
        run(["ip", "link", "set", self._link, "up"])
        self.in_namespace("ip", "link", "set", "lo", "up")
        self.in_namespace("ip", "address", "add", f"{self.address}/30", "dev", "eth0")
        self.in_namespace("ip", "link", "set", "eth0", "up")
        self.in_namespace("ip", "route", "add", "default", "via", self._gateway)

    def _remove_namespace(self) -> None:
        attempt(["ip", "link", "delete", self._link])
        if Path(f"/run/netns/{self._namespace}").exists():
            attempt(["ip", "netns", "delete", self._namespace])

    def _hold_lock(self) -> None:
        """One run at a time may have this host; a second one is told so instead of pulling it from under the first."""
        lock = Path(f"/run/lock/dotmac-test-{self._id}").open("w")  # noqa: SIM115 - held until close()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            lock.close()
            raise RuntimeError(
                f"another test run uses the Docker host at {self.directory}; wait for it to end"
            ) from held
        self._lock = lock


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def docker_host(name: str, base_dir: Path, *, namespaced: bool = True, port: int = SSH_PORT) -> Iterator[DockerHost]:
    """A running host; gone without a trace afterwards.

    namespaced=False puts it on 127.0.0.1 in this machine's own network: only where no other dockerd runs there, since
    two of them in one namespace flush each other's iptables chains.
    """
    host = DockerHost(name, base_dir, namespaced=namespaced, port=port)
    try:
        host.start()
        yield host
    finally:
        host.close()


@contextmanager
def docker_hosts(names: list[str], base_dir: Path) -> Iterator[list[DockerHost]]:
    """Several namespaced hosts at once."""
    with ExitStack() as stack:
        yield [stack.enter_context(docker_host(name, base_dir)) for name in names]


def remove_left_over(base_dir: Path, *, patience: float = 15) -> None:
    """Remove every host that was made under base_dir and never removed.

    One that a live run holds is given `patience` seconds to be put away by that run, and then stays.
    """
    deadline = time.monotonic() + patience
    for record in sorted(base_dir.glob("*/host.json")):
        known = json.loads(record.read_text())
        host = DockerHost(known["name"], base_dir, namespaced=known["namespaced"])
        while record.exists():
            try:
                host._hold_lock()
            except RuntimeError:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.5)
            else:
                host.close()


if __name__ == "__main__":
    remove_left_over(Path(sys.argv[1]))
