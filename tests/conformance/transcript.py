"""The recorded scenarios, and what the recorder did beside the steps it wrote down."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "transcripts"
SCENARIOS = sorted(path.stem for path in FOLDER.glob("*.json"))


@dataclass(frozen=True)
class Step:
    """One request and its answer: `response` (status, headers, body), or `stream` (status, events) for a watch."""

    scenario: str
    about: str
    request: dict[str, Any]
    response: dict[str, Any] | None
    stream: dict[str, Any] | None
    sender: str

    @property
    def key(self) -> tuple[str, str]:
        return self.scenario, self.about


def steps(scenario: str) -> Iterator[Step]:
    """The steps of a scenario, in order, corrected where the recorder wrote down something else than it sent."""
    for raw in json.loads((FOLDER / f"{scenario}.json").read_text())["steps"]:
        about = raw["about"]
        request = copy.deepcopy(raw["request"])
        CORRECTIONS.get((scenario, about), lambda request: None)(request)
        sender = SENDERS.get(about) or request.get("as") or "admin"
        yield Step(scenario, about, request, raw.get("response"), raw.get("stream"), sender)


# Who sent a request, where the recording does not tell.
SENDERS = {"no token": "nobody", "wrong token": "a stranger"}


def _really_the_first_size(request: dict[str, Any]) -> None:
    request["body"]["spec"]["size"] = 2


def _really_with_a_version(request: dict[str, Any]) -> None:
    request["body"]["metadata"]["resourceVersion"] = "<rv2>"


def _bad_token(request: dict[str, Any]) -> None:
    request["query"]["continue"] = "bm9wZQ"


def _of_nobody(request: dict[str, Any]) -> None:
    request["body"]["metadata"]["ownerReferences"][0]["uid"] = "22222222-2222-2222-2222-222222222222"


# The recorder changed the first two bodies in place for the next step before it wrote them down.
CORRECTIONS: dict[tuple[str, str], Callable[[dict[str, Any]], None]] = {
    ("05-update", "put with the current resourceVersion: generation moves"): _really_the_first_size,
    ("05-update", "put the same: resourceVersion stays"): _really_with_a_version,
    ("09-list", "bad continue"): _bad_token,
    ("14-garbage-collection", "a dependent of an absent owner"): _of_nobody,
}

WIDGETS = "/apis/widgets.example.com/v1/namespaces/trans/widgets"


def widget(name: str, size: int, labels: dict[str, str] | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, **({"labels": labels} if labels else {})}
    return {"apiVersion": "widgets.example.com/v1", "kind": "Widget", "metadata": metadata, "spec": {"size": size}}


# Sends a request as the administrator: method, path, body, content type.
type Send = Callable[[str, str, Any, str], Any]

JSON, MERGE = "application/json", "application/merge-patch+json"


def before_scenario(scenario: str, send: Send) -> None:
    """What the recorder prepared for a scenario."""
    if scenario == "09-list":
        for number in range(5):
            labels = {"app": "list", "n": str(number)}
            send("POST", WIDGETS, widget(f"l{number}", number + 1, labels), JSON)


def after_step(step: Step, send: Send) -> None:
    """What the recorder did after a step."""
    if step.scenario == "04-validation":
        send("DELETE", f"{WIDGETS}/v", None, JSON)
    if step.key == ("15-rbac", "binding"):
        send("POST", WIDGETS, widget("r", 1), JSON)


def during_watch(step: Step, send: Send) -> None:
    """What the recorder did while a watch was open."""
    if step.about.startswith(("from a list's resourceVersion", "with a label selector")):
        send("POST", WIDGETS, widget("w1", 1, {"watched": "yes"}), JSON)
        send("PATCH", f"{WIDGETS}/w1", {"spec": {"size": 2}}, MERGE)
        send("PATCH", f"{WIDGETS}/w1", {"metadata": {"labels": {"watched": None}}}, MERGE)
        send("DELETE", f"{WIDGETS}/w1", None, JSON)
    elif step.about == "as a table":
        send("PATCH", f"{WIDGETS}/l1", {"spec": {"size": 42, "reason": "many"}}, MERGE)
