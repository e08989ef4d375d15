"""(Desired, Facts) -> the ordered steps that are not yet met, each with its reason."""

from dataclasses import dataclass, replace
from functools import cached_property

from dotmac_crds.lifecycle import State
from dotmac_operator.core import gate, recreate, stopped
from dotmac_operator.core.actions import Action, SetRoute
from dotmac_operator.core.digest import digest
from dotmac_operator.core.gate import Hold
from dotmac_operator.core.rollback import database, undo
from dotmac_operator.core.steps import STEPS
from dotmac_operator.core.steps.base import MET, Verdict
from dotmac_operator.core.view import View

HARMLESS = ("preflight", "secrets")
"""Steps that go on while a change is held: they disturb nobody, and what they find out belongs to the change."""


@dataclass(frozen=True)
class Plan:
    """What every step answered, and what is to be done first."""

    verdicts: tuple[tuple[str, Verdict], ...]
    """In the order of work, which is that of the steps unless the Instance is not to run."""
    rolled_back: bool = False
    """The present desired state has failed before: its parts are taken away and what served before stays."""
    undo: tuple[Action, ...] = ()
    """First: what the previous version needs to run alone."""
    database: Verdict = MET
    """Then: what becomes of the database."""
    state: State = "Running"
    """The state that the plan leads to."""
    change: str = ""
    """Name of the disruptive change that the plan makes; see `gate.change`."""
    hold: Hold | None = None
    """What the change waits for."""
    keep: tuple[Action, ...] = ()
    """Repairs of what serves while the change is held."""

    @cached_property
    def current(self) -> tuple[str, Verdict] | None:
        """The first step that is not done; None when the host matches."""
        return next(((name, verdict) for name, verdict in self.verdicts if not verdict.done), None)

    @property
    def held(self) -> Hold | None:
        """What has to be waited for now."""
        return self.hold if self.current is not None and self.current[0] not in HARMLESS else None

    @property
    def stopping(self) -> bool:
        """Whether it takes, or has taken, the Instance out of service."""
        return self.state != "Running" and self.held is None

    @property
    def converged(self) -> bool:
        return self.current is None and not self.rolled_back

    @property
    def actions(self) -> tuple[tuple[str, Action], ...]:
        """(step, action) of everything that is known to be needed, in order."""
        if self.rolled_back:
            return tuple(("rollback", action) for action in (*self.undo, *self.database.actions))
        return tuple((name, action) for name, verdict in self.verdicts for action in verdict.actions)

    @property
    def routes_soon(self) -> bool:
        """Whether the proxy's configuration is to be changed once the containers of now have started."""
        current = self.current[0] if self.current is not None else ""
        return current == "start" and any(isinstance(action, SetRoute) for _, action in self.actions)

    @property
    def hash(self) -> str:
        """12 hex digits: the change's name, else over the actions; the same plan has the same hash."""
        return self.change or digest([[step, action.text] for step, action in self.actions])[:12]


def plan(view: View) -> Plan:
    """Asks every step how far it is. Pure: the same view gives the same plan."""
    if view.wanted != "Running":
        return _gated(view, Plan(stopped.check(view), state=view.wanted))
    verdicts = tuple((step.name, step.check(view)) for step in STEPS)
    if view.failed and not view.policy.rollback:
        return Plan(verdicts, rolled_back=True)
    if view.failed:
        back = recreate.new_first(view, undo(view))
        return Plan(verdicts, rolled_back=True, undo=back, database=database(view))
    return _gated(view, Plan(recreate.stop_old_first(view, verdicts)))


def _gated(view: View, made: Plan) -> Plan:
    change = "" if made.converged else gate.change(view)
    hold = gate.hold(view, change)
    return replace(made, change=change, hold=hold, keep=gate.keep(view) if hold else ())
