"""The facade behind real HTTP in a process of its own, as a replica is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from pydantic import SecretStr
from tests.kits.unprivileged import free_port

from dotmac_api.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that a process needs for the same settings: secrets, and what differs from its default."""
    made: dict[str, str] = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name == "overrides" or value == field.default:
            continue
        if isinstance(value, tuple):
            value = ",".join(part.get_secret_value() for part in value)
        made[name] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return made


@contextmanager
def served(values: Mapping[str, str], log: Path) -> Iterator[str]:
    """Runs `dotmac-api serve` with these settings (by name, lower case) until the block ends; gives its base URL."""
    port = free_port()
    environment = {
        **os.environ,
        **{f"DOTMAC_API_{name.upper()}": value for name, value in values.items()},
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("api", "crds")),
    }
    argv = [str(Path(sys.executable).with_name("dotmac-api")), "serve", "--port", str(port)]
    with log.open("ab") as out:
        process = subprocess.Popen(argv, env=environment, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    try:
        _await(f"{url}/health", process, log)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _await(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"the facade did not answer in {seconds} s:\n{log.read_text()[-3000:]}")
