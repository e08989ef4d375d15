"""A real Redis of one's own, unprivileged, on a free port, without persistence."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError
from tests.kits.unprivileged import free_port, give, user_for


@dataclass
class RedisServer:
    """A running server; `stop` and `start` are for tests of an outage. It forgets everything in between."""

    directory: Path
    port: int
    binary: str
    user: str | None
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        argv = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        argv += ["--dir", str(self.directory), "--logfile", str(self.directory / "log")]
        self.process = subprocess.Popen(argv, user=self.user, cwd=self.directory, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        with Redis.from_url(self.url) as client:
            while True:
                with suppress(RedisError):
                    client.ping()
                    return
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Redis did not start: {(self.directory / 'log').read_text()[-2000:]}")
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def flush(self) -> None:
        with Redis.from_url(self.url) as client:
            client.flushall()


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A server for as long as the block runs; skips the test with the reason where there is no binary."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no Redis server here: apt-get install redis-server")
    user = user_for("redis")
    directory = Path(tempfile.mkdtemp(prefix="dotmac-redis-"))
    give(directory, user)
    server = RedisServer(directory, free_port(), binary, user)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
