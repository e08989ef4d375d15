"""A Docker engine in memory: containers with their life, on top of the stores. All calls from its event loop."""

import asyncio
import copy
import itertools
import re
import time
from collections.abc import Callable, Sequence
from functools import partial

from tests.simhost.behaviour import Behaviour, Match, usual
from tests.simhost.events import Events
from tests.simhost.objects import (
    Container,
    Endpoint,
    Exec,
    Files,
    Json,
    LogLine,
    Refused,
    Unchanged,
    mounts_of,
)
from tests.simhost.stores import Images, Networks, Volumes, digest

LOG_LINES_KEPT = 1000
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_SIGNALS = {
    "SIGKILL": 9,
    "KILL": 9,
    "9": 9,
    "SIGTERM": 15,
    "TERM": 15,
    "15": 15,
    "SIGINT": 2,
    "SIGHUP": 1,
    "SIGUSR1": 10,
}


class Engine:
    """One host's engine. Ids are made from the host's name and a serial number, so a run can be repeated."""

    def __init__(self, host: str, loop: asyncio.AbstractEventLoop) -> None:
        self.host = host
        self.version = "20.10.24+dfsg1"
        self.api = "1.41"
        self.cpus = 4
        self.memory = 64 * 2**30
        """Bytes."""
        self.events = Events()
        self.images = Images(self.events)
        self.networks = Networks(host, self.events)
        self.volumes = Volumes(self.events)
        self.containers: dict[str, Container] = {}
        """By id, oldest first."""
        self.execs: dict[str, Exec] = {}
        self.rules: list[tuple[Match, Behaviour]] = []
        """The last that fits decides what a container does."""
        self._loop = loop
        self._serial = itertools.count(1)

    # ---- looking

    def find(self, word: str) -> Container | None:
        known = self.containers.get(word)
        return known or next((c for c in self.containers.values() if c.named(word)), None)

    def get(self, word: str) -> Container:
        found = self.find(word)
        if found is None:
            raise Refused(404, f"No such container: {word}")
        return found

    # ---- making

    def create(self, name: str, body: Json) -> Container:
        serial = next(self._serial)
        name = name or f"quiet_host_{serial}"
        if not _NAME.fullmatch(name):
            raise Refused(400, f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        for entry in body.get("Env") or ():
            if entry.startswith("="):
                raise Refused(400, f"invalid environment variable: {entry}")
        image = self.images.get(body["Image"])
        self._must_be_free(name)
        body = copy.deepcopy(body)
        body.setdefault("HostConfig", {})
        made = Container(digest(self.host, "container", name, serial), name, body, image, time.time())
        made.mounts = mounts_of(body, lambda: digest(self.host, "volume", serial, next(self._serial)))
        for mount in made.mounts:
            if mount.kind == "volume":
                self.volumes.create(mount.source, {})
        made.endpoints = _endpoints(body)
        self.containers[made.id] = made
        self.tell("create", made)
        return made

    def _must_be_free(self, name: str) -> None:
        taken = next((c for c in self.containers.values() if c.name == name), None)
        if taken is not None:
            raise Refused(
                409,
                f'Conflict. The container name "/{name}" is already in use by container "{taken.id}". '
                "You have to remove (or rename) that container to be able to reuse that name.",
            )

    def behave(self, match: Match, behaviour: Behaviour) -> None:
        """From the next start on."""
        self.rules.append((match, behaviour))

    def _behaviour(self, container: Container) -> Behaviour:
        image = str(container.body["Image"])
        for match, behaviour in reversed(self.rules):
            if match.fits(image, container.role, container.name):
                return behaviour
        return usual(container.body.get("Labels") or {}, container.argv, container.env)

    # ---- life

    def start(self, container: Container) -> None:
        if container.state == "paused":
            raise Refused(409, "cannot start a paused container, try unpause instead")
        if container.state == "running":
            raise Unchanged
        container.stopped_by_hand = False
        container.backoff = 0.1
        self._run(container)

    def _run(self, container: Container) -> None:
        self._ready(container)
        self._cancel(container)
        container.behaviour = self._behaviour(container)
        container.state, container.error, container.started = "running", "", time.time()
        container.pid, container.oom = 1000 + next(self._serial), False
        for name in container.endpoints:
            self.networks.attach(self.networks.get(name), container, self.containers.values())
        self._tell_mounts("mount", container)
        self.tell("start", container)
        self._play(container)
        self._check_health(container)

    def _ready(self, container: Container) -> None:
        """Raises what keeps a container from being started."""
        problem: Refused | None = None
        for name in container.endpoints:
            if self.networks.find(name) is None:
                problem = Refused(404, f"network {name} not found")
        for port in _published(container):
            if any(other.alive and port in _published(other) for other in self.containers.values()):
                problem = Refused(
                    500,
                    f"driver failed programming external connectivity on endpoint {container.name} "
                    f"({container.id}): Bind for {port[0]}:{port[1]} failed: port is already allocated",
                )
        if problem is not None:
            container.error, container.exit_code = problem.message, 128
            raise problem

    def _play(self, container: Container) -> None:
        behaviour = container.behaviour
        for said in behaviour.says:
            self._later(container, said.after, partial(self.say, container, said.stream, said.data))
        if behaviour.runs is not None:
            self._later(container, behaviour.runs, lambda: self.crash(container, behaviour.exit_code))

    def say(self, container: Container, stream: int, data: bytes) -> None:
        """Its program prints."""
        for part in data.splitlines(keepends=True) or [b""]:
            line = LogLine(time.time(), stream, part)
            container.log.append(line)
            for told in list(container.told):
                told(line)
        del container.log[:-LOG_LINES_KEPT]

    def crash(self, container: Container, exit_code: int = 137) -> None:
        """Its program ends by itself, or somebody kills it behind the engine's back; its restart policy decides."""
        if not container.alive:
            return
        ran = time.time() - container.started
        again = not container.stopped_by_hand and _again(container, exit_code)
        self._end(container, exit_code, "restarting" if again else "exited")
        if again:
            container.backoff = 0.1 if ran > 10 else min(60.0, container.backoff * 2)
            container.restarts += 1
            self._later(container, container.backoff, lambda: self._come_back(container))

    def _come_back(self, container: Container) -> None:
        try:
            self._run(container)
        except Refused:
            container.state = "exited"

    def _end(self, container: Container, exit_code: int, state: str = "exited") -> None:
        self._cancel(container)
        container.state, container.exit_code, container.finished, container.pid = state, exit_code, time.time(), 0
        container.health = "unhealthy" if container.health else ""
        self.tell("die", container, exitCode=str(exit_code))
        for endpoint in container.endpoints.values():
            self.networks.detach(self.networks.find(endpoint.network), container, endpoint)
        self._tell_mounts("unmount", container)
        for run in self.execs.values():
            if run.container == container.id and run.running:
                run.running, run.exit_code = False, 137
        waiting, container.ended = container.ended, []
        for told in waiting:
            told()

    async def stop(self, container: Container, grace: float) -> None:
        if container.state == "restarting":
            self._cancel(container)
            container.state = "exited"
            return
        if not container.alive:
            raise Unchanged
        container.stopped_by_hand = True
        signal = str(container.body.get("StopSignal") or container.image.config.get("StopSignal") or "SIGTERM")
        number = _SIGNALS.get(signal, 15)
        self.tell("kill", container, signal=str(number))
        seconds = 0.0 if number == 9 else container.behaviour.term_seconds
        stubborn = seconds is None or seconds > grace
        await self._within(container, grace if seconds is None or stubborn else seconds)
        if stubborn and container.alive:
            self.tell("kill", container, signal="9")
        if container.alive:
            self._end(container, 137 if stubborn or number == 9 else container.behaviour.term_code)
        self.tell("stop", container)

    async def _within(self, container: Container, seconds: float) -> None:
        if seconds <= 0:
            return
        over = asyncio.Event()
        container.ended.append(over.set)
        try:
            async with asyncio.timeout(seconds):
                await over.wait()
        except TimeoutError:
            pass

    def kill(self, container: Container, signal: str = "SIGKILL") -> None:
        if not container.alive:
            raise Refused(409, f"Cannot kill container: {container.name}: Container {container.id} is not running")
        number = _SIGNALS.get(signal or "SIGKILL", 15)
        self.tell("kill", container, signal=str(number))
        if number == 9 or (number == 15 and container.behaviour.term_seconds is not None):
            container.stopped_by_hand = True
            self._end(container, 137 if number == 9 else container.behaviour.term_code)

    def pause(self, container: Container) -> None:
        if container.state == "paused":
            raise Refused(409, f"Container {container.id} is already paused")
        self._must_run(container)
        container.state = "paused"
        # The engine stops to check, and what is not checked counts as unhealthy. Source: moby, container/health.go.
        container.health = "unhealthy" if container.health else ""
        self.tell("pause", container)

    def unpause(self, container: Container) -> None:
        if container.state != "paused":
            raise Refused(500, f"Container {container.id} is not paused")
        container.state = "running"
        self.tell("unpause", container)
        if container.check is not None and container.behaviour.healthy_after is not None:
            self._later(container, container.behaviour.healthy_after, lambda: self.report_health(container, "healthy"))

    def _must_run(self, container: Container) -> None:
        if not container.alive:
            raise Refused(409, f"Container {container.id} is not running")

    def rename(self, container: Container, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise Refused(400, f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        if name == container.name:
            raise Refused(400, "Renaming a container with the same name as its current name")
        self._must_be_free(name)
        old, container.name = container.name, name
        self.tell("rename", container, oldName=f"/{old}")

    def update(self, container: Container, changes: Json) -> None:
        container.host_config.update({key: value for key, value in changes.items() if value not in (0, None, "")})
        self.tell("update", container)

    def remove(self, container: Container, *, force: bool = False, volumes: bool = False) -> None:
        if container.alive or container.state == "restarting":
            if not force:
                raise Refused(
                    409,
                    f"You cannot remove a {container.state} container {container.id}. Stop the container before "
                    "attempting removal or force remove",
                )
            container.stopped_by_hand = True
            if container.alive:
                self.tell("kill", container, signal="9")
                self._end(container, 137)
        self._cancel(container)
        del self.containers[container.id]
        self.execs = {id_: run for id_, run in self.execs.items() if run.container != container.id}
        self.tell("destroy", container)
        for mount in container.mounts:
            if volumes and mount.anonymous:
                self.volumes.remove(mount.source, self.containers.values(), force=True)

    # ---- networks

    def connect(self, network: str, container: Container, aliases: Sequence[str] = ()) -> None:
        found = self.networks.get(network)
        if found.name in container.endpoints and container.alive:
            raise Refused(403, f"endpoint with name {container.name} already exists in network {found.name}")
        container.endpoints[found.name] = Endpoint(found.name, list(aliases))
        if container.alive:
            self.networks.attach(found, container, self.containers.values())

    def disconnect(self, network: str, container: Container) -> None:
        found = self.networks.get(network)
        endpoint = container.endpoints.get(found.name)
        if endpoint is None:
            what = "network" if container.alive else "the network"
            raise Refused(500, f"container {container.id} is not connected to {what} {found.name}")
        for _ in range(2 if container.alive else 1):  # dockerd tells it twice of a container that runs.
            self.networks.detach(found, container, endpoint)
        del container.endpoints[found.name]

    # ---- health

    def _check_health(self, container: Container) -> None:
        check = container.check
        container.health, container.failing = ("starting" if check else ""), 0
        if check is None:
            return
        after = container.behaviour.healthy_after
        if after is not None:
            self._later(container, after, lambda: self.report_health(container, "healthy"))
            return
        interval = (check.get("Interval") or 30 * 10**9) / 1e9
        patience = (check.get("StartPeriod") or 0) / 1e9 + interval * (check.get("Retries") or 3)
        self._later(container, patience, lambda: self.report_health(container, "unhealthy"))

    def report_health(self, container: Container, health: str) -> None:
        """Its check has come to this result."""
        if container.health == health or not container.alive:
            return
        container.health = health
        container.failing = int((container.check or {}).get("Retries") or 3) if health == "unhealthy" else 0
        self.tell(f"health_status: {health}", container)

    # ---- files

    def read(self, container: Container, path: str) -> bytes | None:
        """The content of a file, of a volume or of the container itself; None when it is absent."""
        store, key = self._place(container, path)
        return store.get(key)

    def written(self, container: Container, path: str) -> int:
        """When a file was written, Unix nanoseconds; 0 when it is absent."""
        store, key = self._place(container, path)
        return store.written.get(key, 0)

    def write(self, container: Container, path: str, content: bytes) -> None:
        store, key = self._place(container, path)
        store[key] = content

    def tree(self, container: Container, path: str) -> dict[str, bytes]:
        """Files under a directory, by their path in it."""
        store, key = self._place(container, path)
        prefix = key.rstrip("/") + "/" if key.strip("/") else ""
        return {name[len(prefix) :]: data for name, data in store.items() if name.startswith(prefix)}

    def _place(self, container: Container, path: str) -> tuple[Files, str]:
        path = "/" + path.strip("/")
        for mount in sorted(container.mounts, key=lambda m: -len(m.target)):
            target = mount.target.rstrip("/")
            inside = path == target or path.startswith(target + "/")
            if inside and mount.kind == "volume" and mount.source in self.volumes.all:
                return self.volumes.all[mount.source].files, path[len(target) :].lstrip("/")
        return container.files, path.lstrip("/")

    # ---- the whole engine

    def restart(self, *, live_restore: bool) -> None:
        """Without live-restore every container goes down, and those with a restart policy come back."""
        self.events.restart()
        for container in list(self.containers.values()):
            if not live_restore and (container.alive or container.state == "restarting"):
                self._cancel(container)
                if container.alive:
                    self._end(container, 0 if container.behaviour.term_seconds is not None else 137)
                container.state = "exited"
                if container.policy in ("always", "unless-stopped") and not container.stopped_by_hand:
                    self._come_back(container)

    def reboot(self) -> None:
        """As after a power cut: nothing of the engine ends in peace."""
        self.events.restart()
        was_up = [c for c in self.containers.values() if c.alive or c.state == "restarting"]
        for container in was_up:
            self._cancel(container)
            container.state, container.exit_code, container.health = "exited", 255, ""
            container.finished, container.pid = time.time(), 0
            for endpoint in container.endpoints.values():
                endpoint.address = endpoint.id = ""
        for container in list(self.containers.values()):
            always = container.policy == "always"
            if always or (container.policy == "unless-stopped" and not container.stopped_by_hand):
                if container in was_up or always:
                    self._come_back(container)

    def close(self) -> None:
        for container in self.containers.values():
            self._cancel(container)

    # ---- parts

    def _later(self, container: Container, seconds: float, work: Callable[[], None]) -> None:
        container.timers.append(self._loop.call_later(seconds, work))

    def _cancel(self, container: Container) -> None:
        for timer in container.timers:
            timer.cancel()
        container.timers.clear()

    def tell(self, action: str, container: Container, **more: str) -> None:
        attributes = {**container.labels, "image": str(container.body["Image"]), "name": container.name, **more}
        self.events.tell("container", action, container.id, attributes)

    def _tell_mounts(self, action: str, container: Container) -> None:
        for mount in container.mounts:
            if mount.kind == "volume" and mount.source in self.volumes.all:
                self.volumes.tell(action, self.volumes.all[mount.source], container)

    def tell_archive(self, container: Container) -> None:
        """To read the files of a container that does not run, its volumes are mounted for a moment."""
        if not container.alive:
            self._tell_mounts("mount", container)
            self._tell_mounts("unmount", container)

    def tell_exec(self, run: Exec, action: str, **more: str) -> None:
        container = self.containers.get(run.container)
        if container is not None:
            self.tell(action, container, execID=run.id, **more)

    def new_exec(self, container: Container, body: Json) -> Exec:
        if container.state == "paused":
            raise Refused(409, f"Container {container.name} is paused, unpause the container before exec")
        self._must_run(container)
        made = Exec(digest(self.host, "exec", next(self._serial)), container.id, body)
        self.execs[made.id] = made
        self.tell_exec(made, f"exec_create: {made.words}")
        return made


def _again(container: Container, exit_code: int) -> bool:
    policy = container.policy
    if policy == "on-failure":
        limit = int((container.host_config.get("RestartPolicy") or {}).get("MaximumRetryCount") or 0)
        return exit_code != 0 and (limit == 0 or container.restarts < limit)
    return policy in ("always", "unless-stopped")


def _endpoints(body: Json) -> dict[str, Endpoint]:
    mode = str(body["HostConfig"].get("NetworkMode") or "default")
    if mode in ("default", "bridge"):
        mode = "bridge"
    given = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    if mode == "host" or mode.startswith("container:"):
        return {}
    wanted = {mode: given.get(mode) or {}} | given if mode != "bridge" or not given else given
    return {name: Endpoint(name, list((end or {}).get("Aliases") or ())) for name, end in wanted.items()}


def _published(container: Container) -> set[tuple[str, str]]:
    bindings = container.host_config.get("PortBindings") or {}
    return {
        (str(one.get("HostIp") or "0.0.0.0"), str(one["HostPort"]))  # noqa: S104 - Docker's own default
        for found in bindings.values()
        for one in found or ()
        if one.get("HostPort")
    }
