"""(Desired, Facts) -> the ordered steps that are not yet met, each with its reason."""

from dataclasses import dataclass

from dotmac_operator.core.actions import Action
from dotmac_operator.core.digest import digest
from dotmac_operator.core.rollback import undo
from dotmac_operator.core.steps import STEPS
from dotmac_operator.core.steps.base import Verdict
from dotmac_operator.core.view import View


@dataclass(frozen=True)
class Plan:
    """What every step answered, and what is to be done first."""

    verdicts: tuple[tuple[str, Verdict], ...]
    rolled_back: bool = False
    """The present desired state has failed before: its parts are taken away and what served before stays."""
    undo: tuple[Action, ...] = ()

    @property
    def current(self) -> tuple[str, Verdict] | None:
        """The first step that is not done; None when the host matches."""
        return next(((name, verdict) for name, verdict in self.verdicts if not verdict.done), None)

    @property
    def converged(self) -> bool:
        return self.current is None and not self.rolled_back

    @property
    def actions(self) -> tuple[tuple[str, Action], ...]:
        """(step, action) of everything that is known to be needed, in order."""
        if self.rolled_back:
            return tuple(("rollback", action) for action in self.undo)
        return tuple((name, action) for name, verdict in self.verdicts for action in verdict.actions)

    @property
    def hash(self) -> str:
        """12 hex digits over the actions; the same plan has the same hash."""
        return digest([[step, action.text] for step, action in self.actions])[:12]


def plan(view: View) -> Plan:
    """Asks every step how far it is. Pure: the same view gives the same plan."""
    if has_failed(view):
        return Plan(tuple((step.name, step.check(view)) for step in STEPS), rolled_back=True, undo=undo(view))
    return Plan(tuple((step.name, step.check(view)) for step in STEPS))


def has_failed(view: View) -> bool:
    """Whether this very state has failed before and must not be tried again by itself."""
    failure = view.record.failure
    return (
        failure is not None
        and failure.hash == view.desired.hash
        and failure.generation == view.desired.tenant.generation
    )
