import pytest

from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.hosts.enginefacts import (
    PullProgress,
    Reference,
    container_fact,
    docker_event,
    frames,
    image_fact,
    network_fact,
    own_name,
    parse_exit_code,
    parse_health,
    split_reference,
)


@pytest.mark.parametrize(
    ("state", "status", "health", "code"),
    [
        ("running", "Up 5 minutes (healthy)", "healthy", None),
        ("running", "Up 2 days (unhealthy)", "unhealthy", None),
        ("running", "Up 1 second (health: starting)", "starting", None),
        ("running", "Up Less than a second", "", None),
        ("paused", "Up 5 minutes (Paused)", "", None),
        ("exited", "Exited (0) 2 hours ago", "", 0),
        ("exited", "Exited (137) About a minute ago", "", 137),
        ("exited", "Exited (-1) 3 weeks ago", "", -1),
        ("restarting", "Restarting (1) 5 seconds ago", "", None),
        ("created", "Created", "", None),
        ("dead", "Dead", "", None),
        ("removing", "Removal In Progress", "", None),
        ("exited", "", "", None),
    ],
)
def test_health_and_exit_code_are_read_from_the_status_text(state, status, health, code):
    assert parse_health(state, status) == health
    assert parse_exit_code(state, status) == code


def test_a_listed_container_becomes_a_fact():
    assert container_fact(
        {
            "Id": "abc",
            "Names": ["/other/alias", "/web-1"],
            "Image": "dotmac/tryton:6.0",
            "ImageID": "sha256:1",
            "State": "running",
            "Status": "Up 5 minutes (healthy)",
            "Labels": {"a": "b"},
            "NetworkSettings": {"Networks": {"n1": {"IPAddress": "10.0.0.2"}, "n2": None}},
            "Created": 1700000000,
        }
    ) == ContainerFact(
        id="abc",
        name="web-1",
        image="dotmac/tryton:6.0",
        image_id="sha256:1",
        state="running",
        labels={"a": "b"},
        health="healthy",
        networks={"n1": "10.0.0.2", "n2": ""},
        created=1700000000,
    )


def test_missing_and_null_fields_are_no_error():
    assert container_fact({"Id": "a", "Names": None, "Labels": None, "NetworkSettings": None}).name == ""
    assert network_fact({"Id": "a", "Name": "host", "IPAM": {"Config": None}, "Labels": None}).subnets == ()
    assert image_fact({"Id": "a", "RepoDigests": None}, "r").digests == ()
    assert docker_event({"Type": "daemon"}).attributes == {}


def test_own_name_without_any():
    assert own_name([]) == ""


@pytest.mark.parametrize(
    ("reference", "name", "tag"),
    [
        ("postgres", "postgres", "latest"),
        ("postgres:16", "postgres", "16"),
        ("registry:5000/a/b", "registry:5000/a/b", "latest"),
        ("registry:5000/a/b:1", "registry:5000/a/b", "1"),
        ("a/b@sha256:ff", "a/b", "sha256:ff"),
        ("registry:5000/a/b:1@sha256:ff", "registry:5000/a/b", "sha256:ff"),
    ],
)
def test_references_are_split_as_the_engine_wants_them(reference, name, tag):
    assert split_reference(reference) == Reference(name, tag)


def test_progress_adds_the_layers_up():
    progress = PullProgress("a:1")
    mib = 1 << 20
    assert progress.add({"status": "Pulling from a", "id": "1"}) == "pulling a:1: Pulling from a"
    progress.add({"id": "x", "status": "Downloading", "progressDetail": {"current": 10 * mib, "total": 40 * mib}})
    said = progress.add(
        {"id": "y", "status": "Downloading", "progressDetail": {"current": 24 * mib, "total": 40 * mib}}
    )
    assert said == "pulling a:1: 34 of 80 MiB"
    assert progress.add({"id": "x", "status": "Pull complete", "progressDetail": {}}) == "pulling a:1: 64 of 80 MiB"


def frame(kind: int, payload: bytes) -> bytes:
    return bytes([kind, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def test_frames_keep_their_order_and_stream():
    data = frame(1, b"one") + frame(2, b"two") + frame(1, b"") + frame(1, b"three")
    assert frames(data) == [(1, b"one"), (2, b"two"), (1, b""), (1, b"three")]


def test_a_terminal_has_no_frames():
    assert frames(b"plain text\r\n") == [(1, b"plain text\r\n")]
    assert frames(b"") == []


def test_a_frame_cut_off_at_the_end_keeps_what_came():
    assert frames(frame(1, b"whole") + frame(2, b"partial")[:-3]) == [(1, b"whole"), (2, b"part")]
