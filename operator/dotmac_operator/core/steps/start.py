"""Step 7: the new containers start beside the old ones and must become healthy before anything else happens."""

from collections.abc import Iterator

from dotmac_operator.core import names
from dotmac_operator.core.actions import Action, RemoveContainer, RunContainer
from dotmac_operator.core.container import ContainerSpec, ExecCheck, RemoteCheck
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.repair import repairs
from dotmac_operator.core.steps.base import MET, PROBE_EVERY, Step, Verdict, act, failed, probes, wait
from dotmac_operator.core.steps.crash import crash_loop
from dotmac_operator.core.view import View

SETTLE = 30
"""Seconds that a container without a health check may take to run at all."""


def check(view: View) -> Verdict:
    actions = list(_missing(view))
    if actions:
        return act(*actions)
    crashing = crash_loop(view, list(_pairs(view)))
    if crashing is not None:
        return crashing
    late = next(iter(_late(view)), None)
    if late is not None:
        return late
    due = list(_probes(view))
    if due:
        return act(*due)
    waiting = [(spec, container) for spec, container in _pairs(view) if view.health(spec, container) != "healthy"]
    if not waiting:
        return MET
    told = ", ".join(f"{spec.role} is {view.health(spec, container)}" for spec, container in waiting[:3])
    return wait(told, after=PROBE_EVERY)


def _pairs(view: View) -> Iterator[tuple[ContainerSpec, ContainerFact]]:
    for spec in view.desired.apps:
        container = view.container(spec)
        if container is not None:
            yield spec, container


def _missing(view: View) -> Iterator[Action]:
    for debris in view.debris:
        yield RemoveContainer("it never served, and the spec has changed since", debris.name)
    for spec in view.desired.apps:
        container = view.container(spec)
        if container is None:
            known = any(other.labels.get(names.ROLE) == spec.role for other in view.containers)
            reason = f"{spec.role} differs from the spec" if known else f"{spec.role} does not exist"
            yield RunContainer(reason, view.pinned(spec))
        else:
            yield from repairs(view.pinned(spec), container)


def _probes(view: View) -> Iterator[Action]:
    for spec, container in _pairs(view):
        yield from probes(view, spec, container)


def _late(view: View) -> Iterator[Verdict]:
    for spec, container in _pairs(view):
        state = view.health(spec, container)
        if state == "healthy":
            continue
        since = view.memory.unhealthy_since.get(container.id)
        limit = view.policy.health_timeout or allowed(spec)
        late = since is not None and view.now - since > limit
        if late or (state == "unhealthy" and view.policy.health_timeout is None):
            probe = view.memory.probes.get(container.id)
            told = f": {probe.message}" if probe and probe.message else ""
            yield failed("AppUnhealthy", f"{spec.role} is {state} after {limit} s{told}", container.name)


def allowed(spec: ContainerSpec) -> int:
    """Seconds that a container may take to become healthy."""
    check_ = spec.check
    if isinstance(check_, ExecCheck | RemoteCheck):
        return check_.start_period + check_.retries * (check_.interval + check_.timeout)
    return SETTLE


STEP = Step("start", check)
