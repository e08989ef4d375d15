"""What makes a process blind or stuck, done to a running one: /readyz tells it, and tells when it is over.

`DOTMAC_TEST_LONG=1 pytest tests/operator/serving/test_blind.py`: minutes, since a minute of silence is not yet told.
Silent watches and a silent API are in test_process.py; the same checks with shorter limits in test_health.py.
"""

import os
from pathlib import Path

import pytest
from tests.kits.fakes import QUICK
from tests.kits.observed import observed
from tests.simhost.faults import Hang, Rule

from dotmac_operator.serving.health import BUSY_SECONDS, STREAM_SECONDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif("DOTMAC_TEST_LONG" not in os.environ, reason="minutes: set DOTMAC_TEST_LONG=1"),
]


def test_a_deaf_event_stream_and_a_stuck_worker_are_told_until_they_are_well(tmp_path: Path) -> None:
    """One host takes every question about events and answers none; the other never ends a pull, which holds the only
    worker. Both Servers stay Ready: nothing else shows it."""
    with observed(tmp_path, 2, DOTMAC_OPERATOR_WORKERS="1") as seen:
        seen.populate(2)
        seen.start()
        seen.until("all are Ready", lambda: seen.ready() == 2, 60)
        seen.until("it is ready", lambda: seen.ask("/readyz").status_code == 200)
        deaf, stuck = seen.fleet["sim-0"], seen.fleet["sim-1"]
        seen.until("it was asked what it remembers", lambda: deaf.calls["GET /events"] > 1, 60)

        deaf.rules.add(Rule(Hang(), template="/events", times=-1))
        stuck.rules.add(Rule(Hang(), "POST", "/images/create", times=-1))
        seen.create("Release", "erp-2", {**QUICK, "version": "2.0", "images": {**QUICK["images"], "app": "new/app:2"}})
        seen.edit("org-1", releaseRef={"name": "erp-2"})
        told = seen.until("the stream is told", lambda: seen.reasons().get("event-streams"), STREAM_SECONDS + 90)
        assert "default/sim-0" in told and "sim-1" not in told
        told = seen.until("the worker is told", lambda: seen.reasons().get("workers-free"), BUSY_SECONDS + 30)
        assert "1 passes run" in told and "DOTMAC_OPERATOR_WORKERS" in told
        assert set(seen.reasons()) == {"event-streams", "workers-free"}
        assert (seen.ask("/readyz").status_code, seen.ask("/healthz").status_code) == (503, 200)
        assert seen.ready("servers") == 2

        for host in (deaf, stuck):
            host.rules.clear()
            seen.fleet.call(host.drop_connections)
        seen.until("it is ready again", lambda: seen.ask("/readyz").status_code == 200, 60)
        seen.until("and has done what waited", lambda: seen.ready() == 2, 60)
