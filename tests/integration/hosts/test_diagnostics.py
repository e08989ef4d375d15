"""Logs, consumption and sizes from a real dockerd behind a real sshd."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any

import pytest

from dotmac_operator.hosts.diagnostics import LINE_LIMIT, LogLine, LogQuery, cpu_percent
from dotmac_operator.hosts.pool import SshHost
from dotmac_operator.hosts.port import DeadlineExceeded, EngineError, NotFound

pytestmark = pytest.mark.docker

Run = Callable[..., str]


@pytest.fixture
def run(connect: Any, tiny: str, name: str) -> Iterator[tuple[SshHost, Run]]:
    host = connect()

    def start(script: str, suffix: str = "", **body: Any) -> str:
        container = name + suffix
        made = {"Image": tiny, "Cmd": ["sh", "-c", script], "StopSignal": "SIGKILL", **body}
        host.engine.create_container(container, made)
        host.engine.start_container(container)
        return container

    yield host, start


def lines(host: SshHost, container: str, **query: Any) -> list[LogLine]:
    return list(host.engine.diagnostics.log_lines(container, LogQuery(**{"tail": 100, **query})))


def test_lines_have_their_stream_time_and_text(run: tuple[SshHost, Run]) -> None:
    host, start = run
    container = start("echo one; echo two >&2; printf 'ünï no newline'; sleep 0.2")
    host.engine.wait_container(container, 20)
    found = lines(host, container)
    assert {(line.stream, line.text) for line in found} == {
        ("stdout", "one"),
        ("stderr", "two"),
        ("stdout", "ünï no newline"),
    }
    assert all(line.time.endswith("Z") and "T" in line.time and "." in line.time for line in found)
    assert [line.text for line in lines(host, container, tail=1)] == [found[-1].text]
    assert lines(host, container, tail=0) == []


def test_a_long_line_is_put_together_and_bounded(run: tuple[SshHost, Run]) -> None:
    host, start = run
    container = start(
        "head -c 40000 /dev/zero | sha256sum >/dev/null; printf '%030000d\\n' 7; printf '%0200000d\\n' 8; echo end"
    )
    host.engine.wait_container(container, 20)
    first, second, end = lines(host, container)
    assert len(first.text) == 30000 and first.text.endswith("7")
    assert LINE_LIMIT <= len(second.text) < 100_000 and set(second.text) == {"0"}
    assert end.text == "end"


def test_since_leaves_out_what_was_before(run: tuple[SshHost, Run]) -> None:
    host, start = run
    container = start("echo early; sleep 1.2; echo late")
    host.engine.wait_container(container, 20)
    early, late = lines(host, container)
    moment = datetime.fromisoformat(late.time[:26] + "+00:00").timestamp()
    assert [line.text for line in lines(host, container, since=f"{moment - 0.5:.6f}")] == ["late"]


def test_a_followed_log_tells_lines_as_they_come_and_ends_with_its_container(run: tuple[SshHost, Run]) -> None:
    host, start = run
    container = start("echo 1; sleep 0.5; echo 2; sleep 0.5; echo 3")
    stream = host.engine.diagnostics.log_lines(container, LogQuery(10, follow=True, seconds=20))
    at = [(line.text, time.monotonic()) for line in stream]
    assert [text for text, _ in at] == ["1", "2", "3"]
    assert 0.3 < at[2][1] - at[1][1] < 2


def test_closing_a_followed_log_frees_its_reader_and_its_channel(run: tuple[SshHost, Run]) -> None:
    host, start = run
    container = start("echo 1; sleep 600")
    for _ in range(12):  # more than a connection has sessions
        stream = host.engine.diagnostics.log_lines(container, LogQuery(10, follow=True, seconds=20))
        threading.Timer(0.1, stream.close).start()
        began = time.monotonic()
        assert [line.text for line in stream] == ["1"]
        assert time.monotonic() - began < 10
    assert host.engine.ping() < 5


def test_a_reader_that_stops_early_leaves_nothing_open(run: tuple[SshHost, Run]) -> None:
    host, start = run
    container = start("seq 100000; sleep 600")
    for _ in range(12):
        stream = iter(host.engine.diagnostics.log_lines(container, LogQuery(2000, follow=True, seconds=20)))
        assert len(list(islice(stream, 5))) == 5
        stream.close()  # type: ignore[attr-defined]
    assert host.engine.ping() < 5


def test_a_followed_log_has_an_end(run: tuple[SshHost, Run]) -> None:
    host, start = run
    container = start("sleep 600")
    with pytest.raises(DeadlineExceeded):
        lines(host, container, follow=True, seconds=0.5)


def test_an_absent_container_is_not_found(run: tuple[SshHost, Run], name: str) -> None:
    host, _ = run
    with pytest.raises(NotFound):
        lines(host, name + "absent")
    with pytest.raises(NotFound):
        host.engine.diagnostics.sample(name + "absent")
    with pytest.raises(EngineError):  # quoted, so that it is no other path of the engine's
        lines(host, "../../info?x=")


def test_samples_tell_processor_memory_and_processes(run: tuple[SshHost, Run]) -> None:
    host, start = run
    busy = start("while true; do :; done", "-busy", HostConfig={"NanoCpus": 500_000_000, "Memory": 64 << 20})
    idle = start("sleep 600", "-idle")
    sample = host.engine.diagnostics.sample
    before = [sample(busy), sample(idle)]
    time.sleep(1)
    after = [sample(busy), sample(idle)]
    assert 15 < cpu_percent(before[0], after[0]) < 75
    assert cpu_percent(before[1], after[1]) < 5
    assert after[0].pids >= 1 and after[0].memory_limit in (0, 64 << 20) and after[0].memory >= 0
    host.engine.stop_container(busy, 0)
    stopped = sample(busy)
    assert (stopped.cpu, stopped.pids) == (0, 0)
    assert cpu_percent(after[0], stopped) == 0.0


def test_volumes_have_sizes(run: tuple[SshHost, Run], name: str) -> None:
    host, start = run
    host.engine.create_volume(name, {})
    mount = {"Type": "volume", "Source": name, "Target": "/data"}
    container = start("head -c 3000000 /dev/zero > /data/f", HostConfig={"Mounts": [mount]})
    host.engine.wait_container(container, 20)
    assert 3_000_000 <= host.engine.diagnostics.volume_sizes()[name] < 3_200_000
