"""Shows the steps of the example Instances as they happen, and proves at the end that one can log in."""

import base64
import time
from typing import Any

import httpx

from dotmac_local.demo.cluster import INSTANCES, NAMESPACE, SERVER, Cluster, Object
from dotmac_local.demo.processes import Daemon
from dotmac_local.demo.report import PartFailed, say

STALLED_FOR = 30.0
"""Seconds that an Instance may be Stalled before the demo gives up: a first attempt may meet a host still starting."""


def condition(body: Object | None, kind: str) -> Object:
    """One condition of an object; empty when it has none of this type."""
    conditions = ((body or {}).get("status") or {}).get("conditions") or []
    return next((found for found in conditions if found["type"] == kind), {})


def is_ready(body: Object | None) -> bool:
    """Whether Ready is true for the generation that is there now."""
    ready = condition(body, "Ready")
    if body is None or ready.get("status") != "True":
        return False
    return bool((body.get("status") or {}).get("observedGeneration") == body["metadata"]["generation"])


class Progress:
    """Prints each change of each object's steps and conditions once."""

    def __init__(self, cluster: Cluster, operator: Daemon, token: str) -> None:
        self._cluster, self._operator, self._token = cluster, operator, token
        self._seen: dict[tuple[str, str], Any] = {}
        self._stalled_since: dict[str, float] = {}

    def wait(self, timeout: float) -> None:
        """Until both Instances are Ready; PartFailed with the operator's own words when that does not happen."""
        deadline = time.monotonic() + timeout
        while True:
            if self._operator.pid() is None:
                raise PartFailed(
                    "the operator", f"it ended:\n{self._operator.last_lines()}", f"see {self._operator.log}"
                )
            self._show_server(self._cluster.get("Server", SERVER))
            instances = {name: self._cluster.get("Instance", name) for name in INSTANCES}
            for name, body in instances.items():
                self._show_instance(name, body or {})
            if all(self._is_ready_now(body) for body in instances.values()):
                return
            self._give_up_when_stalled(instances)
            if time.monotonic() > deadline:
                waiting = [
                    f"{name}: {_state(body)}" for name, body in instances.items() if not self._is_ready_now(body)
                ]
                raise PartFailed(
                    "the Instances",
                    f"not Ready after {timeout:.0f} s: {'; '.join(waiting)}",
                    f"`kubectl describe instance`; the operator's log is {self._operator.log}",
                )
            time.sleep(0.5)

    def _is_ready_now(self, body: Object | None) -> bool:
        """Ready, and looked at since this `up` began: after a reboot the status still tells of the time before."""
        return is_ready(body) and ((body or {}).get("status") or {}).get("lastHandledReconcileAt") == self._token

    def _once(self, subject: str, value: tuple[Any, ...], line: str, style: str) -> None:
        """Say the line when the subject's value (its first word names the topic) is another one than the last time."""
        if self._seen.get((subject, value[0])) != value:
            self._seen[subject, value[0]] = value
            say(line.rstrip(": "), style=style)

    def _show_server(self, body: Object | None) -> None:
        ready = condition(body, "Ready")
        state = (ready.get("status"), ready.get("reason"), ready.get("message"))
        if ready:
            text = f"{'server demo':<11} {'Ready' if state[0] == 'True' else state[1]}: {state[2] or ''}"
            self._once(SERVER, ("Ready", *state), text, "green" if state[0] == "True" else "")

    def _show_instance(self, name: str, body: Object) -> None:
        status = body.get("status") or {}
        for number, step in enumerate(status.get("steps") or [], start=1):
            if step["state"] == "Pending":
                continue
            style = {"Succeeded": "green", "Failed": "red"}.get(step["state"], "")
            text = f"{name:<11} {number:>2}/10 {step['name']:<10} {step['state']:<10} {step.get('message') or ''}"
            self._once(name, (step["name"], step["state"], step.get("message")), text, style)
        if self._is_ready_now(body):
            text = f"{name:<11} Ready: {status.get('url') or ''}"
            self._once(name, ("Ready",), text, "bold green")

    def _give_up_when_stalled(self, instances: dict[str, Object | None]) -> None:
        for name, body in instances.items():
            stalled = condition(body, "Stalled")
            if stalled.get("status") != "True":
                self._stalled_since.pop(name, None)
            elif time.monotonic() - self._stalled_since.setdefault(name, time.monotonic()) > STALLED_FOR:
                raise PartFailed(
                    f"Instance {name}",
                    f"{stalled.get('reason')}: {stalled.get('message')}",
                    f"`kubectl describe instance {name}`; mend the cause, then run deploy/demo again",
                )


def _state(body: Object | None) -> str:
    for kind in ("Stalled", "Reconciling", "Ready"):
        found = condition(body, kind)
        if found.get("message") and (found.get("status") == "True" or kind == "Ready"):
            return f"{found.get('reason')}: {found['message']}"
    return "the operator has not looked at it"


def credentials(cluster: Cluster, instance: Object) -> tuple[str, str]:
    """User name and password of an Instance's admin."""
    name = ((instance.get("status") or {}).get("credentialsRef") or {}).get("name") or (
        f"{instance['metadata']['name']}-credentials"
    )
    secret = cluster.get("Secret", name)
    data = (secret or {}).get("data") or {}
    if "admin-password" not in data:
        raise PartFailed(
            f"login to {instance['metadata']['name']}",
            f"Secret {NAMESPACE}/{name} has no key admin-password",
            "see the operator's log under .local/log; step `secrets` should have made it",
        )
    return instance["spec"]["admin"].get("username", "admin"), base64.b64decode(data["admin-password"]).decode()


def log_in(cluster: Cluster, name: str, proxy: str) -> str:
    """Log in to Tryton through the proxy as the generated admin; the URL that a browser would use.

    The request goes to the proxy's own address with the Instance's host name in it, so that no DNS is needed.
    """
    instance = cluster.get("Instance", name) or {}
    user, password = credentials(cluster, instance)
    url = httpx.URL((instance.get("status") or {}).get("url") or "")
    host = {"Host": url.netloc.decode()}
    call = {"id": 0, "method": "common.db.login", "params": [user, {"password": password}, "en"]}
    why = "no answer"
    for _ in range(10):
        try:
            with httpx.Client(base_url=proxy, headers=host, timeout=20, trust_env=False) as browser:
                listed = browser.post("/", json={"id": 0, "method": "common.db.list", "params": []}).json()["result"]
                answer = browser.post(f"/{listed[0]}/", json=call)
            if answer.status_code == 200 and answer.json().get("result"):
                return str(url)
            why = f"the proxy answered {answer.status_code}: {answer.text[:200]}"
        except (httpx.HTTPError, ValueError, LookupError) as failed:
            why = f"{type(failed).__name__}: {failed}"
        time.sleep(1)
    raise PartFailed(
        f"login to {name}",
        f"{why} (host {url.host}, user {user})",
        f"`kubectl describe instance {name}`, then try {url}",
    )
