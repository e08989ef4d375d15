"""What a look asks of a host: all at the same time, on channels that are kept."""

import base64
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.kits.canned_ssh import Answer, CannedEngine

from dotmac_operator.hosts.pool import MAX_CHANNELS
from dotmac_operator.hosts.port import DeadlineExceeded, EngineError, HostUnreachable, NotFound, Survey

FILE = ("proxy", "/config/autosave.json")
STAT = "HEAD /containers/proxy/archive"
LISTS = ("GET /containers/json", "GET /networks", "GET /volumes", STAT)


class Together(dict[str, Answer]):
    """Gives the answers to these lines once four such questions have come."""

    def __init__(self, answers: dict[str, Answer], lines: Sequence[str]) -> None:
        super().__init__(answers)
        self._lines, self._came = lines, threading.Barrier(4, timeout=10)

    def get(self, line: str, default: Any = None) -> Any:
        if line in self._lines:
            self._came.wait()
        return super().get(line, default)


def version(text: str) -> Answer:
    told = base64.b64encode(text.encode()).decode()
    head = f"HTTP/1.1 200 OK\r\nX-Docker-Container-Path-Stat: {told}\r\nContent-Length: 0\r\n\r\n"
    return Answer(raw=head.encode())


def engine() -> CannedEngine:
    made = CannedEngine()
    made.answers["GET /containers/json"] = Answer(body=[{"Id": "c1", "Names": ["/web"], "State": "running"}])
    made.answers["GET /networks"] = Answer(body=[{"Id": "n1", "Name": "front"}])
    made.answers["GET /volumes"] = Answer(body={"Volumes": [{"Name": "data"}], "Warnings": None})
    made.answers["GET /images/app:1/json"] = Answer(body={"Id": "sha256:1", "RepoDigests": []})
    made.answers[STAT] = version("one")
    return made


def survey(host: Any, *references: str) -> Survey:
    found: Survey = host.engine.survey(["mine"], references, FILE)
    return found


def asked(said: CannedEngine) -> list[str]:
    return [line for line in said.seen if line != "GET /_ping"]


def test_all_is_read_and_each_answer_is_of_its_own_question(canned) -> None:
    said = engine()
    said.answers["GET /images/db:1/json"] = Answer(body={"Id": "sha256:2", "RepoDigests": []})
    host = canned(said).host()
    found = survey(host, "app:1", "db:1")
    assert [container.name for container in found.containers] == ["web"]
    assert [network.name for network in found.networks] == ["front"]
    assert [volume.name for volume in found.volumes] == ["data"]
    assert {name: image.id for name, image in found.images.items()} == {"app:1": "sha256:1", "db:1": "sha256:2"}
    assert found.file_version == base64.b64encode(b"one").decode()
    assert sorted(asked(said)) == sorted([*LISTS, "GET /images/app:1/json", "GET /images/db:1/json"])
    assert host.round_trips == 6


def test_what_is_absent_is_left_out(canned) -> None:
    said = engine()
    del said.answers[STAT]
    said.answers["GET /volumes"] = Answer(body={"Volumes": None})
    found = survey(canned(said).host(), "app:1", "gone:1")
    assert (found.volumes, list(found.images), found.file_version) == ((), ["app:1"], None)


@pytest.mark.parametrize("which", LISTS[:3])
def test_a_list_has_to_be_there(canned, which: str) -> None:
    said = engine()
    del said.answers[which]
    with pytest.raises(NotFound):
        survey(canned(said).host())


def test_an_error_is_told_and_leaves_no_answer_behind_for_another_question(canned) -> None:
    said = engine()
    host = canned(said).host()
    survey(host, "app:1")
    said.answers["GET /volumes"] = Answer(500, {"message": "no space left on device"})
    for _ in range(3):
        with pytest.raises(EngineError, match="no space left"):
            survey(host, "app:1")
    said.answers["GET /volumes"] = Answer(body={"Volumes": [{"Name": "data"}]})
    assert [container.name for container in survey(host, "app:1").containers] == ["web"]


