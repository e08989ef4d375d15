"""What reconciling a Backup and a Restore has in common: the way to the host, one-shots, and how it is told."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from dotmac_crds.instance import InstanceSpec
from dotmac_operator.core import jobs, names
from dotmac_operator.core.actions import Action, RemoveContainer, StopContainer
from dotmac_operator.core.archive import Job
from dotmac_operator.core.conditions import is_true
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.jobs import FINAL, Report
from dotmac_operator.core.lifecycle import moment
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.core.steps.base import Verdict
from dotmac_operator.core.view import View
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.port import HostError, HostUnreachable
from dotmac_operator.reconcile.context import NotYet
from dotmac_operator.reconcile.execute import Executor, Overtaken, Results, Site
from dotmac_operator.reconcile.ports import AGAIN, DONE, GONE, Gone, Outcome, Stale
from dotmac_operator.reconcile.services import LOOK_AGAIN, Services
from dotmac_operator.reconcile.store import Instance, Resource, Server, instance_of
from dotmac_operator.reconcile.turns import SOON, Turns

log = logging.getLogger(__name__)

ROUNDS = 40
"""Rounds of one pass; a whole Restore takes about 15."""
CONNECTING = 2.0
"""Seconds until a host is looked for that is Ready and was not reached by this process yet."""
type JobResource = Resource[Any, Any]


class NotConnected(Exception):
    """This process has just started; the Server's own pass connects, and wakes us. Nothing is known to be wrong, so
    nothing is said."""


class Refused(Exception):
    """It cannot be done, now or later: the object ends as Failed."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Place:
    """A host to work on, for one object."""

    of: JobResource
    server: Server
    inventory: Inventory
    executor: Executor


@dataclass(frozen=True)
class Tenancy:
    """A host with the tenant on it, at one moment."""

    place: Place
    view: View
    secrets: frozenset[SecretStr]

    @property
    def database(self) -> ContainerSpec:
        """The tenant's database server, by the image that it runs now."""
        running = next((c for c in self.view.of_role(names.DATABASE) if c.running), None)
        server = self.view.desired.database
        return replace(server, pinned=running.image_id) if running is not None else self.view.pinned(server)


