"""Step 10: a request through the proxy, as a user would make it; then what was replaced goes."""

from collections.abc import Iterator

from dotmac_operator.core import names
from dotmac_operator.core.actions import Action, CountConnections, RemoveContainer, VerifyRoute
from dotmac_operator.core.container import RemoteCheck
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.proxy import LINGER
from dotmac_operator.core.steps.base import MET, Step, Verdict, act, failed, leftovers
from dotmac_operator.core.view import View

DEADLINE = 90.0
"""Seconds: the earlier platform's 18 tries of 5 s."""
DRAIN = 30
"""Seconds that requests may take to end, for a container that does not say it itself."""
STOP_GRACE = 60


def check(view: View) -> Verdict:
    if not view.verified:
        return _request(view)
    actions = list(_replaced(view)) or list(_draining(view))
    return act(*actions) if actions else MET


def _request(view: View) -> Verdict:
    since = view.memory.verify_since
    if since and view.now - since > DEADLINE:
        message = view.memory.verify_message or "no answer"
        return failed("VerifyFailed", f"no good answer through the proxy within {DEADLINE:.0f} s: {message}")
    host, mode = view.desired.route.hosts[0]
    exposed = next(spec for spec in view.desired.apps if spec.role == view.desired.exposed_role)
    path = exposed.check.path if isinstance(exposed.check, RemoteCheck) and exposed.check.kind == "http" else "/"
    reason = view.memory.verify_message or "what is served now was not asked for yet"
    return act(VerifyRoute(reason, host, mode != "Off", path))


def _replaced(view: View) -> Iterator[Action]:
    for container in view.outdated:
        if not _busy(view, container):
            grace = _number(container, names.STOP_GRACE, STOP_GRACE)
            yield RemoveContainer("it was replaced", container.name, grace=grace)
    for spec in view.desired.infrastructure:
        yield from leftovers(view, spec.role, spec.name)
    wanted = {spec.name for spec in (view.desired.migrate, view.desired.bootstrap) if spec is not None}
    for role in names.ONE_SHOTS:
        for container in view.of_role(role):
            if container.name not in wanted and not container.running:
                yield RemoveContainer("it has done its work", container.name, grace=0)


def _draining(view: View) -> Iterator[Action]:
    for container in view.outdated:
        if _busy(view, container):
            address, port = container.networks[view.desired.network], _number(container, names.PORT, 0)
            yield CountConnections("requests to it may still be open", container.name, address, port)


def _busy(view: View, container: ContainerFact) -> bool:
    """Whether requests may still be on their way to a container that has been replaced.

    The route that runs tells since when; the proxy tells what is open. Both are asked of the host, so a crash loses
    nothing but the last answer.
    """
    if names.PORT not in container.labels or not container.running or view.route is None:
        return False
    if not container.networks.get(view.desired.network):
        return False  # nobody can reach it
    spent = view.now - view.route.since
    if spent >= _number(container, names.DRAIN, DRAIN):
        return False
    found = view.memory.open_requests.get(container.id)
    if found is None or found.upstream is None or found.upstream > 0:
        return True
    return found.clients > 0 and spent < LINGER


def _number(container: ContainerFact, label: str, default: int) -> int:
    told = container.labels.get(label, "")
    return int(told) if told.isdecimal() else default


STEP = Step("verify", check)
