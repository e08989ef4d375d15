"""One pass over an Instance that has a Server: rounds of observe, plan, act."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dotmac_crds.base import Condition
from dotmac_crds.instance import BackupRecord, FailureRecord
from dotmac_operator.core import actions as do
from dotmac_operator.core import names
from dotmac_operator.core.conditions import MESSAGE_LIMIT, find, is_true, rfc3339
from dotmac_operator.core.container import RemoteCheck
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.gate import Hold
from dotmac_operator.core.plan import Plan, plan
from dotmac_operator.core.status import IMAGE_MOVED, Problem, moved_images
from dotmac_operator.core.steps.base import Verdict, failed
from dotmac_operator.core.view import CRASH_CALM, Probe, View
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.port import HostError, HostUnreachable, Progress
from dotmac_operator.logs import about
from dotmac_operator.reconcile.context import Context, NotYet
from dotmac_operator.reconcile.execute import BackupUnreadable
from dotmac_operator.reconcile.kept import Kept
from dotmac_operator.reconcile.onepass import Pass, facts_of
from dotmac_operator.reconcile.ports import AGAIN, DONE, Gone, Outcome, Stale
from dotmac_operator.reconcile.rollback import Rollback
from dotmac_operator.reconcile.services import LOOK_AGAIN, Services
from dotmac_operator.reconcile.store import Instance

log = logging.getLogger(__name__)

ROUNDS = 60
"""Rounds of one pass; a fresh deploy takes about 20. More means a step that undoes another, which must not spin."""
PROGRESS_EVERY = 5.0
"""Seconds between two writes of the progress of one action, such as a pull."""
RECHECK = 3600.0
"""Seconds after which a container that the operator checks itself is asked again, with the next pass."""


class NotConnectedYet(Exception):
    """This process has just started; the Server's own pass connects, and wakes us. Nothing is known to be wrong, so
    nothing is said: a restart must not write to the status of a whole fleet."""


def _attempt(view: View) -> str:
    """What failed attempts are counted for."""
    return f"{view.wanted} {view.desired.hash}"


class Rollout(Pass):
    """One pass: rounds of observe, plan, act, until there is nothing to do or something to wait for."""

    def __init__(self, services: Services, instance: Instance, kept: Kept) -> None:
        super().__init__(services, instance, kept)
        token = instance.reconcile_token
        self.asked_anew = token is not None and token != instance.status.last_handled_reconcile_at
        if self.asked_anew:
            kept.start_afresh()
            inventory = services.hosts.inventory(self.server_key)
            if inventory is not None:
                inventory.invalidate()

    def run(self) -> Outcome:
        try:
            return self._rounds()
        finally:
            self.services.hosts.routing(self.server_key).expect_no_more(self.instance.ref.uid)

    def _rounds(self) -> Outcome:
        for _ in range(ROUNDS):
            if self._moved():
                return AGAIN
            try:
                outcome = self._round()
            except NotConnectedYet:
                return Outcome(after=LOOK_AGAIN)
            except NotYet as problem:
                return self.services.not_yet(self.instance, problem)
            except SpecError as error:
                self.report(problem=Problem(error.reason, error.message, stalled=True))
                return Outcome(after=LOOK_AGAIN)  # it may be a Secret, which is not watched
            except HostError as error:
                return self._host_failed(error)
            if outcome is not None:
                return outcome
        log.error("the steps of %s did not come to an end within %d rounds", self.key, ROUNDS)
        return Outcome(failed=True)

    def _moved(self) -> bool:
        """Whether the spec, a pause or a deletion came in since the last round; then a new pass begins."""
        now = self.services.store.instance(self.key)
        if now is None or now.ref.uid != self.instance.ref.uid:
            raise Gone(self.key)
        before, self.instance = self.instance, now
        return (now.generation, now.deleting, now.paused, now.reconcile_token) != (
            before.generation, before.deleting, before.paused, before.reconcile_token,
        )  # fmt: skip

    def _round(self) -> Outcome | None:
        """Observe, plan, act once. None: look again at once."""
        view, context, inventory = self._observe()
        made = plan(view)
        if made.rolled_back:
            return Rollback(self).run(view, made, context, inventory)
        if made.stopping:
            self.kept.verified = ""  # when it runs again, it is asked again
        if made.held is not None:
            return self._wait(view, made, made.held, context, inventory)
        if made.current is None:
            return self._converged(view, made, context, inventory)
        name, verdict = made.current
        if verdict.state in ("act", "wait"):
            self._step_began(name)
        if made.routes_soon:
            self.services.hosts.routing(self.server_key).expect(self.instance.ref.uid)
        waiting = self._backing_off(view, made)
        if waiting is not None:
            return waiting
        if verdict.state == "act":
            with about(step=name, host=context.server.key):
                return self._act(view, made, verdict, context, inventory)
        if verdict.state == "wait":
            self.report(view=view, plan=made)
            return Outcome(after=verdict.after)
        if verdict.state == "blocked":
            problem = Problem(verdict.reason, verdict.message, stalled=True)
            self.report(view=view, plan=made, problem=problem)
            return Outcome(after=verdict.after or None)
        return self._failed(name, view, made, verdict, context, inventory)

    def _observe(self) -> tuple[View, Context, Inventory]:
        services = self.services
        spec = self.instance.spec
        assert spec is not None  # noqa: S101 - _reconcile has looked, and _moved ends a pass on another version
        now = services.clock()
        inventory = services.hosts.inventory(self.server_key)
        if (inventory is None or not inventory.started) and self._server_was_ready():
            raise NotConnectedYet  # before anything is read: a whole fleet comes by here after a restart
        context = services.contexts.load(self.instance, spec, now)
        server = services.contexts.server_view(context.server)
        if not server.ready:
            raise NotYet("ServerNotReady", f"Server {server.name} is not ready: {server.message}")
        if inventory is None:
            raise NotConnectedYet
        record = self.instance.status
        if self.asked_anew:
            record = record.model_copy(update={"failure": None})
        facts = facts_of(inventory, context.desired.images, record)
        view = self.view(context, server, facts, record, now)
        return self._with_unlisted_jobs(view), context, inventory

    def _with_unlisted_jobs(self, view: View) -> View:
        """What the host shows of a Backup that copies the data; of a Restore that may have put it out of place nothing
        is begun.

        Raises:
            NotYet, Stale
        """
        namespace, base = self.instance.ref.namespace, view.desired.network
        for container in self.services.unlisted(namespace, base, view.facts.containers):
            job = container.labels[names.JOB].replace("/", " ")
            if container.labels.get(names.ROLE) == names.RESTORE:
                raise NotYet(
                    "Restoring",
                    f"container {container.name} tells of {job}, which is not known here, so the data may be out of"
                    " place: if there is no such Restore any more, remove the container to go on with what is there",
                )
            if container.running and not view.job:
                view = replace(view, job=job)
        return view

    def _server_was_ready(self) -> bool:
        server = self.services.store.server(self.server_key)
        return server is not None and is_true(server.status.conditions, "Ready")

    def _converged(self, view: View, made: Plan, context: Context, inventory: Inventory) -> Outcome | None:
        if made.state == "Running" and not self._still_healthy(view, context, inventory):
            return None
        repaired = self.kept.drift
        before = self.instance.status.conditions
        moved = self._newly_moved(before, view)
        self.kept.succeeded()
        self._step_ended("succeeded")
        if view.reached != made.state:
            self.services.wake_server(self.server_key)  # what it takes of the Server has changed
        self.report(view=view, plan=made, drift="; ".join(filter(None, (*repaired.values(), moved))))
        self.tell_repairs(repaired)
        if not repaired and not is_true(before, "Ready"):
            told = f"Release {view.desired.release_name} is served at {self.url()}"
            stopped = "it does not run any more; its data is kept"
            running = made.state == "Running"
            self.event("Normal", "Ready" if running else made.state, told if running else stopped)
        self._tell_moved_images(moved)
        return self._until_the_trial_ends(view)

    def _still_healthy(self, view: View, context: Context, inventory: Inventory) -> bool:
        """Whether containers that Docker does not check still answer, asked with a resync and once an hour at most.

        Silent while they do. One that does not is not healthy any more, and step start takes over.
        """
        for spec in view.desired.apps:
            container = view.container(spec)
            if container is None or not isinstance(spec.check, RemoteCheck):
                continue
            last = self.kept.probes.setdefault(container.id, Probe(True, view.now))
            address = container.networks.get(view.desired.network, "")
            if not address or view.now - last.at < RECHECK:
                continue
            look = do.ProbeContainer("it was asked long ago", container.name, address, spec.check)
            for _ in range(spec.check.retries):
                ok, message = self.execute((look,), context, inventory).probes[container.name]
                if ok:
                    break
            self.kept.probes[container.id] = Probe(ok, view.now, message)
            if not ok:
                return False
        return True

    @staticmethod
    def _until_the_trial_ends(view: View) -> Outcome:
        expires = view.policy.expires
        if view.wanted != "Running" or expires is None:
            return DONE
        return Outcome(after=max(0.0, expires - view.now))

    def _wait(self, view: View, made: Plan, hold: Hold, context: Context, inventory: Inventory) -> Outcome | None:
        """A change is held: what serves is kept serving meanwhile."""
        ready = find(self.instance.status.conditions, "Ready")
        if made.keep:
            self.note_kinds(made.keep)
            self.report(view=view, plan=made)
            self.execute(made.keep, context, inventory)
            return None
        repaired = self.kept.drift
        self.report(view=view, plan=made, drift="; ".join(repaired.values()))
        self.tell_repairs(repaired)
        if ready is None or ready.reason != hold.reason:
            self.event("Normal", hold.reason, hold.message)
        return DONE if hold.until is None else Outcome(after=max(0.0, hold.until - view.now))

    @staticmethod
    def _newly_moved(before: Sequence[Condition], view: View) -> str:
        """Tags of running images that have begun to point to other ones; empty: none, or it was told before."""
        told, moved = find(before, "InSync"), moved_images(view)
        known = told is not None and told.reason == IMAGE_MOVED and told.message.startswith(moved[:MESSAGE_LIMIT])
        return "" if known else moved

    def _tell_moved_images(self, moved: str) -> None:
        """Drift too, although nothing has to be done: what runs, and what is made again, is the pinned image."""
        if moved:
            self.event("Normal", IMAGE_MOVED, moved[:1000])
            self.services.meter.drift_repaired(IMAGE_MOVED)

    def _step_began(self, step: str) -> None:
        if self.kept.step != step:
            self._step_ended("succeeded")
            self.kept.step, self.kept.step_since = step, self.services.clock()

    def _step_ended(self, outcome: Literal["succeeded", "failed"]) -> None:
        step, self.kept.step = self.kept.step, ""
        if step:
            self.services.meter.step_finished(step, outcome, self.services.clock() - self.kept.step_since)

    def _act(self, view: View, made: Plan, verdict: Verdict, context: Context, inventory: Inventory) -> Outcome | None:
        self._note_drift(view, verdict)
        self._announce(view)
        self.report(view=view, plan=made)
        try:
            results = self.execute(verdict.actions, context, inventory, self._progress_of(view, made))
        except BackupUnreadable as error:
            step = made.current[0] if made.current else "backup"
            unreadable = failed(error.reason, str(error), error.container)
            return self._failed(step, view, made, unreadable, context, inventory)
        now = self.services.clock()
        ids = {container.name: container.id for container in view.containers}
        for name, (ok, message) in results.probes.items():
            self.kept.probes[ids[name]] = Probe(ok, now, message)
        if results.backup is not None:
            file, sha256, size, release = results.backup
            record = BackupRecord(file=file, sha256=sha256, size=size, release=release, finished_at=rfc3339(now))
            self.report(view=view, plan=made, backup=record)
        if results.verified is not None:
            self.kept.note_verified(view.verify_key, results.verified, results.verify_message, now)
        unfinished = results.verified is False or any(not ok for ok, _ in results.probes.values())
        open_still = self.note_open_requests(view, results)
        return Outcome(after=1.0) if unfinished or open_still else None

    def _progress_of(self, view: View, made: Plan) -> Progress:
        """Puts the progress of a long action into the status, at most every few seconds."""
        last = 0.0

        def tell(message: str) -> None:
            nonlocal last
            now = self.services.clock()
            if now - last >= PROGRESS_EVERY:
                last = now
                with contextlib.suppress(Stale):  # what goes on is ended; the next round sees what has changed
                    self.report(view=view, plan=made, progress=message)

        return tell

    def _note_drift(self, view: View, verdict: Verdict) -> None:
        """A difference without a change of what is desired: somebody or something changed the host."""
        if self.services.handed_over(self.key):
            return  # it was a Restore
        # By the generation too: a spec that was edited there and back has left what was begun between.
        was = (view.record.applied_hash, view.record.applied_generation)
        applied = view.wanted != "Running" or was == (view.desired.hash, view.desired.tenant.generation)
        if applied and view.reached == view.wanted:
            self.note_kinds(verdict.actions)

    def _announce(self, view: View) -> None:
        if view.credential_keys is None or view.wanted != "Running":
            return  # what is desired is known in full only with the secrets in it
        if self.kept.announced == view.desired.hash or view.record.applied_hash == view.desired.hash:
            return
        self.kept.announced = view.desired.hash
        verb = "updating to" if view.previous else "deploying"
        self.event("Normal", "Deploying", f"{verb} Release {view.desired.release_name}")

    # -- failures ----------------------------------------------------------------------------------------------

    def _backing_off(self, view: View, made: Plan) -> Outcome | None:
        left = self.kept.not_before - view.now
        if left <= 0 or self.kept.attempted != _attempt(view):
            return None
        self.report(view=view, plan=made, problem=self.kept.problem)
        return self._later()

    def _later(self) -> Outcome:
        """With the next attempt, or to see whether it has recovered by itself."""
        return Outcome(after=min(CRASH_CALM, max(0.0, self.kept.not_before - self.services.clock())))

    def _failed(
        self, step: str, view: View, made: Plan, verdict: Verdict, context: Context, inventory: Inventory
    ) -> Outcome | None:
        message = self.with_log(verdict, context, inventory)
        self._step_ended("failed")
        self.event("Warning", verdict.reason, f"step {step}: {message}"[:1000])
        if view.way_back and view.wanted == "Running":
            failure = FailureRecord(
                generation=self.instance.generation, hash=view.desired.hash, step=step, message=message
            )
            # Recorded before anything is taken away: after a crash here the rollback goes on.
            self.report(view=view, plan=made, problem=Problem(verdict.reason, message), failure=failure)
            self.asked_anew = False
            return None
        problem = Problem(verdict.reason, message, stalled=verdict.final)
        problem = self.kept.count_attempt(_attempt(view), problem, view.now)
        self.report(view=view, plan=made, problem=problem)
        role = next((c.labels.get(names.ROLE) for c in view.containers if c.name == verdict.container), None)
        if role in (names.MIGRATE, names.BOOTSTRAP, names.BACKUP):
            self.execute((do.RemoveContainer("it failed", verdict.container, grace=0),), context, inventory)
        return self._later()

    def _host_failed(self, error: HostError) -> Outcome:
        log.warning("host of %s: %s", self.key, error)
        if isinstance(error, HostUnreachable) or not error.retryable:
            self.services.wake_server(self.server_key)
            problem = Problem("ServerNotReady", str(error)[:MESSAGE_LIMIT])
        else:
            problem = Problem(error.reason, str(error)[:MESSAGE_LIMIT])
        self.report(problem=problem)
        return Outcome(failed=True)
