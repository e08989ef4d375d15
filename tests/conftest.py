"""Fixtures that several rooms of the tests share."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.kits.dockerhost import DockerHost, docker_host

HOSTS = Path(__file__).resolve().parents[1] / ".local" / "test-hosts"


def pytest_configure() -> None:
    """A pipeline that gives up sends SIGTERM: end as Ctrl-C does, so that fixtures put everything away."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on real hosts run one after another, in one worker, and first, while the others run beside them."""
    real = [item for item in items if item.get_closest_marker("docker") or item.get_closest_marker("e2e")]
    for item in real:
        item.add_marker(pytest.mark.xdist_group("real"))
    items[:] = real + [item for item in items if item not in set(real)]


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
