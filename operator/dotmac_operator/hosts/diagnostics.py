"""What people ask a Docker engine for when something is wrong: log lines, consumption, sizes. Never by exec."""

import http.client
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from dotmac_operator.hosts.enginehttp import Carrier, Connection, EngineClient, Lane, Request
from dotmac_operator.hosts.port import EngineError, HostError, HostUnreachable

READ_SECONDS = 20.0
SIZE_SECONDS = 120.0
"""The engine walks through every file of every volume for their sizes."""
SILENCE_SECONDS = 15.0
LINE_LIMIT = 32 * 1024
"""Bytes of one line; the rest of a longer one is dropped."""
OVERLAP = 16 * 1024
"""Bytes beyond the limit that are kept until the line was masked, so that no secret is cut in half by the limit."""
_NEWEST_FRAME = 64 * 1024 * 1024


@dataclass(frozen=True)
class LogQuery:
    tail: int
    """Lines from the end; at most so many from before the request."""
    since: str = ""
    """Unix seconds, with an optional fraction; empty: from the beginning."""
    follow: bool = False
    seconds: float = READ_SECONDS
    """How long it may take, or be followed, altogether."""


@dataclass(frozen=True)
class LogLine:
    time: str
    """RFC 3339 with nanoseconds, as the engine tells it."""
    stream: str
    """stdout or stderr."""
    text: str
    """Up to LINE_LIMIT + OVERLAP bytes, undecodable ones replaced; nothing is masked yet."""


@dataclass(frozen=True)
class Sample:
    """What a container has taken so far. Times in nanoseconds of processor time, sizes in bytes."""

    cpu: int
    system: int
    """Of the whole host, for the same stretch."""
    cpus: int
    memory: int
    """Without the page cache that the kernel can drop, as `docker stats` counts it."""
    memory_limit: int
    pids: int


class Diagnosing(Protocol):
    """Questions to an engine."""

    def log_lines(self, container: str, query: LogQuery) -> "LogLines": ...

    def sample(self, container: str) -> Sample: ...

    def volume_sizes(self) -> Mapping[str, int]: ...


class LogLines(Protocol):
    """Lines as they come. Raises HostError when the connection is lost, DeadlineExceeded at the query's end."""

    def __iter__(self) -> Iterator[LogLine]: ...

    def close(self) -> None:
        """May be called from another thread; the reader leaves its loop."""


class EngineDiagnostics:
    """Implements `Diagnosing`."""

    def __init__(self, carrier: Carrier, client: EngineClient) -> None:
        self._carrier = carrier
        self._client = client

    def log_lines(self, container: str, query: LogQuery) -> "EngineLogLines":
        parameters = {"stdout": "1", "stderr": "1", "timestamps": "1", "tail": str(max(0, query.tail))}
        if query.since:
            parameters["since"] = query.since
        if query.follow:
            parameters["follow"] = "1"
        request = Request("GET", f"/containers/{quote(container, safe='')}/logs", parameters, repeatable=True)
        return EngineLogLines(self._carrier, self._client, request, query)

    def sample(self, container: str) -> Sample:
        # One shot: without it the engine itself waits for a second sample, 1 to 2 seconds for each container.
        path, query = f"/containers/{quote(container, safe='')}/stats", {"stream": "0", "one-shot": "1"}
        with self._carrier.operation("stats", Lane.READ, READ_SECONDS) as deadline:
            return sample_of(self._client.ask_json(Request("GET", path, query, repeatable=True), deadline))

    def volume_sizes(self) -> Mapping[str, int]:
        """Volume -> bytes of those whose size the engine could tell. Slow and heavy: the caller keeps the answer."""
        with self._carrier.operation("df", Lane.READ, SIZE_SECONDS) as deadline:
            # Engines before API 1.42 ignore the type and measure everything.
            found = self._client.ask_json(Request("GET", "/system/df", {"type": "volume"}, repeatable=True), deadline)
        volumes = found.get("Volumes") or (found.get("VolumesDiskUsage") or {}).get("Items") or ()
        sizes = {str(item["Name"]): int((item.get("UsageData") or {}).get("Size", -1)) for item in volumes}
        return {name: size for name, size in sizes.items() if size >= 0}


