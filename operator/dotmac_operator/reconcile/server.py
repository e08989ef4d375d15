"""Drives one Server: reaches the host, reads its facts, keeps the proxy, tells how much is given away."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from dotmac_crds.server import ServerSpec
from dotmac_operator.core import drift, names, proxy
from dotmac_operator.core.actions import Action, LoadProxy
from dotmac_operator.core.conditions import find, is_true
from dotmac_operator.core.proof import Finding, summary
from dotmac_operator.core.server import HostProblem, ServerSituation, compute, plan_proxy, proxy_of
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.port import HostAddress, HostError
from dotmac_operator.reconcile.comparison import Reading
from dotmac_operator.reconcile.context import Contexts
from dotmac_operator.reconcile.execute import Executor, Results, Site
from dotmac_operator.reconcile.hosts import Hosts, host_address
from dotmac_operator.reconcile.ports import DONE, GONE, Cluster, Gone, Meter, Outcome, Unmetered
from dotmac_operator.reconcile.proof import Prover, SecretsRead
from dotmac_operator.reconcile.repairs import tell_repairs
from dotmac_operator.reconcile.store import Server, Store

log = logging.getLogger(__name__)

ROUNDS = 10


def _is_new(token: str | None, server: Server) -> bool:
    """Whether somebody waits for the answer to this token: a proof of all Instances."""
    return token not in (None, server.status.last_handled_reconcile_at)


def _proxy_is_right(server: Server, spec: ServerSpec, reading: Reading) -> bool:
    facts = reading.facts([proxy.container(spec, server.ref.uid).image])
    running = proxy_of(facts)
    return running is not None and running.running and not plan_proxy(spec, server.ref.uid, facts)


class ServerReconciler:
    """Thread-safe for different Servers; the caller runs one pass at a time for each."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        hosts: Hosts,
        wake_instances: Callable[[str], None],
        prover: Prover,
        clock: Callable[[], float] = time.time,
        meter: Meter | None = None,
    ) -> None:
        """`wake_instances` is called with the Server's key when its readiness has changed."""
        self._store = store
        self._cluster = cluster
        self._hosts = hosts
        self._wake_instances = wake_instances
        self._prover = prover
        self._clock = clock
        self._meter = meter or Unmetered()
        self._contexts = Contexts(store, cluster)
        self._fell: dict[str, str] = {}
        """Key -> uid, of Servers whose proxy was right and is not: one that is removed is repaired by a later pass."""

    def reconcile(self, key: str) -> Outcome:
        """One pass. Every expected failure ends in the status; only bugs leave as exceptions."""
        server = self._store.server(key)
        if server is None:
            self._hosts.detach(key)
            self._fell.pop(key, None)
            return GONE
        try:
            return self._reconcile(server)
        except Gone:
            return DONE

    def _reconcile(self, server: Server) -> Outcome:
        situation = self._situation(server)
        if server.deleting:
            return self._delete(server, situation) if server.held else DONE
        if server.spec is None:
            problem = HostProblem("InvalidSpec", f"{server.error}: is the operator as new as the CRDs?", False)
            return self._report(server, replace(situation, problem=problem))
        if not server.held:
            body = self._cluster.set_finalizer(server.ref, True, list(server.finalizers))
            if body is not None:
                self._store.put(body)
        if server.paused:
            return self._report(server, replace(situation, paused=True))
        return self._look(server, server.spec, situation)

    def _look(self, server: Server, spec: ServerSpec, situation: ServerSituation) -> Outcome:
        asked = self._prover.secrets(server) if _is_new(server.reconcile_token, server) else None
        if asked is not None and (answered := self._prove_first(server, spec, asked, situation.now)) is not None:
            server, asked = answered, None
        address = host_address(self._cluster, server, spec)
        if isinstance(address, HostProblem):
            self._report(server, replace(situation, problem=address))
            return Outcome(after=30.0)
        return self._observe(server, spec, address, situation, asked)

    def _prove_first(self, server: Server, spec: ServerSpec, secrets: SecretsRead, now: float) -> Server | None:
        """Answers a new token before the host's own facts are looked at, which takes longer than all of its Instances.

        Returns the Server with the answer. None, and no answer yet, where the Server was not as its spec says, or was
        not reached yet: it is looked at first.
        """
        inventory, status = self._hosts.inventory(server.key), server.status
        was_right = is_true(status.conditions, "Ready") and status.observed_generation == server.generation
        if inventory is None or not inventory.started or not was_right:
            return None
        try:
            reading = Reading(inventory, secrets.begin)
            if not _proxy_is_right(server, spec, reading):
                return None
            findings = self._prover.prove(server, reading, secrets)
        except HostError as error:
            log.info("Server %s: %s", server.key, error)
            return None
        answered = self._write(server, last_handled_reconcile_at=server.reconcile_token, proof=summary(findings, now))
        self._prover.repair(server, findings)
        return answered

    def _write(self, server: Server, **fields: object) -> Server:
        """Writes these fields of the status, and nothing else; returns what the Server is then."""
        found = self._store.server(server.key)
        current = found if found is not None and found.ref.uid == server.ref.uid else server
        body = self._cluster.apply_status(current.ref, current.status.model_copy(update=fields).to_wire())
        _, written = self._store.put(body)
        return written

    def _situation(self, server: Server) -> ServerSituation:
        here = self._store.instances_on(server.ref.namespace, server.ref.name)
        return ServerSituation(
            generation=server.generation,
            now=self._clock(),
            instances=len(here),
            memory=sum(self._contexts.memory_of(instance) for instance in here),
            reconcile_token=server.reconcile_token,
        )

    def _observe(
        self,
        server: Server,
        spec: ServerSpec,
        address: HostAddress,
        situation: ServerSituation,
        asked: SecretsRead | None,
    ) -> Outcome:
        """`asked`: the Secrets for a proof of its Instances, where one is still to be made."""
        known = self._hosts.inventory(server.key)
        inventory = self._hosts.attach(address)
        findings: tuple[Finding, ...] = ()
        try:
            inventory.host.probe()
            info = inventory.host.engine.info()
            situation = replace(situation, info=info, disk=inventory.host.disk(info.data_root))
            inventory.start()
            if asked is not None:
                inventory.invalidate()
            situation = self._keep_proxy(server, spec, inventory, situation)
            if asked is not None and situation.proxy_ready:
                findings = self._prover.prove(server, Reading(inventory, asked.begin), asked)
                situation = replace(situation, proof=summary(findings, situation.now))
        except HostError as error:
            log.warning("Server %s: %s", server.key, error)
            situation = replace(situation, problem=HostProblem(error.reason, str(error), error.retryable))
        # Also when Docker is in trouble: a key that was trusted once must not be trusted anew by the next process.
        situation = replace(situation, offered_key=inventory.host.offered_host_key)
        self._report(server, situation)
        tell_repairs(self._cluster, self._meter, server.ref, situation.repaired)
        self._prover.repair(server, findings)
        if situation.problem is None and inventory is not known:
            self._wake_instances(server.key)  # they wait for the connection
        if situation.problem is not None:
            return Outcome(failed=True) if situation.problem.retryable else Outcome(after=60.0)
        return DONE if situation.proxy_ready else Outcome(after=2.0)

    def _keep_proxy(
        self, server: Server, spec: ServerSpec, inventory: Inventory, situation: ServerSituation
    ) -> ServerSituation:
        executor = Executor(self._cluster, self._hosts, Site(server.ref, server.key, spec.proxy))
        image = proxy.container(spec, server.ref.uid).image
        repairing = drift.recorded(server.status.repairing)
        for _ in range(ROUNDS):
            facts = inventory.facts([image])
            with self._hosts.routing(server.key).lock:
                actions = plan_proxy(spec, server.ref.uid, inventory.facts([image]))
                if any(isinstance(action, LoadProxy) for action in actions):
                    inventory.invalidate()  # a route that was set since the last read must not be lost
                    actions = plan_proxy(spec, server.ref.uid, inventory.facts([image]))
                repairing = self._note_drift(server, repairing, actions)
                for action in actions:
                    executor.run(action, inventory, Results())
            if not actions:
                break
        running = next((c for c in facts.containers if c.name == names.PROXY_CONTAINER and c.running), None)
        ready = running is not None and not actions
        if ready:
            self._fell.pop(server.key, None)
        elif is_true(server.status.conditions, "ProxyReady"):
            self._fell[server.key] = server.ref.uid
        message = "" if ready else "; ".join(action.reason for action in actions) or "the proxy does not run"
        return replace(situation, proxy_ready=ready, proxy_message=message, repaired=repairing if ready else {})

    def _note_drift(self, server: Server, known: Mapping[str, str], actions: Iterable[Action]) -> dict[str, str]:
        """What is wrong is drift when the proxy was right before, for this very spec. Recorded before the repair
        begins: whoever goes on, after a crash or in another pass, finds the proxy in order again, or half so."""
        before = find(server.status.conditions, "ProxyReady")
        same_spec = before is not None and before.observed_generation == server.generation
        was_right = before is not None and before.status == "True" or self._fell.get(server.key) == server.ref.uid
        if not same_spec or not (known or was_right):
            return dict(known)
        made = drift.found(actions, known)
        if made.keys() != known.keys():
            self._write(server, repairing=drift.records(made))
        return made

    def _delete(self, server: Server, situation: ServerSituation) -> Outcome:
        here = self._store.instances_on(server.ref.namespace, server.ref.name)
        if here:
            self._connect(server)  # so that they can be cleared off the host
            names_ = ", ".join(sorted(instance.ref.name for instance in here)[:5])
            return self._report(
                server, replace(situation, deleting=f"{len(here)} Instances live on it ({names_}): delete them first")
            )
        self._remove_proxy(server)
        self._hosts.detach(server.key)
        latest = self._store.server(server.key) or server
        body = self._cluster.set_finalizer(latest.ref, False, list(latest.finalizers))
        if body is not None:
            self._store.put(body)
        return DONE

    def _connect(self, server: Server) -> Inventory | None:
        """The connection of a Server that is being deleted; also for a process that has just started."""
        known = self._hosts.inventory(server.key)
        if known is not None or server.spec is None:
            return known
        address = host_address(self._cluster, server, server.spec)
        if isinstance(address, HostProblem):
            return None
        self._wake_instances(server.key)
        return self._hosts.attach(address)

    def _remove_proxy(self, server: Server) -> None:
        """Best effort: a host that is gone for good must not keep its Server. Certificates stay in their volume."""
        inventory = self._connect(server)
        if inventory is None:
            return
        try:
            engine = inventory.host.engine
            engine.stop_container(names.PROXY_CONTAINER, 35)
            engine.remove_container(names.PROXY_CONTAINER)
            engine.remove_network(names.PROXY_NETWORK)
            engine.remove_volume(names.PROXY_CONFIG_VOLUME)
            inventory.host.release()
        except HostError as error:
            self._cluster.event(server.ref, "Warning", "ProxyLeft", f"its proxy was not removed: {error}"[:1000])

    def _report(self, server: Server, situation: ServerSituation) -> Outcome:
        found = self._store.server(server.key)
        current = found if found is not None and found.ref.uid == server.ref.uid else server
        if situation.proof is None and _is_new(situation.reconcile_token, current):
            refused = self._prover.refuse(server, *self._why(situation))
            situation = replace(situation, proof=summary(refused, situation.now))
        status = compute(current.status, server.spec, situation)
        if status == current.status:
            return DONE
        before = is_true(current.status.conditions, "Ready")
        self._store.put(self._cluster.apply_status(current.ref, status.to_wire()))
        after = is_true(status.conditions, "Ready")
        if before != after:
            reason, message = ("Ready", "the host can be used") if after else self._why(situation)
            self._cluster.event(server.ref, "Normal" if after else "Warning", reason, message[:1000])
            self._wake_instances(server.key)
        return DONE

    @staticmethod
    def _why(situation: ServerSituation) -> tuple[str, str]:
        if situation.problem is not None:
            return situation.problem.reason, situation.problem.message
        if situation.paused:
            return "Paused", f"annotation {names.PAUSED} of its Server is set: the host is not looked at"
        if situation.deleting:
            return "Deleting", situation.deleting
        return "NotReady", situation.proxy_message or "the host cannot be used"
