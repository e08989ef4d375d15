"""Log lines carry what hosts and containers have said, and stay lines."""

import json
import logging
from collections.abc import Iterator

import pytest

from dotmac_operator import logs

FORGED = "no space\n2026-11-23 08:00:00 INFO leader: it leads\r\x1b[2J\x9b2J\x00\tend"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("format_", ["plain", "json"])
def test_what_a_host_says_neither_begins_a_line_nor_steers_a_terminal(
    format_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: a compromised host could write any line into the operator's plain log."""
    logs.configure(format_, "info")  # type: ignore[arg-type]
    with logs.about(server="n/host-1"):
        logging.getLogger("x").warning("host says: %s", FORGED)
    [line] = capsys.readouterr().err.splitlines()
    assert "2026-11-23 08:00:00 INFO leader" in line and "n/host-1" in line
    assert not set(line) & {"\x1b", "\x9b", "\x00", "\r"}
    if format_ == "json":
        assert json.loads(line)["message"] == f"host says: {FORGED}"


def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("plain", "info")
    try:
        raise ValueError("a bug")
    except ValueError:
        logging.getLogger("x").exception("pass failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("pass failed") and lines[-1].startswith("ValueError: a bug")


def test_no_library_tells_what_it_sends(capsys: pytest.CaptureFixture[str]) -> None:
    """The client of Kubernetes writes whole answers, Secrets among them, at its level debug."""
    logs.configure("plain", "debug")
    for name in ("kubernetes.client.rest", "urllib3.connectionpool", "kopf.objects"):
        logging.getLogger(name).debug("response body: c2VjcmV0")
    assert capsys.readouterr().err == ""
