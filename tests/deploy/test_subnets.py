"""The demo's tenants get subnets that nothing else on the machine has."""

from ipaddress import IPv4Network

import pytest

from dotmac_local.demo.subnets import POOLS, NoFreePool, free_pool, networks_in


def test_bridges_and_rules_of_a_killed_dockerd_are_seen() -> None:
    routes = "default via 192.168.1.1 dev eth0\n10.210.64.64/27 dev br-0ee99127f77c proto kernel scope link linkdown\n"
    rules = "-A POSTROUTING -s 10.211.0.32/27 ! -o br-1 -j MASQUERADE\n-A OUTPUT ! -d 127.0.0.0/8 -j DOCKER\n"
    used = networks_in(routes + rules)
    assert IPv4Network("10.210.64.64/27") in used and IPv4Network("10.211.0.32/27") in used
    assert free_pool(used) == "10.212.0.0/16"


def test_what_is_no_network_is_passed_over() -> None:
    assert networks_in("default 0.0.0.0/0 version 1.2.3.4.5 999.1.1.1") == []


def test_a_route_for_a_whole_range_takes_nothing() -> None:
    assert free_pool(networks_in("10.0.0.0/8 via 10.8.0.1 dev tun0")) == str(POOLS[0])


def test_with_nothing_left_the_remedy_is_told() -> None:
    with pytest.raises(NoFreePool, match="ip link"):
        free_pool(list(POOLS))
