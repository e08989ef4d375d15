"""Step 5: network, volumes, database and cache. Data volumes are made here once and never removed by a step."""

from collections.abc import Iterator

from dotmac_operator.core.actions import (
    Action,
    CreateNetwork,
    CreateVolume,
    RemoveContainer,
    RunContainer,
    StopContainer,
    UpdateLimits,
)
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.repair import repairs
from dotmac_operator.core.steps.base import (
    MET,
    PROBE_EVERY,
    Step,
    Verdict,
    act,
    blocked,
    failed,
    owner_labels,
    probes,
    wait,
)
from dotmac_operator.core.steps.crash import crash_loop
from dotmac_operator.core.subnets import PREFIX, free_subnet
from dotmac_operator.core.view import View


def check(view: View) -> Verdict:
    if view.network(view.desired.network) is None and _subnet(view) is None:
        pool = view.desired.network_pool
        return blocked(
            "NetworkPoolExhausted", f"no free /{PREFIX} in {pool}: widen spec.capacity.networkPool of the Server"
        )
    actions = [*missing_network(view), *_volumes(view), *_servers(view)]
    return act(*actions) if actions else _health(view)


def _subnet(view: View) -> str | None:
    return free_subnet(view.desired.network_pool, view.facts.networks, view.desired.network)


def missing_network(view: View) -> Iterator[Action]:
    """The tenant's network, where there is none."""
    if view.network(view.desired.network) is None:
        subnet = _subnet(view)
        if subnet is not None:
            yield CreateNetwork("the tenant has no network", view.desired.network, subnet, owner_labels(view))


def _volumes(view: View) -> Iterator[Action]:
    for name in view.desired.volumes:
        if view.volume(name) is None:
            lost = name in (view.record.volumes or ())  # a volume with data: step preflight has stopped there
            reason = "it is gone, and what was in it" if lost else "it does not exist"
            yield CreateVolume(reason, name, owner_labels(view))


def _servers(view: View) -> Iterator[Action]:
    for spec in view.desired.infrastructure:
        container = view.container(spec)
        yield from _others(view, spec, container)
        if container is None:
            yield RunContainer(_why(view, spec), view.pinned(spec))
        else:
            yield from repairs(view.pinned(spec), container)
            yield from _resize(view, spec, container)


def _resize(view: View, spec: ContainerSpec, container: ContainerFact) -> Iterator[Action]:
    """Of one whose limits nobody has read since this process began: a change sets those that it was not made with."""
    changes = view.record.applied_hash not in (None, view.desired.hash)
    if changes and container.inspected is None and not spec.made_with_limits(container.labels):
        yield UpdateLimits(f"{spec.role} was made with other limits", spec.name, spec)


def _others(view: View, spec: ContainerSpec, container: ContainerFact | None) -> Iterator[Action]:
    """Servers of another version must not run: two on one data directory would destroy it.

    The one that served stays, stopped, until the new version is verified: there is a way back without its Release.
    """
    for other in view.of_role(spec.role):
        if container is not None and other.id == container.id:
            continue
        if not view.served_once(other):
            yield RemoveContainer(f"{spec.role} of another version", other.name, grace=60)
        elif other.state in ("running", "paused", "restarting"):
            yield StopContainer(f"{spec.role} of another version", other.name, grace=60)


def _why(view: View, spec: ContainerSpec) -> str:
    return f"{spec.role} differs from the spec" if view.of_role(spec.role) else f"{spec.role} does not exist"


def _health(view: View) -> Verdict:
    due = [
        probe
        for spec in view.desired.infrastructure
        if (container := view.container(spec)) is not None
        for probe in probes(view, spec, container)
    ]
    slow = _slow(view)
    return act(*due) if due and slow.state == "wait" else slow


def _slow(view: View) -> Verdict:
    found = [(spec, container) for spec in view.desired.infrastructure if (container := view.container(spec))]
    crashing = crash_loop(view, found)
    if crashing is not None:
        return crashing
    for spec, container in found:
        state = view.health(spec, container)
        if state == "healthy":
            continue
        if state == "unhealthy":
            return failed("InfrastructureUnhealthy", f"{spec.role} is unhealthy", container.name)
        return _starting(view, spec, container, state)
    return MET


def _starting(view: View, spec: ContainerSpec, container: ContainerFact, state: str) -> Verdict:
    since = view.memory.unhealthy_since.get(container.id, view.now)
    if view.now - since > DEADLINE:
        return failed("InfrastructureUnhealthy", f"{spec.role} is {state} for {DEADLINE:.0f} s", container.name)
    return wait(f"{spec.role} is {state}", after=PROBE_EVERY)


DEADLINE = 300.0
"""Seconds until a database that neither becomes healthy nor unhealthy has failed."""

STEP = Step("infra", check)
