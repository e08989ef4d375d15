"""The Engine API's calls: a table of method and path, and one function for each."""

import asyncio
import base64
import io
import json
import re
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.simhost import views
from tests.simhost.engine import Engine
from tests.simhost.events import Filters
from tests.simhost.http import Reply, Request, Streamed
from tests.simhost.objects import Container, Json, LogLine, Refused
from tests.simhost.stores import digest, tagged


@dataclass(frozen=True)
class Attach:
    """The connection becomes the input and output of an exec."""

    exec_id: str


type Answer = Reply | Streamed | Attach
type Handler = Callable[[Engine, Request, str], Answer | Awaitable[Answer]]


@dataclass(frozen=True)
class Route:
    method: str
    template: str
    handler: Handler
    kind: str
    """container, image, network, volume, exec: what its name means; empty without one."""

    @property
    def mutating(self) -> bool:
        return self.method != "GET" and self.template not in _READS

    def names(self, engine: Engine, request: Request, name: str) -> tuple[str, ...]:
        """Names of what it is about, as far as they exist; never ids."""
        if self.kind == "container" and (container := engine.find(name)) is not None:
            return (container.name,)
        if self.kind == "network" and (network := engine.networks.find(name)) is not None:
            return (network.name, *_also(engine, request))
        if self.kind == "exec" and (run := engine.execs.get(name)) is not None:
            owner = engine.containers.get(run.container)
            return (owner.name,) if owner is not None else ()
        return (name,) if name else _made(self.template, request)


_READS = ("/containers/{name}/wait",)


def _also(engine: Engine, request: Request) -> tuple[str, ...]:
    """The container that a call of a network connects or disconnects."""
    found = engine.find(str(request.json().get("Container") or "")) if request.body else None
    return (found.name,) if found is not None else ()


def _made(template: str, request: Request) -> tuple[str, ...]:
    if template == "/images/create":
        return (_pulled(request),)
    name = request.query.get("name") or (str(request.json().get("Name") or "") if request.body else "")
    return (name,) if name else ()


ROUTES: list[Route] = []
_MATCH: dict[str, list[tuple[re.Pattern[str], Route]]] = {}


def route(method: str, template: str, kind: str = "") -> Callable[[Handler], Handler]:
    def taken(handler: Handler) -> Handler:
        made = Route(method, template, handler, kind)
        ROUTES.append(made)
        pattern = re.escape(template).replace(r"\{name\}", "(?P<name>.+)")
        _MATCH.setdefault(method, []).append((re.compile(pattern), made))
        return handler

    return taken


def find(request: Request) -> tuple[Route, str] | None:
    method = "GET" if request.method == "HEAD" else request.method
    for pattern, found in _MATCH.get(method, ()):
        if matched := pattern.fullmatch(request.path):
            return found, matched.groupdict().get("name") or ""
    return None


# ---- the engine itself


@route("GET", "/_ping")
def ping(engine: Engine, request: Request, name: str) -> Answer:
    return Reply(body=b"OK")


@route("GET", "/version")
def version(engine: Engine, request: Request, name: str) -> Answer:
    parts = [{"Name": "Engine", "Version": engine.version, "Details": {"ApiVersion": engine.api}}]
    return Reply(
        body={
            "Platform": {"Name": ""},
            "Components": parts,
            "Version": engine.version,
            "ApiVersion": engine.api,
            "MinAPIVersion": "1.12",
            "GitCommit": "",
            "GoVersion": "go1.19.8",
            "Os": "linux",
            "Arch": "amd64",
            "KernelVersion": "6.1.0-sim",
            "BuildTime": views.NEVER,
        }  # fmt: skip
    )


@route("GET", "/info")
def info(engine: Engine, request: Request, name: str) -> Answer:
    states = [container.state for container in engine.containers.values()]
    return Reply(
        body={
            "ID": digest(engine.host)[:12],
            "Name": engine.host,
            "ServerVersion": engine.version,
            "OperatingSystem": "Simulated Linux 12",
            "KernelVersion": "6.1.0-sim",
            "Architecture": "x86_64",
            "OSType": "linux",
            "NCPU": engine.cpus,
            "MemTotal": engine.memory,
            "DockerRootDir": views.DATA_ROOT,
            "Containers": len(states),
            "ContainersRunning": states.count("running"),
            "ContainersPaused": states.count("paused"),
            "Images": len(engine.images.all),
            "Driver": "overlay2",
            "ContainersStopped": len(states) - states.count("running") - states.count("paused"),
            "LiveRestoreEnabled": True,
            "SystemTime": views.rfc3339(time.time()),
            "Warnings": None,
        }  # fmt: skip
    )


