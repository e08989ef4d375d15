"""The event stream on a server that does what an engine seldom does."""

import json
import threading
import time

import paramiko
import pytest
from tests.kits.canned_ssh import Answer, CannedEngine

from dotmac_operator.core.facts import DockerEvent
from dotmac_operator.hosts import engineevents, enginehttp
from dotmac_operator.hosts.engineevents import EventEdge, event_query
from dotmac_operator.hosts.port import EngineError, HostUnreachable


def event(instant: int, action: str = "start", actor: str = "a") -> DockerEvent:
    return DockerEvent(type="container", action=action, actor_id=actor, time_nano=instant)


def test_the_edge_tells_each_event_of_an_instant_once():
    edge = EventEdge()
    first = [event(1), event(2), event(2, actor="b")]
    assert [edge.first_time(each) for each in first] == [True, True, True]
    resumed = [event(2), event(2, actor="b"), event(2, actor="c"), event(3), event(3)]
    assert [edge.first_time(each) for each in resumed] == [False, False, True, True, False]


def test_since_keeps_its_nanoseconds():
    assert event_query(1_700_000_000_000_000_001, [])["since"] == "1700000000.000000001"
    assert "since" not in event_query(0, [])
    assert json.loads(event_query(0, ["a=b"])["filters"])["label"] == ["a=b"]


class Streaming(CannedEngine):
    """Answers `/events` with what it is given and then stays silent."""

    said = b""

    def __call__(self, channel: paramiko.Channel, command: str) -> None:
        self.answers["GET /events"] = Answer(raw=self.said, hang_up_after=False)
        super().__call__(channel, command)


def chunk(*lines: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in lines)


def line(instant: int) -> bytes:
    actor = {"ID": "abc", "Attributes": {"name": "web"}}
    return json.dumps({"Type": "container", "Action": "start", "Actor": actor, "timeNano": instant}).encode() + b"\n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(engineevents, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(enginehttp, "PING_SECONDS", 0.3)


def test_events_may_be_split_or_joined_by_the_wire(canned):
    engine = Streaming()
    both = line(1) + line(2)
    engine.said = chunk(both[:20], both[20 : len(line(1)) + 5], both[len(line(1)) + 5 :])
    stream = canned(engine).host().engine.events(0)
    assert [next(stream).time_nano, next(stream).time_nano] == [1, 2]


def test_silence_alone_is_no_loss_and_is_not_counted(canned):
    engine = Streaming()
    engine.said = chunk(line(1))
    host = canned(engine).host()
    stream = host.engine.events(0)
    next(stream)
    threading.Timer(0.6, stream.close).start()
    assert list(stream) == []
    assert engine.seen.count("GET /_ping") >= 4
    assert host.round_trips == 0


def test_a_host_that_freezes_is_lost(canned):
    engine = Streaming()
    engine.said = chunk(line(1))
    made = canned(engine)
    stream = made.host().engine.events(0)
    next(stream)
    engine.answers["GET /_ping"] = Answer(hang=30)
    started = time.monotonic()
    with pytest.raises(HostUnreachable, match="silent"):
        next(stream)
    assert time.monotonic() - started < 10
    del engine.answers["GET /_ping"]
    made.host().probe()  # The dead connection was dropped, so this makes a new one.
    assert made.server.connections == 2


@pytest.mark.parametrize("end", [b"", b"0\r\n\r\n", b"ffff\r\ncut off"])
def test_the_end_of_the_stream_is_a_loss(canned, end):
    engine = Streaming()
    engine.said = chunk(line(1)) + end
    made = canned(engine)
    stream = made.host().engine.events(0)
    next(stream)
    threading.Timer(0.2, made.server.drop_connections).start()
    with pytest.raises(HostUnreachable):
        next(stream)


def test_a_refused_stream_says_why_and_frees_the_channel(canned):
    engine = CannedEngine()
    engine.answers["GET /events"] = Answer(400, {"message": "invalid filter"})
    host = canned(engine).host()
    for _ in range(2):
        with pytest.raises(EngineError, match="invalid filter"):
            host.engine.events(0)


def test_what_is_not_json_is_an_error(canned):
    engine = Streaming()
    engine.said = chunk(b"<html>\n")
    with pytest.raises(EngineError, match="not JSON"):
        next(canned(engine).host().engine.events(0))
