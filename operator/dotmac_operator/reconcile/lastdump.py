"""The dump before a deletion (`deletion.finalBackup`): without it nothing is taken away."""

from dataclasses import replace

from dotmac_crds.instance import BackupRecord
from dotmac_operator.core import stopped
from dotmac_operator.core.actions import RemoveContainer
from dotmac_operator.core.conditions import rfc3339
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.status import Situation
from dotmac_operator.core.steps import backup
from dotmac_operator.core.steps.base import Verdict
from dotmac_operator.core.view import View
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.reconcile.context import NotYet
from dotmac_operator.reconcile.execute import Executor, Results
from dotmac_operator.reconcile.ports import Outcome
from dotmac_operator.reconcile.services import LOOK_AGAIN, Services
from dotmac_operator.reconcile.store import Instance, Server

ROUNDS = 10
REASON = "the Instance is deleted"
WAY_OUT = "; to delete it without a last dump, set spec.deletion.finalBackup to false"


class LastDump:
    """Stops the application and dumps the database of an Instance that is being deleted."""

    def __init__(self, services: Services, executor: Executor, inventory: Inventory) -> None:
        self._services = services
        self._executor = executor
        self._inventory = inventory

    def run(self, instance: Instance, server: Server) -> Outcome | None:
        """None when there is nothing (more) to dump; else when to look again.

        Raises:
            HostError
        """
        for _ in range(ROUNDS):
            try:
                view = self._view(instance, server)
            except (NotYet, SpecError) as error:
                return self._blocked(instance, str(error))
            verdict = self._next(view)
            if verdict is None:
                return None
            if verdict.state == "wait":
                return Outcome(after=verdict.after)
            if verdict.state != "act":
                return self._failed(instance, verdict)
            instance = self._act(instance, verdict)
        return Outcome(failed=True)

    def _next(self, view: View) -> Verdict | None:
        if view.volume(view.database_volume) is None:
            return None
        last = backup.final(view, "deleted")
        if last.done:
            return None
        # What is written after the dump would be lost.
        still = stopped.apps(view, REASON)
        return last if still.done else still

    def _view(self, instance: Instance, server: Server) -> View:
        services = self._services
        if instance.spec is None:
            raise SpecError("InvalidSpec", instance.error)
        now = services.clock()
        context = services.contexts.load(instance, instance.spec, now)
        return View(
            desired=context.desired,
            facts=self._inventory.facts(context.desired.images),
            record=instance.status,
            # A Server that is being deleted itself waits for its Instances; that it can be used was looked at before.
            server=replace(services.contexts.server_view(server), ready=True),
            now=now,
            policy=context.policy,
        )

    def _act(self, instance: Instance, verdict: Verdict) -> Instance:
        """What the Instance is then."""
        results = Results()
        for action in verdict.actions:
            self._executor.run(action, self._inventory, results)
        if results.backup is None:
            return instance
        file, sha256, size, release = results.backup
        now = self._services.clock()
        record = BackupRecord(file=file, sha256=sha256, size=size, release=release, finished_at=rfc3339(now))
        told = f"the last dump is {file}"
        return self._services.report(instance, Situation(instance.generation, now, deleting=told, backup=record))

    def _failed(self, instance: Instance, verdict: Verdict) -> Outcome:
        if verdict.container:  # the next try runs anew
            self._executor.run(RemoveContainer("it failed", verdict.container, grace=0), self._inventory, Results())
        self._services.cluster.event(instance.ref, "Warning", verdict.reason, verdict.message[:1000])
        return self._blocked(instance, verdict.message)

    def _blocked(self, instance: Instance, why: str) -> Outcome:
        told = f"spec.deletion.finalBackup: {why}{WAY_OUT}"
        situation = Situation(instance.generation, self._services.clock(), deleting=told, deletion_blocked=True)
        self._services.report(instance, situation)
        return Outcome(after=LOOK_AGAIN)