@route("GET", "/system/df")
def disk_usage(engine: Engine, request: Request, name: str) -> Answer:
    return Reply(body=views.usage(engine))


@route("GET", "/events")
def events(engine: Engine, request: Request, name: str) -> Answer:
    filters = Filters.parse(request.query.get("filters"))
    since, until = request.query.get("since", ""), request.query.get("until", "")
    return Streamed(_events(engine, filters, _nano(since), float(until) if until else None))


def _nano(text: str) -> int:
    """Seconds and a fraction, kept exact."""
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 10**9 + int(fraction.ljust(9, "0")[:9]) if seconds else 0


async def _events(engine: Engine, filters: Filters, since: int, until: float | None) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[Json | None] = asyncio.Queue()
    end = engine.events.listen(queue.put_nowait)
    try:
        for event in engine.events.since(since) if since else ():
            if filters.event(event):
                yield json.dumps(event).encode() + b"\n"
        while True:
            left = None if until is None else max(0.0, until - time.time())
            try:
                event_or_end = await asyncio.wait_for(queue.get(), left)
            except TimeoutError:
                return
            if event_or_end is None:
                return
            if filters.event(event_or_end):
                yield json.dumps(event_or_end).encode() + b"\n"
    finally:
        end()


# ---- containers


@route("GET", "/containers/json")
def containers(engine: Engine, request: Request, name: str) -> Answer:
    filters = Filters.parse(request.query.get("filters"))
    every = request.flag("all") or bool(filters.get("status"))
    found = [c for c in reversed(engine.containers.values()) if (every or c.alive) and _fits(engine, c, filters)]
    return Reply(body=[views.listed(engine, container) for container in found])


def _fits(engine: Engine, container: Container, filters: Filters) -> bool:
    def one_of(key: str, *values: str) -> bool:
        return not filters.get(key) or bool(set(filters.get(key)) & set(values))

    named = not filters.get("name") or any(re.search(word.lstrip("/^"), container.name) for word in filters.get("name"))
    ids = not filters.get("id") or any(container.id.startswith(word) for word in filters.get("id"))
    networks = [engine.networks.find(end) for end in container.endpoints]
    return (
        named
        and ids
        and filters.labels(container.labels)
        and one_of("status", container.state)
        and one_of("health", container.health or "none")
        and one_of("ancestor", str(container.body["Image"]), container.image.id)
        and one_of("volume", *(mount.source for mount in container.mounts))
        and one_of("network", *(word for net in networks if net is not None for word in (net.name, net.id)))
    )


@route("POST", "/containers/create")
def create(engine: Engine, request: Request, name: str) -> Answer:
    made = engine.create(request.query.get("name", "").lstrip("/"), request.json())
    return Reply(201, {"Id": made.id, "Warnings": []})


@route("GET", "/containers/{name}/json", "container")
def inspect(engine: Engine, request: Request, name: str) -> Answer:
    return Reply(body=views.inspected(engine, engine.get(name)))


@route("POST", "/containers/{name}/start", "container")
def start(engine: Engine, request: Request, name: str) -> Answer:
    engine.start(engine.get(name))
    return Reply(204)


@route("POST", "/containers/{name}/stop", "container")
async def stop(engine: Engine, request: Request, name: str) -> Answer:
    container = engine.get(name)
    await engine.stop(container, _grace(container, request))
    return Reply(204)


def _grace(container: Container, request: Request) -> float:
    given = request.query.get("t") or container.body.get("StopTimeout")
    return 10.0 if given is None else float(given)


@route("POST", "/containers/{name}/restart", "container")
async def restart(engine: Engine, request: Request, name: str) -> Answer:
    container = engine.get(name)
    if container.alive:
        await engine.stop(container, _grace(container, request))
    engine.start(container)
    engine.tell("restart", container)
    return Reply(204)


@route("POST", "/containers/{name}/kill", "container")
def kill(engine: Engine, request: Request, name: str) -> Answer:
    engine.kill(engine.get(name), request.query.get("signal", "SIGKILL"))
    return Reply(204)


@route("POST", "/containers/{name}/pause", "container")
def pause(engine: Engine, request: Request, name: str) -> Answer:
    engine.pause(engine.get(name))
    return Reply(204)


