"""Kopf against the embedded server: create, update, resume, delete, daemon, timer, index, and a server that crashes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.kits.controlplane import ControlPlane, start
from tests.local import widgets
from tests.local.widgets import PATH, make

# Processes of their own, and seconds each: left out by deploy/test --fast.
pytestmark = pytest.mark.e2e

MERGE = {"Content-Type": "application/merge-patch+json"}
OPERATOR = Path(__file__).with_name("kopf_operator.py")


class Record:
    """What the operator wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, kind: str) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = (json.loads(line) for line in self.path.read_text().splitlines())
        return [line for line in lines if line["kind"] == kind]


def eventually(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def running(server: ControlPlane, record: Record) -> Iterator[None]:
    """The operator as a process of its own, ended by SIGTERM."""
    argv = [sys.executable, "-m", "kopf", "run", "--namespace", "default", "--standalone", str(OPERATOR)]
    log = (server.directory / "kopf.log").open("ab")
    process = subprocess.Popen(argv, env={**server.env, "RECORD": str(record.path)}, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlPlane]:
    started = start(tmp_path / "control-plane")
    widgets.install(started)
    yield started
    started.stop()


def stored(server: ControlPlane, name: str) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get(f"{PATH}/{name}").json()
    return found


def test_the_life_of_an_object(server: ControlPlane, tmp_path: Path) -> None:
    record = Record(tmp_path / "record")
    with running(server, record):
        make(server, "w")
        eventually(lambda: record.of("create") and record.of("daemon") and record.of("timer"))
        assert record.of("create")[0]["indexed"]
        eventually(lambda: stored(server, "w").get("status", {}).get("phase") == "Created")
        assert "kopf.zalando.org/last-handled-configuration" in stored(server, "w")["metadata"]["annotations"]
        server.client.patch(f"{PATH}/w", json={"spec": {"size": 7}}, headers=MERGE)
        eventually(lambda: record.of("update"))
        assert (record.of("update")[0]["old"], record.of("update")[0]["new"]) == (1, 7)
        eventually(lambda: "made w" in server.kubectl("get", "events"))
    with running(server, record):
        eventually(lambda: record.of("resume"))
        server.client.delete(f"{PATH}/w")
        eventually(lambda: server.client.get(f"{PATH}/w").status_code == 404)
    assert len(record.of("create")) == 1 and len(record.of("delete")) == 1


def test_a_crash_of_the_server_goes_unnoticed(server: ControlPlane, tmp_path: Path) -> None:
    record = Record(tmp_path / "record")
    with running(server, record):
        make(server, "before")
        eventually(lambda: stored(server, "before").get("status", {}).get("phase") == "Created")
        server.kill()
        server.restart()
        assert stored(server, "before")["status"]["phase"] == "Created"
        make(server, "after")
        eventually(lambda: [line for line in record.of("create") if line["name"] == "after"])
        server.client.patch(f"{PATH}/before", json={"spec": {"size": 9}}, headers=MERGE)
        eventually(lambda: [line for line in record.of("update") if line["name"] == "before"])
        for name in ("before", "after"):
            server.client.delete(f"{PATH}/{name}")
            eventually(lambda name=name: server.client.get(f"{PATH}/{name}").status_code == 404)  # type: ignore[misc]
    assert sorted(line["name"] for line in record.of("create")) == ["after", "before"]
