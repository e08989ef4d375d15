"""Addresses for networks: a subnet that nothing on the host uses."""

from collections.abc import Iterable
from ipaddress import IPv4Network, ip_network

from dotmac_operator.core.facts import NetworkFact

PREFIX = 27
"""Size of a tenant's network: 29 containers. Docker's own pools end at about 30 networks of a host."""


def free_subnet(pool: str, networks: Iterable[NetworkFact]) -> str | None:
    """The first /27 of the pool that overlaps no network of the host; None when the pool is used up."""
    found = (ip_network(subnet, strict=False) for network in networks for subnet in network.subnets)
    taken = [subnet for subnet in found if isinstance(subnet, IPv4Network)]
    whole = IPv4Network(pool, strict=False)
    for subnet in whole.subnets(new_prefix=max(PREFIX, whole.prefixlen)):
        if not any(subnet.overlaps(other) for other in taken):
            return str(subnet)
    return None
