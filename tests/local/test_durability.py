"""What was acknowledged stays: kill -9 in the middle of writes, a full disk, and history across restarts."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.kits.controlplane import PYTHONPATH, ControlPlane, start
from tests.local import widgets
from tests.local.widgets import PATH, make, widget

# Processes of their own, and seconds each: left out by deploy/test --fast.
pytestmark = pytest.mark.e2e

MERGE = {"Content-Type": "application/merge-patch+json"}


class Writer(threading.Thread):
    """Creates, patches and deletes its own objects without pause, and remembers what was acknowledged."""

    def __init__(self, server: ControlPlane, name: str) -> None:
        super().__init__(daemon=True)
        self.name = name
        self.client = server.connect()
        self.sizes: dict[str, int] = {}
        self.deleted: set[str] = set()
        self.unsure: set[str] = set()
        self.highest = 0

    def run(self) -> None:
        for number in range(100_000):
            name = f"{self.name}-{number // 4}"
            self.unsure.add(name)
            try:
                answer = self.write(name, number)
            except httpx.HTTPError:
                return
            assert answer.status_code in (200, 201), answer.text
            self.note(name, number, answer.json())

    def write(self, name: str, number: int) -> httpx.Response:
        if number % 4 == 0:
            return self.client.post(PATH, json=widget(name, 1))
        if number % 4 == 3 and number % 3 == 0:
            return self.client.delete(f"{PATH}/{name}")
        return self.client.patch(f"{PATH}/{name}", json={"spec": {"size": number % 4 + 1}}, headers=MERGE)

    def note(self, name: str, number: int, answer: dict[str, Any]) -> None:
        self.unsure.discard(name)
        if answer["kind"] == "Status":
            self.deleted.add(name)
            self.sizes.pop(name, None)
            return
        self.sizes[name] = answer["spec"]["size"]
        self.highest = max(self.highest, int(answer["metadata"]["resourceVersion"]))


class Watcher(threading.Thread):
    """Remembers the highest resourceVersion that anyone was shown."""

    def __init__(self, server: ControlPlane) -> None:
        super().__init__(daemon=True)
        self.client = server.connect()
        self.highest = 0

    def run(self) -> None:
        try:
            with self.client.stream("GET", PATH, params={"watch": "true"}, timeout=60) as answer:
                for line in answer.iter_lines():
                    self.highest = int(json.loads(line)["object"]["metadata"]["resourceVersion"])
        except httpx.HTTPError:
            return


def test_kill_9_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    server = start(tmp_path)
    widgets.install(server)
    highest = 0
    try:
        for turn in range(5):
            writers = [Writer(server, f"t{turn}-{index}") for index in range(4)]
            watcher = Watcher(server)
            for thread in (*writers, watcher):
                thread.start()
            time.sleep(0.3 + random.random() / 2)
            server.kill()
            for thread in (*writers, watcher):
                thread.join(10)
            server.restart()
            found = {item["metadata"]["name"]: item for item in server.client.get(PATH).json()["items"]}
            for writer in writers:
                sure = {name: size for name, size in writer.sizes.items() if name not in writer.unsure}
                assert sure, "the server was killed before it acknowledged anything"
                assert {name: found[name]["spec"]["size"] for name in sure} == sure
                assert not (writer.deleted - writer.unsure) & found.keys()
            highest = max(highest, watcher.highest, *(writer.highest for writer in writers))
            fresh = make(server, f"after-{turn}")
            assert int(fresh["metadata"]["resourceVersion"]) > highest
    finally:
        server.stop()


def test_a_watch_goes_on_over_a_restart(tmp_path: Path) -> None:
    server = start(tmp_path)
    widgets.install(server)
    first = make(server, "a")
    make(server, "b")
    server.client.delete(f"{PATH}/a")
    server.kill()
    server.restart()
    query = {"watch": "true", "timeoutSeconds": "1", "resourceVersion": first["metadata"]["resourceVersion"]}
    events = [json.loads(line) for line in server.client.get(PATH, params=query).text.splitlines()]
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
        ("ADDED", "b"),
        ("DELETED", "a"),
    ]
    server.stop()


def test_history_is_compacted_and_says_so(tmp_path: Path) -> None:
    server = start(tmp_path, "--history", "20")
    widgets.install(server)
    first = make(server, "a", labels={"paged": "yes"})
    make(server, "a2", labels={"paged": "yes"})
    page = server.client.get(PATH, params={"limit": "1"}).json()
    for number in range(60):
        server.client.patch(f"{PATH}/a", json={"spec": {"size": number % 2 + 1}}, headers=MERGE)

    def check() -> None:
        query = {"watch": "true", "timeoutSeconds": "1", "resourceVersion": first["metadata"]["resourceVersion"]}
        (event,) = [json.loads(line) for line in server.client.get(PATH, params=query).text.splitlines()]
        assert event["type"] == "ERROR" and event["object"]["code"] == 410 and event["object"]["reason"] == "Expired"
        late = server.client.get(PATH, params={"limit": "1", "continue": page["metadata"]["continue"]})
        assert late.status_code == 410 and late.json()["reason"] == "Expired"
        rest = server.client.get(PATH, params={"continue": late.json()["metadata"]["continue"]}).json()
        assert [item["metadata"]["name"] for item in rest["items"]] == ["a2"]

    check()
    version = server.client.get(f"{PATH}/a").json()["metadata"]["resourceVersion"]
    server.kill()
    server.restart()
    check()
    assert server.client.get(f"{PATH}/a").json()["metadata"]["resourceVersion"] == version
    assert (tmp_path / "state.db").stat().st_size < 2**20
    server.stop()


def test_resource_versions_never_return_when_everything_is_deleted(tmp_path: Path) -> None:
    server = start(tmp_path, "--history", "10")
    widgets.install(server)
    for _ in range(30):
        make(server, "a")
        server.client.delete(f"{PATH}/a")
    before = int(server.client.get(PATH).json()["metadata"]["resourceVersion"])
    server.kill()
    server.restart()
    assert int(make(server, "a")["metadata"]["resourceVersion"]) > before
    server.stop()


def _limited(directory: Path) -> subprocess.Popen[bytes]:
    """A server whose files cannot grow beyond 600 KiB, as on a full disk."""
    argv = [sys.executable, "-m", "dotmac_local.cli", "up", "--foreground", "--dir", str(directory), "--port", "0"]
    limit = 600 * 1024
    with (directory / "server.log").open("ab") as log:
        return subprocess.Popen(
            argv,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
            cwd=directory,
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )


def test_a_full_disk_refuses_writes_and_keeps_what_it_has(tmp_path: Path) -> None:
    tmp_path.joinpath("server.log").touch()
    server = ControlPlane(tmp_path, _limited(tmp_path))
    widgets.install(server)
    acknowledged = []
    for number in range(500):
        obj = widget(f"w{number}")
        obj["spec"]["text"] = "x" * 8000
        answer = server.client.post(PATH, json=obj)
        if answer.status_code != 201:
            break
        acknowledged.append(f"w{number}")
    assert answer.status_code == 500 and "free the disk" in answer.json()["message"]
    assert acknowledged
    assert server.client.get("/readyz").status_code == 500 and "free the disk" in server.log
    server.kill()
    server.restart()
    assert {item["metadata"]["name"] for item in server.client.get(PATH).json()["items"]} >= set(acknowledged)
    make(server, "again")
    server.stop()


def test_only_one_server_has_the_state(tmp_path: Path) -> None:
    server = start(tmp_path)
    (tmp_path / "server.pid").unlink()
    argv = [sys.executable, "-m", "dotmac_local.cli", "up", "--foreground", "--dir", str(tmp_path), "--port", "0"]
    second = subprocess.run(
        argv, env={**os.environ, "PYTHONPATH": PYTHONPATH}, capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1 and "another server uses it" in second.stderr
    server.stop()


def test_damaged_state_is_named_not_overwritten(tmp_path: Path) -> None:
    server = start(tmp_path)
    server.stop()
    state = tmp_path / "state.db"
    for beside in tmp_path.glob("state.db-*"):
        beside.unlink()
    state.write_bytes(b"this is no database" * 1000)
    with pytest.raises(AssertionError, match="is damaged.*down --purge"):
        server.restart()
    assert state.read_bytes().startswith(b"this is no database")
