"""deploy/demo as a person uses it: up, again, status, down, and nothing left."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dotmac_local.demo import facade, firewall, state
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
    assert state.free_port(first, avoid=[first]) > first


def test_ports_of_the_parts_differ() -> None:
    # As if every part had wanted the same one.
    wanted = state.Settings(**dict.fromkeys(state.PORTS, 21000))
    chosen = wanted.with_free_ports(*state.PORTS)
    assert len({getattr(chosen, name) for name in state.PORTS}) == len(state.PORTS)


def test_secrets_are_made_once_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facade, "SECRETS_FILE", tmp_path / "facade.json")
    made = facade.Secrets.load()
    assert facade.Secrets.load() == made
    assert (tmp_path / "facade.json").stat().st_mode & 0o777 == 0o600
    assert made.admin_password not in repr(made)


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


def the_shown_commands_work() -> None:
    """Pastes what the demo shows for the REST facade into a shell that has read .local/env."""
    assert state.ENV_FILE.stat().st_mode & 0o777 == 0o600
    assert facade.SECRETS_FILE.stat().st_mode & 0o777 == 0o600
    pasted = f". {state.ENV_FILE}; set -euo pipefail\n{facade.commands().replace('timeout 10', 'timeout 3')} || true"
    done = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in ('"count": 2', '"org_code": "GLOBEX"', '"name": "verify"', '"role":"web"', "event: instance"):
        assert expected in done.stdout, done.stdout


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

    assert "signed in to the REST facade as admin: instances ACME, GLOBEX" in up.stderr
    the_shown_commands_work()
    for daemon in (facade.FACADE, facade.POSTGRES, facade.REDIS):
        daemon.kill()
    assert "DOWN  rest facade" in demo("status").stderr

    again = demo(timeout=120)
    assert again.returncode == 0, again.stderr
    assert "signed in to the REST facade as admin: instances ACME, GLOBEX" in again.stderr
    assert demo("status").returncode == 0

    other = demo("--kubeconfig", "/nonexistent/kubeconfig")
    assert other.returncode == 1 and "deploy/demo down" in other.stderr

    down = demo("down", timeout=120)
    assert down.returncode == 0, down.stderr
    assert not user_exists(state.USER)
    assert not mentioning(str(state.RUNTIME)) and not mentioning(str(state.DIRECTORY))
    assert not state.DIRECTORY.exists() and not state.ENV_FILE.exists() and not state.RUNTIME.exists()
    assert not facade.DATA.exists() and not mentioning(str(facade.DATA))
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
