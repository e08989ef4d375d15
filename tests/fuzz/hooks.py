"""Loaded by schemathesis (SCHEMATHESIS_HOOKS). Sends ids of another tenant, and looks for them in what comes back.

FUZZ_FOREIGN names a JSON file: {"ids": {parameter: [ids]}, "marks": [texts that only the other tenant may see]}.
Without it only the checks of schemathesis itself run.
"""

import json
import os
import random
from pathlib import Path
from typing import Any

import schemathesis

FOREIGN: dict[str, Any] = (
    json.loads(Path(os.environ["FUZZ_FOREIGN"]).read_text()) if "FUZZ_FOREIGN" in os.environ else {}
)
# Seeded by the run, so that a failing run can be repeated.
CHOICES = random.Random(int(os.environ.get("FUZZ_SEED", "1")))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Half of the paths get an id of the other tenant where it fits."""
    for name in case.path_parameters or {}:
        ids = FOREIGN.get("ids", {}).get(name)
        if ids and CHOICES.random() < 0.5:
            case.path_parameters[name] = CHOICES.choice(ids)


def _shown(case: Any, response: Any) -> str:
    """The answer; of audit events only those of others, since one's own tell which ids were asked for in vain."""
    if "/audit-events" not in case.path:
        return str(response.text)
    body = response.json()
    events = body["items"] if "items" in body else [body]
    return json.dumps([event for event in events if event["actor_name"] != os.environ["FUZZ_USER"]])


@schemathesis.check
def cross_tenant(ctx: Any, response: Any, case: Any) -> None:
    """No answer of success shows, or was given about, anything of the other tenant."""
    if not 200 <= response.status_code < 300:
        return
    shown = case.formatted_path + _shown(case, response)
    for mark in FOREIGN.get("marks", ()):
        assert mark not in shown, f"{response.status_code} about {mark}, which is another tenant's"
