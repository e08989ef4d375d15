"""The fence on a host: programs of an operator that no longer leads are refused there, and its channels are ended.

Every program that can change a host is started through one constant script with these arguments:

    env LC_ALL=C [sudo -n --] sh -c SCRIPT dotmac-fence NUMBER DOMAIN PROGRAM ARGUMENT...

NUMBER grows with every change of the leader, DOMAIN names the operators that elect one leader among them. Under a lock
the script compares them with what the host has kept. It refuses an older number and another domain; on a newer number
it ends the channels of the older ones and keeps the number; then it becomes the program. See ADR 0013.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dotmac_operator.hosts.port import Fenced, FenceUnavailable, HostError, ManagedElsewhere

ARGV0 = "dotmac-fence"
"""Argument 0 of the script; NUMBER, DOMAIN and the program follow it."""
RELEASE = "--release"
"""In the place of the program: the host forgets its domain, so that another one may have it. The number stays."""
REFUSED = 76
"""Exit code of the script when it does not start the program (EX_PROTOCOL of sysexits.h)."""

_DOMAIN = re.compile(r"[a-z0-9][a-z0-9.-]{0,199}")


@dataclass(frozen=True)
class FenceToken:
    """What an operator shows to a host."""

    number: int
    domain: str
    """Lower-case letters, digits, dots and dashes."""

    def __post_init__(self) -> None:
        if not 0 <= self.number < 2**63:
            raise ValueError(f"the number {self.number} does not fit a shell's arithmetic")
        if not _DOMAIN.fullmatch(self.domain):
            raise ValueError(f"the domain {self.domain[:80]!r} may hold lower-case letters, digits, dots and dashes")


class Fence(Protocol):
    """Where the pool gets its number from. Thread-safe, and quick: it is asked before each call."""

    def token(self) -> FenceToken:
        """Raises NotLeading when this process may not act."""

    def refused(self, kept: int) -> None:
        """A host has kept this newer number."""


# Forks nothing but flock in the usual case (the kept number is ours). A channel is a file whose name holds what proves
# that a process is the one meant: pid, start time since boot, and the boot. Killing comes before keeping the number:
# cut off in between, the next try kills again. The lock ends with the subshell, or with its death.
SCRIPT = r"""
number=$1 domain=$2
shift 2
usable() { [ -w "$1" ] || { [ -w "${1%/*}/" ] && mkdir -m 700 "$1" 2>/dev/null; }; }
dir=${DOTMAC_FENCE_DIR:-/var/lib/dotmac-fence}
if ! usable "$dir" && [ -z "${DOTMAC_FENCE_DIR:-}" ]; then
  dir=${HOME:-/nowhere}/.dotmac-fence
  if ! usable "$dir"; then
    dir=/var/tmp/dotmac-fence-$(id -u)
    [ -O "$dir" ] || mkdir -m 700 "$dir" 2>/dev/null
    if ! [ -O "$dir" ] || [ -L "$dir" ]; then dir=; fi
  fi
fi
refuse() { printf 'dotmac-fence: %s\n' "$*" >&2; exit 76; }
[ -w "$dir" ] || refuse "unavailable no directory to write to"
[ -r /proc/self/stat ] || refuse "unavailable no /proc"
started() {
  start=
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  set -- ${stat##*) }
  start=${20:-}
  [ "$1" != Z ] && [ "$1" != X ]
}
keep() {
  printf '%s %s %s\n' "$number" "$domain" "$1" | dd of="$dir/$2" conv=notrunc,fsync 2>/dev/null
}
keep_durably() {
  rm -f "$dir/record.new"
  if keep "$1" record.new; then
    mv -f "$dir/record.new" "$dir/record"
  else
    rm -f "$dir/record.new"
    [ -s "$dir/record" ] && keep "$1" record  # a full disk still lets a block be overwritten
  fi || refuse "unavailable $dir cannot be written to"
  sync "$dir" 2>/dev/null || sync
}
(
  umask 007
  {
    flock 9 || refuse "unavailable no flock"
    kept=0 owner= state=released
    if [ -e "$dir/record" ]; then
      read -r kept owner state <"$dir/record"
      case $kept/$owner in /* | */ | *[!0-9]*/*) refuse "unavailable $dir/record is damaged: remove it" ;; esac
    fi
    if [ "$owner" != "$domain" ]; then
      [ "$state" = released ] || refuse "elsewhere $owner $dir/record"
    elif [ "$number" -lt "$kept" ]; then
      refuse "refused $kept"
    fi
    read -r boot </proc/sys/kernel/random/boot_id
    if [ "${1:-}" = --release ]; then keep_durably released; exit; fi
    [ -d "$dir/channels" ] || mkdir "$dir/channels"
    for file in "$dir"/channels/*; do
      set -f
      IFS=@
      set -- ${file##*/}
      unset IFS
      [ $# = 5 ] || continue
      pid=$3 since=$4 up=$5
      if [ "$up" = "$boot" ] && started "$pid" && [ "$start" = "$since" ]; then
        [ "$1@$2" != "$number@$domain" ] || continue
        kill -9 "$pid" 2>/dev/null
        tries=0
        while started "$pid" && [ "$start" = "$since" ]; do
          tries=$((tries + 1))
          [ "$tries" -le 100 ] || refuse "unavailable process $pid of an earlier leader cannot be ended"
          sleep 0.02 2>/dev/null || sleep 1
        done
      fi
      rm -f "$file"
    done
    [ "$kept $owner $state" = "$number $domain held" ] || keep_durably held
    started $$
    true >"$dir/channels/$number@$domain@$$@$start@$boot" || refuse "unavailable $dir cannot be written to"
  } 9>>"$dir/lock" || refuse "unavailable $dir cannot be written to"
) || exit 76
[ "$1" != --release ] || exit 0
exec "$@"
"""


def fenced(argv: Sequence[str], token: FenceToken) -> list[str]:
    """`argv` behind the fence. The script is constant; everything else is an argument."""
    return ["sh", "-c", SCRIPT, ARGV0, str(token.number), token.domain, *argv]


_SAID = re.compile(rf"^{ARGV0}: (refused|elsewhere|unavailable) (.{{1,400}})$", re.MULTILINE)


def refusal(host: str, stderr: str) -> HostError | Fenced | None:
    """The typed error in what the script said; None when it said nothing, so that the program itself failed."""
    found = _SAID.search(stderr)
    if found is None:
        return None
    kind, rest = found[1], found[2].strip()
    if kind == "refused" and rest.isdigit():
        return Fenced(f"{host}: a newer leader (number {rest}) works on this host; nothing was done", int(rest))
    if kind == "elsewhere":
        owner, _, record = rest.partition(" ")
        return ManagedElsewhere(
            f"{host}: the operators of another control plane ({owner}) manage this host; nothing was done. Delete its "
            f"Server there; or, if that control plane is gone for good, remove {record or 'its record'} on the host"
        )
    return FenceUnavailable(
        f"{host}: the host cannot keep the leader's number, so nothing is done there: {rest}. It needs flock, /proc "
        "and a directory for it: `install -d -m 2770 -g docker /var/lib/dotmac-fence`, or a home of the user"
    )
