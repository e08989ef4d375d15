"""`python -m tests.simhost`: hosts in a process of their own, steered over its socket."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.kits.controlplane import PYTHONPATH
from tests.simhost.control import ControlClient

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.pool import SshHost, SshHostPool, SshSettings
from dotmac_operator.hosts.port import EngineError, HostAddress


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    argv = [sys.executable, "-m", "tests.simhost", "--hosts", "2", "--dir", str(tmp_path), "--namespace", "n"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": PYTHONPATH}) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready ")
        yield tmp_path
        process.terminate()
        assert process.wait(10) == 0


def connected(directory: Path, pool: SshHostPool) -> SshHost:
    _, server, _ = yaml.safe_load_all((directory / "manifests.yaml").read_text())
    spec = server["spec"]
    key = SecretStr((directory / "id_ed25519").read_text())
    return pool.get(HostAddress("n/a", spec["address"], spec["port"], spec["user"], key, None, tuple(spec["hostKeys"])))


@pytest.mark.slow
def test_seeded_steered_and_looked_at(directory):
    control, pool = ControlClient(directory / "control"), SshHostPool(SshSettings(attempts=1))
    assert set(control("hosts")) == {"sim-0", "sim-1"}
    body = {"Image": "a/b:1", "Labels": {"x": "y"}, "Healthcheck": {"Test": ["CMD", "z"]}}
    done = {"Image": "a/b:1"}
    containers = [{"name": "web", "body": body}, {"name": "once", "body": done, "exited": 0}]
    control("seed", host="sim-0", images=["a/b:1"], volumes=[{"name": "v"}], containers=containers)
    host = connected(directory, pool)
    found = {fact.name: (fact.state, fact.health, fact.exit_code) for fact in host.engine.containers()}
    assert found == {"web": ("running", "healthy", None), "once": ("exited", "", 0)}
    control("fault", host="*", fault="error", status=500, message="broken", template="/volumes/create")
    with pytest.raises(EngineError, match="broken"):
        host.engine.create_volume("w", {})
    host.engine.create_volume("w", {})
    control("container", host="sim-0", container="web", do="crash", code=9)
    told = control("state", host="sim-0")["sim-0"]
    assert told["calls"]["POST /volumes/create"] == 2
    assert {volume["Name"] for volume in told["volumes"]} == {"v", "w"}
    control("link", host="sim-0", delay_in=0.01, delay_out=0.01)
    assert host.probe() >= 0.02
    with pytest.raises(RuntimeError, match="KeyError"):
        control("state", host="sim-9")
    control.close()
    pool.close()
