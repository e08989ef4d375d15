"""The operator as a process of its own, between an embedded control plane and simulated hosts, seen from outside.

What goes to the control plane passes a relay, so that its connections can fall silent.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.kits import controlplane
from tests.kits.fakes import QUICK
from tests.kits.relay import Relay
from tests.kits.tenant import INSTANCE
from tests.simhost import FleetSettings, SimFleet

from dotmac_crds.base import API_VERSION

BASE = "/apis/platform.dotmac.io/v1alpha1"
TOKEN = "x" * 40


@dataclass
class Observed:
    """Everything a test looks at and breaks."""

    plane: controlplane.ControlPlane
    relay: Relay
    fleet: SimFleet
    directory: Path
    extra: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    # ---- the operator

    def start(self) -> None:
        """Starts it and waits until it listens."""
        config = self.plane.kubeconfig.read_text().replace(self.plane.url, f"https://127.0.0.1:{self.relay.port}")
        path = self.directory / "relayed"
        path.write_text(config)
        env = {
            **os.environ,
            "PYTHONPATH": controlplane.PYTHONPATH,
            "KUBECONFIG": str(path),
            "DOTMAC_OPERATOR_METRICS_ADDRESS": "127.0.0.1:0",
            "DOTMAC_OPERATOR_DIAGNOSTICS_ADDRESS": "127.0.0.1:0",
            "DOTMAC_OPERATOR_DIAGNOSTICS_TOKEN": TOKEN,
            **self.extra,
        }
        program = str(Path(sys.executable).parent / "dotmac-operator")
        with (self.directory / "operator.log").open("ab") as log:
            argv = [program, "run", "-n", "default"]
            self.process = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
        self.until("it listens", lambda: len(self.addresses()) == 2, 60)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)

    @property
    def log(self) -> str:
        return (self.directory / "operator.log").read_text()

    def addresses(self) -> dict[str, str]:
        """What listens -> its URL."""
        found = re.findall(r"listener: (metrics and health|diagnostics) at (http://\S+)", self.log)
        return dict(found)

    def ask(self, path: str, timeout: float = 10.0) -> httpx.Response:
        return httpx.get(self.addresses()["metrics and health"] + path, timeout=timeout)

    def diagnose(self, path: str, **query: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        url = f"{self.addresses()['diagnostics']}/internal/v1/instances/default/{path}"
        return httpx.get(url, params=query, headers=headers, timeout=30)

    def reasons(self, path: str = "/readyz") -> dict[str, str]:
        """What fails -> why."""
        checks = self.ask(f"{path}?verbose").json()["checks"]
        return {check["name"]: check["reason"] for check in checks if not check["ok"]}

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        families = text_string_to_metric_families(self.ask("/metrics").text)
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    def total(self, name: str) -> float:
        """Over all labels."""
        return sum(value for (found, _), value in self.metrics().items() if found == name)

    def until(self, told: str, look: Callable[[], Any], seconds: float = 30.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := look()):
            alive = self.process is None or self.process.poll() is None
            assert time.monotonic() < deadline and alive, f"not within {seconds} s: {told}\n{self.log[-4000:]}"
            time.sleep(0.1)
        return found

    # ---- the fleet

    def populate(self, instances: int) -> None:
        """A Release, a class, a Server for each host, and so many Instances spread over them."""
        self.plane.create(self.fleet.secret("default"))
        self.create("InstanceClass", "starter", {})
        self.create("Release", "erp-1", QUICK)
        names = sorted(self.fleet.hosts)
        for name in names:
            self.plane.create(self.fleet.server(self.fleet.hosts[name], "default"))
        for number in range(instances):
            server = {"name": names[number % len(names)]}
            spec = {**INSTANCE, "orgCode": f"ORG{number}", "serverRef": server}
            self.create("Instance", f"org-{number}", spec)

    def create(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        self.plane.create({"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})

    def items(self, plural: str) -> list[dict[str, Any]]:
        scope = "" if plural in ("releases", "instanceclasses") else "/namespaces/default"
        found: list[dict[str, Any]] = self.plane.client.get(f"{BASE}{scope}/{plural}").json()["items"]
        return found

    def ready(self, plural: str = "instances") -> int:
        """How many have the condition Ready for their present generation."""
        return sum(
            any(
                c["type"] == "Ready"
                and c["status"] == "True"
                and c["observedGeneration"] == o["metadata"]["generation"]
                for c in o.get("status", {}).get("conditions", [])
            )
            for o in self.items(plural)
        )

    def edit(self, name: str, **spec: Any) -> None:
        answer = self.plane.client.patch(
            f"{BASE}/namespaces/default/instances/{name}",
            json={"spec": spec},
            headers={"Content-Type": "application/merge-patch+json"},
        )
        assert answer.is_success, answer.text


@contextmanager
def observed(directory: Path, hosts: int, **extra: str) -> Iterator[Observed]:
    """A control plane with our resources and simulated hosts; the operator is not started yet."""
    plane = controlplane.start(directory / "control-plane")
    relay = Relay(int(plane.url.rpartition(":")[2]))
    with SimFleet(FleetSettings(hosts=hosts)) as fleet:
        made = Observed(plane, relay, fleet, directory, extra)
        try:
            plane.apply_crds()
            yield made
        finally:
            made.stop()
            relay.close()
            plane.process.send_signal(signal.SIGCONT)
            plane.stop()
