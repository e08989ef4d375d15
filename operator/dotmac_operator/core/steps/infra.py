"""Step 5: network, volumes, database and cache. Data volumes are made here once and never removed by a step."""

from collections.abc import Iterator

from dotmac_operator.core.actions import Action, CreateNetwork, CreateVolume, RunContainer, StartContainer
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.steps.base import MET, Step, Verdict, act, blocked, failed, leftovers, owner_labels, wait
from dotmac_operator.core.subnets import PREFIX, free_subnet
from dotmac_operator.core.view import View


def check(view: View) -> Verdict:
    if view.network(view.desired.network) is None and _subnet(view) is None:
        pool = view.desired.network_pool
        return blocked(
            "NetworkPoolExhausted", f"no free /{PREFIX} in {pool}: widen spec.capacity.networkPool of the Server"
        )
    actions = [*_network(view), *_volumes(view), *_servers(view)]
    return act(*actions) if actions else _health(view)


def _subnet(view: View) -> str | None:
    return free_subnet(view.desired.network_pool, view.facts.networks)


def _network(view: View) -> Iterator[Action]:
    if view.network(view.desired.network) is None:
        subnet = _subnet(view)
        if subnet is not None:
            yield CreateNetwork("the tenant has no network", view.desired.network, subnet, owner_labels(view))


def _volumes(view: View) -> Iterator[Action]:
    for name in view.desired.volumes:
        if view.volume(name) is None:
            yield CreateVolume("it does not exist", name, owner_labels(view))


def _servers(view: View) -> Iterator[Action]:
    for spec in view.desired.infrastructure:
        container = view.container(spec)
        if container is None:
            # The old one goes first: two servers on one data directory would destroy it.
            yield from leftovers(view, spec.role, spec.name)
            yield RunContainer(_why(view, spec), spec)
        elif container.state in ("created", "exited"):
            yield StartContainer(f"{spec.role} is {container.state}", spec.name)


def _why(view: View, spec: ContainerSpec) -> str:
    return f"{spec.role} differs from the spec" if view.of_role(spec.role) else f"{spec.role} does not exist"


def _health(view: View) -> Verdict:
    for spec in view.desired.infrastructure:
        container = view.container(spec)
        if container is None:
            continue
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
    return wait(f"{spec.role} is {state}", after=2.0)


DEADLINE = 300.0
"""Seconds until a database that neither becomes healthy nor unhealthy has failed."""

STEP = Step("infra", check)
