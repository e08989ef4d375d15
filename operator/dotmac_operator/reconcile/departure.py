"""Taking an Instance off its host and letting go of it."""

import logging

from dotmac_operator.core import names
from dotmac_operator.core.conditions import is_true
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.removal import Departing, plan_removal
from dotmac_operator.core.status import Situation
from dotmac_operator.core.tenancy import Claimant, claimed, credentials_of
from dotmac_operator.hosts.port import HostError
from dotmac_operator.reconcile.execute import Executor, Results, Site
from dotmac_operator.reconcile.lastdump import LastDump
from dotmac_operator.reconcile.ports import DONE, CredentialsTaken, Outcome
from dotmac_operator.reconcile.services import HOST_AWAY, Services
from dotmac_operator.reconcile.store import Instance, server_name

log = logging.getLogger(__name__)

ROUNDS = 10


class Departure:
    """Deletes Instances. Works from the raw spec, so that an invalid one can be deleted too."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def run(self, instance: Instance) -> Outcome:
        """One pass; done when the finalizer is gone."""
        deletion = instance.raw_spec.get("deletion") or {}
        if deletion.get("protected"):
            return self._blocked_deletion(instance, "spec.deletion.protected is true: set it to false to go on")
        name = self._server(instance)
        if name is not None and not (instance.orphaned and self._orphan(instance, name)):
            outcome = self._clear(instance, name, deletion.get("policy") == "Delete")
            if outcome is not None:
                return outcome
        credentials = credentials_of(instance.ref.name)
        if deletion.get("policy", "Retain") == "Retain":
            self._services.cluster.release_credentials(instance.ref, credentials)
        else:
            self._claim(instance)
        self._services.cluster.event(instance.ref, "Normal", "Deleted", "nothing of it runs any more")
        latest = self._services.store.instance(instance.key) or instance
        self._services.take(self._services.cluster.set_finalizer(latest.ref, False, list(latest.finalizers)))
        return DONE

    def _claim(self, instance: Instance) -> None:
        """Lets the Secret go with its Instance, if it is its own: an earlier tenant's stays."""
        org_code = str(instance.raw_spec.get("orgCode", ""))
        claimant = Claimant(instance.ref.name, instance.ref.uid, org_code)
        try:
            found = self._services.contexts.credentials(instance, claimant)
            if found is not None and not claimed(found, claimant):
                self._services.cluster.claim_credentials(instance.ref, found.name, org_code)
        except (SpecError, CredentialsTaken) as stays:
            log.info("%s", stays)

    def _server(self, instance: Instance) -> str | None:
        """The Server that may hold something of it; a choice is recorded before anything is done there."""
        if instance.status.server:
            return instance.status.server
        name = server_name(instance)
        return name if self._services.store.server(f"{instance.ref.namespace}/{name}") else None

    def _orphan(self, instance: Instance, server: str) -> bool:
        """Whether to let go without clearing the host: only when the host cannot be reached."""
        found = self._services.store.server(f"{instance.ref.namespace}/{server}")
        if found is not None and is_true(found.status.conditions, "Ready"):
            return False
        self._services.cluster.event(
            instance.ref, "Warning", "Orphaned", f"what it left on Server {server} was not removed"
        )
        return True

    def _clear(self, instance: Instance, server: str, delete_data: bool) -> Outcome | None:
        """Takes everything off the host; None when it is done."""
        inventory = self._services.hosts.inventory(f"{instance.ref.namespace}/{server}")
        found = self._services.store.server(f"{instance.ref.namespace}/{server}")
        hint = f"; to delete it although the host is gone: annotate it with {names.ORPHAN}=true"
        if found is None or found.spec is None:
            return self._blocked_deletion(instance, f"Server {server} does not exist{hint}")
        # A Server that is being deleted itself waits for its Instances to go, and is not ready for new ones.
        usable = found.deleting or is_true(found.status.conditions, "Ready")
        if inventory is None and usable:
            return Outcome(after=HOST_AWAY)  # this process has just started; the Server's own pass connects
        if inventory is None or not usable:
            self._blocked_deletion(instance, f"Server {server} is not ready{hint}")
            return Outcome(after=HOST_AWAY)
        org = str(instance.raw_spec.get("orgCode", ""))
        final = bool((instance.raw_spec.get("deletion") or {}).get("finalBackup"))
        volume = f"{names.base(org)}-backups"
        jobs = (job for job in self._services.store.jobs(instance.key) if job.ref.kind == "Backup")
        saved = any(job.status.files and job.status.volume == volume for job in jobs)
        kept = frozenset({volume} if final or saved else ())
        going = Departing(
            self._services.store.uid_on_host(instance),
            instance.ref.namespace,
            org,
            delete_data,
            kept=kept,
            name=instance.ref.name,
            served=instance.status.release is not None and instance.status.release.current is not None,
        )
        told = f"being removed from Server {server}"
        removing = Situation(instance.generation, self._services.clock(), deleting=told)
        instance = self._services.report(instance, removing)
        self._services.prove(instance)
        executor = Executor(
            self._services.cluster, self._services.hosts, Site(instance.ref, found.key, found.spec.proxy)
        )
        try:
            outcome = LastDump(self._services, executor, inventory).run(instance, found) if final else None
            if outcome is not None:
                return outcome
            for _ in range(ROUNDS):
                actions = plan_removal(going, inventory.facts())
                if not actions:
                    return None
                for action in actions:
                    executor.run(action, inventory, Results())
        except HostError as error:
            log.warning("removal of %s: %s", instance.key, error)
            self._services.wake_server(found.key)
            self._blocked_deletion(instance, f"Server {server}: {error}{hint}")
        return Outcome(failed=True)

    def _blocked_deletion(self, instance: Instance, why: str) -> Outcome:
        situation = Situation(instance.generation, self._services.clock(), deleting=why, deletion_blocked=True)
        self._services.report(instance, situation)
        return DONE
