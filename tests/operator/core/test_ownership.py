"""What is on a host already: somebody else's is refused, and work that another version has undone is done again."""

from dataclasses import replace
from typing import Any

import pytest
from tests.kits.tenant import (
    desired_of,
    fresh_facts,
    inputs_of,
    instance_of,
    met_facts,
    met_record,
    met_view,
    next_desired,
    view_of,
)

from dotmac_operator.core import names
from dotmac_operator.core.actions import RemoveContainer, RunContainer
from dotmac_operator.core.desired import build
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.facts import NetworkFact, VolumeFact
from dotmac_operator.core.plan import plan
from dotmac_operator.core.secret import SecretStr

DESIRED = desired_of()


@pytest.mark.parametrize(
    "labels", [{}, {names.NAMESPACE: "others", names.ORG: DESIRED.org_code}], ids=["bare", "other"]
)
def test_a_network_or_volume_of_somebody_else_is_not_joined(labels: dict[str, str]) -> None:
    facts = fresh_facts()
    network = NetworkFact("n9", DESIRED.network, labels=labels, subnets=("10.9.0.0/24",))
    taken: list[tuple[str, dict[str, Any]]] = [
        ("NetworkTaken", {"networks": (*facts.networks, network)}),
        ("VolumeTaken", {"volumes": (VolumeFact(DESIRED.volumes[0], labels),)}),
    ]
    for reason, change in taken:
        made = plan(view_of(DESIRED, replace(facts, **change)))
        assert made.current is not None
        assert (made.current[0], made.current[1].state, made.current[1].reason) == ("preflight", "blocked", reason)


def test_the_migrate_of_another_version_goes_before_the_new_one_runs() -> None:
    """Regression: when somebody went back, the old migrate container counted as done, although the database had been
    migrated forward since; and an edit during a migrate had two of them run at once."""
    upgrade = next_desired()
    assert DESIRED.migrate is not None and upgrade.migrate is not None
    record = met_record(DESIRED)
    view = met_view(upgrade, facts=met_facts(DESIRED), record=record)
    verdict = dict(plan(view).verdicts)["migrate"]
    assert [type(action) for action in verdict.actions] == [RemoveContainer, RunContainer]
    assert verdict.actions[0] == RemoveContainer("migrate of another version", DESIRED.migrate.name, grace=30)


def test_a_key_that_is_no_variable_name_is_refused_with_the_remedy() -> None:
    spec = instance_of(envFrom=[{"secretRef": {"name": "extra"}}])
    with pytest.raises(SpecError, match="ca\\.crt.*rename it") as caught:
        build(inputs_of(spec, secrets={"extra": {"ca.crt": SecretStr("x")}}))
    assert caught.value.reason == "EnvNameInvalid"
