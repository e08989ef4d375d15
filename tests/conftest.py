"""Fixtures that several rooms of the tests share."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.kits.dockerhost import DockerHost, docker_host

HOSTS = Path(__file__).resolve().parents[1] / ".local" / "test-hosts"


@pytest.fixture(scope="session")
def host() -> Iterator[DockerHost]:
    """One real Docker host for the whole session; a test that breaks it mends it again."""
    with docker_host("session", HOSTS) as made:
        yield made


@pytest.fixture
def make_host() -> Iterator[Callable[[str], DockerHost]]:
    """A factory for hosts of one test's own, each in a network namespace; all are gone after it."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(docker_host(name, HOSTS))
