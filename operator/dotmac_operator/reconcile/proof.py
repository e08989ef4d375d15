"""All Instances of a Server compared with one reading of its host: see ADR 0029.

Each is judged by what its own pass would do: in sync is what that pass would leave alone, on the host and in the
status. Nothing is changed here; who differs is given to its own pass.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from dotmac_operator.core.proof import Finding, not_proven
from dotmac_operator.core.tenancy import Secret
from dotmac_operator.reconcile.comparison import Reading, not_comparable
from dotmac_operator.reconcile.context import Secrets, secrets_of
from dotmac_operator.reconcile.instance import InstanceReconciler
from dotmac_operator.reconcile.store import Instance, Server

AT_ONCE = 8
"""Secrets that are read at the same time, at most."""
EACH = 8
"""Secrets that a thread of its own is worth: where answers come within a millisecond, as on the same machine, threads
that wait for each other cost more time than they save."""
BUSY_SECONDS = 2.0
"""How long a proof waits for Instances whose own passes run: such a pass takes milliseconds, unless it acts."""
BUSY_PAUSE = 0.02


class SecretsRead:
    """Secrets as they are from now on, each read once."""

    def __init__(self, source: Secrets, places: Iterable[tuple[str, str]]) -> None:
        """`places`: (namespace, name) of what will be needed; others are read when they are asked for."""
        self._source = source
        self._places = sorted(places)
        self._read: dict[tuple[str, str], Future[Secret | None]] = {}

    def begin(self) -> None:
        """Begins to read them, once, and does not wait."""
        if self._read or not self._places:
            return
        threads = min(AT_ONCE, 1 + len(self._places) // EACH)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="secrets")
        self._read = {place: pool.submit(self._source.secret, *place) for place in self._places}
        pool.shutdown(wait=False)

    def wait(self) -> None:
        """Until each was read, or could not be: what is computed meanwhile would hold up the threads that read."""
        self.begin()
        wait(self._read.values())

    def secret(self, namespace: str, name: str) -> Secret | None:
        """As `Cluster.secret`. Raises ClusterError."""
        begun = self._read.get((namespace, name))
        return self._source.secret(namespace, name) if begun is None else begun.result()


class Prover:
    """Finds out what a new reconcile token of a Server asks for."""

    def __init__(self, instances: InstanceReconciler, wake: Callable[[str, str], None]) -> None:
        """`wake` is called with the kind and the key of what has to be looked at by its own pass."""
        self._instances = instances
        self._services = instances.services
        self._wake = wake

    def secrets(self, server: Server) -> SecretsRead:
        """All that a proof needs of the API."""
        places: set[tuple[str, str]] = set()
        for instance in self._here(server):
            if not_comparable(instance) is None:
                places |= secrets_of(instance)
        return SecretsRead(self._services.cluster, places)

    def prove(self, server: Server, reading: Reading, secrets: SecretsRead) -> tuple[Finding, ...]:
        """What is found of every Instance that lives on the Server.

        Raises:
            HostError, ClusterError
        """
        secrets.wait()
        found: dict[str, Finding] = {}
        left = [instance.key for instance in self._here(server)]
        until = time.monotonic() + BUSY_SECONDS
        while True:
            for key in left:
                finding = self._instances.compare(key, reading, secrets)
                if finding is not None:
                    found[key] = finding
            left = [key for key in left if key not in found]
            if not left or time.monotonic() > until:
                break
            time.sleep(BUSY_PAUSE)
        busy = {key: not_proven(key.rpartition("/")[2], "Progressing", "its own pass is at work") for key in left}
        return tuple((found | busy).values())

    def refuse(self, server: Server, reason: str, message: str) -> tuple[Finding, ...]:
        """What is told of them when the host itself could not be read."""
        return tuple(not_proven(instance.ref.name, reason, message) for instance in self._here(server))

    def repair(self, server: Server, findings: Iterable[Finding]) -> None:
        """Gives those that were not found in sync to their own passes."""
        for finding in findings:
            if finding.result != "InSync":
                self._wake("Instance", f"{server.ref.namespace}/{finding.name}")

    def _here(self, server: Server) -> list[Instance]:
        here = self._services.store.instances_on(server.ref.namespace, server.ref.name)
        return sorted(here, key=lambda instance: instance.key)
