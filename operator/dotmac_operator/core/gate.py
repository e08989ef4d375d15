"""What may be done now: disruptive changes wait for an approval, and for a maintenance window.

Disruptive is what replaces or stops containers of an Instance that serves, because something else is desired than
before. The repair of drift, a first deploy, and the way back from Suspended or Archived never wait.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dotmac_operator.core import lifecycle, names, proxy
from dotmac_operator.core.actions import Action, ConnectNetwork, RemoveContainer, SetRoute
from dotmac_operator.core.conditions import rfc3339
from dotmac_operator.core.digest import digest
from dotmac_operator.core.proxy import Route
from dotmac_operator.core.rollback import lost, serve_again
from dotmac_operator.core.view import View

APPROVAL, WINDOW, BACKUP = "ApprovalNeeded", "WaitingForWindow", "BackupRunning"


@dataclass(frozen=True)
class Hold:
    """Why a change does not begin."""

    reason: str
    """`ApprovalNeeded`, `WaitingForWindow` or `BackupRunning`: also the reason of the conditions."""
    message: str
    until: float | None = None
    """Unix seconds at which the next window begins; None when no window is waited for."""


def change(view: View) -> str:
    """12 hex digits that name the disruptive change that is asked for; empty when none is.

    Made of where the change starts and where it leads, not of what is left to do, so that it stays the same from its
    first mention to its end. The same change at another time has another name, so an approval is good for one.
    """
    if view.record.applied_hash is None or view.reached != "Running" or not _disturbs(view):
        return ""
    record = view.record
    return digest([record.applied_generation, record.applied_hash, view.desired.hash, view.wanted])[:12]


def _disturbs(view: View) -> bool:
    if view.wanted != "Running":
        return not view.policy.by_trial(view.now)  # a trial's end was agreed upon long before
    if view.record.applied_hash == view.desired.hash:
        return False
    wanted = {spec.name for spec in (*view.desired.infrastructure, *view.desired.apps)}
    servers = {spec.role for spec in view.desired.infrastructure}
    replaced = {c.name for c in view.containers if c.labels.get(names.ROLE) in servers}
    migrate = view.desired.migrate
    return bool((replaced | set(view.record.serving or ())) - wanted) or (
        migrate is not None and not view.done(names.MIGRATE, migrate.hash)
    )


def begun(view: View, name: str) -> bool:
    """Whether work on this change is on record: it goes on, whatever the time is by now."""
    plan = view.record.plan
    return plan is not None and plan.hash == name and plan.started_at is not None


def hold(view: View, name: str) -> Hold | None:
    """What the change of this name waits for; None when it may be made."""
    policy = view.policy
    if not name or begun(view, name):
        return None
    if view.job:
        return Hold(BACKUP, f"the plan waits until {view.job} is done with the data as it is")
    closed = not policy.forced and not lifecycle.is_open(policy.windows, view.now)
    until = lifecycle.next_opening(policy.windows, view.now) if closed else None
    if policy.approval and policy.approved != name:
        other = f" (it carries {policy.approved[:64]!r}, which is another plan)" if policy.approved else ""
        message = f"the plan waits for its approval: annotate the Instance with {names.APPROVE}={name}{other}"
        return Hold(APPROVAL, message, until)
    # A container of what serves is gone, and the spec that it was made from is not known any more: the change itself is
    # the repair then, and repairs do not wait.
    if until is None or lost(view):
        return None
    message = (
        f"the plan waits for the maintenance window that begins at {rfc3339(until)}; to make it now, annotate the "
        f"Instance with {names.FORCE_WINDOW}=true"
    )
    return Hold(WINDOW, message, until)


def keep(view: View) -> tuple[Action, ...]:
    """Repairs of what serves while the change waits; empty when all is well."""
    return tuple(_keep(view))


def _keep(view: View) -> Iterator[Action]:
    yield from serve_again(view)
    if view.proxy is None or not view.proxy.running:
        return
    if view.network(view.desired.network) is not None and view.desired.network not in view.proxy.networks:
        yield ConnectNetwork("the proxy cannot reach the tenant", view.desired.network, view.proxy.name)
    kept = serving_route(view)
    if kept is not None and not proxy.same(view.route, kept):
        yield SetRoute("what serves must go on serving", replace(kept, since=int(view.now)))
    for container in view.debris:
        yield RemoveContainer("it never served, and the spec has changed since", container.name)


def serving_route(view: View) -> Route | None:
    """The way to what was verified last, under the names that it is served under; None when none of it is there."""
    served = (c for c in view.containers if names.PORT in c.labels and view.served_once(c))
    exposed = sorted(served, key=lambda c: c.name)
    if not exposed or view.config is None:
        return None
    upstreams = tuple(f"{container.name}:{container.labels[names.PORT]}" for container in exposed)
    return replace(view.route or view.desired.route, upstreams=upstreams, page="")
