"""Drives one Instance: one pass from what is there towards what its spec says."""

import threading
import time
from collections.abc import Callable

from dotmac_crds.instance import InstanceSpec
from dotmac_operator.core.proof import Finding, not_proven
from dotmac_operator.core.status import Problem, Situation, compute
from dotmac_operator.reconcile.comparison import Comparison, Reading
from dotmac_operator.reconcile.context import Contexts, NotYet, Secrets
from dotmac_operator.reconcile.departure import Departure
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.kept import Kept
from dotmac_operator.reconcile.ports import AGAIN, DONE, GONE, Cluster, Gone, Meter, Outcome, Stale, Unmetered
from dotmac_operator.reconcile.rollout import Rollout
from dotmac_operator.reconcile.services import Services
from dotmac_operator.reconcile.store import Instance, Store
from dotmac_operator.reconcile.turns import SOON, Turns


class InstanceReconciler:
    """Thread-safe for different Instances; the caller runs one pass at a time for each."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        hosts: Hosts,
        wake_server: Callable[[str], None],
        clock: Callable[[], float] = time.time,
        meter: Meter | None = None,
        turns: Turns | None = None,
    ) -> None:
        """`wake_server` is called with the key of a Server that should be looked at; `clock` gives Unix seconds.
        `turns` are shared with whoever else works on tenants."""
        self._services = Services(
            store, cluster, hosts, Contexts(store, cluster), wake_server, clock, meter or Unmetered()
        )
        self._turns = turns or Turns()
        self._departure = Departure(self._services)
        self._placing = threading.Lock()
        self._kept: dict[str, Kept] = {}

    def reconcile(self, key: str) -> Outcome:
        """One pass. Every expected failure ends in the status; only bugs leave as exceptions."""
        instance = self._services.store.instance(key)
        if instance is None:
            return GONE
        with self._turns.take(key) as mine:
            if not mine:
                return Outcome(after=SOON)
            try:
                return self._reconcile(instance)
            except Gone:
                self._kept.pop(instance.ref.uid, None)
                return DONE
            except Stale:
                if kept := self._kept.get(instance.ref.uid):
                    kept.drift = {}  # found by what was asked before; what was recorded of it is read again
                return AGAIN

    def compare(self, key: str, reading: Reading, secrets: Secrets) -> Finding | None:
        """What a pass would find now, of the host and the Secrets as they were read; None while a pass runs.

        Raises:
            HostError, ClusterError
        """
        with self._turns.take(key) as mine:
            instance = self._services.store.instance(key)
            if not mine:
                return None
            if instance is None:
                return not_proven(key.rpartition("/")[2], "Deleting", "it is gone")
            kept = self._kept.setdefault(instance.ref.uid, Kept())
            return Comparison(self._services, instance, kept).finding(reading, secrets)

    @property
    def services(self) -> Services:
        """For those that work on the same tenants."""
        return self._services

    def forget(self, uid: str) -> None:
        """Somebody else has worked on this Instance, whose turn it is: what was remembered is true no more."""
        self._kept.pop(uid, None)

    def _reconcile(self, instance: Instance) -> Outcome:
        services = self._services
        if instance.deleting:
            return self._depart(instance)
        if instance.spec is None:
            problem = Problem("InvalidSpec", f"{instance.error}: is the operator as new as the CRDs?", stalled=True)
            services.report(instance, Situation(instance.generation, services.clock(), problem=problem))
            return DONE
        spec = instance.spec
        if not instance.held:
            services.take(services.cluster.set_finalizer(instance.ref, True, list(instance.finalizers)))
            instance = services.store.instance(instance.key) or instance
        if instance.paused:
            services.report(instance, Situation(instance.generation, services.clock(), paused=True))
            return DONE
        restoring = services.restoring(instance.key)
        if restoring is not None:
            services.report(instance, Situation(instance.generation, services.clock(), problem=restoring))
            return DONE
        try:
            self._place(instance, spec)
        except NotYet as problem:
            return services.not_yet(instance, problem)
        placed = services.store.instance(instance.key)
        if placed is None or placed.ref.uid != instance.ref.uid:
            return DONE
        return Rollout(services, placed, self._kept.setdefault(placed.ref.uid, Kept())).run()

    def _depart(self, instance: Instance) -> Outcome:
        if not instance.held:
            return DONE
        outcome = self._departure.run(instance)
        if outcome == DONE:
            self._kept.pop(instance.ref.uid, None)
        return outcome

    def _place(self, instance: Instance, spec: InstanceSpec) -> None:
        """Chooses a Server and records the choice before anything is done on it: a crash must not choose again."""
        services = self._services
        if instance.status.server:
            services.contexts.place(instance, spec)
            return
        with self._placing:  # the next choice must see this one
            name = services.contexts.place(instance, spec)
            situation = Situation(instance.generation, services.clock(), server=name)
            services.write(instance, compute(instance.status, situation))
        services.cluster.event(instance.ref, "Normal", "Placed", f"placed on Server {name}")
        services.wake_server(f"{instance.ref.namespace}/{name}")
