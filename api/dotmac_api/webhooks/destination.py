"""Where a webhook may go: never into networks that only we can reach, whatever a name resolves to.

The addresses are checked in the resolver that the connection itself uses, so a name cannot resolve to one address for
the check and to another for the connection (DNS rebinding).
"""

import re
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

type Network = IPv4Network | IPv6Network
type Address = IPv4Address | IPv6Address

MAX_URL = 2000
# They carry an IPv4 address inside: NAT64 (RFC 6052, 8215), 6to4 (RFC 3056), Teredo (RFC 4380).
_TRANSLATED = tuple(ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
# Not for the public either, although ipaddress calls some of them global: IETF protocol assignments (RFC 6890), the
# relays of 6to4 (RFC 7526), site-local (RFC 3879).
_RESERVED = tuple(ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "fec0::/10"))
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


class DestinationRefused(ValueError):
    """The URL must not be called; the message says why and what would do."""


class PrivateAddress(OSError):
    """A name resolved to an address that must not be called."""


def allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Whether a webhook may connect to `address`: a public unicast one, or one inside `networks`."""
    mapped = getattr(address, "ipv4_mapped", None)
    plain: Address = mapped or address
    if any(plain.version == network.version and plain in network for network in networks):
        return True
    if any(plain.version == network.version and plain in network for network in (*_TRANSLATED, *_RESERVED)):
        return False
    return plain.is_global and not plain.is_multicast and not plain.is_reserved


def check_url(url: str, networks: Sequence[Network]) -> None:
    """Raises DestinationRefused for what can be judged without DNS: scheme, credentials, host, literal addresses."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as failure:
        raise DestinationRefused(f"not a URL: {failure}") from failure
    if len(url) > MAX_URL or not url.isascii() or any(c.isspace() or ord(c) < 33 for c in url):
        raise DestinationRefused(f"must be at most {MAX_URL} printable ASCII characters; write the name in punycode")
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise DestinationRefused("must be an https:// or http:// URL with a host")
    if parts.username is not None or parts.password is not None:
        raise DestinationRefused("must not hold credentials; the signature header proves who we are")
    if parts.fragment:
        raise DestinationRefused("must not have a fragment; it is never sent")
    literal = literal_address(host)
    if literal is not None and not allowed(literal, networks):
        raise DestinationRefused(_refusal(host))
    if literal is None and not _NAME.fullmatch(host):
        raise DestinationRefused(f"{host!r} is no name of a host")


def literal_address(host: str) -> Address | None:
    """The address that `host` is written as, also in the old forms (`127.1`, `0x7f000001`, `127.0.0.1.`) that
    resolvers accept.
    """
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host.removesuffix(".")))
    except OSError:
        return None


def guarded_socket(networks: Sequence[Network]) -> Callable[[tuple[Any, ...]], socket.socket]:
    """Makes the sockets of connections, and none to an address that must not be called, however it was come by."""

    def make(address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, where = address
        if not allowed(ip_address(str(where[0]).split("%")[0]), networks):
            raise PrivateAddress(_refusal(str(where[0])))
        return socket.socket(family, kind, protocol)

    return make


class PublicResolver(AbstractResolver):
    """Resolves by the system's resolver and hands out only the addresses that may be called."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._inner = aiohttp.ThreadedResolver()
        self._networks = networks

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        good = [r for r in found if allowed(ip_address(r["host"].split("%")[0]), self._networks)]
        if not good:
            raise PrivateAddress(_refusal(host))
        return good

    async def close(self) -> None:
        await self._inner.close()


def _refusal(host: str) -> str:
    return (
        f"{host} is not a public address; an administrator may allow its network in DOTMAC_API_WEBHOOK_ALLOW_NETWORKS"
    )
