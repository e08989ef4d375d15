"""Where a server listens."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Address:
    host: str
    """IPv4, IPv6 without brackets, or a name; empty for all interfaces."""
    port: int
    """0 for any free one."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(text: str) -> Address:
    """`host:port`, `:port` or `[v6]:port`.

    Raises:
        ValueError: it is none of these.
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535 or (":" in bare and bare == host):
        raise ValueError(f"{text!r} is no address: write host:port, :port or [v6]:port")
    return Address(bare, int(port))
