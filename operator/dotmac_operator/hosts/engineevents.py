"""The engine's event stream: told once, resumed without repeating, ended on purpose or with an error."""

import http.client
import json
import threading
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime

from dotmac_operator.core.facts import DockerEvent
from dotmac_operator.hosts.deadline import Deadline
from dotmac_operator.hosts.enginefacts import docker_event
from dotmac_operator.hosts.enginehttp import Carrier, Connection, EngineClient, Request
from dotmac_operator.hosts.port import DeadlineExceeded, EngineError, HostError, HostUnreachable
from dotmac_operator.hosts.stream import read_lines

EVENT_ACTIONS = (
    *("create", "start", "restart", "stop", "die", "oom", "pause", "unpause", "rename", "update", "destroy"),
    *(
        "exec_start: caddy",
        "health_status",
        "connect",
        "disconnect",
        "remove",
        "delete",
        "pull",
        "tag",
        "untag",
        "reload",
        "prune",
    ),
)
"""Everything that changes facts. Left out are exec_*: a health check causes three, with its command line. But a program
of the proxy that somebody starts in it may change its configuration; the Engine compares beginnings as soon as
`health_status` is among the filters. Source: moby, daemon/events/filter.go."""

NANO = 10**9
OPEN_SECONDS = 30.0
SILENCE_SECONDS = 15.0
"""After so much silence a ping tells whether nothing happens or nobody is there."""


class EventEdge:
    """The events at the newest instant seen, so that a stream resumed from that instant does not tell them twice."""

    def __init__(self) -> None:
        self.answered = False
        """The engine has told once what it remembers, so that it can."""
        self._lock = threading.Lock()
        self._instant = 0
        self._seen: set[tuple[str, str, str]] = set()

    @property
    def instant(self) -> int:
        """Time of the newest event that was told, nanoseconds on the host's clock; 0 before the first."""
        return self._instant

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
        query["since"] = _seconds(since)
    return query


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds // NANO}.{nanoseconds % NANO:09d}"


class Recollection:
    """Asks a silent stream's engine what it remembers: what the stream has not told, the stream has lost.

    One question takes the place of a ping. It is bounded by the host's own clock, told by the Date of its answers; an
    engine that does not tell it, or waits instead of answering, is pinged. An engine remembers 256 events, so that a
    loss among many is noticed by what comes later.
    """

    def __init__(self, client: EngineClient, edge: EventEdge, query: dict[str, str], date: str) -> None:
        self._client = client
        self._edge = edge
        self._filters = query["filters"]
        self._clock: tuple[int, float] | None = None
        self._untold = 0
        self._missed = False
        self._able = True
        self._read_clock(date)
        # The Date has no fraction: what happened in its second may have been before the stream.
        self._opened = (self._clock[0] + 1) * NANO if self._clock else 0

    def check(self) -> None:
        """Raises HostUnreachable when the host is silent, has known of an event for a whole silence, or does not answer
        any more what it remembers."""
        request = self._question()
        if request is None:
            self._client.check_alive()
            return
        try:
            heard = self._client.heartbeat(request)
        except DeadlineExceeded:
            self._client.check_alive()
            self._miss()
            return
        except EngineError:
            self._client.check_alive()
            self._able = False
            return
        if heard is None:
            return
        self._edge.answered, self._missed = True, False
        self._read_clock(heard.date)
        try:
            remembered = [docker_event(json.loads(line)).time_nano for line in heard.body.splitlines()]
        except ValueError:
            self._able = False
            return
        self._judge(max(remembered, default=0))

    def _question(self) -> Request | None:
        if not self._able or self._clock is None:
            return None
        date, at = self._clock
        since = max(self._edge.instant + 1, self._opened)
        until = (date + int(time.monotonic() - at)) * NANO
        if until <= since:
            return None
        query = {"filters": self._filters, "since": _seconds(since), "until": _seconds(until)}
        return Request("GET", "/events", query, repeatable=True)

    def _miss(self) -> None:
        """An engine that waits instead of answering always did. One that has answered before is deaf, or was busy."""
        if not self._edge.answered:
            self._able = False
        elif self._missed:
            raise HostUnreachable("the engine is alive and does not answer about events any more")
        self._missed = True

    def _judge(self, newest: int) -> None:
        """An event may be on its way; one that did not come in a whole silence is lost."""
        if self._untold and self._edge.instant < self._untold:
            raise HostUnreachable(
                "the event stream has fallen silent: the engine remembers events that it did not tell"
            )
        self._untold = newest if newest > self._edge.instant else 0

    def _read_clock(self, date: str) -> None:
        try:
            self._clock = (int(parsedate_to_datetime(date).timestamp()), time.monotonic())
        except (ValueError, TypeError):
            self._clock = None


class HostEvents:
    """Implements `port.EventStream`. It is connected from the start: what happens after it was made is told."""

    def __init__(self, carrier: Carrier, client: EngineClient, edge: EventEdge, query: dict[str, str]) -> None:
        self._carrier = carrier
        self._edge = edge
        self._closed = False
        self._connection, response = _open(carrier, client, query)
        self._lines = read_lines(response)
        self._connection.stream.deadline = Deadline(float("inf"), f"{carrier.name}: events")
        self._recollection = Recollection(client, edge, query, response.headers.get("Date", ""))
        self.alive_at = time.monotonic()
        """When the stream last proved to be alive and complete: by an event, or by a check after a silence."""
        self._connection.stream.watch(SILENCE_SECONDS, self._check)

    def _check(self) -> None:
        self._recollection.check()
        self.alive_at = time.monotonic()

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
            self.alive_at = time.monotonic()
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
