"""kubectl, current and old: the one on PATH, and Debian's 1.20 unpacked into `.local/tools`, which replaces nothing."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_TOOLS = ROOT / ".local" / "tools"
_PACKAGE = "kubernetes-client"


def current() -> str:
    """The kubectl on PATH; skips the test when there is none."""
    return shutil.which("kubectl") or pytest.skip("kubectl is not installed (apt-get install kubectl)")


def debian() -> str:
    """Debian 12's kubectl 1.20; skips the test when its package cannot be had."""
    program = _TOOLS / "kubectl-1.20"
    if program.exists():
        return str(program)
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("not a Debian or Ubuntu machine: no kubernetes-client package")
    _TOOLS.mkdir(parents=True, exist_ok=True)
    with (_TOOLS / ".lock").open("w") as lock:
        # Workers of one test run must not unpack it at the same time.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _unpack(program)
    return str(program)


def _unpack(program: Path) -> None:
    scratch = _TOOLS / "unpack"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    got = subprocess.run(["apt-get", "download", _PACKAGE], cwd=scratch, capture_output=True, text=True, check=False)
    packages = list(scratch.glob(f"{_PACKAGE}_*.deb"))
    if got.returncode or not packages:
        pytest.skip(f"apt-get download {_PACKAGE} failed: {got.stderr.strip()[-200:]}")
    subprocess.run(["dpkg", "-x", packages[0].name, "."], cwd=scratch, check=True)
    (scratch / "usr" / "bin" / "kubectl").rename(program)
    shutil.rmtree(scratch)
