"""Small samples of the benchmarks `restart` and `latency`: what they measure holds in every run of the tests."""

from pathlib import Path

import pytest
from tests.bench import latency, restart
from tests.simhost.synced import Shape

pytestmark = pytest.mark.slow


def test_a_restart_over_a_fleet_in_sync_writes_nothing(tmp_path: Path) -> None:
    found, memory, _ = restart.measure(Shape(hosts=2, tenants=3), tmp_path, quiet=1.0)
    assert found["known"] == 6
    assert found["writes"] == 0
    # One look at each host: ping and dial, info, four lists, images of the proxy and of the Release.
    assert found["requests"] <= 2 * 14
    assert found["execs"] == 2
    assert memory < 300


def test_a_noop_far_away_takes_two_round_trips() -> None:
    delay = 0.05
    _, near = latency.at(0.0)
    _, far = latency.at(delay)
    assert (far.seconds - near.seconds) / delay < 2
