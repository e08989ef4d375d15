"""Step 10: a request through the proxy, as a user would make it; then what was replaced goes."""

from collections.abc import Iterator

from dotmac_operator.core import drain, names
from dotmac_operator.core.actions import Action, RemoveContainer, VerifyRoute
from dotmac_operator.core.container import RemoteCheck
from dotmac_operator.core.steps.base import MET, Step, Verdict, act, failed, leftovers
from dotmac_operator.core.view import View

DEADLINE = 90.0
"""Seconds: the earlier platform's 18 tries of 5 s."""
STOP_GRACE = 60


def check(view: View) -> Verdict:
    if not view.verified:
        return _request(view)
    actions = list(_replaced(view)) or list(drain.counts(view, view.outdated))
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
        if not drain.busy(view, container):
            grace = drain.number(container, names.STOP_GRACE, STOP_GRACE)
            yield RemoveContainer("it was replaced", container.name, grace=grace)
    for spec in view.desired.infrastructure:
        yield from leftovers(view, spec.role, spec.name)
    wanted = {spec.name for spec in (view.desired.migrate, view.desired.bootstrap) if spec is not None}
    for role in names.ONE_SHOTS:
        for container in view.of_role(role):
            if container.name not in wanted and not container.running:
                yield RemoveContainer("it has done its work", container.name, grace=0)


STEP = Step("verify", check)
