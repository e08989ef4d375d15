"""The event stream: nothing missed, nothing told twice, ended on purpose or with an error."""

import threading
import time
from queue import Empty, Queue

import pytest

from dotmac_operator.hosts.port import DockerEvent, HostError, HostUnreachable

pytestmark = pytest.mark.docker


class Reader:
    """Follows a stream in a thread."""

    def __init__(self, stream) -> None:
        self.stream = stream
        self.events: Queue[DockerEvent] = Queue()
        self.ended: Queue[HostError | None] = Queue()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        try:
            for event in self.stream:
                self.events.put(event)
            self.ended.put(None)
        except HostError as error:
            self.ended.put(error)

    def until(self, action: str, seconds: float = 10) -> list[DockerEvent]:
        found = []
        while not found or found[-1].action != action:
            found.append(self.events.get(timeout=seconds))
        return found

    def rest(self) -> list[DockerEvent]:
        found = []
        while True:
            try:
                found.append(self.events.get(timeout=0.5))
            except Empty:
                return found


def create(engine, tiny: str, name: str, *names: str) -> None:
    for each in names or (name,):
        engine.create_container(each, {"Image": tiny, "Cmd": ["sleep", "60"], "Labels": {"dotmac.test": name}})


def told(events: list[DockerEvent]) -> list[tuple[str, str]]:
    return [(event.action, event.attributes["name"]) for event in events if event.type == "container"]


def test_the_life_of_a_container_is_told(connect, tiny, name):
    engine = connect().engine
    reader = Reader(engine.events(0, [f"dotmac.test={name}"]))
    create(engine, tiny, name)
    engine.start_container(name)
    engine.exec(name, ["true"])
    engine.stop_container(name, 0)
    engine.remove_container(name)
    seen = reader.until("destroy")
    assert told(seen) == [(action, name) for action in ("create", "start", "die", "stop", "destroy")]
    assert all(event.attributes["dotmac.test"] == name and event.time_nano > 10**18 for event in seen)
    assert dict(seen[2].attributes)["exitCode"] == "137"
    reader.stream.close()
    assert reader.ended.get(timeout=5) is None


def test_health_changes_are_told(connect, tiny, name):
    engine = connect().engine
    reader = Reader(engine.events(0, [f"dotmac.test={name}"]))
    check = {"Test": ["CMD", "true"], "Interval": 10**9, "Timeout": 10**9, "Retries": 1}
    body = {"Image": tiny, "Cmd": ["sleep", "60"], "Labels": {"dotmac.test": name}, "Healthcheck": check}
    engine.create_container(name, body)
    engine.start_container(name)
    seen = reader.until("health_status: healthy")
    assert not [event for event in seen if event.action.startswith("exec_")]


def test_networks_and_volumes_are_told_without_a_filter(connect, name):
    engine = connect().engine
    reader = Reader(engine.events(0))
    engine.create_network(name, "10.254.80.0/24", {})
    engine.create_volume(name, {})
    engine.remove_network(name)
    engine.remove_volume(name)
    seen = [
        (event.type, event.action) for event in reader.rest() if name in (event.actor_id, event.attributes.get("name"))
    ]
    assert ("network", "create") in seen
    assert ("network", "destroy") in seen
    assert ("volume", "create") in seen
    assert ("volume", "destroy") in seen


def test_what_happened_in_a_gap_is_told_once(connect, tiny, name, host):
    engine = connect().engine
    first = Reader(engine.events(0, [f"dotmac.test={name}"]))
    create(engine, tiny, name, f"{name}-1", f"{name}-2")
    seen = first.until("create") + first.until("create")
    host.restart_sshd()
    assert isinstance(first.ended.get(timeout=10), HostUnreachable)
    create(engine, tiny, name, *[f"{name}-{number}" for number in range(3, 23)])
    second = Reader(engine.events(seen[-1].time_nano, [f"dotmac.test={name}"]))
    create(engine, tiny, name, f"{name}-last")
    names = [event.attributes["name"] for event in [*seen, *first.rest(), *second.rest()]]
    assert names == [*[f"{name}-{number}" for number in range(1, 23)], f"{name}-last"]


def test_the_stream_is_open_before_it_is_read(connect, tiny, name):
    engine = connect().engine
    stream = engine.events(0, [f"dotmac.test={name}"])
    create(engine, tiny, name)
    time.sleep(0.3)
    assert next(stream).action == "create"
    stream.close()
    assert list(stream) == []


def test_it_ends_when_the_pool_forgets_the_host(connect):
    host = connect()
    reader = Reader(host.engine.events(0))
    time.sleep(0.2)
    host.close()
    assert reader.ended.get(timeout=5) is None


def test_it_fails_at_once_when_the_engine_stops(connect, host):
    reader = Reader(connect().engine.events(0))
    started = time.monotonic()
    host.stop_dockerd()
    host.start_dockerd()
    assert isinstance(reader.ended.get(timeout=10), HostUnreachable)
    assert time.monotonic() - started < 30


def test_a_new_stream_ends_the_one_before(connect, tiny, name):
    engine = connect().engine
    first = Reader(engine.events(0))
    second = Reader(engine.events(0))
    assert first.ended.get(timeout=5) is None
    create(engine, tiny, name)
    assert told(second.until("create")) == [("create", name)]
