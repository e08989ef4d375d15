"""Drives one Restore: an Instance gets the data of a Backup back, once.

What can fail is done first and beside the data: checksums, unpacking, reading the dump into a database of its own. From
the exchange on everything is a rename, repeated until it is done. Bringing the Instance up again, with a migration
where its Release needs one, is left to the Instance's own steps: they wait while the data is out of place.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from dotmac_crds.backup import BackupFile
from dotmac_crds.instance import InstanceSpec
from dotmac_operator.core import archive, gate, jobs, names, pages, proxy, restore
from dotmac_operator.core.actions import Action, CreateVolume, RemoveContainer, SetRoute, StopContainer
from dotmac_operator.core.archive import Job
from dotmac_operator.core.conditions import TEXT_LIMIT, find, is_true, rfc3339
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.jobs import Report
from dotmac_operator.core.status import Situation
from dotmac_operator.core.steps.backup import database_runs
from dotmac_operator.core.steps.base import Verdict, owner_labels
from dotmac_operator.core.steps.route import proxy_ready
from dotmac_operator.core.stopped import grace, page_route
from dotmac_operator.core.view import View
from dotmac_operator.reconcile.context import NotYet
from dotmac_operator.reconcile.execute import log_tail
from dotmac_operator.reconcile.jobs import JobReconciler, JobResource, Refused, Tenancy
from dotmac_operator.reconcile.ports import DONE, Outcome
from dotmac_operator.reconcile.rollback import ROLLED_BACK
from dotmac_operator.reconcile.services import HOST_AWAY, Services, out_of_place
from dotmac_operator.reconcile.store import Backup, Instance, Restore, instance_of
from dotmac_operator.reconcile.turns import Turns

REASON = "the data is being restored"
RETRY = 30.0
"""Seconds until an exchange is tried again."""
HELD = (gate.APPROVAL, gate.WINDOW, gate.BACKUP)
"""Reasons of an Instance that serves what it has while a change waits."""
_ALIVE = frozenset({"running", "paused", "restarting"})


class RestoreReconciler(JobReconciler):
    """See the base class."""

    kind: Literal["Backup", "Restore"] = "Restore"

    def __init__(
        self,
        services: Services,
        turns: Turns,
        wake: Callable[[str, str], None],
        forget: Callable[[str], None],
    ) -> None:
        """`forget` is called with the uid of an Instance of which nothing that was remembered is true any more."""
        super().__init__(services, turns, wake)
        self._forget = forget

    def get(self, key: str) -> JobResource | None:
        return self.services.store.restore(key)

    def work(self, found: Restore) -> Outcome | None:
        running = found.status.phase == "Running"
        if running and self.services.store.instance(instance_of(found)) is None:
            raise Refused("InstanceNotFound", "the Instance was deleted while its data was being restored")
        instance, spec = self.instance(found)
        if running and found.status.step == "Starting":
            return self._started(found, instance)
        backup = self._backup(found)
        if not running:
            return self._begin(found, instance, spec, backup)
        tenancy = self.site(found, instance, spec)
        step = {"Preparing": self._prepare, "Stopping": self._stop, "Replacing": self._replace}
        return step[found.status.step or "Preparing"](found, instance, backup, tenancy)

    # -- may it be done?

    def _backup(self, found: Restore) -> Backup:
        assert found.spec is not None  # noqa: S101 - _round has looked
        name = found.spec.backup_ref.name
        backup = self.services.store.backup(f"{found.ref.namespace}/{name}")
        if backup is None and found.status.phase == "Running":
            raise Refused("BackupNotFound", f"Backup {name} was deleted meanwhile")
        if backup is None:
            message = (
                f"Backup {name} does not exist in namespace {found.ref.namespace}: correct the name in another one"
            )
            raise NotYet("BackupNotFound", message)
        return backup

    def _begin(self, found: Restore, instance: Instance, spec: InstanceSpec, backup: Backup) -> Outcome | None:
        self._judge(found, instance, backup)
        ready = jobs.workable(instance.ref.name, spec, instance.status, instance.generation)
        if ready.state == "wait":
            return self.waiting(found, ready.reason, ready.message)
        if not ready.done:
            raise Refused(ready.reason, ready.message)
        self._judge_release(instance, backup)
        copying = self._others(found, "Backup")
        if copying:
            return self.waiting(found, "BackupRunning", f"{copying} copies the data: this waits", after=5.0)
        tenancy = self.site(found, instance, spec)
        other = self.unlisted(tenancy)
        if other:
            return self.waiting(found, "BackupRunning", other, after=5.0)
        if backup.status.volume != tenancy.view.desired.volumes[1]:
            raise Refused("BackupOfAnotherInstance", f"Backup {backup.ref.name} was made of another orgCode")
        now = rfc3339(self.services.clock())
        self._to(found, "Preparing", "files are verified, and unpacked beside the data", started_at=now)
        self.services.cluster.event(instance.ref, "Normal", "Restoring", f"from Backup {backup.ref.name}")
        return None

    def _judge(self, found: Restore, instance: Instance, backup: Backup) -> None:
        """Raises Refused with what is wrong between the two."""
        name, status = backup.ref.name, backup.status
        made_of = backup.spec.instance_ref.name if backup.spec is not None else ""
        if made_of != instance.ref.name:
            raise Refused(
                "BackupOfAnotherInstance",
                f"Backup {name} is of Instance {made_of}, not of {instance.ref.name}: name one of its own Backups",
            )
        if backup.deleting or status.phase != "Completed":
            state = "being deleted" if backup.deleting else (status.phase or "Pending").lower()
            raise Refused(
                "BackupNotCompleted",
                f"Backup {name} is {state}: once one is Completed, create another Restore that names it",
            )
        other = self._others(found, "Restore")
        if other:
            raise Refused("RestoreRunning", f"{other} is under way: once it has ended, create another Restore")
        if status.server != instance.status.server:
            raise Refused(
                "BackupElsewhere",
                f"the files of Backup {name} are on Server {status.server}, the Instance is on Server"
                f" {instance.status.server}: only a Backup on its own Server can be restored",
            )

    def _judge_release(self, instance: Instance, backup: Backup) -> None:
        current = instance.status.release.current if instance.status.release else None
        release = self.services.store.release(current or "")
        spec = release.spec if release is not None else None
        verdict = jobs.restorable(backup.status, backup.ref.name, instance.status, spec)
        if not verdict.done:
            raise Refused(verdict.reason, verdict.message)

    def _others(self, found: Restore, kind: str) -> str:
        others = (job for job in self.services.store.jobs(instance_of(found)) if job.ref.uid != found.ref.uid)
        running = (job for job in others if job.ref.kind == kind and job.status.phase == "Running")
        return next((f"{job.ref.kind} {job.ref.name}" for job in running), "")

    # -- the four steps

    def _prepare(self, found: Restore, instance: Instance, backup: Backup, tenancy: Tenancy) -> Outcome | None:
        place, view, job, files = tenancy.place, tenancy.view, _job(found, backup), _files(backup)
        wanted = [f"{view.desired.network}-{volume}" for volume in archive.volumes_of(files)]
        missing = [volume for volume in wanted if view.volume(volume) is None]
        if missing:
            labels = owner_labels(view)
            self.act(place, (CreateVolume("the Backup has files for it", volume, labels) for volume in missing))
            return None
        if view.volume(job.volume) is None:
            raise Refused("ChecksumMismatch", f"volume {job.volume} with the files is gone: nothing was changed")
        verdict = self.run(place, archive.prepare(job, tenancy.database, files), "files are verified and unpacked")
        if verdict.state == "wait":
            return Outcome(after=verdict.after)
        if verdict.state == "failed":
            self._refuse(found, tenancy, job, files, verdict)
        if verdict.done:
            self._to(found, "Stopping", "users get a page, and the application stops")
        return None

    def _refuse(
        self, found: Restore, tenancy: Tenancy, job: Job, files: tuple[BackupFile, ...], verdict: Verdict
    ) -> None:
        place = tenancy.place
        said = log_tail(place.inventory, verdict.container, tenancy.secrets)
        shot = jobs.find_container(place.inventory.facts().containers, archive.prepare(job, tenancy.database, files))
        wrong = shot is not None and shot.exit_code == restore.CHECKSUM
        reason, remedy = jobs.cause(said, "ChecksumMismatch" if wrong else "RestoreFailed")
        why = "a file of the Backup is not as it was written" if wrong else verdict.message
        then = f"{remedy}create another Restore" if remedy else "restore another Backup"
        raise Refused(reason, f"{why}; nothing was changed: {then}. The log ends: {said[-400:]}")

    def _stop(self, found: Restore, instance: Instance, backup: Backup, tenancy: Tenancy) -> Outcome | None:
        view = tenancy.view
        waiting = proxy_ready(view)
        if waiting is not None:
            return self.waiting(found, "Restoring", waiting.message, waiting.after)
        self._tell_instance(found, instance)
        actions = _stops(view)
        if actions:
            self.act(tenancy.place, actions)
            return None
        self._to(found, "Replacing", "the data is being exchanged")
        return None

    def _replace(self, found: Restore, instance: Instance, backup: Backup, tenancy: Tenancy) -> Outcome | None:
        view, job, files = tenancy.view, _job(found, backup), _files(backup)
        actions = _stops(view)
        if actions:  # somebody has started them by hand
            self.act(tenancy.place, actions)
            return None
        dump = next((file for file in files if file.kind == "Database"), None)
        if found.status.failure is not None:
            return self._give_up(found, instance, tenancy, job, files)
        if dump is not None:
            outcome = self._database(found, tenancy, job, dump)
            if outcome is not True:
                return outcome
        if archive.volumes_of(files):
            outcome = self._exchange(found, tenancy, archive.exchange(job, tenancy.database, files))
            if outcome is not True:
                return outcome
        older = backup.status.release != (view.record.release.current if view.record.release else None)
        if older:
            done = [RemoveContainer("it is to run anew", c.name, grace=0) for c in view.of_role(names.MIGRATE)]
            if done:
                self.act(tenancy.place, done)
                return None
        self._hand_over(found, instance, migrate=older)
        return None

    def _database(self, found: Restore, tenancy: Tenancy, job: Job, dump: BackupFile) -> Outcome | None | Literal[True]:
        """True: it is exchanged."""
        runs = database_runs(tenancy.view)
        if runs is not None and runs.state == "act":
            self.act(tenancy.place, runs.actions)
            return None
        if runs is not None:
            return self.waiting(found, "Restoring", runs.message, 2.0)
        spec = archive.database_back(job, tenancy.database, dump)
        verdict = self.run(tenancy.place, spec, "the dump is read into a new database")
        if verdict.state != "failed":
            return True if verdict.done else None if verdict.state == "act" else Outcome(after=verdict.after)
        said = log_tail(tenancy.place.inventory, verdict.container, tenancy.secrets)
        shot = jobs.find_container(tenancy.place.inventory.facts().containers, spec)
        code = shot.exit_code if shot is not None else None
        if restore.EXCHANGING in said and code not in (restore.CHECKSUM, restore.REFUSED):
            return self._again(found, tenancy, verdict, said)
        _, remedy = jobs.cause(said, "")
        failure = (
            f"{verdict.message}; the data is as it was: {remedy}create another Restore. The log ends: {said[-400:]}"
        )
        self._to(found, "Replacing", "the database was not exchanged", failure=failure[:TEXT_LIMIT])
        return None

    def _again(self, found: Restore, tenancy: Tenancy, verdict: Verdict, said: str) -> Outcome:
        """The exchange may have been made, in part or in whole: only another run can tell, or end it."""
        self.act(tenancy.place, (RemoveContainer("it is tried again", verdict.container, grace=0),))
        self.services.cluster.event(found.ref, "Warning", "RestoreFailed", f"{verdict.message}: {said[-500:]}")
        message = f"{verdict.message}, and is tried again; the log ends: {said[-400:]}"
        return self.waiting(found, "RestoreFailed", message, RETRY)

    def _exchange(self, found: Restore, tenancy: Tenancy, spec: ContainerSpec) -> Outcome | None | Literal[True]:
        """True: the files are in. There is no way back from here, only another try."""
        verdict = self.run(tenancy.place, spec, "files are exchanged")
        if verdict.state == "failed":
            said = log_tail(tenancy.place.inventory, verdict.container, tenancy.secrets)
            return self._again(found, tenancy, verdict, said)
        return True if verdict.done else None if verdict.state == "act" else Outcome(after=verdict.after)

    def _give_up(
        self, found: Restore, instance: Instance, tenancy: Tenancy, job: Job, files: tuple[BackupFile, ...]
    ) -> Outcome | None:
        """What was unpacked goes; then the Instance serves what it had."""
        if archive.volumes_of(files):
            verdict = self.run(tenancy.place, archive.tidy(job, tenancy.database, files), "unpacked files are removed")
            if verdict.state == "wait":
                return Outcome(after=verdict.after)
            if verdict.state == "act":
                return None
        self._hand_over(found, instance, migrate=False)
        return None

    def _hand_over(self, found: Restore, instance: Instance, *, migrate: bool) -> None:
        """From here on the Instance's own steps go on: nothing of what was known of its application is true."""
        anew = {"verify", "migrate"} if migrate else {"verify"}
        self._forget(instance.ref.uid)
        told = self._tell_instance(found, instance)
        kept = [shot for shot in told.status.one_shots or () if shot.name not in anew]
        self.services.write(told, told.status.model_copy(update={"one_shots": kept, "components": []}))
        self._to(found, "Starting", "the Instance is brought up again")
        self._wake("Instance", instance.key)

    def _started(self, found: Restore, instance: Instance) -> Outcome | None:
        place = self.place(found, instance.status.server)
        if self.clear(place, _job(found, None)):
            return None
        ready, stalled = find(instance.status.conditions, "Ready"), find(instance.status.conditions, "Stalled")
        rolled_back = stalled is not None and stalled.status == "True" and stalled.reason in ROLLED_BACK
        failure = found.status.failure
        held = ready is not None and ready.status == "Unknown" and ready.reason in HELD
        if is_true(instance.status.conditions, "Ready") or held or rolled_back:
            if failure is not None:
                raise Refused("RestoreFailed", failure)
            assert found.spec is not None  # noqa: S101 - _round has looked
            self.complete(found, "Restored", f"Instance {instance.ref.name} serves {found.spec.backup_ref.name}", 0)
            return None
        why = ready.message if ready is not None else "it was not looked at yet"
        if stalled is not None and stalled.status == "True":
            data = f"the data was not restored ({failure})" if failure else "the data is restored"
            raise Refused("RestoreFailed", f"{data}, but the Instance does not come up: {stalled.message}")
        message = "the Instance is brought up again" if ready is None or ready.reason == "Restoring" else why
        return self.waiting(found, "Restoring", message, after=1.0)

    # -- after it

    def end(self, found: Restore) -> Outcome:
        """Containers that are still there tell that one has failed before it changed anything: what it has unpacked
        goes with them."""
        instance = self.services.store.instance(instance_of(found))
        if found.status.phase == "Completed" or found.status.started_at is None or instance is None:
            return DONE
        try:
            place = self.place(found, instance.status.server)
        except NotYet:
            return Outcome(after=HOST_AWAY)
        job = _job(found, None)
        if not any(job.owns(container) for container in place.inventory.facts().containers):
            return DONE
        backup = self._readable(found)
        if backup is not None and instance.spec is not None and archive.volumes_of(_files(backup)):
            tenancy = self.site(found, instance, instance.spec)
            spec = archive.tidy(_job(found, backup), tenancy.database, _files(backup))
            verdict = self.run(place, spec, "unpacked files are removed")
            if verdict.state in ("act", "wait"):
                return Outcome(after=1.0)
        self.clear(place, job)
        return DONE

    def _readable(self, found: Restore) -> Backup | None:
        name = found.spec.backup_ref.name if found.spec is not None else ""
        return self.services.store.backup(f"{found.ref.namespace}/{name}")

    def let_go(self, found: Restore) -> Outcome | None:
        """A Restore that runs comes to its end first: half of the data would be in place."""
        if found.orphaned or self.services.store.instance(instance_of(found)) is None:
            return DONE
        if found.status.phase != "Running":
            return self.end(found)
        return self.work(found)

    # -- telling

    def _to(self, found: Restore, step: str, message: str, **changes: object) -> None:
        self.report(found, Report("Running", "Restoring", message), step=step, **changes)

    def _tell_instance(self, found: Restore, instance: Instance) -> Instance:
        problem = out_of_place(found.ref.name)
        return self.services.report(instance, Situation(instance.generation, self.services.clock(), problem=problem))


def _job(found: Restore, backup: Backup | None) -> Job:
    ref = found.ref
    if backup is None:
        return Job("Restore", ref.namespace, ref.name, ref.uid, "", "")
    where = archive.directory(backup.ref.name, backup.ref.uid)
    return Job("Restore", ref.namespace, ref.name, ref.uid, backup.status.volume or "", where)


def _files(backup: Backup) -> tuple[BackupFile, ...]:
    return tuple(backup.status.files or ())


def _stops(view: View) -> tuple[Action, ...]:
    """What is left to do until users get a page and nothing writes. The cache goes too: it tells of other data."""
    made: list[Action] = []
    page = page_route(view, pages.RESTORING.name)
    if not proxy.same(view.route, page):
        made.append(SetRoute(REASON, replace(page, since=int(view.now))))
    for container in view.containers:
        writes = names.is_app(container.labels) or container.labels.get(names.ROLE) == names.CACHE
        if writes and container.state in _ALIVE:
            made.append(StopContainer(REASON, container.name, grace=grace(container)))
    return tuple(made)
