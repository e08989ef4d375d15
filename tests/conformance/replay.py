"""Sending the recorded requests to a server, and saying where its answers differ."""

from __future__ import annotations

import datetime
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.conformance.allowed import allowed
from tests.conformance.matching import Bindings, differences
from tests.conformance.target import Target
from tests.conformance.transcript import Step, after_step, before_scenario, during_watch, steps

# How long the answers of a scenario may take in all to become what was recorded, in seconds, where controllers work
# behind a server: a new kind, its OpenAPI, garbage collection, the end of a namespace. The embedded one is quicker.
PATIENCE = {
    "01-crd": 20.0,
    "02-namespace": 5.0,
    "12-discovery": 20.0,
    "13-openapi": 20.0,
    "14-garbage-collection": 90.0,
}
EMBEDDED_PATIENCE = 5.0
_MICRO = frozenset({"renewTime", "acquireTime", "eventTime"})


@dataclass
class Replay:
    """One run of the scenarios against a server; `failures` maps (scenario, step) to what differs."""

    target: Target
    failures: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    service_account_token: str = ""
    patience: float = 0.0

    def run(self, scenario: str) -> None:
        """Replay one scenario; those it stands on come before it."""
        bindings = Bindings()
        self.patience = PATIENCE.get(scenario, 0.0)
        if self.target.embedded:
            self.patience = min(self.patience, EMBEDDED_PATIENCE)
        with self.target.client() as admin:
            before_scenario(scenario, lambda *request: _send(admin, *request))
            for step in steps(scenario):
                bindings.values["time"] = _now()
                if step.stream is not None:
                    found = self._watch(step, bindings, admin)
                else:
                    bindings, found = self._until_as_recorded(step, bindings)
                self.failures[step.key] = [line for line in found if not allowed(step, line, self.target)]
                after_step(step, lambda *request: _send(admin, *request))

    def _until_as_recorded(self, step: Step, bindings: Bindings) -> tuple[Bindings, list[str]]:
        deadline = time.monotonic() + (self.patience if step.request["method"] == "GET" else 0)
        started = time.monotonic()
        while True:
            attempt = bindings.copy()
            found = self._compare(step, attempt)
            if not [line for line in found if not allowed(step, line, self.target)] or time.monotonic() > deadline:
                self.patience = max(0.0, self.patience - (time.monotonic() - started))
                return attempt, found
            time.sleep(0.3)

    def _compare(self, step: Step, bindings: Bindings) -> list[str]:
        assert step.response is not None
        with self.target.client(self._token(step)) as client:
            answer = self._request(client, step, bindings)
        want = step.response
        found = differences(want["status"], answer.status_code, bindings, "status")
        for name, value in want["headers"].items():
            found += differences(value, answer.headers.get(name, ""), bindings, f"header {name}")
        body = _decoded(answer)
        found += differences(want["body"], body, bindings, "")
        if "<token>" in json.dumps(want["body"]) and isinstance(body, dict):
            self.service_account_token = body.get("status", {}).get("token", "")
        return found + bindings.disorder()

    def _token(self, step: Step) -> str | None:
        match step.sender:
            case "admin":
                return None
            case "nobody":
                return ""
            case "a stranger":
                return "wrong"
            case _:
                return self.service_account_token

    def _request(self, client: httpx.Client, step: Step, bindings: Bindings) -> httpx.Response:
        request = step.request
        body = _stamped(request.get("body"), bindings)
        return client.request(
            request["method"],
            request["path"],
            params=bindings.fill(request["query"]),
            headers=request["headers"],
            content=None if body is None else body if isinstance(body, str) else json.dumps(body),
        )

    def _watch(self, step: Step, bindings: Bindings, admin: httpx.Client) -> list[str]:
        assert step.stream is not None
        query = bindings.fill(step.request["query"])
        if query.get("resourceVersion") not in (None, "0", "1"):
            query["resourceVersion"] = admin.get(step.request["path"]).json()["metadata"]["resourceVersion"]
        if self.target.embedded:
            query["timeoutSeconds"] = "1"  # it is quick, and these tests are run often
        actor = threading.Timer(
            0.2 if self.target.embedded else 0.5, during_watch, (step, lambda *request: _send(admin, *request))
        )
        actor.start()
        with self.target.client() as client:
            answer = client.get(step.request["path"], params=query, headers=step.request["headers"])
        actor.join()
        events = [json.loads(line) for line in answer.text.splitlines()]
        found = differences(step.stream["status"], answer.status_code, bindings, "status")
        found += differences(step.stream["content-type"], answer.headers["content-type"], bindings, "content type")
        return (
            found + differences(step.stream["events"], _without_idle_bookmarks(events), bindings) + bindings.disorder()
        )


def _without_idle_bookmarks(events: list[Any]) -> list[Any]:
    """A server may send bookmarks whenever it likes; only the one that ends the initial events is promised."""
    return [
        event for event in events if event["type"] != "BOOKMARK" or "annotations" in event["object"].get("metadata", {})
    ]


def _send(client: httpx.Client, method: str, path: str, body: Any, content_type: str) -> httpx.Response:
    content = None if body is None else json.dumps(body)
    return client.request(method, path, content=content, headers={"Content-Type": content_type})


def _decoded(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _stamped(value: Any, bindings: Bindings, key: str = "") -> Any:
    """A request body with live values, and times in the precision their field has."""
    if isinstance(value, dict):
        return {name: _stamped(item, bindings, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_stamped(item, bindings) for item in value]
    if value == "<time>" and key in _MICRO:
        return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return bindings.fill(value)
