"""Takes a failed change back: what served before it serves again, and the status says so."""

from dotmac_crds.lifecycle import RollbackRecord
from dotmac_operator.core.conditions import MESSAGE_LIMIT, TEXT_LIMIT, find, rfc3339
from dotmac_operator.core.plan import Plan
from dotmac_operator.core.rollback import lost, set_back
from dotmac_operator.core.status import Problem
from dotmac_operator.core.view import View
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.reconcile.context import Context
from dotmac_operator.reconcile.onepass import Pass
from dotmac_operator.reconcile.ports import DONE, Outcome

ROLLED_BACK = ("UpgradeRolledBack", "UpgradeFailed", "RestoreFailed", "PreviousVersionLost")
"""Reasons of Stalled once everything about a failed change is done that can be done."""


class Rollback:
    """The rounds of a pass in which the present desired state is known to have failed."""

    def __init__(self, of: Pass) -> None:
        self._pass = of

    def run(self, view: View, made: Plan, context: Context, inventory: Inventory) -> Outcome | None:
        failure = view.record.failure
        cause = f"step {failure.step}: {failure.message}" if failure else ""
        back = find(self._pass.instance.status.conditions, "Stalled")
        told = (
            back is not None
            and back.reason in ROLLED_BACK
            and back.observed_generation == self._pass.instance.generation
        )
        if made.undo or made.database.state in ("act", "wait"):
            if not told:
                self._pass.report(view=view, plan=made, problem=Problem("RollingBack", cause))
            elif made.undo:
                self._pass.note_kinds(made.undo)  # it was rolled back before: somebody has changed the host since
            return self._go_back(view, made, context, inventory)
        problem, detail = self._end(view, made, context, inventory, cause)
        record = None
        if not told and view.way_back and view.policy.rollback:
            release = view.record.release
            record = RollbackRecord(
                previous=(release.current if release else None) or view.desired.release_name,
                target=view.desired.release_name,
                reason=problem.message[:TEXT_LIMIT],
                at=rfc3339(view.now),
            )
        repaired = self._pass.kept.drift
        # In one write: a crash between two would leave the reason without the record.
        self._pass.report(view=view, plan=made, problem=problem, drift="; ".join(repaired.values()), rollback=record)
        if told:
            self._pass.tell_repairs(repaired)
        elif record is not None:
            self._pass.event(
                "Warning", problem.reason, detail or "the previous version serves; the change was taken back"
            )
        return DONE

    def _go_back(self, view: View, made: Plan, context: Context, inventory: Inventory) -> Outcome | None:
        if not made.undo and made.database.state == "wait":
            return Outcome(after=made.database.after)
        results = self._pass.execute(made.undo or made.database.actions, context, inventory)
        if results.verified is not None:
            self._pass.kept.note_verified(
                view.verify_key, results.verified, results.verify_message, self._pass.services.clock()
            )
        unfinished = results.verified is False or self._pass.note_open_requests(view, results)
        return Outcome(after=1.0) if unfinished else None

    def _end(self, view: View, made: Plan, context: Context, inventory: Inventory, cause: str) -> tuple[Problem, str]:
        """What became of it, and what is to be told beside the cause."""
        gone = lost(view)
        if made.database.state == "failed":
            detail = self._pass.with_log(made.database, context, inventory)[:1000]
            return Problem("RestoreFailed", f"{detail}; {cause}"[:MESSAGE_LIMIT], stalled=True), detail
        if gone and view.way_back and view.policy.rollback:
            detail = (
                f"{', '.join(gone)} of the previous version is gone and nothing is known to make it from: go back to"
                " the Release and spec that served, or ask for another try of this one"
            )
            return Problem("PreviousVersionLost", f"{detail}; {cause}"[:MESSAGE_LIMIT], stalled=True), detail
        detail = set_back(view)
        reason = "UpgradeRolledBack" if view.way_back and view.policy.rollback else "UpgradeFailed"
        if not view.policy.rollback:
            detail = "it stays as it is (update.rollback: false)"
        return Problem(reason, (f"{detail}; {cause}" if detail else cause)[:MESSAGE_LIMIT], stalled=True), detail
