"""The steps of an Instance that is not to run: Suspended keeps its containers, Archived only its data.

In both, users get a page first, then what they have asked before is answered, then the application stops, and last what
it writes to. Archived dumps the database in between, when nobody writes to it any more.
"""

from collections.abc import Iterator
from dataclasses import replace

from dotmac_operator.core import drain, names, proxy
from dotmac_operator.core.actions import Action, RemoveContainer, SetRoute, StopContainer
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.proxy import Route
from dotmac_operator.core.removal import Departing, network_removal
from dotmac_operator.core.steps import backup, preflight, route
from dotmac_operator.core.steps.base import MET, Verdict, act, skipped, wait
from dotmac_operator.core.view import View

APP_GRACE, CACHE_GRACE, DATABASE_GRACE = 30, 10, 60
"""Seconds between SIGTERM and SIGKILL."""
_GRACE = {names.CACHE: CACHE_GRACE, names.DATABASE: DATABASE_GRACE}
_STOPPABLE = frozenset({"running", "paused", "restarting"})


def check(view: View) -> tuple[tuple[str, Verdict], ...]:
    """(step, verdict) in the order of work; the steps that have nothing to do come last."""
    archived = view.wanted == "Archived"
    reason = f"the Instance is to be {view.wanted.lower()}"
    busy = [
        ("preflight", preflight.presence(view, opened=archived)),
        ("route", _page(view, reason)),
        ("migrate", _one_shots(view)),
        ("start", _apps(view, reason)),
        ("backup", _last_dump(view) if archived else skipped("the data stays where it is")),
        ("infra", _cleared(view, reason) if archived else _servers(view, reason)),
    ]
    idle = skipped(reason)
    return (*busy, *((name, idle) for name in ("secrets", "images", "bootstrap", "verify")))


def page_route(view: View, page: str) -> Route:
    """The tenant's host names with a page in place of its containers."""
    return replace(view.desired.route, upstreams=(), page=page, since=int(view.now))


def occasion(view: View) -> str:
    """Another one each time that the Instance is archived: between two of them lies an edit of its state."""
    return f"archived {view.desired.tenant.generation}"


def _last_dump(view: View) -> Verdict:
    made = backup.final(view, occasion(view))
    if made.state != "failed":
        return made
    hint = "nothing is taken away without it: mend the database, or set spec.state to Suspended"
    return replace(made, message=f"{made.message}; {hint}")


def _page(view: View, reason: str) -> Verdict:
    waiting = route.proxy_ready(view)
    if waiting is not None:
        return waiting
    page = page_route(view, view.wanted)
    if proxy.same(view.route, page):
        return MET
    return act(SetRoute(reason, page))


def _one_shots(view: View) -> Verdict:
    """A migration that is stopped half-way could leave a database that no version understands: it may end first."""
    over = []
    final = backup.dump(view, backup.final_name(view, occasion(view))).name
    for container in view.containers:
        role = container.labels.get(names.ROLE, "")
        if role not in names.ONE_SHOTS or not container.running or container.name == final:
            continue
        if view.now - container.created <= _allowed(view, role):
            return wait(f"{role} still runs and may end before anything is stopped", after=30.0)
        over.append(StopContainer(f"{role} has had its time", container.name, grace=APP_GRACE))
    return act(*over) if over else MET


def _allowed(view: View, role: str) -> int:
    """Seconds that a one-shot may take."""
    timeouts = {names.MIGRATE: view.desired.migrate_timeout, names.BOOTSTRAP: view.desired.bootstrap_timeout}
    return timeouts.get(role) or backup.TIMEOUT


def _apps(view: View, reason: str) -> Verdict:
    """All of them run until the last request is answered, because it may need a worker."""
    counted = tuple(drain.counts(view, (c for c in view.containers if names.is_app(c.labels))))
    return act(*counted) if counted else apps(view, reason)


def apps(view: View, reason: str) -> Verdict:
    """The application's containers stand still, whatever they are at."""
    return _still([c for c in view.containers if names.is_app(c.labels)], reason)


def _servers(view: View, reason: str) -> Verdict:
    return _still([c for role in (names.CACHE, names.DATABASE) for c in view.of_role(role)], reason)


def _still(containers: list[ContainerFact], reason: str) -> Verdict:
    running = (c for c in containers if c.state in _STOPPABLE)
    actions = [StopContainer(reason, c.name, grace=grace(c)) for c in running]
    return act(*actions) if actions else MET


def grace(container: ContainerFact) -> int:
    return _GRACE.get(container.labels.get(names.ROLE, ""), APP_GRACE)


def _cleared(view: View, reason: str) -> Verdict:
    actions = list(_clear(view, reason))
    return act(*actions) if actions else MET


def _clear(view: View, reason: str) -> Iterator[Action]:
    last = {names.CACHE: 1, names.DATABASE: 2}
    for container in sorted(view.containers, key=lambda c: (last.get(c.labels.get(names.ROLE, ""), 0), c.name)):
        yield RemoveContainer(reason, container.name, grace=grace(container))
    tenant = view.desired.tenant
    going = Departing(tenant.uid, tenant.namespace, view.desired.org_code, delete_data=False, reason=reason)
    yield from network_removal(going, view.facts)
