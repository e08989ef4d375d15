"""Fixtures that several rooms of the tests share."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.kits.dockerhost import DockerHost, docker_host
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]
HOSTS = ROOT / ".local" / "test-hosts"
REAL = "real hosts"


def pytest_configure() -> None:
    """A pipeline that gives up sends SIGTERM: end as Ctrl-C does, so that fixtures put everything away."""

    def interrupt(number: int, frame: object) -> None:
        # A second one, sent to the whole process group, must not break into the clean-up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


class OneWorkerForRealHosts(LoadScopeScheduling):
    """Files with tests on real hosts go to one worker, one after another; each other file to any. (The groups of
    xdist itself do nothing under pytest 9.2: they set an attribute that a node's id is no longer made of.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return REAL if _on_real_hosts(Path(file)) else file


@cache
def _on_real_hosts(file: Path) -> bool:
    path = ROOT / file
    return path.is_file() and any(mark in path.read_text() for mark in ("pytest.mark.docker", "pytest.mark.e2e"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Called where xdist is used (`-n`)."""
    return OneWorkerForRealHosts(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on real hosts take longest: first, so that the other worker does the rest meanwhile."""
    items.sort(key=lambda item: not _on_real_hosts(item.path.relative_to(ROOT)))


@pytest.fixture(scope="session")
def host() -> Iterator[DockerHost]:
    """One real Docker host for the whole session; a test that breaks it mends it again."""
    with docker_host(f"session-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}", HOSTS) as made:
        yield made


@pytest.fixture
def make_host() -> Iterator[Callable[[str], DockerHost]]:
    """A factory for hosts of one test's own, each in a network namespace; all are gone after it."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(docker_host(name, HOSTS))
