"""Puts the machine's network back to what it was before a dockerd of ours ran in it: bridges, iptables, forwarding.

dockerd itself leaves all of that behind when it ends.
"""

import os
import re
import shutil
from pathlib import Path

from dotmac_local.demo.processes import CommandFailed, all_pids, attempt, run

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_FAMILIES = ("iptables", "ip6tables")
_TABLES = ("filter", "nat", "raw")
type Record = dict[str, str]


def remember() -> Record:
    """What to go back to, taken before dockerd starts for the first time. Empty where a Docker has been before us."""
    if Path("/sys/class/net/docker0").exists():
        return {}
    record = {"ip_forward": _FORWARDING.read_text().strip(), "bridges": " ".join(_docker_bridges())}
    for family in _FAMILIES:
        rules = _saved(family, "filter")
        if ":DOCKER " in rules:
            return {}
        policy = re.search(r"^:FORWARD (\w+)", rules, re.MULTILINE)
        record[family] = policy.group(1) if policy else "ACCEPT"
    return record


def restore(record: Record) -> None:
    """Go back to it, unless there was a Docker before ours or another one runs now."""
    if not record or _another_dockerd():
        return
    bridges = {"docker0", *_docker_bridges()} - set(record["bridges"].split())
    for bridge in bridges:
        attempt(["ip", "link", "delete", bridge, "type", "bridge"])
    word = re.compile(r"(?<![\w-])(DOCKER[\w-]*|" + "|".join(map(re.escape, sorted(bridges))) + r")(?![\w-])")
    for family in _FAMILIES:
        for table in _TABLES:
            rules = _saved(family, table)
            if not word.search(rules):
                continue
            kept = [line for line in rules.splitlines() if not word.search(line)]
            text = "\n".join(kept) + "\n"
            if table == "filter":
                text = re.sub(r"^:FORWARD \w+", f":FORWARD {record.get(family, 'ACCEPT')}", text, flags=re.MULTILINE)
            run([f"{family}-restore", f"--table={table}"], data=text.encode())
    _FORWARDING.write_text(record["ip_forward"])


def _docker_bridges() -> list[str]:
    """Bridges named as Docker names those of its networks."""
    return sorted(path.name for path in Path("/sys/class/net").glob("br-????????????"))


def _saved(family: str, table: str) -> str:
    """The rules of one table; empty where this machine has no such table or program."""
    if shutil.which(f"{family}-save") is None:
        return ""
    try:
        return run([f"{family}-save", "--table", table])
    except CommandFailed:
        return ""


def _another_dockerd() -> bool:
    """Whether a dockerd that has rules to lose runs in this network namespace; one that builds images has none."""
    here = os.readlink("/proc/self/ns/net")
    for pid in all_pids():
        process = Path(f"/proc/{pid}")
        try:
            if (process / "comm").read_text().strip() != "dockerd" or os.readlink(process / "ns/net") != here:
                continue
            if b"--iptables=false" not in (process / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False
