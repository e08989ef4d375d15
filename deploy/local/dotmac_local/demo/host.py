"""The demo's Docker host: an Engine of this machine, and an sshd on loopback whose user may use its socket."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from dotmac_local.demo import firewall
from dotmac_local.demo.dockerd import Dockerd, DockerdSettings, answers, ensure_group, set_membership, socket_group
from dotmac_local.demo.images import ARCHIVES, archive_name, find_archive
from dotmac_local.demo.processes import attempt, end, mentioning, run
from dotmac_local.demo.report import say
from dotmac_local.demo.sshd import Sshd, SshdSettings, user_exists
from dotmac_local.demo.state import DIRECTORY, LOGS, RUNTIME, USER, Settings

FENCE = RUNTIME / "fence"

ADDRESS = "127.0.0.1"
SYSTEM_SOCKETS = (Path("/run/docker.sock"), Path("/var/run/docker.sock"))
ARCHIVES_OF_DEMO = ("postgresql", "redis", "caddy", "tryton")


def own_dockerd() -> Dockerd:
    """The dockerd that is started when the machine runs none."""
    return Dockerd(
        DockerdSettings(data=DIRECTORY / "docker", runtime=RUNTIME / "docker", log=LOGS / "dockerd.log", group=USER)
    )


def choose_engine(settings: Settings) -> Settings:
    """The Engine of an earlier `up`, else one that runs, else one of our own."""
    if settings.own_engine or (settings.engine_socket and answers(Path(settings.engine_socket))):
        return settings
    for found in SYSTEM_SOCKETS:
        # A socket of group root would mean putting the demo's user into group root.
        if answers(found) and socket_group(found) != "root":
            return replace(settings, engine_socket=str(found.resolve()), own_engine=False, loaded=[])
    own = str(own_dockerd().socket)
    return replace(settings, engine_socket=own, own_engine=True, loaded=[], network=firewall.remember())


def start_engine(settings: Settings) -> None:
    """Start our own dockerd unless it runs; nothing to do for one of the machine's."""
    ensure_group(USER)
    if settings.own_engine:
        own_dockerd().start()


def ensure_user(settings: Settings) -> None:
    """An unprivileged user who can only do two things here: log in with the demo's key, and use Docker."""
    group = socket_group(Path(settings.engine_socket))
    if not user_exists(USER):
        run(["useradd", "--system", "--gid", USER, "--shell", "/bin/sh", "--no-create-home", "--home-dir", "/",
             "--password", "*", USER])  # fmt: skip
    if group != USER:
        set_membership(USER, group, member=True)
    # Where the host keeps the operators' number: this user has no home. A demo begun anew is another control plane.
    FENCE.mkdir(parents=True, exist_ok=True)
    FENCE.chmod(0o700)
    shutil.chown(FENCE, USER)
    (FENCE / "record").unlink(missing_ok=True)


def sshd(settings: Settings) -> Sshd:
    """The demo's sshd, running or not."""
    environment = {"DOCKER_HOST": f"unix://{settings.engine_socket}", "DOTMAC_FENCE_DIR": str(FENCE)}
    return Sshd(
        SshdSettings(ADDRESS, settings.ssh_port, USER, environment),
        keys=DIRECTORY / "keys",
        runtime=RUNTIME,
        log=LOGS / "sshd.log",
    )


def docker(settings: Settings, *arguments: str, timeout: float = 120) -> str:
    """The docker client against the demo's Engine."""
    return run(["docker", "--host", f"unix://{settings.engine_socket}", *arguments], timeout=timeout)


def load_images(settings: Settings) -> Settings:
    """Load the archives that this Engine does not have yet."""
    loaded = list(settings.loaded)
    present = set(docker(settings, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split())
    for archive in ARCHIVES:
        name = archive_name(archive)
        path = find_archive(archive)
        if archive.name not in ARCHIVES_OF_DEMO or path is None or (name in loaded and present >= set(archive.tags)):
            continue
        say(f"loading {', '.join(archive.tags)} ({path.stat().st_size // 1_000_000} MB)")
        docker(settings, "load", "--quiet", "--input", str(path), timeout=600)
        loaded.append(name)
    return replace(settings, loaded=loaded)


def remove(settings: Settings) -> list[str]:
    """Remove sshd, the user, and everything of the demo in the Engine; what could not be removed, in words."""
    left: list[str] = []
    sshd(settings).stop()
    end(mentioning(str(RUNTIME / "sshd_config")), grace=2)
    if settings.own_engine:
        own_dockerd().remove()
        firewall.restore(settings.network)
    elif answers(Path(settings.engine_socket)):
        left += _remove_objects(settings)
    else:
        left.append(f"the Docker engine at {settings.engine_socket} does not answer: its objects of the demo stay")
    if user_exists(USER):
        run(["userdel", USER])
    attempt(["groupdel", USER])
    shutil.rmtree(RUNTIME, ignore_errors=True)
    for parent in (RUNTIME.parent,):
        if parent.is_dir() and not os.listdir(parent):
            parent.rmdir()
    return left


def _remove_objects(settings: Settings) -> list[str]:
    """Containers, networks, volumes and images of the demo in an Engine that is not ours, known by their labels."""
    left = []
    kinds = (
        (("ps", "--all"), ("rm", "--force", "--volumes")),
        (("network", "ls"), ("network", "rm")),
        (("volume", "ls"), ("volume", "rm")),
    )
    for listing, removal in kinds:
        for uid in settings.uids:
            for label in ("instance-uid", "server-uid"):
                found = docker(
                    settings, *listing, "--quiet", "--filter", f"label=platform.dotmac.io/{label}={uid}"
                ).split()
                if found and not attempt(["docker", "--host", f"unix://{settings.engine_socket}", *removal, *found]):
                    left.append(f"docker {' '.join(removal)} {' '.join(found)}")
    tags = [tag for archive in ARCHIVES if archive_name(archive) in settings.loaded for tag in archive.tags]
    for tag in tags:
        attempt(["docker", "--host", f"unix://{settings.engine_socket}", "image", "rm", tag])
    return left
