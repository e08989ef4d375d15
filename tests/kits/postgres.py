"""A real PostgreSQL of one's own: Debian's server, unprivileged, on a free port, in a directory that goes away."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from tests.kits.unprivileged import free_port, give, memory_directory, user_for

# Nothing here has to survive a power cut.
FAST = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "shared_buffers=64MB",
    "max_wal_size=64MB",
    "min_wal_size=32MB",
    "max_connections=200",
)


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: float(p.parts[4]))
    if found:
        return found[-1].parent
    in_path = shutil.which("postgres")
    return Path(in_path).parent if in_path else None


@dataclass
class Postgres:
    """A running server. `url(name)` is a database's address; `stop` and `start` are for tests of an outage."""

    directory: Path
    port: int
    binaries: Path
    user: str | None
    process: "subprocess.Popen[bytes] | None" = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://dotmac@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template0") -> str:
        """Make an empty database, or a copy of `template`; returns its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"'.encode())
        return self.url(database)

    def drop(self, database: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)'.encode())

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [word for option in FAST for word in ("-c", option)]
        argv = [str(self.binaries / "postgres"), "-D", str(self.directory / "data"), "-p", str(self.port)]
        argv += ["-k", str(self.directory), "-c", "listen_addresses=127.0.0.1", *options]
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(argv, user=self.user, cwd=self.directory, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop at once, as a crash would (SIGQUIT)."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(3)
            self.process.wait(20)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server for as long as the block runs; skips the test with the reason where there are no binaries."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    user = user_for("postgres")
    directory = Path(tempfile.mkdtemp(prefix="dotmac-pg-", dir=memory_directory()))
    give(directory, user)
    server = Postgres(directory, free_port(), binaries, user)
    try:
        initdb = [str(binaries / "initdb"), "-D", str(directory / "data"), "-U", "dotmac", "--auth=trust"]
        initdb += ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions", "--wal-segsize=1"]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        subprocess.run(initdb, user=user, cwd=directory, env=environment, check=True, capture_output=True)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
