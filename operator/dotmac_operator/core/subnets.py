"""Addresses for networks: a subnet that nothing on the host uses."""

from collections.abc import Iterable
from ipaddress import IPv4Network, ip_network

from dotmac_operator.core.digest import digest
from dotmac_operator.core.facts import NetworkFact

PREFIX = 27
"""Size of a tenant's network: 29 containers. Docker's own pools end at about 30 networks of a host."""


def free_subnet(pool: str, networks: Iterable[NetworkFact], name: str = "") -> str | None:
    """A /27 of the pool that overlaps no network of the host; None when the pool is used up.

    The first one from a place that the network's name gives: tenants that are deployed at the same moment would all
    choose the first one of the pool, and all but one would have to choose again.
    """
    found = (ip_network(subnet, strict=False) for network in networks for subnet in network.subnets)
    taken = [subnet for subnet in found if isinstance(subnet, IPv4Network)]
    whole = IPv4Network(pool, strict=False)
    prefix = max(PREFIX, whole.prefixlen)
    count, size = 2 ** (prefix - whole.prefixlen), 2 ** (32 - prefix)
    begin = int(digest(name)[:8], 16) % count if name else 0
    for place in range(count):
        address = whole.network_address + (begin + place) % count * size
        subnet = IPv4Network((address, prefix))
        if not any(subnet.overlaps(other) for other in taken):
            return str(subnet)
    return None
