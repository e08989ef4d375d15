"""Every recorded request is answered as a real kube-apiserver answered it."""

from __future__ import annotations

import pytest
from tests.conformance.replay import Replay
from tests.conformance.transcript import SCENARIOS, Step, steps

# The replay of everything happens in the first test; a real cluster takes minutes to collect its garbage.
pytestmark = pytest.mark.timeout(900)

ALL = [step for scenario in SCENARIOS for step in steps(scenario)]


@pytest.mark.parametrize("step", ALL, ids=lambda step: f"{step.scenario}: {step.about}")
def test_the_answer_is_the_recorded_one(step: Step, replay: Replay) -> None:
    if step.key not in replay.failures:
        pytest.skip("nothing collects garbage behind this server")
    assert not replay.failures[step.key], "\n".join(replay.failures[step.key])
