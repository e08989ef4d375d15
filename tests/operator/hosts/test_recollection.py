"""A silent stream's engine is asked what it remembers: only what it did not tell in a whole silence is a loss."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from dotmac_operator.core.facts import DockerEvent
from dotmac_operator.hosts import engineevents
from dotmac_operator.hosts.engineevents import EventEdge, Recollection, event_query
from dotmac_operator.hosts.enginehttp import Heartbeat, Request
from dotmac_operator.hosts.port import DeadlineExceeded, EngineError, HostUnreachable

OPENED = 1_795_341_600  # Sun, 22 Nov 2026 10:00:00 GMT
SECOND = 10**9


@dataclass
class Client:
    """What the engine says."""

    remembered: list[int] = field(default_factory=list)
    date: str = "Sun, 22 Nov 2026 10:00:30 GMT"
    failure: Exception | None = None
    busy: bool = False
    pings: int = 0
    asked: list[Request] = field(default_factory=list)

    def heartbeat(self, request: Request) -> Heartbeat | None:
        self.asked.append(request)
        if self.failure is not None:
            raise self.failure
        if self.busy:
            return None
        lines = [json.dumps({"Type": "container", "Action": "die", "timeNano": at}) for at in self.remembered]
        return Heartbeat("\n".join(lines).encode(), self.date)

    def check_alive(self) -> None:
        self.pings += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(engineevents.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def edge() -> EventEdge:
    return EventEdge()


def made(client: Any, edge: EventEdge, date: str = "Sun, 22 Nov 2026 10:00:00 GMT") -> Recollection:
    return Recollection(client, edge, event_query(0, ["a=b"]), date)


def tell(edge: EventEdge, at: int) -> None:
    assert edge.first_time(DockerEvent("container", "die", "x", time_nano=at))


def test_the_question_is_bounded_by_the_hosts_clock_and_leaves_out_the_first_second(
    clock: list[float], edge: EventEdge
) -> None:
    client = Client()
    recollection = made(client, edge)
    clock[0] += 15.7
    recollection.check()
    query = client.asked[0].query
    assert query["since"] == f"{OPENED + 1}.000000000" and query["until"] == f"{OPENED + 15}.000000000"
    assert query["filters"] == event_query(0, ["a=b"])["filters"]  # what the stream would not tell is not asked
    tell(edge, (OPENED + 20) * SECOND + 5)
    clock[0] += 15.5
    recollection.check()
    assert client.asked[1].query["since"] == f"{OPENED + 20}.000000006"
    assert client.asked[1].query["until"] == f"{OPENED + 45}.000000000"  # from the Date of the answer before
    assert client.pings == 0


def test_what_is_not_told_in_a_whole_silence_is_lost(clock: list[float], edge: EventEdge) -> None:
    client = Client([(OPENED + 5) * SECOND])
    recollection = made(client, edge)
    clock[0] += 15
    recollection.check()  # it may be on its way
    clock[0] += 15
    with pytest.raises(HostUnreachable, match="fallen silent"):
        recollection.check()


def test_what_is_told_a_little_late_is_not_lost(clock: list[float], edge: EventEdge) -> None:
    client = Client([(OPENED + 5) * SECOND])
    recollection = made(client, edge)
    for _ in range(4):
        clock[0] += 15
        recollection.check()
        if client.remembered:
            tell(edge, client.remembered.pop())
    assert client.pings == 0


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_an_engine_that_tells_no_time_is_pinged(clock: list[float], edge: EventEdge, date: str) -> None:
    client = Client()
    recollection = made(client, edge, date)
    clock[0] += 15
    recollection.check()
    assert (client.pings, client.asked) == (1, [])


@pytest.mark.parametrize("failure", [EngineError("no such parameter", 400), DeadlineExceeded("it waits for more")])
def test_an_engine_that_does_not_know_the_question_is_pinged(
    clock: list[float], edge: EventEdge, failure: Exception
) -> None:
    client = Client(failure=failure)
    recollection = made(client, edge)
    for _ in range(3):
        clock[0] += 15
        recollection.check()
    assert (client.pings, len(client.asked)) == (3, 1)


def test_an_engine_that_has_answered_and_does_not_any_more_is_deaf(clock: list[float], edge: EventEdge) -> None:
    """It takes the question and the stream, answers pings, and tells nothing: once it may be busy."""
    client = Client()
    recollection = made(client, edge)
    clock[0] += 15
    recollection.check()
    for _ in range(2):  # and an answer in between clears it
        client.failure = DeadlineExceeded("late")
        clock[0] += 15
        recollection.check()
        client.failure = None
        clock[0] += 15
        recollection.check()
    client.failure = DeadlineExceeded("late")
    clock[0] += 15
    recollection.check()
    clock[0] += 15
    with pytest.raises(HostUnreachable, match="about events"):
        recollection.check()
    again = made(client, edge)  # the stream that is opened next knows that it can
    clock[0] += 15
    again.check()
    clock[0] += 15
    with pytest.raises(HostUnreachable):
        again.check()


def test_a_host_without_a_free_channel_is_not_doubted(clock: list[float], edge: EventEdge) -> None:
    client = Client([(OPENED + 5) * SECOND], busy=True)
    recollection = made(client, edge)
    for _ in range(3):
        clock[0] += 15
        recollection.check()


def test_a_clock_that_was_set_back_asks_nothing_impossible(clock: list[float], edge: EventEdge) -> None:
    """The engine refuses a question whose end is before its beginning."""
    client = Client()
    recollection = made(client, edge)
    tell(edge, (OPENED + 3600) * SECOND)
    clock[0] += 15
    recollection.check()
    assert (client.pings, client.asked) == (1, [])