class JobReconciler(ABC):
    """Thread-safe for different objects; the caller runs one pass at a time for each."""

    kind: Literal["Backup", "Restore"]

    def __init__(self, services: Services, turns: Turns, wake: Callable[[str, str], None]) -> None:
        """`wake` is called with kind and key of an object that has news."""
        self.services = services
        self._turns = turns
        self._wake = wake

    # -- what each kind does by itself

    @abstractmethod
    def get(self, key: str) -> JobResource | None:
        """The last known version."""

    @abstractmethod
    def work(self, found: JobResource) -> Outcome | None:
        """One round for an object that has not ended; None: look again at once."""

    @abstractmethod
    def end(self, found: JobResource) -> Outcome:
        """What is left to do for one that has ended."""

    @abstractmethod
    def let_go(self, found: JobResource) -> Outcome | None:
        """One round for one that is being deleted; DONE: nothing of it is left."""

    # -- one pass

    def reconcile(self, key: str) -> Outcome:
        """One pass. Every expected failure ends in the status; only bugs leave as exceptions."""
        found = self.get(key)
        if found is None:
            return GONE
        with self._turns.take(instance_of(found)) as mine:
            if not mine:
                return Outcome(after=SOON)
            try:
                return self._reconcile(found)
            except Stale:
                return AGAIN  # what was read last was old: what is new is in the store by now
            except Gone:
                return DONE

    def _reconcile(self, found: JobResource) -> Outcome:
        for _ in range(ROUNDS):
            now = self.get(found.key)
            if now is None or now.ref.uid != found.ref.uid:
                return DONE
            found = now
            try:
                outcome = self._round(found)
            except Refused as refusal:
                self.fail(found, refusal.reason, str(refusal))
                outcome = None
            except NotConnected:
                return Outcome(after=CONNECTING)
            except NotYet as problem:
                return self.waiting(found, problem.reason, str(problem))
            except SpecError as error:
                return self.waiting(found, error.reason, error.message)
            except HostError as error:
                return self._host_failed(found, error)
            except Overtaken as moved:
                log.info("%s", moved)
                outcome = None
            if outcome is not None:
                return outcome
        log.error("%s %s did not come to an end within %d rounds", self.kind, found.key, ROUNDS)
        return Outcome(failed=True)

    def _round(self, found: JobResource) -> Outcome | None:
        if found.deleting:
            return self._depart(found)
        if found.spec is None:
            message = f"{found.error}: is the operator as new as the CRDs?"
            return self.waiting(found, "InvalidSpec", message)
        if not found.held:
            services = self.services
            services.take(services.cluster.set_finalizer(found.ref, True, list(found.finalizers)))
            return None
        if found.status.phase in FINAL:
            return self.end(found)
        if found.paused:
            return self.waiting(found, "Paused", f"annotation {names.PAUSED} is set")
        return self.work(found)

    def _depart(self, found: JobResource) -> Outcome | None:
        if not found.held:
            return DONE
        outcome = self.let_go(found)
        if outcome != DONE:
            return outcome
        latest = self.get(found.key) or found
        services = self.services
        services.take(services.cluster.set_finalizer(latest.ref, False, list(latest.finalizers)))
        self._wake("Instance", instance_of(found))
        return DONE

    def _host_failed(self, found: JobResource, error: HostError) -> Outcome:
        log.warning("host of %s %s: %s", self.kind, found.key, error)
        if isinstance(error, HostUnreachable) or not error.retryable:
            instance = self.services.store.instance(instance_of(found))
            server = found.status.server if self.kind == "Backup" else instance and instance.status.server
            if server:
                self.services.wake_server(f"{found.ref.namespace}/{server}")
        if found.deleting:
            self.report(found, Report("Running", "Deleting", str(error), deleting=True, blocked=True))
        elif found.status.phase not in FINAL:
            self.waiting(found, error.reason, str(error))
        return Outcome(failed=True)

    # -- what is looked up

    def instance(self, found: JobResource) -> tuple[Instance, InstanceSpec]:
        """The Instance that it is about.

        Raises:
            NotYet, Refused
        """
        instance = self.services.store.instance(instance_of(found))
        name = instance_of(found).partition("/")[2]
        if instance is None:
            message = f"Instance {name} does not exist in namespace {found.ref.namespace}: create it, or delete this"
            raise NotYet("InstanceNotFound", message)
        if instance.deleting:
            raise Refused("InstanceDeleting", f"Instance {name} is being deleted")
        if instance.spec is None:
            raise NotYet("InvalidSpec", f"Instance {name}: {instance.error}")
        if instance.paused:
            raise NotYet("Paused", f"Instance {name} is paused: take its annotation {names.PAUSED} away")
        return instance, instance.spec

    def place(self, found: JobResource, server: str | None) -> Place:
        """The host of a Server.

        Raises:
            NotYet: it cannot be used now.
            NotConnected
        """
        services, key = self.services, f"{found.ref.namespace}/{server}"
        known, inventory = services.store.server(key), services.hosts.inventory(key)
        if known is None or known.spec is None:
            raise NotYet("ServerNotFound", f"Server {server} does not exist in namespace {found.ref.namespace}")
        if not (known.deleting or is_true(known.status.conditions, "Ready")):
            raise NotYet("ServerNotReady", f"Server {server} is not ready: see its conditions")
        if inventory is None or not inventory.started:
            services.wake_server(key)
            raise NotConnected(key)
        executor = Executor(services.cluster, services.hosts, Site(found.ref, key, known.spec.proxy))
        return Place(found, known, inventory, executor)

    def site(self, found: JobResource, instance: Instance, spec: InstanceSpec) -> Tenancy:
        """The tenant on its host, as the Release that serves has it.

        Raises:
            NotYet, SpecError, HostError
        """
        services, now = self.services, self.services.clock()
        place = self.place(found, instance.status.server)
        context = services.contexts.serving(instance, spec, now)
        view = View(
            desired=context.desired,
            facts=place.inventory.facts([context.desired.database.image]),
            record=instance.status,
            server=services.contexts.server_view(place.server),
            now=now,
            policy=context.policy,
        )
        return Tenancy(place, view, context.secrets)

    def unlisted(self, tenancy: Tenancy) -> str:
        """What to wait for when the host shows another job of this tenant that the lists do not; else empty.

        Raises:
            Stale
        """
        namespace, view = tenancy.place.of.ref.namespace, tenancy.view
        others = self.services.unlisted(namespace, view.desired.network, view.facts.containers)
        found = next(others, None)
        if found is None:
            return ""
        job = found.labels[names.JOB].replace("/", " ")
        return f"container {found.name} tells of {job}, which is not known here: if it does not exist, remove that"

    # -- what is done

    def act(self, place: Place, actions: Iterable[Action]) -> None:
        self.services.prove(place.of)
        place.executor.run_all(tuple(actions), place.inventory, Results())

    def run(self, place: Place, spec: ContainerSpec, what: str) -> Verdict:
        """One look at a one-shot, begun where it is not there yet: `met`, `act` (begun: look again), `wait` or
        `failed`."""
        container = jobs.find_container(place.inventory.facts().containers, spec)
        verdict = jobs.progress(spec, container, self.services.clock(), what)
        if verdict.state == "act":
            self.act(place, verdict.actions)
        if verdict.state == "failed" and container is not None and container.running:
            self.act(place, (StopContainer("it has had its time", container.name),))
        return verdict

    def clear(self, place: Place, job: Job, last: str = "") -> bool:
        """Removes the containers that worked for it, that of the name `last` as the last one; whether there was any."""
        mine = [c for c in place.inventory.facts().containers if job.owns(c)]
        for container in sorted(mine, key=lambda c: (c.name == last, c.name)):
            grace = 10 if container.running else 0
            self.act(place, (RemoveContainer("it has done its work", container.name, grace=grace),))
        return bool(mine)

    # -- what is told

    def waiting(self, found: JobResource, reason: str, message: str, after: float = LOOK_AGAIN) -> Outcome:
        if found.deleting:
            self.report(found, Report("Running", "Deleting", message, deleting=True, blocked=True))
        elif found.status.phase not in FINAL:
            self.report(found, Report(found.status.phase or "Pending", reason, message))
        return Outcome(after=after)

    def fail(self, found: JobResource, reason: str, message: str, **changes: Any) -> None:
        """Ends it."""
        self.report(found, Report("Failed", reason, message), **changes)
        self.services.cluster.event(found.ref, "Warning", reason, message[:1000])
        self._ended(found, "failed", 0)

    def complete(self, found: JobResource, reason: str, message: str, size: int) -> None:
        self.report(found, Report("Completed", reason, message))
        self.services.cluster.event(found.ref, "Normal", reason, message[:1000])
        self._ended(found, "succeeded", size)

    def _ended(self, found: JobResource, outcome: Literal["succeeded", "failed"], size: int) -> None:
        began = found.status.started_at
        spent = max(0.0, self.services.clock() - moment(began)) if began else 0.0
        self.services.meter.job_finished(self.kind, outcome, spent, size)
        self._wake("Instance", instance_of(found))

    def report(self, found: JobResource, report: Report, **changes: Any) -> None:
        """Writes the status, with `changes` of its other fields, when it differs from that of `found`.

        Raises:
            Stale
        """
        if found.deleting and report.phase not in FINAL:
            report = replace(report, deleting=True)
        old = found.status.model_copy(update=changes)
        # Only over the version that was read: from an old list, what has ended would be done once more.
        self.services.write(found, jobs.status_of(old, report, found.generation, self.services.clock()))
