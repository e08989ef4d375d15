"""The Docker Engine API, as much of it as the steps use: one method per call, errors that mean no work left out."""

import http.client
import io
import json
import re
import tarfile
import threading
import time
from collections.abc import Mapping, Sequence
from email.message import Message
from posixpath import dirname, join, normpath
from typing import Any
from urllib.parse import quote

from dotmac_operator.core.facts import ContainerFact, EngineInfo, ImageFact, NetworkFact, VolumeFact
from dotmac_operator.hosts.deadline import Deadline
from dotmac_operator.hosts.diagnostics import EngineDiagnostics
from dotmac_operator.hosts.engineevents import EventEdge, HostEvents, event_query
from dotmac_operator.hosts.enginefacts import (
    PullProgress,
    container_fact,
    engine_info,
    frames,
    image_fact,
    network_fact,
    split_reference,
    volume_fact,
)
from dotmac_operator.hosts.enginehttp import PING, Answer, Carrier, EngineClient, Lane, Request
from dotmac_operator.hosts.port import (
    Conflict,
    EngineError,
    ExecResult,
    HostUnreachable,
    NotFound,
    Progress,
    Sent,
    Survey,
    nothing,
)
from dotmac_operator.hosts.stream import feeding, read_lines

READ_SECONDS = 30.0
CHANGE_SECONDS = 60.0
STREAM_SETTLES = 5.0
"""Seconds that the engine may take to note the exit code of a program whose output has ended."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,511}")


class DockerEngine:
    """Implements `port.Engine`."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._client = EngineClient(carrier)
        self.diagnostics = EngineDiagnostics(carrier, self._client)
        self._edge = EventEdge()
        self._streaming = threading.Lock()
        self._stream: HostEvents | None = None

    # ---- facts

    def ping(self, seconds: float = READ_SECONDS) -> float:
        """Seconds of one round trip on a kept connection."""
        with self._carrier.operation("ping", Lane.READ, seconds) as deadline:
            self._client.ask(PING, deadline)  # Connects, if that is still to be done.
            started = time.perf_counter()
            self._client.ask(PING, deadline)
            self._client.latency = time.perf_counter() - started
            return self._client.latency

    def info(self) -> EngineInfo:
        with self._carrier.operation("info", Lane.READ, READ_SECONDS) as deadline:
            with self._client.sent(Request("GET", "/info", repeatable=True), deadline) as (connection, response):
                return engine_info(self._client.parse(self._client.read_all(response)), connection.engine_api)

    def containers(self, labels: Sequence[str] = ()) -> list[ContainerFact]:
        return [container_fact(item) for item in self._read("containers", _containers(labels))]

    def networks(self) -> list[NetworkFact]:
        return [network_fact(item) for item in self._read("networks", _NETWORKS)]

    def volumes(self, labels: Sequence[str] = ()) -> list[VolumeFact]:
        found = self._read("volumes", _get("/volumes", _filters(label=labels)))
        return [volume_fact(item) for item in found.get("Volumes") or ()]

    def image(self, reference: str) -> ImageFact | None:
        try:
            return image_fact(self._read("image", self._image(reference)), reference)
        except NotFound:
            return None

    def survey(
        self, labels: Sequence[str], references: Sequence[str], file: tuple[str, str], sent: Sent = nothing
    ) -> Survey:
        # The list of containers, which takes the engine longest, is asked for first.
        requests = [_containers(labels), _NETWORKS, _get("/volumes"), self._stat(*file)]
        requests += [self._image(reference) for reference in references]
        with self._carrier.reads("survey", len(requests), READ_SECONDS) as (deadline, at_once):
            answers = self._client.ask_together(requests, at_once, deadline, sent)
        containers, networks, volumes, version, *images = answers
        return Survey(
            containers=tuple(map(container_fact, self._listed(containers))),
            networks=tuple(map(network_fact, self._listed(networks))),
            volumes=tuple(map(volume_fact, self._listed(volumes).get("Volumes") or ())),
            images={
                reference: image_fact(self._client.parse(answer.body), reference)
                for reference, answer in zip(references, images, strict=True)
                if isinstance(answer, Answer)
            },
            file_version=_version(version.headers) if isinstance(version, Answer) else None,
        )

    def _listed(self, answer: Answer | NotFound) -> Any:
        """The JSON of an answer that there has to be."""
        if isinstance(answer, NotFound):
            raise answer
        return self._client.parse(answer.body)

    def inspect_container(self, container: str) -> Mapping[str, Any]:
        request = _get(f"/containers/{self._name(container)}/json")
        found: Mapping[str, Any] = self._read("inspect_container", request)
        return found

    def logs(self, container: str, tail: int = 50) -> str:
        path = f"/containers/{self._name(container)}/logs"
        request = Request("GET", path, {"stdout": "1", "stderr": "1", "tail": str(max(0, tail))}, repeatable=True)
        with self._carrier.operation("logs", Lane.READ, READ_SECONDS) as deadline:
            said = self._client.ask(request, deadline)
        return b"".join(payload for _, payload in frames(said)).decode(errors="replace")

    def read_file(self, container: str, path: str) -> bytes:
        name = self._name(container)
        with self._carrier.operation("read_file", Lane.READ, READ_SECONDS) as deadline:
            for _ in range(8):  # Symbolic links, such as /etc/os-release, come back as themselves.
                request = Request("GET", f"/containers/{name}/archive", {"path": path}, repeatable=True)
                found = _first_file(self._client.ask(request, deadline), path)
                if isinstance(found, bytes):
                    return found
                path = found
        raise EngineError(f"{self._carrier.name}: {path} in {container} is no regular file", 400)

    def file_version(self, container: str, path: str) -> str:
        with self._carrier.operation("file_version", Lane.READ, READ_SECONDS) as deadline:
            with self._client.sent(self._stat(container, path), deadline) as (_, response):
                self._client.read_all(response)  # there is none, and then the connection is free again
                return _version(response.headers)

    # ---- images

    def pull(self, reference: str, progress: Progress | None = None, *, deadline: float = 1800.0) -> ImageFact:
        self._reference(reference)
        wanted = split_reference(reference)
        request = Request("POST", "/images/create", {"fromImage": wanted.name, "tag": wanted.tag}, repeatable=True)
        with self._carrier.operation(f"pull {reference}", Lane.PULL, deadline) as until:
            with self._client.sent(request, until) as (_, response):
                self._follow_pull(reference, response, progress)
            path = f"/images/{self._reference(reference)}/json"
            return image_fact(self._client.ask_json(Request("GET", path, repeatable=True), until), reference)

    def _follow_pull(self, reference: str, response: http.client.HTTPResponse, progress: Progress | None) -> None:
        adding, said_at, said = PullProgress(reference), 0.0, ""
        for line in read_lines(response):
            message = self._client.parse(line)
            # The engine has already answered 200 when a layer fails, so the stream itself carries the error.
            detail = message.get("errorDetail") or message.get("error")
            if detail:
                text = detail.get("message") if isinstance(detail, Mapping) else str(detail)
                absent = any(sign in str(text).lower() for sign in ("manifest unknown", "not found", "does not exist"))
                raise self._client.refused(f"pull {reference}", 404 if absent else 500, str(text))
            now, text = time.monotonic(), adding.add(message)
            if progress is not None and text != said and now - said_at >= 1.0:
                said_at, said = now, text
                progress(text)

    # ---- containers

    def create_container(self, name: str, body: Mapping[str, Any]) -> str:
        request = Request("POST", "/containers/create", {"name": self._name(name)}, body)
        return str(self._change(f"create {name}", request)["Id"])

    def start_container(self, container: str) -> None:
        self._change(
            f"start {container}", Request("POST", f"/containers/{self._name(container)}/start", repeatable=True)
        )

    def stop_container(self, container: str, grace: float) -> None:
        path = f"/containers/{self._name(container)}/stop"
        request = Request("POST", path, {"t": str(max(0, round(grace)))}, repeatable=True)
        self._change(f"stop {container}", request, absent_is_fine=True, seconds=grace + CHANGE_SECONDS)

    def unpause_container(self, container: str) -> None:
        request = Request("POST", f"/containers/{self._name(container)}/unpause", repeatable=True)
        try:
            self._change(f"unpause {container}", request, absent_is_fine=True)
        except EngineError as error:
            if "is not paused" not in str(error):
                raise

    def rename_container(self, container: str, name: str) -> None:
        path = f"/containers/{self._name(container)}/rename"
        self._change(f"rename {container}", Request("POST", path, {"name": self._name(name)}))

    def update_container(self, container: str, body: Mapping[str, Any]) -> None:
        path = f"/containers/{self._name(container)}/update"
        self._change(f"update {container}", Request("POST", path, body=body, repeatable=True))

    def remove_container(self, container: str) -> None:
        path = f"/containers/{self._name(container)}"
        request = Request("DELETE", path, {"force": "1", "v": "1"}, repeatable=True)
        with self._carrier.operation(f"remove {container}", Lane.CHANGE, CHANGE_SECONDS) as deadline:
            while True:
                try:
                    self._client.ask(request, deadline)
                    return
                except NotFound:
                    return
                except Conflict as error:
                    if "already in progress" not in str(error):
                        raise
                time.sleep(min(0.2, deadline.remaining()))

    def wait_container(self, container: str, deadline: float) -> int:
        """Looks again and again instead of holding a channel and a turn for as long as a migration takes.

        A lost connection therefore costs the waiting nothing but an error that the caller may answer by waiting again.
        """
        until = Deadline(deadline, f"{self._carrier.name}: wait for {container}")
        pause = 0.05
        while True:
            state = self.inspect_container(container)["State"]
            if state["Status"] in ("exited", "dead"):
                return int(state["ExitCode"])
            time.sleep(min(pause, until.remaining()))
            pause = min(1.0, pause * 1.5)

    def exec(
        self, container: str, argv: Sequence[str], *, stdin: bytes | None = None, deadline: float = 60.0
    ) -> ExecResult:
        """When the deadline passes the program keeps running: the engine has no call that ends an exec."""
        attach = {"AttachStdin": stdin is not None, "AttachStdout": True, "AttachStderr": True}
        create = Request("POST", f"/containers/{self._name(container)}/exec", body={**attach, "Cmd": list(argv)})
        with self._carrier.operation(f"exec in {container}", Lane.CHANGE, deadline) as until:
            self._carrier.counted(execs=1)
            path = f"/exec/{self._client.ask_json(create, until)['Id']}"
            said = self._attached(Request("POST", f"{path}/start", body={"Detach": False, "Tty": False}), stdin, until)
            code = self._exec_code(Request("GET", f"{path}/json", repeatable=True), until, streamed=True)
        out, err = (b"".join(payload for kind, payload in said if kind == wanted) for wanted in (1, 2))
        return ExecResult(code, out, err)

    def exec_code(self, container: str, argv: Sequence[str], *, deadline: float = 60.0) -> int:
        # Nothing attached: the connection stays one for requests. A stream would use up its channel, and a new one
        # costs the host two processes, which is more than most checks take.
        create = Request("POST", f"/containers/{self._name(container)}/exec", body={"Cmd": list(argv)})
        with self._carrier.operation(f"exec in {container}", Lane.CHANGE, deadline) as until:
            self._carrier.counted(execs=1)
            path = f"/exec/{self._client.ask_json(create, until)['Id']}"
            try:
                self._client.ask(Request("POST", f"{path}/start", body={"Detach": True, "Tty": False}), until)
            except EngineError as error:
                if "exec failed" not in str(error):  # A program that is not there has an exit code, as in a shell.
                    raise
            return self._exec_code(Request("GET", f"{path}/json", repeatable=True), until)

    def exec_runs(self, exec_id: str) -> bool:
        try:
            return bool(self._read("exec", _get(f"/exec/{self._name(exec_id)}/json")).get("Running"))
        except NotFound:
            return False

    def _attached(self, start: Request, stdin: bytes | None, deadline: Deadline) -> list[tuple[int, bytes]]:
        with self._client.sent(start, deadline) as (connection, response):
            # From here the connection is a raw stream; it ends with the program and is not kept.
            if stdin is None:
                return frames(self._client.read_all(response))
            with feeding(connection.stream, stdin):
                return frames(self._client.read_all(response))

    def _exec_code(self, request: Request, deadline: Deadline, streamed: bool = False) -> int:
        """`streamed`: the program's output has come to its end, so the program has, or the stream was cut."""
        pause, began = 0.01, time.monotonic()
        while True:  # A stream may end a moment before the engine has noted the exit code.
            found = self._client.ask_json(request, deadline)
            if not found.get("Running") and found.get("ExitCode") is not None:
                return int(found["ExitCode"])
            if streamed and time.monotonic() - began > STREAM_SETTLES:
                # Whoever ends the session (an sshd that is stopped, a host that shuts down) may end the stream in
                # good order: waiting on would take half of the output for the whole.
                raise HostUnreachable(f"{self._carrier.name}: the output of a program was cut off while it ran")
            time.sleep(min(pause, deadline.remaining()))
            pause = min(0.5, pause * 1.5)

    # ---- networks and volumes

    def create_network(self, name: str, subnet: str, labels: Mapping[str, str], *, internal: bool = False) -> str:
        body = {
            "Name": self._name(name),
            "CheckDuplicate": True,
            "Driver": "bridge",
            "Internal": internal,
            "IPAM": {"Config": [{"Subnet": subnet}]},
            "Labels": dict(labels),
        }
        return str(self._change(f"create network {name}", Request("POST", "/networks/create", body=body))["Id"])

    def remove_network(self, network: str) -> None:
        request = Request("DELETE", f"/networks/{self._name(network)}", repeatable=True)
        self._change(f"remove network {network}", request, absent_is_fine=True)

    def connect_network(self, network: str, container: str, aliases: Sequence[str] = ()) -> None:
        body = {"Container": self._name(container), "EndpointConfig": {"Aliases": list(aliases)}}
        request = Request("POST", f"/networks/{self._name(network)}/connect", body=body, repeatable=True)
        try:
            self._change(f"connect {container} to {network}", request)
        except EngineError as error:
            if "already exists in network" not in str(error):
                raise

    def disconnect_network(self, network: str, container: str) -> None:
        body = {"Container": self._name(container), "Force": True}
        request = Request("POST", f"/networks/{self._name(network)}/disconnect", body=body, repeatable=True)
        try:
            self._change(f"disconnect {container} from {network}", request, absent_is_fine=True)
        except EngineError as error:
            if "is not connected to" not in str(error):
                raise

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        body = {"Name": self._name(name), "Driver": "local", "Labels": dict(labels)}
        self._change(f"create volume {name}", Request("POST", "/volumes/create", body=body, repeatable=True))

    def remove_volume(self, name: str) -> None:
        request = Request("DELETE", f"/volumes/{self._name(name)}", repeatable=True)
        self._change(f"remove volume {name}", request, absent_is_fine=True)

    # ---- events

    def events(self, since: int, labels: Sequence[str] = ()) -> HostEvents:
        with self._streaming:
            if self._stream is not None:
                self._stream.close()  # Its reader is gone or about to go; there is one event channel.
            self._stream = HostEvents(self._carrier, self._client, self._edge, event_query(since, labels))
            return self._stream

    @property
    def heartbeats(self) -> int:
        """Checks of silent streams so far."""
        return self._client.heartbeats

    @property
    def latency(self) -> float | None:
        """Seconds of the last round trip that was measured."""
        return self._client.latency

    def drop_idle(self) -> None:
        """Closes every kept connection, as when the SSH connection below them is gone."""
        self._client.kept.clear()

    def evict_idle(self) -> bool:
        """Closes one kept connection to make room for another channel; False when none is idle."""
        return self._client.kept.evict()

    # ---- one request

    def _read(self, what: str, request: Request) -> Any:
        with self._carrier.operation(what, Lane.READ, READ_SECONDS) as deadline:
            return self._client.ask_json(request, deadline)

    def _image(self, reference: str) -> Request:
        return _get(f"/images/{self._reference(reference)}/json")

    def _stat(self, container: str, path: str) -> Request:
        return Request("HEAD", f"/containers/{self._name(container)}/archive", {"path": path}, repeatable=True)

    def _change(
        self, what: str, request: Request, *, absent_is_fine: bool = False, seconds: float = CHANGE_SECONDS
    ) -> Any:
        with self._carrier.operation(what, Lane.CHANGE, seconds) as deadline:
            try:
                return self._client.ask_json(request, deadline)
            except NotFound:
                if not absent_is_fine:
                    raise
                return {}

    def _name(self, name: str) -> str:
        """`name`, which is a Docker object name or id; refused otherwise, before it reaches a URL."""
        if not _NAME.fullmatch(name):
            raise EngineError(f"{self._carrier.name}: {name[:80]!r} is not a Docker object name", 400)
        return name

    def _reference(self, reference: str) -> str:
        if not _REFERENCE.fullmatch(reference) or ".." in reference or "//" in reference:
            raise EngineError(f"{self._carrier.name}: {reference[:80]!r} is not an image reference", 400)
        return quote(reference, safe="/:@")


def _get(path: str, query: Mapping[str, str] | None = None) -> Request:
    return Request("GET", path, query or {}, repeatable=True)


_NETWORKS = _get("/networks")


def _containers(labels: Sequence[str]) -> Request:
    return _get("/containers/json", {"all": "1", **_filters(label=labels)})


def _version(headers: Message) -> str:
    return str(headers.get("X-Docker-Container-Path-Stat", ""))


def _filters(**wanted: Sequence[str]) -> dict[str, str]:
    given = {key: list(values) for key, values in wanted.items() if values}
    return {"filters": json.dumps(given)} if given else {}


def _first_file(archive: bytes, path: str) -> bytes | str:
    """The content of the regular file in a one-member archive, or where the symbolic link in it points to.

    The engine sends plain archives. One that is compressed or sparse is made to unpack into more than was sent.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            member = tar.next()
            if member is not None and member.issym():
                return normpath(join(dirname(path), member.linkname))
            plain = member is not None and member.isreg() and not member.issparse()
            content = tar.extractfile(member) if member is not None and plain else None
            if content is None:
                raise EngineError(f"{path} is no regular file", 400)
            return content.read()
    except tarfile.TarError:
        raise EngineError(f"the archive with {path} cannot be read", 502) from None
