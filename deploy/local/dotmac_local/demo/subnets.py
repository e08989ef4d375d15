"""Chooses the subnets of the demo's tenants where no other network of this machine has them.

A dockerd that was killed leaves its bridges behind, and their NAT rules: of two networks with one subnet, the rule of
the one rewrites the packets of the other, and containers side by side no longer reach each other.
"""

import re
from ipaddress import IPv4Network

from dotmac_local.demo.processes import CommandFailed, run

POOLS = tuple(IPv4Network(f"10.{number}.0.0/16") for number in range(210, 229))
_NETWORK = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?(?![\d.])")
_SOURCES = (
    ["ip", "-4", "route", "show", "table", "all"],
    ["ip", "-4", "-o", "address"],
    ["iptables", "-t", "nat", "-S"],
)


class NoFreePool(RuntimeError):
    """Every range that the demo may take is in use on this machine."""


def used_networks() -> list[IPv4Network]:
    """What addresses, routes and NAT rules of this machine name."""
    found = []
    for argv in _SOURCES:
        try:
            told = run(argv)
        except CommandFailed:
            continue  # no such table or program: then no rule either
        found += networks_in(told)
    return found


def networks_in(text: str) -> list[IPv4Network]:
    """Every network or address in the output of a program; the default route is none."""
    found = []
    for word in _NETWORK.findall(text):
        try:
            network = IPv4Network(word, strict=False)
        except ValueError:
            continue
        if network.prefixlen > 0:
            found.append(network)
    return found


def free_pool(used: list[IPv4Network]) -> str:
    """The first of POOLS that overlaps nothing in use.

    Raises:
        NoFreePool: there is none.
    """
    for pool in POOLS:
        # A rule for a whole private range, such as 10.0.0.0/8, is about routing and takes no address.
        if not any(pool.overlaps(network) for network in used if network.prefixlen >= pool.prefixlen):
            return str(pool)
    raise NoFreePool(
        f"{POOLS[0]} to {POOLS[-1]} are all in use on this machine: remove the networks (`ip link`, "
        "`iptables -t nat -S`) that no Docker needs any more, or restart the machine"
    )
