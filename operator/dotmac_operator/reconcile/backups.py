"""Drives one Backup: copies a tenant's data into its volume for backups, once, while the tenant is served."""

import re
from dataclasses import replace
from typing import Literal

from dotmac_crds.backup import BackupFile
from dotmac_operator.core import archive, jobs, names, proxy
from dotmac_operator.core.actions import CreateVolume, RemoveContainer
from dotmac_operator.core.archive import Job
from dotmac_operator.core.conditions import rfc3339
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.jobs import Report
from dotmac_operator.core.steps.base import owner_labels
from dotmac_operator.core.view import View
from dotmac_operator.reconcile.context import NotYet
from dotmac_operator.reconcile.execute import log_tail
from dotmac_operator.reconcile.jobs import JobReconciler, JobResource, Place, Refused, Tenancy
from dotmac_operator.reconcile.ports import DONE, Outcome
from dotmac_operator.reconcile.services import HOST_AWAY
from dotmac_operator.reconcile.store import Backup, instance_of

_FILE = re.compile(r"^dotmac-file sha256=([0-9a-f]{64}) size=([0-9]+) name=([a-z0-9.-]+)$", re.MULTILINE)
LOOK_AT_HOST = 5.0
"""Seconds until a database that does not run for a moment is looked at again."""