@route("POST", "/containers/{name}/unpause", "container")
def unpause(engine: Engine, request: Request, name: str) -> Answer:
    engine.unpause(engine.get(name))
    return Reply(204)


@route("POST", "/containers/{name}/rename", "container")
def rename(engine: Engine, request: Request, name: str) -> Answer:
    engine.rename(engine.get(name), request.query.get("name", "").lstrip("/"))
    return Reply(204)


@route("POST", "/containers/{name}/update", "container")
def update(engine: Engine, request: Request, name: str) -> Answer:
    engine.update(engine.get(name), request.json())
    return Reply(body={"Warnings": None})


@route("DELETE", "/containers/{name}", "container")
def remove(engine: Engine, request: Request, name: str) -> Answer:
    engine.remove(engine.get(name), force=request.flag("force"), volumes=request.flag("v"))
    return Reply(204)


@route("POST", "/containers/{name}/wait", "container")
def wait(engine: Engine, request: Request, name: str) -> Answer:
    return Streamed(_wait(engine, engine.get(name), request.query.get("condition") or "not-running"))


async def _wait(engine: Engine, container: Container, condition: str) -> AsyncIterator[bytes]:
    over = asyncio.Event()
    if condition == "next-exit" or container.alive:
        container.ended.append(over.set)
        await over.wait()
    while condition == "removed" and container.id in engine.containers:
        await asyncio.sleep(0.05)
    yield json.dumps({"Error": None, "StatusCode": container.exit_code}).encode() + b"\n"


@route("GET", "/containers/{name}/stats", "container")
async def stats(engine: Engine, request: Request, name: str) -> Answer:
    container = engine.get(name)
    if request.query.get("stream", "true").lower() in ("0", "false"):
        one_shot = request.query.get("one-shot", "").lower() in ("1", "true")
        return Reply(body=views.stats(container, alone=one_shot))
    return Streamed(_stats(engine, container))


async def _stats(engine: Engine, container: Container) -> AsyncIterator[bytes]:
    while container.id in engine.containers:
        yield json.dumps(views.stats(container)).encode() + b"\n"
        await asyncio.sleep(1.0)


# ---- logs


@route("GET", "/containers/{name}/logs", "container")
def logs(engine: Engine, request: Request, name: str) -> Answer:
    container = engine.get(name)
    if not request.flag("stdout") and not request.flag("stderr"):
        raise Refused(400, "Bad parameters: you must choose at least one stream")
    wanted = {kind for kind, key in ((1, "stdout"), (2, "stderr")) if request.flag(key)}
    since, until = float(request.query.get("since") or 0), float(request.query.get("until") or "inf")
    lines = [line for line in container.log if line.stream in wanted and since <= line.at <= until]
    tail = request.query.get("tail", "all")
    if tail.isdigit():
        lines = lines[len(lines) - min(int(tail), len(lines)) :]
    write = _Writer(bool(container.body.get("Tty")), request.flag("timestamps"))
    if request.flag("follow"):
        return Streamed(_follow(container, lines, wanted, write), "application/octet-stream")
    return Reply(body=b"".join(map(write, lines)), headers={"Content-Type": "application/octet-stream"})


@dataclass(frozen=True)
class _Writer:
    """A log line as bytes: framed, unless the container has a terminal."""

    tty: bool
    timestamps: bool

    def __call__(self, line: LogLine) -> bytes:
        data = f"{views.rfc3339(line.at)} ".encode() + line.data if self.timestamps else line.data
        return data.replace(b"\n", b"\r\n") if self.tty else frame(line.stream, data)


