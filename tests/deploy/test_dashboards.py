"""Alerts and dashboard ask for metrics and labels that exist, in a form that Prometheus and Grafana take."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dotmac_operator.core import status
from dotmac_operator.serving import reference

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
RUNBOOKS = DEPLOY / "docs" / "alerts.md"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
# Words of PromQL that could be taken for the name of a metric or a label.
WORDS = {
    *("sum", "count", "rate", "increase", "by", "on", "or", "and", "vector", "absent", "histogram_quantile", "le"),
    *("label_values",),
}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",), "info": ("_info",)}
STRINGS, RANGES, NAMES = re.compile(r'"[^"]*"'), re.compile(r"\[\w+\]"), re.compile(r"[a-zA-Z_]\w*")


def series() -> dict[str, set[str]]:
    """Name of each series -> its labels."""
    return {
        family.name + suffix: set(reference.LABELS.get(family.name, ()))
        for family in reference.families()
        for suffix in SUFFIXES[family.type]
    }


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    yield "variable", dashboard["templating"]["list"][1]["definition"]


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_every_name_in_a_query_exists(where: str, query: str) -> None:
    known = series()
    names = set(NAMES.findall(RANGES.sub("", STRINGS.sub("", query)))) - WORDS
    metrics = names & set(known)
    assert metrics, f"{where}: none of {sorted(names)} is a metric"
    labels = set().union(*(known[name] for name in metrics))
    assert names - metrics <= labels, f"{where}: {sorted(names - metrics - labels)}"


def test_the_phases_in_queries_exist() -> None:
    source = Path(status.__file__).read_text()
    for where, query in queries():
        for told in re.findall(r'phase=~?"([^"]*)"', query):
            for phase in told.split("|"):
                assert f'"{phase}"' in source, (where, phase)


def test_alerts_say_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, rule["alert"]


def test_each_alert_leads_to_its_part_of_the_page() -> None:
    headings = re.findall(r"^## (\S+)$", RUNBOOKS.read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page.endswith(str(RUNBOOKS.relative_to(DEPLOY.parent)))
        assert anchor == rule["alert"].lower()


def promtool(*arguments: str, where: Path) -> subprocess.CompletedProcess[str]:
    """Prometheus' own checker, of the system or as deploy/test unpacks it."""
    found = shutil.which("promtool", path=f"{os.environ['PATH']}{os.pathsep}{DEPLOY.parent / '.local' / 'bin'}")
    if found is None:
        pytest.skip("there is no promtool (Debian: prometheus); deploy/test unpacks one")
    return subprocess.run([found, *arguments], cwd=where, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")])
def test_prometheus_takes_the_rules(arguments: tuple[str, ...]) -> None:
    done = promtool(*arguments, where=ALERTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def rules_of(expressions: Iterable[str]) -> str:
    """A rule file with one recording rule for each expression, Grafana's variables filled in."""
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$server", ".*")}
        for number, expression in enumerate(expressions)
    ]
    return yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]})


def test_prometheus_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) > 10
    (tmp_path / "panels.yaml").write_text(rules_of(expressions))
    done = promtool("check", "rules", "panels.yaml", where=tmp_path)
    assert done.returncode == 0 and f"{len(expressions)} rules found" in done.stdout, done.stdout + done.stderr


def test_prometheus_refuses_an_expression_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "panels.yaml").write_text(rules_of(["sum by (server) rate(dotmac_host_calls_total[5m])"]))
    assert promtool("check", "rules", "panels.yaml", where=tmp_path).returncode != 0


def test_the_dashboard_is_what_its_generator_writes() -> None:
    """Else: python deploy/grafana/generate.py > deploy/grafana/dashboard.json"""
    spec = importlib.util.spec_from_file_location("generate_dashboard", DEPLOY / "grafana" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert json.loads(DASHBOARD.read_text()) == module.dashboard()


def test_the_dashboard_has_what_grafana_wants() -> None:
    made = json.loads(DASHBOARD.read_text())
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= set(made)
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert panel["title"] and panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in ("none", "s", "ops", "reqps"), panel["title"]


def unit_of(panel: dict[str, Any], target: dict[str, Any]) -> str:
    """What Grafana writes behind the values of a query."""
    config = panel["fieldConfig"]
    own = {override["matcher"]["options"]: override["properties"][0]["value"] for override in config["overrides"]}
    unit: str = own.get(target["refId"], config["defaults"]["unit"])
    return unit


def test_times_are_shown_as_times_and_rates_as_rates() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            unit, expr = unit_of(panel, target), target["expr"]
            seconds = expr.startswith("histogram_quantile") or expr.partition("{")[0].endswith("_seconds")
            assert (unit == "s") is seconds, (panel["title"], expr)
            assert (unit in ("ops", "reqps")) is ("rate(" in expr and not seconds), (panel["title"], expr)


def test_every_variable_that_is_used_exists() -> None:
    text = DASHBOARD.read_text()
    names = {variable["name"] for variable in json.loads(text)["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == names
