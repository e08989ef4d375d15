"""Taking an Instance off its host, in an order that is safe to repeat after a crash at any point."""

from collections.abc import Iterator
from dataclasses import dataclass

from dotmac_operator.core import names, proxy
from dotmac_operator.core.actions import (
    Action,
    DisconnectNetwork,
    RemoveContainer,
    RemoveNetwork,
    RemoveRoute,
    RemoveVolume,
)
from dotmac_operator.core.facts import ContainerFact, HostFacts


@dataclass(frozen=True)
class Departing:
    """The Instance that is going: enough to find all that it left on a host, even when its spec is invalid by now."""

    uid: str
    namespace: str
    org_code: str
    delete_data: bool
    reason: str = "the Instance is deleted"
    kept: frozenset[str] = frozenset()
    """Volumes that stay although the data is deleted."""
    name: str = ""
    served: bool = False
    """Whether it has ever been served: then its organisation's data there is its own, whoever made the volumes."""


_LAST = {names.CACHE: 1, names.DATABASE: 2}
"""Applications stop before what they write to."""


def plan_removal(going: Departing, facts: HostFacts) -> tuple[Action, ...]:
    """Everything that is still there; empty when it is all gone. Data volumes only where the policy says so."""
    return (*_route(going, facts), *_containers(going, facts), *network_removal(going, facts), *_volumes(going, facts))


def _route(going: Departing, facts: HostFacts) -> Iterator[Action]:
    if proxy.route_of(proxy.parse(facts.proxy_config), going.uid) is not None:
        yield RemoveRoute("the Instance is deleted", going.uid)


def _containers(going: Departing, facts: HostFacts) -> Iterator[Action]:
    mine = [c for c in facts.containers if c.labels.get(names.INSTANCE_UID) == going.uid or _restores(going, c)]
    for container in sorted(mine, key=lambda c: (_LAST.get(c.labels.get(names.ROLE, ""), 0), c.name)):
        yield RemoveContainer("the Instance is deleted", container.name, grace=30)


def _restores(going: Departing, container: ContainerFact) -> bool:
    """Whether it works for a Restore of the Instance, which ends with it."""
    role = f"{names.base(going.org_code)}-{names.RESTORE}"
    of_restore = (
        container.labels.get(names.JOB, "").startswith("Restore/") and container.name.rpartition("-")[0] == role
    )
    return of_restore and container.labels.get(names.NAMESPACE) == going.namespace


def network_removal(going: Departing, facts: HostFacts) -> Iterator[Action]:
    """Takes the tenant's network away, with whoever else is on it disconnected first."""
    for network in facts.networks:
        if network.labels.get(names.INSTANCE_UID) != going.uid:
            continue
        for container in facts.containers:
            attached = network.name in container.networks
            if attached and container.labels.get(names.INSTANCE_UID) != going.uid:
                yield DisconnectNetwork(going.reason, network.name, container.name)
        yield RemoveNetwork(going.reason, network.name)


def _volumes(going: Departing, facts: HostFacts) -> Iterator[Action]:
    if not going.delete_data:
        return
    for volume in facts.volumes:
        same_namespace = volume.labels.get(names.NAMESPACE) == going.namespace
        if volume.name in going.kept:
            continue
        # One that was refused, because the orgCode is taken or its credentials are, had nothing of what is there.
        own = going.served or volume.labels.get(names.INSTANCE) == going.name
        if own and same_namespace and volume.labels.get(names.ORG, "").lower() == going.org_code.lower():
            yield RemoveVolume("deletion policy Delete", volume.name)