def frame(stream: int, data: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


async def _follow(
    container: Container, lines: list[LogLine], wanted: set[int], write: Callable[[LogLine], bytes]
) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[LogLine | None] = asyncio.Queue()
    container.told.append(queue.put_nowait)
    container.ended.append(lambda: queue.put_nowait(None))
    try:
        for line in lines:
            yield write(line)
        while container.alive or not queue.empty():
            fresh = await queue.get()
            if fresh is None:
                return
            if fresh.stream in wanted:
                yield write(fresh)
    finally:
        with suppress(ValueError):
            container.told.remove(queue.put_nowait)


# ---- files


@route("GET", "/containers/{name}/archive", "container")
def get_archive(engine: Engine, request: Request, name: str) -> Answer:
    container, path = engine.get(name), request.query.get("path", "")
    engine.tell_archive(container)
    content = engine.read(container, path)
    tree = {} if content is not None else engine.tree(container, path)
    if content is None and not tree:
        raise Refused(404, f"Could not find the file {path} in container {name}")
    stem = path.rstrip("/").rpartition("/")[2] or "."
    members: dict[str, bytes | None] = {stem: content} if content is not None else {f"{stem}/": None}
    members |= {f"{stem}/{key}": data for key, data in tree.items()}
    # To the nanosecond, which a float of seconds does not hold.
    seconds, nanoseconds = divmod(engine.written(container, path), 10**9)
    mtime = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"
    stat = {"name": stem, "size": len(content or b""), "mode": 0o644, "mtime": mtime, "linkTarget": ""}
    headers = {"X-Docker-Container-Path-Stat": base64.b64encode(json.dumps(stat).encode()).decode()}
    return Reply(body=_tar(members), headers={**headers, "Content-Type": "application/x-tar"})


def _tar(members: Mapping[str, bytes | None]) -> bytes:
    """None: a directory."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content or b""), int(time.time())
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            tar.addfile(member, io.BytesIO(content or b""))
    return made.getvalue()


@route("PUT", "/containers/{name}/archive", "container")
def put_archive(engine: Engine, request: Request, name: str) -> Answer:
    container, path = engine.get(name), request.query.get("path", "").rstrip("/")
    with tarfile.open(fileobj=io.BytesIO(request.body)) as tar:
        for member in tar:
            if (content := tar.extractfile(member)) is not None:
                engine.write(container, f"{path}/{member.name}", content.read())
    return Reply(200)


# ---- exec


@route("POST", "/containers/{name}/exec", "container")
def new_exec(engine: Engine, request: Request, name: str) -> Answer:
    return Reply(201, {"Id": engine.new_exec(engine.get(name), request.json()).id})


@route("POST", "/exec/{name}/start", "exec")
def start_exec(engine: Engine, request: Request, name: str) -> Answer:
    if name not in engine.execs:
        raise Refused(404, f"No such exec instance: {name}")
    return Attach(name)


@route("GET", "/exec/{name}/json", "exec")
def inspect_exec(engine: Engine, request: Request, name: str) -> Answer:
    run = engine.execs.get(name)
    if run is None:
        raise Refused(404, f"No such exec instance: {name}")
    argv = run.body.get("Cmd") or [""]
    process = {"entrypoint": argv[0], "arguments": argv[1:], "tty": bool(run.body.get("Tty")), "privileged": False}
    state = {"ID": run.id, "Running": run.running, "ExitCode": run.exit_code, "ContainerID": run.container}
    return Reply(body={**state, "ProcessConfig": process, "Pid": 0, "CanRemove": False, "DetachKeys": ""})


# ---- images


@route("GET", "/images/json")
def images(engine: Engine, request: Request, name: str) -> Answer:
    filters = Filters.parse(request.query.get("filters"))
    users = [container.image.id for container in engine.containers.values()]
    wanted = {tagged(word) for word in filters.get("reference")}
    found = [i for i in engine.images.all.values() if filters.labels(i.config.get("Labels") or {})]
    found = [image for image in found if not wanted or wanted & set(image.tags)]
    return Reply(body=[views.image_listed(image, users.count(image.id)) for image in found])


@route("POST", "/images/create")
async def pull(engine: Engine, request: Request, name: str) -> Answer:
    reference = _pulled(request)
    stem = reference.partition("@")[0] if "@" in reference else reference.rpartition(":")[0]
    if not engine.images.pullable(reference):
        raise Refused(404, f"manifest for {reference} not found: manifest unknown: manifest unknown")
    return Streamed(_pull(engine, reference, stem))


def _absent(word: str) -> str:
    return f"No such container: {word}"


def _pulled(request: Request) -> str:
    stem, tag = request.query.get("fromImage", ""), request.query.get("tag", "")
    return f"{stem}@{tag}" if tag.startswith("sha256:") else f"{stem}:{tag}" if tag else tagged(stem)


async def _pull(engine: Engine, reference: str, stem: str) -> AsyncIterator[bytes]:
    def line(**values: Any) -> bytes:
        return json.dumps(values).encode() + b"\r\n"

    layer, total = digest("layer", reference)[:12], 8 * 2**20
    yield line(status=f"Pulling from {stem}", id=reference.rpartition(":")[2])
    known = engine.images.find(reference) is not None and reference not in engine.images.published
    if known:
        yield line(status=f"Status: Image is up to date for {reference}")
        return
    yield line(status="Pulling fs layer", progressDetail={}, id=layer)
    for part in range(1, 5):
        if engine.images.pull_seconds:
            await asyncio.sleep(engine.images.pull_seconds / 4)
        detail = {"current": total * part // 4, "total": total}
        yield line(status="Downloading", progressDetail=detail, progress="[==>  ]", id=layer)
    if engine.images.disk_full:
        text = f"write /var/lib/docker/tmp/GetImageBlob{layer[:8]}: no space left on device"
        yield line(errorDetail={"message": text}, error=text)
        return
    yield line(status="Pull complete", progressDetail={}, id=layer)
    image = engine.images.pulled(reference)
    yield line(status=f"Digest: {image.digests[-1].partition('@')[2]}")
    yield line(status=f"Status: Downloaded newer image for {reference}")


@route("GET", "/images/{name}/json", "image")
def inspect_image(engine: Engine, request: Request, name: str) -> Answer:
    try:
        return Reply(body=views.image(engine.images.get(name)))
    except Refused as refused:
        raise Refused(404, f"no such image: {name}: {refused.message}") from None


@route("POST", "/images/{name}/tag", "image")
def tag(engine: Engine, request: Request, name: str) -> Answer:
    label = request.query.get("tag") or "latest"
    engine.images.tag(engine.images.get(name), f"{request.query['repo']}:{label}")
    return Reply(201)


@route("DELETE", "/images/{name}", "image")
def remove_image(engine: Engine, request: Request, name: str) -> Answer:
    return Reply(body=engine.images.remove(name, engine.containers.values(), force=request.flag("force")))


# ---- networks


@route("GET", "/networks")
def networks(engine: Engine, request: Request, name: str) -> Answer:
    filters = Filters.parse(request.query.get("filters"))
    found = [net for net in engine.networks.all.values() if filters.labels(net.labels)]
    words = filters.get("name")
    return Reply(body=[views.network(net) for net in found if not words or any(word in net.name for word in words)])


@route("POST", "/networks/create")
def create_network(engine: Engine, request: Request, name: str) -> Answer:
    return Reply(201, {"Id": engine.networks.create(request.json()).id, "Warning": ""})


@route("POST", "/networks/{name}/connect", "network")
def connect(engine: Engine, request: Request, name: str) -> Answer:
    body = request.json()
    engine.networks.get(name)
    aliases = (body.get("EndpointConfig") or {}).get("Aliases") or ()
    engine.connect(name, engine.get(body["Container"]), aliases)
    return Reply(200)


@route("POST", "/networks/{name}/disconnect", "network")
def disconnect(engine: Engine, request: Request, name: str) -> Answer:
    body = request.json()
    engine.networks.get(name)
    container = engine.find(body["Container"])
    if container is None:
        raise Refused(
            404, f"endpoint {body['Container']} not found" if body.get("Force") else _absent(body["Container"])
        )
    engine.disconnect(name, container)
    return Reply(200)


@route("GET", "/networks/{name}", "network")
def inspect_network(engine: Engine, request: Request, name: str) -> Answer:
    return Reply(body=views.network(engine.networks.get(name), engine.containers.values()))


@route("DELETE", "/networks/{name}", "network")
def remove_network(engine: Engine, request: Request, name: str) -> Answer:
    engine.networks.remove(name, engine.containers.values())
    return Reply(204)


# ---- volumes


@route("GET", "/volumes")
def volumes(engine: Engine, request: Request, name: str) -> Answer:
    filters = Filters.parse(request.query.get("filters"))
    words = filters.get("name")
    found = [
        volume
        for volume in engine.volumes.all.values()
        if filters.labels(volume.labels) and (not words or any(word in volume.name for word in words))
    ]
    return Reply(body={"Volumes": [views.volume(volume) for volume in found], "Warnings": None})


@route("POST", "/volumes/create")
def create_volume(engine: Engine, request: Request, name: str) -> Answer:
    body = request.json()
    made = engine.volumes.create(
        body.get("Name") or digest(engine.host, time.time_ns()), body.get("Labels") or {}, body.get("Driver") or "local"
    )
    return Reply(201, views.volume(made))


@route("GET", "/volumes/{name}", "volume")
def inspect_volume(engine: Engine, request: Request, name: str) -> Answer:
    return Reply(body=views.volume(engine.volumes.get(name)))


@route("DELETE", "/volumes/{name}", "volume")
def remove_volume(engine: Engine, request: Request, name: str) -> Answer:
    engine.volumes.remove(name, engine.containers.values(), force=request.flag("force"))
    return Reply(204)
