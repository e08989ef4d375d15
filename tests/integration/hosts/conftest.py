import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from tests.kits.dockerhost import DockerHost
from tests.kits.tinyimage import ensure_tiny_image

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.pool import SshHost, SshHostPool, SshSettings
from dotmac_operator.hosts.port import HostAddress, HostError


def address_of(host: DockerHost, **changes: Any) -> HostAddress:
    values: dict[str, Any] = {
        "name": f"demo/{host.name}",
        "address": host.address,
        "port": host.port,
        "user": host.user,
        "private_key": SecretStr(host.private_key),
        "passphrase": None,
        "host_keys": (host.host_key,),
    }
    return HostAddress(**{**values, **changes})


@pytest.fixture
def connect(host: DockerHost) -> Iterator[Callable[..., SshHost]]:
    """A factory of pooled hosts for the session's Docker host; each has a pool of its own."""
    with ExitStack() as pools:

        def make(settings: SshSettings | None = None, **changes: Any) -> SshHost:
            pool = SshHostPool(settings or SshSettings(refusal_seconds=0.0))
            pools.callback(pool.close)
            return pool.get(address_of(host, **changes))

        yield make


@pytest.fixture
def tiny(host: DockerHost) -> str:
    return ensure_tiny_image(host)


@pytest.fixture
def name(host: DockerHost) -> Iterator[str]:
    """A fresh name; containers, networks and volumes whose names begin with it are removed afterwards."""
    prefix = f"t{uuid4().hex[:10]}"
    yield prefix
    for kind, remove in (("container", ["rm", "-fv"]), ("network", ["rm"]), ("volume", ["rm", "-f"])):
        every = ["--all"] if kind == "container" else []
        found = host.docker(kind, "ls", *every, "--quiet", "--filter", f"name={prefix}").split()
        if found:
            host.docker(kind, *remove, *found)


@pytest.fixture
def sleeper(connect: Callable[..., SshHost], tiny: str, name: str) -> tuple[SshHost, str]:
    """A connected host and a container on it that runs."""
    reached = connect()
    reached.engine.create_container(name, {"Image": tiny, "Cmd": ["sleep", "3600"], "StopSignal": "SIGKILL"})
    reached.engine.start_container(name)
    return reached, name


@pytest.fixture
def served(host: DockerHost) -> Iterator[Callable[..., None]]:
    """Runs a Python program in the host's network until the test ends; returns when it has printed a line."""
    with ExitStack() as running:

        def serve(program: str, *arguments: str) -> None:
            argv = ["nsenter", f"--net=/run/netns/{host._namespace}", sys.executable, "-uc", program, *arguments]
            process = running.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            running.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()

        yield serve


def eventually(work: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Repeats a call that may still fail with a HostError while a host comes back."""
    import time

    until = time.monotonic() + seconds
    while True:
        try:
            return work()
        except HostError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
