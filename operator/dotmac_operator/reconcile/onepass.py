"""What one pass over an Instance has at hand: its object, the actions on its host, and the ways to tell."""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from dotmac_crds.instance import BackupRecord, FailureRecord, InstanceStatus
from dotmac_crds.lifecycle import RollbackRecord
from dotmac_operator.core import actions as do
from dotmac_operator.core import desired, drift
from dotmac_operator.core.conditions import MESSAGE_LIMIT
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.facts import HostFacts
from dotmac_operator.core.plan import Plan
from dotmac_operator.core.status import Problem, Situation
from dotmac_operator.core.steps.base import Verdict
from dotmac_operator.core.view import ServerView, View
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.port import Progress
from dotmac_operator.reconcile.context import Context
from dotmac_operator.reconcile.execute import LOOKS, Executor, Overtaken, Results, Site, log_tail
from dotmac_operator.reconcile.kept import Kept
from dotmac_operator.reconcile.ports import DONE, Outcome
from dotmac_operator.reconcile.repairs import tell_repairs
from dotmac_operator.reconcile.services import Services
from dotmac_operator.reconcile.store import Instance, server_name

log = logging.getLogger(__name__)


class Facts(Protocol):
    """A host as it is, or as it was when it was read: `Inventory`, `proof.Reading`."""

    def facts(self, images: Iterable[str] = ()) -> HostFacts: ...


def facts_of(host: Facts, images: Sequence[str], record: InstanceStatus) -> HostFacts:
    """The host, with the images that are desired and those that run although their references have moved on."""
    facts = host.facts(images)
    running = {pin.reference: pin.id for pin in record.images or () if pin.reference in images}
    ids = {name: facts.images[name].id if name in facts.images else "" for name in running}
    moved = [pin for name, pin in running.items() if pin != ids[name]]
    return host.facts((*images, *moved)) if moved else facts


class Pass:
    """One Instance at one time; whoever works on it acts and tells through this."""

    def __init__(self, services: Services, instance: Instance, kept: Kept) -> None:
        self.services = services
        self.instance = instance
        """As it is now; a pass ends when its spec moves on."""
        self._telling = threading.Lock()
        self.key = instance.key
        self.kept = kept
        if not kept.drift:
            kept.drift = drift.recorded(instance.status.repairing)

    @property
    def server_key(self) -> str:
        return f"{self.instance.ref.namespace}/{server_name(self.instance)}"

    def view(self, context: Context, server: ServerView, facts: HostFacts, record: InstanceStatus, now: float) -> View:
        """What there is to look at, with what this process remembers. `now` in Unix seconds."""
        view = View(
            desired=context.desired,
            facts=facts,
            record=record,
            server=server,
            now=now,
            policy=context.policy,
            credential_keys=None if context.credentials is None else frozenset(context.credentials),
            credentials_claimed=context.claimed,
            neighbours=self.services.contexts.neighbours(self.instance, context.server),
            before=context.before,
            token=self.instance.reconcile_token or "",
            job=self.services.working_job(self.key),
        )
        return replace(view, memory=self.kept.observe(view))

    def execute(
        self,
        actions: tuple[do.Action, ...],
        context: Context,
        inventory: Inventory,
        progress: Progress | None = None,
    ) -> Results:
        server = context.server
        assert server.spec is not None  # noqa: S101 - Contexts.load has looked
        services = self.services
        if not all(isinstance(action, LOOKS) for action in actions):
            services.prove(self.instance)
        site = Site(self.instance.ref, server.key, server.spec.proxy)
        executor = Executor(services.cluster, services.hosts, site, progress)
        results = Results()
        try:
            executor.run_all(actions, inventory, results)
        except Overtaken as moved:
            log.info("%s", moved)  # the rest was planned for what is no more; the next round plans anew
        return results

    def note_open_requests(self, view: View, results: Results) -> bool:
        """Keeps what the proxy had open; whether that is anything."""
        ids = {container.name: container.id for container in view.containers}
        self.kept.open_requests |= {ids[name]: found for name, found in results.open_requests.items()}
        return any(found.upstream != 0 or found.clients for found in results.open_requests.values())

    def note_kinds(self, actions: Iterable[do.Action]) -> None:
        self.kept.drift = drift.found(actions, self.kept.drift)

    def tell_repairs(self, repaired: Mapping[str, str]) -> None:
        tell_repairs(self.services.cluster, self.services.meter, self.instance.ref, repaired)

    def with_log(self, verdict: Verdict, context: Context, inventory: Inventory) -> str:
        if not verdict.container:
            return verdict.message
        tail = log_tail(inventory, verdict.container, context.secrets)
        room = MESSAGE_LIMIT - len(verdict.message) - 40
        return f"{verdict.message}; its log ends: {tail[-room:]}" if tail else verdict.message

    def url(self) -> str:
        spec, server = self.instance.spec, self.services.store.server(self.server_key)
        if spec is None or server is None or server.spec is None:
            return ""
        try:
            return desired.url(spec, server.spec)
        except SpecError:
            return ""

    def situation(self, view: View | None, plan: Plan | None) -> Situation:
        """What a look has shown, when nothing else is to be told."""
        return Situation(
            generation=self.instance.generation,
            now=self.services.clock(),
            server=server_name(self.instance),
            url=self.url(),
            view=view,
            plan=plan,
            repairing=self.kept.drift,
            quota=self.services.quota(self.instance),
            reconcile_token=self.instance.reconcile_token,
        )

    def report(
        self,
        *,
        view: View | None = None,
        plan: Plan | None = None,
        problem: Problem | None = None,
        drift: str = "",
        progress: str = "",
        backup: BackupRecord | None = None,
        failure: FailureRecord | None = None,
        rollback: RollbackRecord | None = None,
    ) -> Outcome:
        situation = replace(
            self.situation(view, plan),
            problem=problem,
            drift=drift,
            progress=progress,
            backup=backup,
            failure=failure,
            rollback=rollback,
        )
        with self._telling:  # the progress of actions that are done at the same time
            self.instance = self.services.report(self.instance, situation)
        if drift:
            self.kept.drift = {}  # only now: the write may have failed
        return DONE

    def event(self, type_: str, reason: str, message: str) -> None:
        self.services.cluster.event(self.instance.ref, type_, reason, message)  # type: ignore[arg-type]
