"""The engine's event stream: told once, resumed without repeating, ended on purpose or with an error."""

import http.client
import json
import threading
from collections.abc import Sequence

from dotmac_operator.core.facts import DockerEvent
from dotmac_operator.hosts.deadline import Deadline
from dotmac_operator.hosts.enginefacts import docker_event
from dotmac_operator.hosts.enginehttp import Carrier, Connection, EngineClient, Request
from dotmac_operator.hosts.port import EngineError, HostError, HostUnreachable
from dotmac_operator.hosts.stream import read_lines

EVENT_ACTIONS = (
    *("create", "start", "restart", "stop", "die", "oom", "pause", "unpause", "rename", "update", "destroy"),
    *("health_status", "connect", "disconnect", "remove", "delete", "pull", "tag", "untag", "reload", "prune"),
)
"""Everything that changes facts. Left out are exec_*: a health check causes three, with its command line."""

OPEN_SECONDS = 30.0
SILENCE_SECONDS = 15.0
"""After so much silence a ping tells whether nothing happens or nobody is there."""


class EventEdge:
    """The events at the newest instant seen, so that a stream resumed from that instant does not tell them twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instant = 0
        self._seen: set[tuple[str, str, str]] = set()

    def first_time(self, event: DockerEvent) -> bool:
        key = (event.type, event.action, event.actor_id)
        with self._lock:
            if event.time_nano > self._instant:
                self._instant, self._seen = event.time_nano, set()
            if event.time_nano == self._instant:
                if key in self._seen:
                    return False
                self._seen.add(key)
            return True


def event_query(since: int, labels: Sequence[str]) -> dict[str, str]:
    """`since` as the engine reads it without losing nanoseconds: seconds and fraction."""
    filters: dict[str, list[str]] = {"event": list(EVENT_ACTIONS)}
    if labels:
        filters["label"] = list(labels)
    query = {"filters": json.dumps(filters)}
    if since > 0:
        query["since"] = f"{since // 10**9}.{since % 10**9:09d}"
    return query


class HostEvents:
    """Implements `port.EventStream`. It is connected from the start: what happens after it was made is told."""

    def __init__(self, carrier: Carrier, client: EngineClient, edge: EventEdge, query: dict[str, str]) -> None:
        self._carrier = carrier
        self._edge = edge
        self._closed = False
        self._connection, response = _open(carrier, client, query)
        self._lines = read_lines(response)
        self._connection.stream.deadline = Deadline(float("inf"), f"{carrier.name}: events")
        self._connection.stream.watch(SILENCE_SECONDS, client.check_alive)

    def __iter__(self) -> "HostEvents":
        return self

    def __next__(self) -> DockerEvent:
        while (line := self._line()) is not None:
            try:
                event = docker_event(json.loads(line))
            except ValueError:
                self.close()
                raise EngineError(f"{self._carrier.name}: an event is not JSON", 502) from None
            if self._edge.first_time(event):
                return event
        raise StopIteration

    def _line(self) -> bytes | None:
        """None when the stream was closed on purpose."""
        try:
            line = next(self._lines, None)
            failure: Exception | None = None
        except (OSError, http.client.HTTPException, HostError) as error:
            line, failure = None, error
        if line is not None:
            return line
        meant = self._closed or self._carrier.closed
        self.close()
        if meant:
            return None
        if isinstance(failure, HostError):
            raise failure
        raise HostUnreachable(f"{self._carrier.name}: the event stream ended") from failure

    def close(self) -> None:
        """Ends the stream; a thread that waits for the next event leaves its loop."""
        self._closed = True
        self._connection.close()


def _open(carrier: Carrier, client: EngineClient, query: dict[str, str]) -> tuple[Connection, http.client.HTTPResponse]:
    deadline = Deadline(OPEN_SECONDS, f"{carrier.name}: open the event stream")
    connection = client.dial(deadline, events=True)
    request = Request("GET", "/events", query)
    try:
        response = connection.exchange(request, deadline)
        client.check_status(request, response)
        return connection, response
    except (OSError, http.client.HTTPException) as error:
        failure = client.lost(connection, error)
        connection.close()
        raise failure from error
    except BaseException:
        connection.close()
        raise