class EngineLogLines:
    """Implements `LogLines`. The request is made by the thread that iterates."""

    def __init__(self, carrier: Carrier, client: EngineClient, request: Request, query: LogQuery) -> None:
        self._carrier = carrier
        self._client = client
        self._request = request
        self._query = query
        self._connection: Connection | None = None
        self._closed = False

    def close(self) -> None:
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.close()

    def __iter__(self) -> Iterator[LogLine]:
        try:
            with ExitStack() as held:
                yield from log_lines(_chunks(self._answer(held)))
        except (OSError, http.client.HTTPException) as error:
            if not self._closed:
                raise HostUnreachable(f"{self._carrier.name}: the log stream was lost") from error
        except HostError:
            if not self._closed:
                raise

    def _answer(self, held: ExitStack) -> http.client.HTTPResponse:
        deadline = held.enter_context(self._carrier.operation("logs", Lane.READ, self._query.seconds))
        connection, response = held.enter_context(self._client.sent(self._request, deadline))
        if self._query.follow:
            # It is never given back for other calls: it ends with the stream, and has a watch on it.
            held.callback(connection.close)
            connection.stream.watch(SILENCE_SECONDS, self._client.check_alive)
        self._connection = connection
        if self._closed:
            connection.close()
        return response


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while data := response.read1(65536):
        yield data


def log_lines(chunks: Iterator[bytes]) -> Iterator[LogLine]:
    """Lines of a multiplexed, timestamped log stream that arrives in arbitrary pieces.

    A line of more than 16 KiB comes in several frames, each with a timestamp of its own and only the last with a
    newline; it is put together again. Source of the frame: Engine API, ContainerAttach, "Stream format".
    """
    partial: dict[str, tuple[str, bytearray]] = {}
    for kind, payload in _frames(chunks):
        stream = "stderr" if kind == 2 else "stdout"
        stamp, _, rest = payload.partition(b" ")
        time, kept = partial.pop(stream, (stamp.decode(errors="replace"), bytearray()))
        kept += rest.rstrip(b"\r\n")[: max(0, LINE_LIMIT + OVERLAP - len(kept))]
        if payload.endswith(b"\n"):
            yield LogLine(time, stream, kept.decode(errors="replace"))
        else:
            partial[stream] = (time, kept)
    for stream, (time, kept) in partial.items():
        yield LogLine(time, stream, kept.decode(errors="replace"))


def _frames(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """(1 stdout or 2 stderr, payload): type (1 byte), 3 zeros, length (4 bytes, big endian), payload."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        place = 0
        while len(held) - place >= 8:
            size = int.from_bytes(held[place + 4 : place + 8], "big")
            if held[place] > 2 or held[place + 1 : place + 4] != b"\0\0\0" or size > _NEWEST_FRAME:
                raise EngineError("the log is not framed: the container has a terminal", 502)
            if len(held) - place < 8 + size:
                break
            yield held[place], bytes(held[place + 8 : place + 8 + size])
            place += 8 + size
        del held[:place]


def sample_of(stats: Mapping[str, Any]) -> Sample:
    """From `GET /containers/ID/stats`; a container that does not run has zeros everywhere."""
    cpu, memory = stats.get("cpu_stats") or {}, stats.get("memory_stats") or {}
    detail = memory.get("stats") or {}
    # The first name is of cgroups v1, the second of v2. Source: docker/cli, cli/command/container/stats_helpers.go.
    cache = int(detail.get("total_inactive_file") or detail.get("inactive_file") or 0)
    used = int(memory.get("usage") or 0)
    usage = cpu.get("cpu_usage") or {}
    return Sample(
        cpu=int(usage.get("total_usage") or 0),
        system=int(cpu.get("system_cpu_usage") or 0),
        cpus=int(cpu.get("online_cpus") or len(usage.get("percpu_usage") or ()) or 1),
        memory=used - cache if cache < used else used,
        memory_limit=int(memory.get("limit") or 0),
        pids=int((stats.get("pids_stats") or {}).get("current") or 0),
    )


def cpu_percent(before: Sample, after: Sample) -> float:
    """Percent of one processor between two samples; 100 is one processor in full use."""
    cpu, system = after.cpu - before.cpu, after.system - before.system
    return round(cpu / system * after.cpus * 100.0, 1) if cpu > 0 and system > 0 else 0.0
