"""Drives one Instance: one pass from what is there towards what its spec says."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dotmac_crds.instance import BackupRecord, FailureRecord, InstanceSpec, InstanceStatus, QuotaStatus
from dotmac_operator.core import actions as do
from dotmac_operator.core import desired, names
from dotmac_operator.core.conditions import MESSAGE_LIMIT, is_true, rfc3339
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.plan import Plan, plan
from dotmac_operator.core.removal import Departing, plan_removal
from dotmac_operator.core.secret import mask
from dotmac_operator.core.status import Problem, Situation, compute
from dotmac_operator.core.steps.base import Verdict
from dotmac_operator.core.view import Memory, Probe, View
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.port import HostError, HostUnreachable
from dotmac_operator.reconcile.context import Context, Contexts, NotYet
from dotmac_operator.reconcile.execute import Executor, Results
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.ports import AGAIN, DONE, Cluster, Gone, Outcome
from dotmac_operator.reconcile.store import Instance, Store, server_name

log = logging.getLogger(__name__)

PASS_LIMIT = 60
"""Rounds of one pass; a fresh deploy takes about 20. More means a step that undoes another, which must not spin."""
RETRY_FIRST, RETRY_MOST = 5.0, 300.0
"""Seconds before a failed attempt is repeated: doubled each time up to the most."""
STALLED_AFTER = 3
"""Failed attempts in a row after which somebody should look, although retries go on."""
LOG_LINES = 20


@dataclass
class _Kept:
    """What this process remembers of one Instance between passes; losing it is harmless."""

    probes: dict[str, Probe] = field(default_factory=dict)
    unhealthy_since: dict[str, float] = field(default_factory=dict)
    verified: str = ""
    serving: str = ""
    verify_since: float = 0.0
    verify_message: str = ""
    attempts: int = 0
    attempted: str = ""
    not_before: float = 0.0
    problem: Problem | None = None
    drift: str = ""
    announced: str = ""

    def memory(self) -> Memory:
        return Memory(
            dict(self.probes), dict(self.unhealthy_since), self.verified, self.verify_since, self.verify_message
        )


class InstanceReconciler:
    """Thread-safe for different Instances; the caller runs one pass at a time for each."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        hosts: Hosts,
        wake_server: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._hosts = hosts
        self._wake_server = wake_server
        self._clock = clock
        self._contexts = Contexts(store, cluster)
        self._placing = threading.Lock()
        self._kept: dict[str, _Kept] = {}

    def reconcile(self, key: str) -> Outcome:
        """One pass. Every expected failure ends in the status; only bugs leave as exceptions."""
        instance = self._store.instance(key)
        if instance is None:
            return DONE
        try:
            return self._reconcile(instance)
        except Gone:
            return DONE

    def _reconcile(self, instance: Instance) -> Outcome:
        if instance.deleting:
            return self._delete(instance) if instance.held else DONE
        if instance.spec is None:
            problem = Problem("InvalidSpec", f"{instance.error}: is the operator as new as the CRDs?", stalled=True)
            return self._report(instance, Situation(instance.generation, self._clock(), problem=problem))
        if not instance.held:
            self._take(self._cluster.set_finalizer(instance.ref, True, list(instance.finalizers)))
        if instance.paused:
            return self._report(instance, Situation(instance.generation, self._clock(), paused=True))
        try:
            self._place(instance, instance.spec)
        except NotYet as problem:
            return self._not_yet(instance, problem)
        return self._Pass(self, instance.key).run()

    def _place(self, instance: Instance, spec: InstanceSpec) -> None:
        """Chooses a Server and records the choice before anything is done on it: a crash must not choose again."""
        if instance.status.server:
            self._contexts.place(instance, spec)
            return
        with self._placing:
            name = self._contexts.place(instance, spec)
            situation = Situation(instance.generation, self._clock(), server=name)
            self._write(instance, compute(instance.status, situation))
        self._cluster.event(instance.ref, "Normal", "Placed", f"placed on Server {name}")

    # -- one pass over an Instance that has a Server ---------------------------------------------------------------

    class _Pass:
        """One pass: rounds of observe, plan, act, until there is nothing to do or something to wait for."""

        def __init__(self, owner: "InstanceReconciler", key: str) -> None:
            self.owner = owner
            self.key = key
            found = owner._store.instance(key)
            if found is None:
                raise Gone(key)
            self.instance: Instance = found
            self.kept = owner._kept.setdefault(found.ref.uid, _Kept())
            token = found.reconcile_token
            self.fresh_token = token is not None and token != found.status.last_handled_reconcile_at
            if self.fresh_token:
                self.kept.not_before, self.kept.attempts = 0.0, 0
                self.kept.probes.clear()
                inventory = owner._hosts.inventory(self.server_key)
                if inventory is not None:
                    inventory.invalidate()

        @property
        def server_key(self) -> str:
            return f"{self.instance.ref.namespace}/{server_name(self.instance)}"

        def run(self) -> Outcome:
            for _ in range(PASS_LIMIT):
                if self._moved():
                    return AGAIN
                try:
                    outcome = self._round()
                except NotYet as problem:
                    return self.owner._not_yet(self.instance, problem)
                except SpecError as error:
                    return self._report(problem=Problem(error.reason, error.message, stalled=True))
                except HostError as error:
                    return self._host_failed(error)
                if outcome is not None:
                    return outcome
            log.error("the steps of %s did not come to an end within %d rounds", self.key, PASS_LIMIT)
            return Outcome(failed=True)

        def _moved(self) -> bool:
            """Whether the spec, a pause or a deletion came in since the last round; then a new pass begins."""
            now = self.owner._store.instance(self.key)
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
                return self._roll_back(view, made, context, inventory)
            if made.current is None:
                return self._converged(view, made)
            name, verdict = made.current
            waiting = self._backing_off(view, made)
            if waiting is not None:
                return waiting
            if verdict.state == "act":
                return self._act(view, made, verdict, context, inventory)
            if verdict.state == "wait":
                self._report(view=view, plan=made)
                return Outcome(after=verdict.after)
            if verdict.state == "blocked":
                problem = Problem(verdict.reason, verdict.message, stalled=True)
                self._report(view=view, plan=made, problem=problem)
                return Outcome(after=verdict.after or None)
            return self._failed(name, view, made, verdict, context, inventory)

        def _observe(self) -> tuple[View, Context, Inventory]:
            owner = self.owner
            spec = self.instance.spec
            assert spec is not None  # noqa: S101 - _reconcile has looked, and _moved ends a pass on another version
            context = owner._contexts.load(self.instance, spec)
            server = owner._contexts.server_view(context.server)
            inventory = owner._hosts.inventory(context.server.key)
            if inventory is None or not server.ready:
                raise NotYet("ServerNotReady", f"Server {server.name} is not ready: {server.message}")
            record = self.instance.status
            if self.fresh_token:
                record = record.model_copy(update={"failure": None})
            view = View(
                desired=context.desired,
                facts=inventory.facts(context.desired.images),
                record=record,
                server=server,
                now=owner._clock(),
                credential_keys=None if context.credentials is None else frozenset(context.credentials),
                neighbours=owner._contexts.neighbours(self.instance, context.server),
            )
            return replace(view, memory=self._remember(view)), context, inventory

        def _remember(self, view: View) -> Memory:
            """Brings what is remembered up to what was just observed."""
            kept = self.kept
            if kept.serving != view.desired.serving_hash:
                kept.serving, kept.verify_since, kept.verify_message = view.desired.serving_hash, 0.0, ""
            alive = {container.id: container for container in view.containers}
            kept.probes = {id_: probe for id_, probe in kept.probes.items() if id_ in alive and alive[id_].running}
            judged = replace(view, memory=kept.memory())
            since = {}
            for spec in (*view.desired.infrastructure, *view.desired.apps):
                container = judged.container(spec)
                if container is not None and judged.health(spec, container) != "healthy":
                    since[container.id] = kept.unhealthy_since.get(container.id, view.now)
            kept.unhealthy_since = since
            return kept.memory()

        def _converged(self, view: View, made: Plan) -> Outcome:
            drift, self.kept.drift = self.kept.drift, ""
            first = not is_true(self.instance.status.conditions, "Ready")
            self.kept.attempts, self.kept.problem = 0, None
            self._report(view=view, plan=made, drift=drift)
            if drift:
                self._event("Normal", "DriftRepaired", drift)
            elif first:
                self._event("Normal", "Ready", f"Release {view.desired.release_name} is served at {self._url()}")
            return DONE

        def _act(
            self, view: View, made: Plan, verdict: Verdict, context: Context, inventory: Inventory
        ) -> Outcome | None:
            self._note_drift(view, verdict)
            self._announce(view)
            self._report(view=view, plan=made)
            results = self._execute(verdict.actions, context, inventory)
            now = self.owner._clock()
            ids = {container.name: container.id for container in view.containers}
            for name, (ok, message) in results.probes.items():
                self.kept.probes[ids[name]] = Probe(ok, now, message)
            if results.backup is not None:
                file, sha256, size, release = results.backup
                record = BackupRecord(file=file, sha256=sha256, size=size, release=release, finished_at=rfc3339(now))
                self._report(view=view, plan=made, backup=record)
            if results.verified is not None:
                self._note_verified(view, results)
            unfinished = results.verified is False or any(not ok for ok, _ in results.probes.values())
            return Outcome(after=1.0) if unfinished else None

        def _execute(self, actions: tuple[do.Action, ...], context: Context, inventory: Inventory) -> Results:
            server = context.server
            assert server.spec is not None  # noqa: S101 - Contexts.load has looked
            owner = self.owner
            executor = Executor(owner._cluster, owner._hosts, self.instance.ref, server.key, server.spec.proxy)
            results = Results()
            for action in actions:
                executor.run(action, inventory, results)
            return results

        def _note_verified(self, view: View, results: Results) -> None:
            if results.verified:
                self.kept.verified = view.desired.serving_hash
                return
            self.kept.verify_since = self.kept.verify_since or self.owner._clock()
            self.kept.verify_message = results.verify_message

        def _note_drift(self, view: View, verdict: Verdict) -> None:
            """A difference without a change of what is desired: somebody or something changed the host."""
            if view.record.applied_hash != view.desired.hash or self.kept.drift:
                return
            first = verdict.actions[0]
            if not isinstance(first, do.ProbeContainer | do.VerifyRoute):
                self.kept.drift = f"{first.text}: {first.reason}"

        def _announce(self, view: View) -> None:
            if self.kept.announced == view.desired.hash or view.record.applied_hash == view.desired.hash:
                return
            self.kept.announced = view.desired.hash
            verb = "updating to" if view.upgrading else "deploying"
            self._event("Normal", "Deploying", f"{verb} Release {view.desired.release_name}")

        # -- failures ----------------------------------------------------------------------------------------------

        def _backing_off(self, view: View, made: Plan) -> Outcome | None:
            left = self.kept.not_before - view.now
            if left <= 0 or self.kept.attempted != view.desired.hash:
                return None
            self._report(view=view, plan=made, problem=self.kept.problem)
            return Outcome(after=left)

        def _failed(
            self, step: str, view: View, made: Plan, verdict: Verdict, context: Context, inventory: Inventory
        ) -> Outcome | None:
            message = self._with_log(verdict, context, inventory)
            self._event("Warning", verdict.reason, f"step {step}: {message}"[:1000])
            if view.upgrading:
                failure = FailureRecord(
                    generation=self.instance.generation, hash=view.desired.hash, step=step, message=message
                )
                # Recorded before anything is taken away: after a crash here the rollback goes on.
                self._report(view=view, plan=made, problem=Problem(verdict.reason, message), failure=failure)
                self.fresh_token = False
                return None
            problem = self._count_attempt(verdict.reason, message, view)
            self._report(view=view, plan=made, problem=problem)
            role = next((c.labels.get(names.ROLE) for c in view.containers if c.name == verdict.container), None)
            if role in (names.MIGRATE, names.BOOTSTRAP, names.BACKUP):
                self._execute((do.RemoveContainer("it failed", verdict.container, grace=0),), context, inventory)
            self.kept.unhealthy_since.clear()
            self.kept.verify_since = 0.0
            return Outcome(after=max(0.0, self.kept.not_before - self.owner._clock()))

        def _count_attempt(self, reason: str, message: str, view: View) -> Problem:
            kept = self.kept
            if kept.attempted != view.desired.hash:
                kept.attempted, kept.attempts = view.desired.hash, 0
            kept.attempts += 1
            delay = min(RETRY_MOST, RETRY_FIRST * 2 ** (kept.attempts - 1))
            kept.not_before = self.owner._clock() + delay
            kept.problem = Problem(reason, message, stalled=kept.attempts >= STALLED_AFTER)
            return kept.problem

        def _with_log(self, verdict: Verdict, context: Context, inventory: Inventory) -> str:
            if not verdict.container:
                return verdict.message
            try:
                tail = inventory.host.engine.logs(verdict.container, tail=LOG_LINES).strip()
            except HostError as error:
                tail = f"(no log: {error.reason})"
            tail = mask(tail, context.secrets)
            room = MESSAGE_LIMIT - len(verdict.message) - 40
            return f"{verdict.message}; its log ends: {tail[-room:]}" if tail else verdict.message

        def _roll_back(self, view: View, made: Plan, context: Context, inventory: Inventory) -> Outcome | None:
            failure = view.record.failure
            reason = "UpgradeRolledBack" if view.outdated else "UpgradeFailed"
            problem = Problem(reason, f"step {failure.step}: {failure.message}" if failure else "", stalled=True)
            self._report(view=view, plan=made, problem=problem)
            if not made.undo:
                return DONE
            self._execute(made.undo, context, inventory)
            if len(made.undo) == 1:
                self._event("Warning", reason, "the previous version serves; the change was taken back")
            return None

        def _host_failed(self, error: HostError) -> Outcome:
            log.warning("host of %s: %s", self.key, error)
            if isinstance(error, HostUnreachable) or not error.retryable:
                self.owner._wake_server(self.server_key)
                problem = Problem("ServerNotReady", str(error)[:MESSAGE_LIMIT])
            else:
                problem = Problem(error.reason, str(error)[:MESSAGE_LIMIT])
            self._report(problem=problem)
            return Outcome(failed=True)

        # -- telling -----------------------------------------------------------------------------------------------

        def _url(self) -> str:
            spec, server = self.instance.spec, self.owner._store.server(self.server_key)
            if spec is None or server is None or server.spec is None:
                return ""
            try:
                return desired.url(spec, server.spec)
            except SpecError:
                return ""

        def _report(
            self,
            *,
            view: View | None = None,
            plan: Plan | None = None,
            problem: Problem | None = None,
            drift: str = "",
            backup: BackupRecord | None = None,
            failure: FailureRecord | None = None,
        ) -> Outcome:
            situation = Situation(
                generation=self.instance.generation,
                now=self.owner._clock(),
                server=server_name(self.instance),
                url=self._url(),
                view=view,
                plan=plan,
                problem=problem,
                drift=drift,
                backup=backup,
                failure=failure,
                quota=self.owner._quota(self.instance),
                reconcile_token=self.instance.reconcile_token,
            )
            return self.owner._report(self.instance, situation)

        def _event(self, type_: str, reason: str, message: str) -> None:
            self.owner._cluster.event(self.instance.ref, type_, reason, message)  # type: ignore[arg-type]

    # -- deletion ------------------------------------------------------------------------------------------------

    def _delete(self, instance: Instance) -> Outcome:
        deletion = instance.raw_spec.get("deletion") or {}
        orphan = instance.annotations.get(names.ORPHAN, "").lower() in ("true", "yes", "1")
        if deletion.get("protected"):
            return self._blocked_deletion(instance, "spec.deletion.protected is true: set it to false to go on")
        name = server_name(instance)
        if name is not None and not (orphan and self._orphan(instance, name)):
            outcome = self._clear(instance, name, deletion.get("policy") == "Delete")
            if outcome is not None:
                return outcome
        if deletion.get("policy", "Retain") == "Retain":
            self._cluster.release_credentials(instance.ref, f"{instance.ref.name}-credentials")
        self._cluster.event(instance.ref, "Normal", "Deleted", "nothing of it runs any more")
        self._kept.pop(instance.ref.uid, None)
        self._take(self._cluster.set_finalizer(instance.ref, False, list(instance.finalizers)))
        return DONE

    def _orphan(self, instance: Instance, server: str) -> bool:
        """Whether to let go without clearing the host: only when the host cannot be reached."""
        found = self._store.server(f"{instance.ref.namespace}/{server}")
        if found is not None and is_true(found.status.conditions, "Ready"):
            return False
        self._cluster.event(instance.ref, "Warning", "Orphaned", f"what it left on Server {server} was not removed")
        return True

    def _clear(self, instance: Instance, server: str, delete_data: bool) -> Outcome | None:
        """Takes everything off the host; None when it is done."""
        inventory = self._hosts.inventory(f"{instance.ref.namespace}/{server}")
        found = self._store.server(f"{instance.ref.namespace}/{server}")
        hint = f"; to delete it although the host is gone: annotate it with {names.ORPHAN}=true"
        if found is None or found.spec is None:
            return self._blocked_deletion(instance, f"Server {server} does not exist{hint}")
        if inventory is None or not is_true(found.status.conditions, "Ready"):
            self._blocked_deletion(instance, f"Server {server} is not ready{hint}")
            return Outcome(after=15.0)
        going = Departing(
            instance.ref.uid, instance.ref.namespace, str(instance.raw_spec.get("orgCode", "")), delete_data
        )
        self._report(
            instance, Situation(instance.generation, self._clock(), deleting=f"being removed from Server {server}")
        )
        executor = Executor(self._cluster, self._hosts, instance.ref, found.key, found.spec.proxy)
        try:
            for _ in range(PASS_LIMIT):
                actions = plan_removal(going, inventory.facts())
                if not actions:
                    return None
                for action in actions:
                    executor.run(action, inventory, Results())
        except HostError as error:
            log.warning("removal of %s: %s", instance.key, error)
            self._wake_server(found.key)
            self._blocked_deletion(instance, f"Server {server}: {error}{hint}")
        return Outcome(failed=True)

    def _blocked_deletion(self, instance: Instance, why: str) -> Outcome:
        situation = Situation(instance.generation, self._clock(), deleting=why, deletion_blocked=True)
        return self._report(instance, situation)

    # -- status --------------------------------------------------------------------------------------------------

    def _not_yet(self, instance: Instance, problem: NotYet) -> Outcome:
        found = self._store.instance(instance.key) or instance
        told = Problem(problem.reason, str(problem), stalled=problem.stalled)
        situation = Situation(
            found.generation,
            self._clock(),
            problem=told,
            reconcile_token=found.reconcile_token,
            quota=self._quota(found),
        )
        self._report(found, situation)
        return Outcome(after=30.0)

    def _quota(self, instance: Instance) -> QuotaStatus | None:
        plan_ = self._store.instance_class(instance.spec.class_ref.name) if instance.spec else None
        if plan_ is None or plan_.spec is None:
            return None
        quotas = plan_.spec.quotas
        return QuotaStatus(max_users=quotas.max_users, max_storage=quotas.max_storage)

    def _report(self, instance: Instance, situation: Situation) -> Outcome:
        found = self._store.instance(instance.key)
        current = found if found is not None and found.ref.uid == instance.ref.uid else instance
        self._write(current, compute(current.status, situation))
        return DONE

    def _write(self, instance: Instance, status: InstanceStatus) -> None:
        if status == instance.status:
            return  # a steady fleet writes nothing
        self._take(self._cluster.apply_status(instance.ref, status.to_wire()))

    def _take(self, body: dict[str, object] | None) -> None:
        if body is not None:
            self._store.put(body)
