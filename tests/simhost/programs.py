"""Programs inside containers (exec) and on the host itself."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.simhost.behaviour import STDERR, STDOUT, run_command
from tests.simhost.engine import Engine
from tests.simhost.objects import Container

from dotmac_operator.core.proxy import AUTOSAVE

Say = Callable[[int, bytes], Awaitable[None]]
"""Gets the stream (1 or 2) and what is printed on it."""


@dataclass(frozen=True)
class Started:
    argv: Sequence[str]
    stdin: bytes
    say: Say


async def in_container(engine: Engine, container: Container, run: Started) -> int:
    """Runs to its end; returns the exit code."""
    program = run.argv[0].rpartition("/")[2] if run.argv else ""
    if program == "caddy" and "reload" in run.argv:
        return await _reload(engine, container, run)
    ran = run_command(run.argv, run.stdin, container.env)
    if ran is None:
        text = f'OCI runtime exec failed: exec failed: unable to start container process: exec: "{program}": '
        await run.say(STDOUT, f"{text}executable file not found in $PATH: unknown\r\n".encode())
        return 126  # 127 since Docker 25
    passed = 0.0
    for at, stream, data in ran.says:
        await asyncio.sleep(at - passed)
        passed = at
        await run.say(stream, data)
    await asyncio.sleep(ran.seconds - passed)
    return ran.exit_code


async def _reload(engine: Engine, container: Container, run: Started) -> int:
    """Caddy takes the whole configuration or none of it, and keeps what it took in a file."""
    try:
        config = json.loads(run.stdin)
        servers = config["apps"]["http"]["servers"]
        if not isinstance(servers, dict):
            raise TypeError("servers is no object")
    except (ValueError, KeyError, TypeError) as error:
        await run.say(STDERR, f"Error: sending configuration to instance: loading new config: {error}\n".encode())
        return 1
    engine.write(container, AUTOSAVE, run.stdin)
    await run.say(STDERR, b'{"level":"info","msg":"using config from standard input"}\n')
    return 0


@dataclass(frozen=True)
class Disk:
    """Of the engine's data root, in KiB as `df -Pk` counts."""

    total: int = 200 * 2**20
    used: int = 40 * 2**20


def df(disk: Disk) -> bytes:
    share = disk.used * 100 // disk.total
    return (
        b"Filesystem     1024-blocks      Used Available Capacity Mounted on\n"
        + f"/dev/sim1 {disk.total} {disk.used} {disk.total - disk.used} {share}% /\n".encode()
    )
