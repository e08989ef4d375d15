"""A container of the right version that is not as it must be: made right in place where Docker can, replaced else."""

from collections.abc import Iterator

from dotmac_operator.core import names
from dotmac_operator.core.actions import (
    Action,
    ConnectNetwork,
    DisconnectNetwork,
    RemoveContainer,
    RenameContainer,
    RunContainer,
    StartContainer,
    UnpauseContainer,
    UpdateLimits,
)
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.drift import DEAD
from dotmac_operator.core.facts import ContainerFact


def repairs(spec: ContainerSpec, found: ContainerFact) -> Iterator[Action]:
    """What is to be done to `found`, which is the container of `spec`; nothing when it is right or on its way."""
    if found.state == "dead":
        yield RemoveContainer(f"{spec.role} {DEAD}", found.name, grace=0)
        yield RunContainer(f"{spec.role} {DEAD}", spec)
        return
    if found.state == "removing":
        return
    if found.name != spec.name:
        yield RenameContainer(f"{spec.role} was renamed", found.name, spec.name)
    yield from revive(spec.name, found, spec.network)
    if found.inspected is not None and not spec.keeps_limits(found.inspected):
        yield UpdateLimits(f"{spec.role} has other limits than it should", spec.name, spec)


def revive(name: str, found: ContainerFact, network: str) -> Iterator[Action]:
    """What makes a container that is called `name` run on its own network, and on no other one."""
    role = found.labels.get(names.ROLE, "")
    if network not in found.networks:
        yield ConnectNetwork(f"{role} is not on its network", network, name, (role,))
    for other in sorted(found.networks):
        if other != network:
            yield DisconnectNetwork(f"{role} is on a network that is not its own", other, name)
    if found.state in ("created", "exited"):
        yield StartContainer(f"{role} is {found.state}", name)
    elif found.state == "paused":
        yield UnpauseContainer(f"{role} is paused", name)
