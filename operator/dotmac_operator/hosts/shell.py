"""The one place that turns an argv into what sshd hands to the login shell, and reads `df`."""

import re
import shlex
from collections.abc import Sequence

from dotmac_operator.core.facts import DiskFact
from dotmac_operator.hosts.port import HostError


class CommandInvalid(HostError):
    """An argv that cannot be carried to a host."""

    reason = "CommandInvalid"
    retryable = False


def command_line(argv: Sequence[str], *, sudo: bool = False) -> str:
    """Quotes `argv` for a POSIX login shell, with LC_ALL=C so that output can be parsed, and `sudo -n` if asked.

    sshd gives the shell one string (RFC 4254, 6.5 has no argv), so quoting cannot be avoided; it happens here only.
    """
    if not argv:
        raise CommandInvalid("an empty command")
    if argv[0].startswith("-") or "=" in argv[0] or not argv[0]:
        # env and sudo would read these as an option or an assignment.
        raise CommandInvalid(f"{argv[0][:80]!r} is not the name of a program")
    if any("\0" in word for word in argv):
        raise CommandInvalid(f"an argument of {argv[0]!r} contains a NUL byte, which no program can receive")
    prefix = ["env", "LC_ALL=C", "sudo", "-n", "--"] if sudo else ["env", "LC_ALL=C"]
    return shlex.join([*prefix, *argv])


DF = ("df", "-Pk", "--")

_DF_LINE = re.compile(r"\s(?P<total>\d+)\s+(?P<used>\d+)\s+(?P<free>-?\d+)\s+\S+\s+/")


def parse_df(output: bytes) -> DiskFact | None:
    """The last line of `df -Pk` (POSIX format, 1024-byte blocks); None when it is not one."""
    lines = output.decode(errors="replace").strip().splitlines()
    found = _DF_LINE.search(lines[-1]) if len(lines) >= 2 else None
    if found is None:
        return None
    return DiskFact(total=int(found["total"]) * 1024, free=max(0, int(found["free"])) * 1024)
