"""The update strategy Recreate: never two versions at once, at the price of a page in between."""

from dotmac_operator.core import drain, pages, proxy
from dotmac_operator.core.actions import Action, RemoveContainer, SetRoute, StopContainer
from dotmac_operator.core.rollback import FAILED, failed_version
from dotmac_operator.core.steps.base import Verdict, act
from dotmac_operator.core.stopped import grace, page_route
from dotmac_operator.core.view import View

_BEFORE = ("infra", "migrate", "start")
"""Steps that the old version must not live to see."""
_ALIVE = frozenset({"running", "paused", "restarting"})

type Verdicts = tuple[tuple[str, Verdict], ...]


def stop_old_first(view: View, verdicts: Verdicts) -> Verdicts:
    """The verdicts with the old version stopped before anything of the new one runs; the same when it is."""
    actions = _stop_old(view) if view.policy.recreate else ()
    first = next((name for name, verdict in verdicts if name in _BEFORE and not verdict.done), "")
    if not actions or not first:
        return verdicts
    return tuple((name, act(*actions) if name == first else verdict) for name, verdict in verdicts)


def _stop_old(view: View) -> tuple[Action, ...]:
    serving = set(view.record.serving or ())
    old = [container for container in view.previous if container.state in _ALIVE]
    if not old or all(spec.name in serving for spec in view.desired.apps):
        return ()  # fewer of the same: nothing new starts
    reason = "the old version stops before the new one starts (update.strategy: Recreate)"
    page = _page(view, reason)
    if page:
        return page
    stops = tuple(StopContainer(reason, container.name, grace=grace(container)) for container in old)
    return tuple(drain.counts(view, old)) or stops


def _page(view: View, reason: str) -> tuple[Action, ...]:
    """Users get the page unless what serves them stays."""
    page = page_route(view, pages.UPDATING.name)
    if view.config is None or proxy.same(view.route, page) or proxy.same(view.route, view.desired.route):
        return ()
    return (SetRoute(reason, page),)


def new_first(view: View, undo: tuple[Action, ...]) -> tuple[Action, ...]:
    """A rollback in the order that keeps the promise: the failed version goes before the old one starts again."""
    if not view.policy.recreate or not undo:
        return undo
    failed = failed_version(view)
    if any(view.serves(container) for container in failed):
        return (SetRoute(FAILED, page_route(view, pages.UPDATING.name)),)
    counted = tuple(drain.counts(view, failed))
    if counted:
        return counted
    removed = [action for action in undo if isinstance(action, RemoveContainer)]
    rest = [action for action in undo if not isinstance(action, RemoveContainer)]
    return (*removed, *rest)
