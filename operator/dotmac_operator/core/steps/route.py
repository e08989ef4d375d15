"""Step 9: the proxy sends requests to the new containers, switched atomically."""

from collections.abc import Iterator
from dataclasses import replace

from dotmac_operator.core import proxy
from dotmac_operator.core.actions import Action, ConnectNetwork, SetRoute
from dotmac_operator.core.steps.base import MET, Step, Verdict, act, wait
from dotmac_operator.core.view import View


def proxy_ready(view: View) -> Verdict | None:
    """What the proxy has to be waited for; None when it takes routes."""
    container = view.proxy
    if container is None or not container.running:
        return wait(f"the proxy of Server {view.server.name} does not run", after=5.0)
    if view.config is None:
        return wait(f"the proxy of Server {view.server.name} has no configuration yet", after=2.0)
    return None


def check(view: View) -> Verdict:
    waiting = proxy_ready(view)
    if waiting is not None:
        return waiting
    actions = list(_actions(view))
    return act(*actions) if actions else MET


def _actions(view: View) -> Iterator[Action]:
    container = view.proxy
    if container is not None and view.desired.network not in container.networks:
        yield ConnectNetwork("the proxy cannot reach the tenant", view.desired.network, container.name)
    if not proxy.same(view.route, view.desired.route):
        reason = "the proxy has no route" if view.route is None else "the proxy's route differs"
        yield SetRoute(reason, replace(view.desired.route, since=int(view.now)), first=view.route is None)


STEP = Step("route", check)