class BackupReconciler(JobReconciler):
    """See the base class."""

    kind: Literal["Backup", "Restore"] = "Backup"

    def get(self, key: str) -> JobResource | None:
        return self.services.store.backup(key)

    # -- making it

    def work(self, found: Backup) -> Outcome | None:
        running = found.status.phase == "Running"
        if running and self.services.store.instance(instance_of(found)) is None:
            raise Refused("InstanceNotFound", "the Instance was deleted while its data was being copied")
        instance, spec = self.instance(found)
        if not running:
            ready = jobs.workable(instance.ref.name, spec, instance.status, instance.generation)
            if ready.state == "wait":
                return self.waiting(found, ready.reason, ready.message)
            if not ready.done:
                raise Refused(ready.reason, ready.message)
            restoring = self._others(found, "Restore")
            if restoring:
                return self.waiting(found, "RestoreRunning", f"{restoring} replaces the data: this waits", after=5.0)
        try:
            tenancy = self.site(found, instance, spec)
        except NotYet as problem:
            if running and problem.reason == "ReleaseNotFound":  # a change waits for this, perhaps the one to another
                raise Refused("BackupFailed", str(problem)) from None
            raise
        if not any(c.running for c in tenancy.view.of_role(names.DATABASE)):
            return self.waiting(found, "DatabaseNotRunning", "the Instance's database does not run now", LOOK_AT_HOST)
        if not running:
            other = self.unlisted(tenancy)
            if other:
                return self.waiting(found, "RestoreRunning", other, after=5.0)
            self._begin(found, instance.ref.uid, tenancy.view)
            return None
        return self._copy(found, tenancy)

    def _begin(self, found: Backup, instance_uid: str, view: View) -> None:
        progress = view.record.release
        self.report(
            found,
            Report("Running", "Copying", "the data is being copied"),
            server=view.server.name,
            volume=view.desired.volumes[1],
            instance_uid=instance_uid,
            release=progress.current if progress else None,
            release_version=progress.current_version if progress else None,
            started_at=rfc3339(view.now),
        )

    def _copy(self, found: Backup, tenancy: Tenancy) -> Outcome | None:
        view, place, job = tenancy.view, tenancy.place, _job(found)
        if view.volume(job.volume) is None:
            self.act(place, (CreateVolume("there is none for backups", job.volume, owner_labels(view)),))
            return None
        files = tuple(found.status.files or ())
        kept = {file.name.rpartition("/")[2] for file in files}
        if archive.DATABASE_FILE not in kept:
            return self._file(found, tenancy, archive.dump(job, tenancy.database), "the database is being dumped")
        volumes = _volumes(view) if found.spec is not None and found.spec.type == "Full" else ()
        if not {archive.volume_file(volume) for volume in volumes} <= kept:
            spec = archive.archive(job, tenancy.database, volumes)
            return self._file(found, tenancy, spec, "the data volumes are being archived")
        if self.clear(place, job):
            return None
        size = sum(file.size for file in files)
        self.complete(found, "BackedUp", f"{len(files)} files, {size} bytes on Server {found.status.server}", size)
        return None

    def _file(self, found: Backup, tenancy: Tenancy, spec: ContainerSpec, what: str) -> Outcome | None:
        """One of the one-shots; what it has made is recorded once it has ended well."""
        place = tenancy.place
        verdict = self.run(place, spec, what)
        if verdict.state == "wait":
            return self.waiting(found, "Copying", verdict.message, verdict.after)
        if verdict.state == "failed":
            said = log_tail(place.inventory, verdict.container, tenancy.secrets)
            raise _failure(verdict.reason, verdict.message, said)
        if verdict.done:
            made = self._files(place, _job(found), spec)
            files = [*(found.status.files or ()), *made]
            self.report(found, Report("Running", "Copying", what), files=files, size=sum(file.size for file in files))
        return None

    def _files(self, place: Place, job: Job, spec: ContainerSpec) -> list[BackupFile]:
        text = place.inventory.host.engine.logs(spec.name, tail=200).replace("\r", "")
        told = _FILE.findall(text)
        if not told:
            raise Refused("BackupFailed", f"container {spec.name} tells no checksum of what it has written")
        return [_backup_file(job, name, sha256, int(size)) for sha256, size, name in told]

    def _others(self, found: Backup, kind: str) -> str:
        running = (job for job in self.services.store.jobs(instance_of(found)) if job.status.phase == "Running")
        return next((f"{job.ref.kind} {job.ref.name}" for job in running if job.ref.kind == kind), "")

    # -- taking it away

    def fail(self, found: JobResource, reason: str, message: str, **changes: object) -> None:
        """What was written does not count: it is taken off the host by `end`."""
        super().fail(found, reason, message, files=None, size=None, **changes)

    def end(self, found: Backup) -> Outcome:
        """A container that is still there tells that what a failed one has written is too."""
        if found.status.phase == "Completed" or found.status.server is None:
            return DONE
        try:
            place = self.place(found, found.status.server)
        except NotYet:
            return Outcome(after=HOST_AWAY)
        job = _job(found)
        while any(job.owns(container) for container in place.inventory.facts().containers):
            outcome = self._erase(place, job)
            if outcome is not None:
                return outcome
        return DONE

    def let_go(self, found: Backup) -> Outcome | None:
        status = found.status
        if status.server is None or status.volume is None or self._orphaned(found):
            return DONE  # nothing was done for it
        reader = self._reader(found)
        if reader:
            return self.waiting(found, "Deleting", f"{reader} reads it: this waits until that has ended", 5.0)
        try:
            place = self.place(found, status.server)
        except NotYet as problem:
            hint = f"to delete it although the host is gone: annotate it with {names.ORPHAN}=true"
            return self.waiting(found, problem.reason, f"{problem}; {hint}", HOST_AWAY)
        self.report(found, Report("Running", "Deleting", "its files are being removed", deleting=True))
        job, facts = _job(found), place.inventory.facts()
        if not any(volume.name == job.volume for volume in facts.volumes):
            self.clear(place, job)
            return DONE  # its files went with the volume
        return self._erase(place, job) or DONE

    def _erase(self, place: Place, job: Job) -> Outcome | None:
        """Removes the files, then the containers, that which has removed them last; None when it is done."""
        assert place.server.spec is not None  # noqa: S101 - place has looked
        # The proxy's image is on every Server that is ready, also when the tenant's are gone.
        image = proxy.container(place.server.spec, place.server.ref.uid).image
        containers = place.inventory.facts().containers
        pin = next((c.image_id for c in containers if c.name == names.PROXY_CONTAINER), "")
        spec = replace(archive.erase(job, image), pinned=pin)
        for container in containers:
            if job.owns(container) and container.name != spec.name and container.running:
                self.clear(place, job, spec.name)  # nothing may write while it is removed
        verdict = self.run(place, spec, "what was written is being removed")
        while verdict.state == "act":
            verdict = self.run(place, spec, "what was written is being removed")
        if verdict.state == "wait":
            return Outcome(after=1.0)
        if verdict.state == "failed":
            self.act(place, (RemoveContainer("it failed", spec.name, grace=0),))  # the next try runs anew
            return Outcome(failed=True)
        self.clear(place, job, spec.name)
        return None

    def _reader(self, found: Backup) -> str:
        for job in self.services.store.jobs(instance_of(found)):
            if job.ref.kind != "Restore" or job.spec is None or job.status.phase != "Running":
                continue
            if job.spec.backup_ref.name == found.ref.name and job.status.step in ("Preparing", "Stopping", "Replacing"):
                return f"Restore {job.ref.name}"
        return ""

    def _orphaned(self, found: Backup) -> bool:
        """Whether to let go without removing the files: only when the host cannot be reached."""
        if not found.orphaned:
            return False
        try:
            self.place(found, found.status.server)
        except NotYet:
            left = f"its files on Server {found.status.server} were not removed"
            self.services.cluster.event(found.ref, "Warning", "Orphaned", left)
            return True
        return False


def _job(found: Backup) -> Job:
    ref, status = found.ref, found.status
    where = archive.directory(ref.name, ref.uid)
    return Job("Backup", ref.namespace, ref.name, ref.uid, status.volume or "", where)


def _volumes(view: View) -> tuple[str, ...]:
    """The data volumes that are there, by their names in the Release."""
    base = f"{view.desired.network}-"
    return tuple(name.removeprefix(base) for name in view.desired.volumes[2:] if view.volume(name) is not None)


def _backup_file(job: Job, name: str, sha256: str, size: int) -> BackupFile:
    path = f"{job.directory}/{name}"
    if name == archive.DATABASE_FILE:
        return BackupFile(name=path, sha256=sha256, size=size, kind="Database")
    return BackupFile(name=path, sha256=sha256, size=size, kind="Volume", volume=name.removesuffix(".tar.gz"))


def _failure(reason: str, message: str, said: str) -> Refused:
    found, remedy = jobs.cause(said, reason or "BackupFailed")
    then = f"{remedy}create another Backup" if remedy else "create another Backup once the cause is mended"
    return Refused(found, f"{message}; its log ends: {said[-500:]}. What it had written is removed: {then}")
