"""deploy/demo as a person uses it: up, again, status, down, and nothing left."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dotmac_local.demo import firewall, state
from dotmac_local.demo.processes import mentioning
from dotmac_local.demo.sshd import user_exists

ROOT = state.ROOT


def demo(*arguments: str, timeout: float = 60, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "deploy" / "demo"), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **(env or {})},
    )


def environment() -> dict[str, str]:
    """What a shell has after `. .local/env`."""
    shown = subprocess.run(
        ["sh", "-c", '. "$0" && env', str(state.ENV_FILE)], capture_output=True, text=True, check=True
    ).stdout
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def test_free_port_passes_over_one_in_use() -> None:
    first = state.free_port(20000)
    assert state.free_port(first, avoid=first) > first


def test_status_without_a_demo_says_what_to_do(tmp_path: Path) -> None:
    if state.Settings.load() is not None:
        pytest.skip("a demo runs in this checkout")
    done = demo("status")
    assert done.returncode == 3
    assert "deploy/demo" in done.stderr


@pytest.fixture
def no_demo_before() -> Iterator[None]:
    if state.Settings.load() is not None:
        pytest.skip("a demo runs in this checkout: deploy/demo down first")
    yield
    if state.Settings.load() is not None:
        demo("down", timeout=120)


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("no_demo_before")
def test_up_twice_status_and_down_leaves_nothing() -> None:
    network = firewall.remember()
    up = demo(timeout=420)
    assert up.returncode == 0, up.stderr
    assert "logged in to acme" in up.stderr and "logged in to globex" in up.stderr
    shell = environment()
    assert subprocess.run(["docker", "ps"], env=shell, capture_output=True, check=False).returncode == 0
    assert httpx.get(shell["DOTMAC_DEMO_URL"], headers={"Host": "acme.localhost"}, trust_env=False).status_code == 200

    again = demo(timeout=120)
    assert again.returncode == 0, again.stderr
    assert demo("status").returncode == 0

    other = demo("--kubeconfig", "/nonexistent/kubeconfig")
    assert other.returncode == 1 and "deploy/demo down" in other.stderr

    down = demo("down", timeout=120)
    assert down.returncode == 0, down.stderr
    assert not user_exists(state.USER)
    assert not mentioning(str(state.RUNTIME)) and not mentioning(str(state.DIRECTORY))
    assert not state.DIRECTORY.exists() and not state.ENV_FILE.exists() and not state.RUNTIME.exists()
    # Hosts of tests that run beside this one have their mounts in a directory of their own.
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/test-hosts/" not in line]
    assert not [line for line in mounts if str(ROOT / ".local") in line]
    if network:
        assert firewall.remember() == network


@pytest.mark.e2e
@pytest.mark.usefixtures("no_demo_before")
def test_a_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "kubeconfig")
    failed = demo("--kubeconfig", missing, timeout=120)
    assert failed.returncode == 1
    assert missing in failed.stderr and "next:" in failed.stderr
