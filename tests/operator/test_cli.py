"""The command line of the operator: what it prints, and one clear line for each mistake."""

from pathlib import Path

import pytest
from kubernetes.config import kube_config
from typer.testing import CliRunner

from dotmac_operator import check, main
from dotmac_operator.check import Result
from dotmac_operator.cli import app
from dotmac_operator.leader import LeadershipLost
from dotmac_operator.leases import LeaseForbidden
from dotmac_operator.settings import Settings

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # The client library reads KUBECONFIG once, when it is imported.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that `run` was started with."""
    found: list[Settings] = []

    async def run(settings: Settings) -> None:
        found.append(settings)

    monkeypatch.setattr(main, "run", run)
    return found


def test_help_and_version() -> None:
    shown = RUNNER.invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert "run" in shown.output
    assert "check" in shown.output
    assert RUNNER.invoke(app, ["run", "--help"]).exit_code == 0
    version = RUNNER.invoke(app, ["--version"])
    assert (version.exit_code, version.output.split()[0]) == (0, "dotmac-operator")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("WORKERS", "many"), ("WORKERS", "0"), ("RESYNC", "1"), ("LOG_FORMAT", "xml"), ("BREAKER_SECONDS", "-1")],
)
def test_a_wrong_setting_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(f"DOTMAC_OPERATOR_{variable}", value)
    done = RUNNER.invoke(app, ["run", "-n", "erp"])
    assert done.exit_code == 2
    assert done.output.startswith(f"error: DOTMAC_OPERATOR_{variable}: ")
    assert len(done.output.splitlines()) == 1


@pytest.mark.parametrize("command", ["run", "check"])
def test_one_namespace_or_all(command: str) -> None:
    done = RUNNER.invoke(app, [command, "-n", "erp", "-A"])
    assert done.exit_code == 2
    assert "exclude each other" in done.output


@pytest.mark.parametrize("command", ["run", "check"])
def test_no_cluster_is_one_clear_line(command: str) -> None:
    done = RUNNER.invoke(app, [command, "-n", "erp"])
    assert done.exit_code == 2
    assert "set KUBECONFIG" in done.output
    assert "Traceback" not in done.output


def test_the_command_line_wins_over_the_environment(started: list[Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOTMAC_OPERATOR_NAMESPACES", "a, b")
    RUNNER.invoke(app, ["run"])
    RUNNER.invoke(app, ["run", "-n", "c", "-n", "d", "--log-level", "error"])
    RUNNER.invoke(app, ["run", "-A"])
    assert [(s.namespaces, s.all_namespaces) for s in started] == [(["a", "b"], False), (["c", "d"], False), ([], True)]
    assert started[1].log_level == "error"


def test_without_a_word_it_watches_the_current_namespace(started: list[Settings]) -> None:
    RUNNER.invoke(app, ["run"])
    assert started[0].namespaces == ["default"]


def test_check_counts_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = [Result("kubernetes v1.32", True), Result("may patch servers", False, "grant it")]
    monkeypatch.setattr(check, "run", lambda settings: iter(results))
    done = RUNNER.invoke(app, ["check", "-n", "erp"])
    assert done.exit_code == 1
    assert done.output.splitlines() == ["ok   kubernetes v1.32", "FAIL may patch servers: grant it", "1 checks failed"]
    monkeypatch.setattr(check, "run", lambda settings: iter(results[:1]))
    done = RUNNER.invoke(app, ["check", "-n", "erp"])
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "all is well")


def test_who_lost_the_lease_ends_with_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(settings: Settings) -> None:
        raise LeadershipLost("pod-2 has taken the leader's Lease")

    monkeypatch.setattr(main, "run", run)
    done = RUNNER.invoke(app, ["run", "-n", "erp"])
    assert (done.exit_code, done.output) == (1, "error: pod-2 has taken the leader's Lease\n")


def test_a_right_that_is_missing_for_the_election_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(settings: Settings) -> None:
        raise LeaseForbidden("may not get leases in namespace erp")

    monkeypatch.setattr(main, "run", run)
    done = RUNNER.invoke(app, ["run", "-n", "erp"])
    assert (done.exit_code, done.output) == (2, "error: may not get leases in namespace erp\n")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LEASE_DURATION", "6"),
        ("RENEW_DEADLINE", "10"),
        ("RETRY_PERIOD", "6"),
        ("RETRY_PERIOD", "0"),
        ("NAME", "No_Name"),
    ],
)
def test_times_that_two_leaders_could_fit_into_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"DOTMAC_OPERATOR_LEADER_ELECTION_{variable}", value)
    done = RUNNER.invoke(app, ["run", "-n", "erp"])
    assert done.exit_code == 2
    assert "LEADER_ELECTION" in done.output
