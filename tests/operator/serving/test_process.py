"""The operator as a process: what it listens at, and that it notices a silent Kubernetes API and silent watches."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kits.observed import Observed, observed

from dotmac_operator.serving.watchers import PREFIX

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """An operator without hosts, with an impatient canary."""
    with observed(tmp_path_factory.mktemp("observed"), 0, DOTMAC_OPERATOR_WATCH_CANARY_SECONDS="2") as made:
        made.create("InstanceClass", "starter", {})
        made.start()
        made.until("it is ready", lambda: made.ask("/readyz").status_code == 200)
        yield made


def test_it_is_alive_and_ready_and_says_what_it_counts(seen: Observed) -> None:
    assert seen.ask("/healthz").text == seen.ask("/readyz").text == "ok\n"
    found = {name for name, _ in seen.metrics()}
    assert {"controller_runtime_reconcile_total", "workqueue_depth", "leader_election_master_status"} <= found
    assert seen.ask("/metrics").headers["content-type"].startswith("text/plain")
    assert seen.ask("/").status_code == 404
    seen.until("it leads", lambda: seen.total("leader_election_master_status") == 1)


def test_kopf_names_its_watchers_as_the_check_expects(seen: Observed) -> None:
    """The check is blind when they are called otherwise."""
    script = (
        "import asyncio, kopf._core.reactor.orchestration as o, inspect;"
        f"assert '{PREFIX}' in inspect.getsource(o.spawn_missing_watchers)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_silent_watch_is_noticed(seen: Observed) -> None:
    """Its connection is open and carries nothing, while new ones work: a load balancer that forgot it, say."""
    assert seen.relay.silence() >= 4
    seen.create("InstanceClass", "later", {})
    reason = seen.until("it is noticed", lambda: seen.reasons().get("watches"), 40)
    assert "instanceclasses" in reason and "owed" in reason
    answer = seen.ask("/readyz")
    assert answer.status_code == 503 and answer.text.startswith("[-]watches failed: silent watches: instanceclasses")
    assert seen.ask("/healthz").status_code == 200  # Kopf opens it anew after 70 s; no restart is needed


def test_an_api_that_does_not_answer_is_noticed_and_its_return_too(seen: Observed) -> None:
    seen.relay.silence(new=True)
    reason = seen.until("it is noticed", lambda: seen.reasons().get("kubernetes-api"), 40)
    assert "has not answered for" in reason
    assert seen.ask("/healthz").status_code == 200
    seen.relay.mend()
    seen.until("it is back", lambda: "kubernetes-api" not in seen.reasons(), 20)


def test_it_does_not_start_when_an_address_that_was_asked_for_is_taken(seen: Observed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(seen, DOTMAC_OPERATOR_METRICS_ADDRESS=address)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: cannot listen at {address}") and "DOTMAC_OPERATOR_METRICS_ADDRESS" in last


def run(seen: Observed, **extra: str) -> "subprocess.CompletedProcess[str]":
    env = {**seen.plane.env, **extra}
    program = str(Path(sys.executable).parent / "dotmac-operator")
    return subprocess.run([program, "run", "-n", "default"], env=env, capture_output=True, text=True, timeout=60)
