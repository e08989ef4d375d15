"""The shell commands: usage, and what they say when this machine lacks something."""

import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def bash(script: str, *, path: str, **variables: str) -> subprocess.CompletedProcess[str]:
    libraries = "".join(f". {DEPLOY}/lib/{name}.sh; " for name in ("say", "packages", "python"))
    return subprocess.run(
        ["/bin/bash", "-c", f"set -euo pipefail; {libraries}{script}", "command"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PATH": path, "HOME": "/nonexistent", **variables},
    )


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH with the few programs that every system has, and neither apt nor sudo."""
    for name in ("bash", "sh", "dirname", "id", "cat", "mktemp", "tail", "grep", "env", "rm"):
        source = next(Path(d) / name for d in ("/usr/bin", "/bin") if (Path(d) / name).exists())
        (tmp_path / name).symlink_to(source)
    return str(tmp_path)


@pytest.mark.parametrize("command", ["demo", "test"])
def test_help_tells_the_usage(command: str) -> None:
    done = subprocess.run([str(DEPLOY / command), "--help"], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0
    assert f"deploy/{command}" in done.stdout


def test_without_apt_the_missing_packages_are_named(bare_path: str) -> None:
    done = bash('install_packages "no-such-program no-such-package why it is wanted"', path=bare_path)
    assert done.returncode == 1
    assert "missing: no-such-program (package no-such-package), why it is wanted" in done.stderr
    assert "Install them" in done.stderr


def test_a_program_that_is_there_installs_nothing(bare_path: str) -> None:
    done = bash('install_packages "cat coreutils it is everywhere"', path=bare_path)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("version", ["3.11", "3.14"])
def test_a_python_of_another_version_is_passed_over(tmp_path: Path, bare_path: str, version: str) -> None:
    fake = tmp_path / "python3"
    major, minor = version.split(".")
    fake.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = ({major}, {minor})\n'\"$2\"\n"
    )
    fake.chmod(0o755)
    assert bash('good_python "$FAKE"', path=bare_path, FAKE=str(fake)).returncode != 0


def test_the_running_python_is_good(bare_path: str) -> None:
    assert bash('good_python "$REAL"', path=bare_path, REAL=sys.executable).returncode == 0
