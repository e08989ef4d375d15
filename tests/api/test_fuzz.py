"""A sample of what `python -m tests.fuzz` does at length: schemathesis as one tenant of two, and as the platform."""

import pytest
from tests.fuzz.__main__ import run

SECONDS = 16
SEED = 20261123


@pytest.mark.services
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_answer_is_a_failure_and_none_shows_another_tenant() -> None:
    assert run(SECONDS, SEED) == []
