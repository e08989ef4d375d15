"""Undoing a failed change: the new containers go, the old ones keep serving."""

from collections.abc import Iterator

from dotmac_operator.core import names, proxy
from dotmac_operator.core.actions import Action, RemoveContainer, SetRoute, StartContainer
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.proxy import Route
from dotmac_operator.core.view import View


def undo(view: View) -> tuple[Action, ...]:
    """What is left to do until the previous version serves alone; empty when it does."""
    old = view.previous
    if not old:
        return ()  # nothing else could serve, so what there is stays for somebody to look at
    return (*_start_again(old), *_route_back(view), *_remove_new(view))


def _start_again(old: tuple[ContainerFact, ...]) -> Iterator[Action]:
    for container in old:
        if container.state in ("created", "exited"):
            yield StartContainer("the previous version must serve", container.name)


def _route_back(view: View) -> Iterator[Action]:
    serving = view.record.serving or ()
    exposed = sorted((c for c in view.containers if c.name in serving and names.PORT in c.labels), key=lambda c: c.name)
    if not exposed or view.config is None:
        return
    upstreams = tuple(f"{container.name}:{container.labels[names.PORT]}" for container in exposed)
    back = Route(view.desired.tenant.uid, view.desired.route.hosts, upstreams, int(view.now))
    if not proxy.same(view.route, back):
        yield SetRoute("the previous version must serve", back)


def _remove_new(view: View) -> Iterator[Action]:
    # What the failed change left as it was has been serving before it, and stays.
    new = {spec.name for spec in view.desired.apps} - set(view.record.serving or ())
    new |= {container.name for container in view.debris}
    for container in view.containers:
        one_shot = container.labels.get(names.ROLE) in (names.MIGRATE, names.BOOTSTRAP, names.BACKUP)
        # A one-shot that failed goes, or the next try would find it in place of running anew.
        if container.name in new or (one_shot and container.exit_code != 0):
            yield RemoveContainer("its version failed", container.name)
