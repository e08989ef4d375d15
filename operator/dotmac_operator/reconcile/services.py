"""What every part of a reconciler works with, and how an Instance's status is written."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from dotmac_crds.backup import BackupStatus
from dotmac_crds.base import Model
from dotmac_crds.instance import InstanceStatus, QuotaStatus
from dotmac_operator.core import names
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.jobs import FINAL
from dotmac_operator.core.status import Problem, Situation, compute
from dotmac_operator.reconcile.context import Contexts, NotYet
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.ports import Body, Cluster, Meter, Outcome, Stale, Unmetered
from dotmac_operator.reconcile.store import JOBS, Instance, Resource, Store, parse, relevant

LOOK_AGAIN = 30.0
"""Seconds after which something that is not there yet is looked for again, although its arrival wakes us too."""
HOST_AWAY = 15.0
"""Seconds until a host that is away is looked for again."""


def _starts(job: Resource[Any, Any]) -> bool:
    return job.ref.kind == "Restore" and job.status.phase == "Running" and job.status.step == "Starting"


def out_of_place(restore: str) -> Problem:
    return Problem("Restoring", f"Restore {restore} puts the data of an earlier time back")


@dataclass(frozen=True)
class Services:
    """The ports and the shared state."""

    store: Store
    cluster: Cluster
    hosts: Hosts
    contexts: Contexts
    wake_server: Callable[[str], None]
    """Called with the key of a Server that should be looked at."""
    clock: Callable[[], float] = time.time
    meter: Meter = field(default_factory=Unmetered)

    def report(self, instance: Instance, situation: Situation) -> Instance:
        """Writes the status when it differs from that of `instance`, the version that `situation` was judged from;
        returns what the object is then. Not the last known version: what came by the watch since may ask for something
        else than what is about to be done.

        Raises:
            Stale
        """
        try:
            return self.write(instance, self.status(instance, situation))
        except Stale:
            now = self.store.instance(instance.key)
            if now is None or now.status != instance.status or relevant(instance, now):
                raise
            return self.write(now, self.status(now, situation))

    def status(self, instance: Instance, situation: Situation) -> InstanceStatus:
        """What is to be told of an Instance; equal to its status when there is nothing new."""
        return compute(instance.status, replace(situation, backups=self._backups(instance)))

    def _backups(self, instance: Instance) -> tuple[BackupStatus, ...]:
        """Those of this tenant: the name may have been another one's before."""
        own = (None, f"{names.base(instance.spec.org_code)}-backups") if instance.spec is not None else (None,)
        jobs = (job for job in self.store.jobs(instance.key) if job.ref.kind == "Backup" and not job.deleting)
        return tuple(job.status for job in jobs if job.status.volume in own)

    def write[SpecT: Model, StatusT: Model](
        self, found: Resource[SpecT, StatusT], status: StatusT
    ) -> Resource[SpecT, StatusT]:
        """Only over the version that it was made from: an operator that was given an old list, or has slept while
        another one led, neither takes back what was recorded since nor goes on to act on what was asked before.

        Raises:
            Stale
        """
        if status == found.status:  # a steady fleet writes nothing
            return found
        return self._over(found, status)

    def prove(self, resource: Resource[Any, Any]) -> None:
        """Before the first action for an object: that the version which is acted on is the present one. A write of its
        status has proven it; where there was nothing to tell, the same status over the same version does, and changes
        nothing.

        Raises:
            Stale
        """
        if not self.store.proven(resource.ref.uid):
            self._over(resource, resource.status)

    def _over(self, resource: Resource[Any, Any], status: Model) -> Resource[Any, Any]:
        """Applies a status to this version, and no other."""
        try:
            made = parse(self.cluster.apply_status(resource.ref, status.to_wire(), exactly=True))
        except Stale as changed:
            self.take(changed.body)
            raise
        self.store.keep(made, proven=True)
        return made

    def working_job(self, instance: str) -> str:
        """The Backup or Restore that works on an Instance, for people; empty: none does."""
        for job in self.store.jobs(instance):
            ends = job.deleting and job.ref.kind == "Backup"
            if job.status.phase == "Running" and not ends and not _starts(job):
                return f"{job.ref.kind} {job.ref.name}"
        return ""

    def handed_over(self, instance: str) -> bool:
        """Whether an Instance is being brought up after a Restore."""
        return any(_starts(job) for job in self.store.jobs(instance))

    def restoring(self, instance: str) -> Problem | None:
        """What an Instance is told while its data is, or may be, out of place: it must not run then."""
        for job in self.store.jobs(instance):
            if job.ref.kind == "Restore" and job.status.phase == "Running":
                if job.status.step in ("Stopping", "Replacing"):
                    return out_of_place(job.ref.name)
        return None

    def unlisted(self, namespace: str, base: str, containers: Iterable[ContainerFact]) -> Iterator[ContainerFact]:
        """Containers of Backups and Restores of a tenant (`base` begins the names of its objects) of which nothing is
        known: the list of them was old. A container is made only once the beginning of its job is recorded, and is
        gone before its name can be another job's.

        Raises:
            Stale: what is known of a job that has containers was old, and is new now.
        """
        for container in containers:
            kind, _, name = container.labels.get(names.JOB, "").partition("/")
            if kind not in JOBS or container.labels.get(names.NAMESPACE) != namespace:
                continue
            if container.name.rpartition("-")[0] not in (f"{base}-{names.BACKUP}", f"{base}-{names.RESTORE}"):
                continue
            job: Resource[Any, Any] | None = self.store.job(kind, f"{namespace}/{name}")
            if job is None or job.ref.uid != container.labels.get(names.JOB_UID):
                yield container
            elif job.status.phase not in FINAL:
                self.prove(job)

    def take(self, body: Body | None) -> None:
        """Keeps what a write returned, so that the next pass does not read an older version from the watch."""
        if body is not None:
            self.store.put(body)

    def not_yet(self, instance: Instance, problem: NotYet) -> Outcome:
        """Tells what an Instance waits for."""
        told = Problem(problem.reason, str(problem), stalled=problem.stalled)
        situation = Situation(
            instance.generation,
            self.clock(),
            problem=told,
            reconcile_token=instance.reconcile_token,
            quota=self.quota(instance),
        )
        self.report(instance, situation)
        return Outcome(after=LOOK_AGAIN)

    def quota(self, instance: Instance) -> QuotaStatus | None:
        """What the Instance's plan grants."""
        plan = self.store.instance_class(instance.spec.class_ref.name) if instance.spec else None
        if plan is None or plan.spec is None:
            return None
        return QuotaStatus(max_users=plan.spec.quotas.max_users, max_storage=plan.spec.quotas.max_storage)
