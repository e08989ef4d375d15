"""Settings that a wrong value must stop, with the name of the variable and the remedy."""

import pytest
from typer.testing import CliRunner

from dotmac_operator.cli import app

PREFIX = "DOTMAC_OPERATOR_"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DIAGNOSTICS_TOKEN", "short", "openssl rand"),
        ("DIAGNOSTICS_TOKEN_FILE", "/nowhere/token", "No such file"),
        ("DIAGNOSTICS_ADDRESS", "8082", "host:port"),
        ("METRICS_ADDRESS", "localhost:99999", "host:port"),
        ("METRICS_ADDRESS", "::1:80", "[v6]:port"),
    ],
)
def test_a_wrong_value_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    result = CliRunner().invoke(app, ["run", "-n", "default"])
    assert result.exit_code == 2
    assert PREFIX + name in result.output and told in result.output
    assert "Traceback" not in result.output and result.output.count("\n") == 1
    assert name != "DIAGNOSTICS_TOKEN" or value not in result.output


def test_a_short_token_in_a_file_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    path = tmp_path / "token"
    path.write_text("hunter2\n")
    monkeypatch.setenv("DOTMAC_OPERATOR_DIAGNOSTICS_TOKEN_FILE", str(path))
    result = CliRunner().invoke(app, ["run", "-n", "default"])
    assert result.exit_code == 2 and "fewer than 32" in result.output and "hunter2" not in result.output
