"""The operator's reconcilers and its SSH adapter on one simulated host, with the Kubernetes API in memory."""

import threading
import time
from typing import Any

from tests.kits.fakes import FakeCluster
from tests.kits.tenant import INSTANCE, RELEASE
from tests.simhost.fleet import SECRET, SimFleet

from dotmac_crds.base import API_VERSION
from dotmac_operator.core import names
from dotmac_operator.core.conditions import is_true
from dotmac_operator.core.facts import DockerEvent
from dotmac_operator.hosts.pool import SshHostPool
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.instance import InstanceReconciler
from dotmac_operator.reconcile.ports import DONE, Outcome
from dotmac_operator.reconcile.proof import Prover
from dotmac_operator.reconcile.server import ServerReconciler
from dotmac_operator.reconcile.store import Store, parse

NAMESPACE = "tenants"
PATIENCE = 120.0


class OneOperator:
    """`with OneOperator(fleet) as operator: operator.deploy("acme")`. Works on the fleet's first host."""

    def __init__(self, fleet: SimFleet) -> None:
        self.cluster = FakeCluster(checked=False)
        self.store = Store()
        self._woken = threading.Event()
        self._hosts = Hosts(SshHostPool(), self._wake)
        self._instances = InstanceReconciler(self.store, self.cluster, self._hosts, lambda key: None)
        prover = Prover(self._instances, lambda kind, key: None)
        self._servers = ServerReconciler(self.store, self.cluster, self._hosts, lambda key: None, prover)
        host = next(iter(fleet.hosts.values()))
        self._server = f"{NAMESPACE}/{host.name}"
        self.cluster.secrets[f"{NAMESPACE}/{SECRET}"] = {"ssh-privatekey": fleet.private_key}
        self._add(fleet.server(host, NAMESPACE))
        self._add({"kind": "Release", "metadata": {"name": "erp-1"}, "spec": RELEASE})
        self._add({"kind": "InstanceClass", "metadata": {"name": "starter"}, "spec": {}})

    def __enter__(self) -> "OneOperator":
        self._until_ready("Server", self._server)
        return self

    def __exit__(self, *exc: object) -> None:
        self._hosts.close()

    @property
    def requests(self) -> int:
        """Engine requests so far, without heartbeats."""
        inventory = self._hosts.inventory(self._server)
        assert inventory is not None
        return inventory.host.round_trips

    def deploy(self, name: str) -> None:
        """A new Instance, until it is Ready."""
        server = self._server.partition("/")[2]
        spec = INSTANCE | {"orgCode": name, "serverRef": {"name": server}}
        self._add({"kind": "Instance", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
        self._until_ready("Instance", f"{NAMESPACE}/{name}")

    def prove(self, name: str) -> None:
        """One pass over an Instance in sync that reads its host anew; fails when it finds something to do."""
        inventory = self._hosts.inventory(self._server)
        assert inventory is not None
        inventory.invalidate()
        writes = len(self.cluster.writes)
        assert self._instances.reconcile(f"{NAMESPACE}/{name}") == DONE
        assert len(self.cluster.writes) == writes

    def _add(self, body: dict[str, Any]) -> None:
        meta = {"uid": f"uid-{body['metadata']['name']}", "generation": 1, "resourceVersion": "1", **body["metadata"]}
        whole = {"apiVersion": API_VERSION, **body, "metadata": meta}
        self.cluster.objects[(body["kind"], parse(whole).key)] = whole
        self.store.put(whole)

    def _wake(self, server: str, event: DockerEvent | None) -> None:
        if event is None or names.INSTANCE_UID in event.attributes:
            self._woken.set()

    def _until_ready(self, kind: str, key: str) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            self._woken.clear()
            outcome = self._pass(kind, key)
            found = self.store.server(key) if kind == "Server" else self.store.instance(key)
            assert found is not None
            if is_true(found.status.conditions, "Ready"):
                return
            assert time.monotonic() < until, f"{kind} {key} is not ready: {found.status.conditions}"
            self._woken.wait(1.0 if outcome.after is None else min(outcome.after, 5.0))

    def _pass(self, kind: str, key: str) -> Outcome:
        return self._servers.reconcile(key) if kind == "Server" else self._instances.reconcile(key)
