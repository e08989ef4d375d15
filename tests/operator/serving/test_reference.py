"""The page about metrics says what the code does."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.kits.fakes import deployed
from tests.operator.serving.test_metrics import collecting

from dotmac_operator.reconcile.ports import DONE, Outcome
from dotmac_operator.serving import reference
from dotmac_operator.serving.fleet import Leadership

PAGE = Path(__file__).resolve().parents[3] / "deploy" / "docs" / "metrics.md"


def test_the_page_is_up_to_date() -> None:
    """Else: python -m dotmac_operator.serving.reference > deploy/docs/metrics.md"""
    assert PAGE.read_text() == reference.page()


def test_the_labels_on_the_page_are_those_of_real_series() -> None:
    world = deployed()
    metrics = collecting(world, leadership=Leadership("x", lambda: True))
    metrics.workers(4)
    metrics.added("Instance")
    metrics.began("Instance", 0.1)
    metrics.ended("Instance", Outcome(failed=True), 0.1)
    metrics.ended("Instance", DONE, 0.1)
    metrics.step_finished("start", "succeeded", 1.0)
    metrics.drift_repaired("ContainerMissing")
    metrics.job_finished("Backup", "succeeded", 1.0, 1024)
    metrics.host_called("tenants/host-1", "ping", 0.1, True)
    metrics.requested("200", "GET")
    inventory = world.hosts.inventory("tenants/host-1")
    assert inventory is not None
    inventory._streaming = True
    inventory.host.heartbeats, inventory.host.latency = 1, 0.1  # type: ignore[attr-defined]
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        name = family.name.removesuffix("_info")
        for sample in family.samples:
            found.setdefault(name, set()).update(set(sample.labels) - {"le"})
    wanted = {family.name: set(reference.LABELS.get(family.name, ())) for family in reference.families()}
    assert {name: labels for name, labels in found.items() if not name.startswith(("process_", "python"))} == wanted
    assert set(reference.LABELS) <= set(wanted)
    world.hosts.close()
