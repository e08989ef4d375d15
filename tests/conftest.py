"""Fixtures that several rooms of the tests share."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tests.kits.dockerhost import DockerHost, docker_host
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[1]
HOSTS = ROOT / ".local" / "test-hosts"
E2E = "tests/e2e/"

# Collecting makes a million objects that stay: looking for garbage among them takes a fifth of its time.
gc.disable()

# A machine that is busy otherwise must not fail a property: how long an example takes says nothing about it.
settings.register_profile("dotmac", deadline=None)
settings.load_profile("dotmac")


def pytest_configure() -> None:
    """A pipeline that gives up sends SIGTERM: end as Ctrl-C does, so that fixtures put everything away."""

    def interrupt(number: int, frame: object) -> None:
        # A second one, sent to the whole process group, must not break into the clean-up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


class ByFile(LoadScopeScheduling):
    """Each file goes to one worker whole; all of tests/e2e too, since its files share two hosts. (The groups of xdist
    itself do nothing under pytest 9.2: they set an attribute that a node's id is no longer made of.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return E2E if file.startswith(E2E) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Called where xdist is used (`-n`)."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that the workers end at about the same time."""

    def haste(item: pytest.Item) -> int:
        real = item.get_closest_marker("docker") or item.get_closest_marker("e2e")
        return 0 if item.nodeid.startswith(E2E) else 1 if real else 2

    items.sort(key=haste)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def host() -> Iterator[DockerHost]:
    """One real Docker host for the whole session; a test that breaks it mends it again."""
    with docker_host(f"session-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}", HOSTS) as made:
        yield made


@pytest.fixture
def make_host() -> Iterator[Callable[[str], DockerHost]]:
    """A factory for hosts of one test's own, each in a network namespace; all are gone after it."""
    with ExitStack() as stack:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        yield lambda name: stack.enter_context(docker_host(f"{name}-{worker}", HOSTS))