def test_questions_are_under_way_together(canned) -> None:
    """Each is answered only once all of them have come."""
    said = engine()
    said.answers = Together(said.answers, LISTS)
    assert survey(canned(said).host()).networks


def test_more_questions_than_channels_are_asked_in_turns(canned) -> None:
    said = engine()
    names = [f"app:{n}" for n in range(2, 40)]
    for name in names:
        said.answers[f"GET /images/{name}/json"] = Answer(body={"Id": f"sha256:{name}"})
    made = canned(said)
    host = made.host()
    for _ in range(3):
        found = survey(host, *names)
        assert {name: image.id for name, image in found.images.items()} == {name: f"sha256:{name}" for name in names}
    assert said.most_channels <= MAX_CHANNELS - 1
    assert made.server.connections == 1


def test_many_at_the_same_time_end_and_keep_to_the_channels(canned) -> None:
    said = engine()
    host = canned(said).host()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: survey(host, "app:1"), range(40)))
    assert all(one == found[0] for one in found)
    assert said.most_channels <= MAX_CHANNELS - 1


def test_the_caller_may_begin_something_once_the_questions_were_sent(canned) -> None:
    said = engine()
    host = canned(said).host()
    survey(host)  # the connections are there
    said.answers["GET /containers/json"] = Answer(body=[], hang=0.3)
    came = threading.Event()
    seen: list[int] = []

    def begin() -> None:
        came.wait(0.1)  # what was sent arrives
        seen.append(len(asked(said)))

    host.engine.survey(["mine"], ["app:1"], FILE, begin)
    assert seen == [len(LISTS) * 2 + 1]


def test_it_is_begun_once_however_many_turns_it_takes(canned) -> None:
    said, begun = engine(), []
    canned(said).host().engine.survey([], [f"none:{n}" for n in range(30)], FILE, lambda: begun.append(1))
    assert begun == [1]


def test_an_accident_of_the_caller_leaves_no_channel_with_an_answer_on_it(canned) -> None:
    said = engine()
    host = canned(said).host()
    survey(host)

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="new thread"):
        host.engine.survey(["mine"], ["app:1"], FILE, fail)
    assert survey(host, "app:1").images["app:1"].id == "sha256:1"
    assert said.most_channels <= MAX_CHANNELS - 1


def test_kept_channels_that_have_ended_are_made_again(canned) -> None:
    said = engine()
    for line in list(said.answers):
        said.answers[line].hang_up_after = True  # as an engine that restarts between two looks
    host = canned(said).host()
    for _ in range(3):
        assert survey(host, "app:1").file_version


def test_after_a_restart_of_sshd_the_next_survey_works(canned) -> None:
    made = canned(engine())
    host = made.host()
    survey(host)
    made.server.drop_connections()
    assert survey(host, "app:1").containers
    assert made.server.connections == 2


def test_a_question_that_breaks_off_is_asked_again_once(canned) -> None:
    said = engine()
    host = canned(said).host()
    survey(host)
    before = len(said.seen)
    said.answers["GET /networks"] = Answer(break_off=True)
    with pytest.raises(HostUnreachable, match="lost"):
        survey(host)
    assert said.seen[before:].count("GET /networks") == 2


def test_an_engine_that_does_not_answer_is_not_waited_for_forever(canned, monkeypatch: pytest.MonkeyPatch) -> None:
    said = engine()
    monkeypatch.setattr("dotmac_operator.hosts.engine.READ_SECONDS", 0.5)
    host = canned(said).host()
    survey(host)
    said.answers["GET /volumes"] = Answer(body={"Volumes": []}, hang=5)
    with pytest.raises(DeadlineExceeded):
        survey(host)


def test_the_first_survey_dials_its_channels_together(canned) -> None:
    """No channel's ping is answered before every channel was opened."""
    said = engine()
    ping = Answer(raw=b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK")
    said.answers = Together({**said.answers, "GET /_ping": ping}, ["GET /_ping"])
    assert survey(canned(said).host()).networks
