"""TCP connections of the proxy, as Linux tells them in `/proc/net/tcp`. Source: proc(5), net/ipv4/tcp_ipv4.c."""

import ipaddress
from dataclasses import dataclass

ARGV = ("cat", "/proc/net/tcp", "/proc/net/tcp6")
"""To be run in the proxy's container. The second file is absent without IPv6; what was printed counts all the same."""
CLIENT_PORTS = frozenset({80, 443})
"""The ports that the proxy listens on in its container."""
_TITLE = "local_address"
_ESTABLISHED = "01"
_MAPPED = "0000000000000000FFFF0000"


@dataclass(frozen=True)
class Connection:
    """One established connection; `remote` is an IPv4 address, or empty for one that is none."""

    local_port: int
    remote: str
    remote_port: int


@dataclass(frozen=True)
class OpenRequests:
    """What the proxy has open, seen at one moment."""

    upstream: int | None
    """Connections to one container; None when the proxy's image has no program to tell them."""
    clients: int = 0
    """Connections of clients, for whatever tenant."""


def parse(text: str) -> tuple[Connection, ...] | None:
    """The established connections; None when this is no such table, but the word of an engine that found no program."""
    if _TITLE not in text:
        return None
    made = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 3 and words[3] == _ESTABLISHED:
            _, _, local_port = words[1].partition(":")
            remote, _, remote_port = words[2].partition(":")
            try:
                made.append(Connection(int(local_port, 16), _address(remote), int(remote_port, 16)))
            except ValueError:
                continue
    return tuple(made)


def clients(text: str) -> int | None:
    """How many connections clients have; None when nothing is told."""
    found = parse(text)
    return None if found is None else sum(connection.local_port in CLIENT_PORTS for connection in found)


def open_requests(text: str, address: str, port: int) -> OpenRequests:
    """Connections to `address:port`, and of clients."""
    found = parse(text)
    if found is None:
        return OpenRequests(None)
    upstream = sum((made.remote, made.remote_port) == (address, port) for made in found)
    return OpenRequests(upstream, clients(text) or 0)


def _address(word: str) -> str:
    """`0100007F` is 127.0.0.1: four bytes in the order of the machine, which is little-endian where Docker runs."""
    four = word.removeprefix(_MAPPED)
    if len(four) != 8:
        return ""
    return str(ipaddress.IPv4Address(bytes.fromhex(four)[::-1]))
