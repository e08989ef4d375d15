"""Known vulnerabilities of what is installed: `python deploy/lib/audit.py [--strict]`.

Runs pip-audit, which asks PyPI's vulnerability service, and OSV's where that one knows nothing, as many mirrors do not.
DOTMAC_OSV_URL names another service that speaks OSV's API; DOTMAC_ADVISORIES a checkout of
github.com/pypa/advisory-database, which is then asked instead of any service.
Exit status 1 on findings; 0 when there are none, and when nothing can be asked, which one clear line tells: a check
that was not made must not pass for one that was. With --strict such a run fails as well, with 2.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import advisories

COMMAND = [
    sys.executable,
    "-m",
    "pip_audit",
    "--format=json",
    "--progress-spinner=off",
    "--skip-editable",
    "--timeout=10",
]
SERVICES = ("--vulnerability-service=pypi", "--vulnerability-service=osv")
PATIENCE = 120
"""Seconds for one service; it takes some 20 where it answers."""
SKIPPED = "pip-audit: SKIPPED"


def findings(report: dict[str, Any]) -> Iterator[str]:
    """One line for each vulnerability of a report of pip-audit."""
    for package in report["dependencies"]:
        for found in package.get("vulns", []):
            mended = ", ".join(found["fix_versions"]) or "no release yet"
            yield f"{package['name']} {package['version']}: {found['id']}, mended in {mended}"


def judge(output: str) -> tuple[int, list[str]]:
    """(exit status, lines to show) for what pip-audit has printed."""
    try:
        report = json.loads(output)
    except ValueError:
        return 0, [f"{SKIPPED}, no vulnerability service can be reached; nothing was checked"]
    found = list(findings(report))
    if found:
        return 1, found
    asked = [package for package in report["dependencies"] if "skip_reason" not in package]
    if not asked:
        return 0, [f"{SKIPPED}, no vulnerability service knows any of the packages; nothing was checked"]
    left = len(report["dependencies"]) - len(asked)
    return 0, [
        f"pip-audit: {len(asked)} packages, no known vulnerability" + (f"; {left} unknown to it" if left else "")
    ]


def ask(service: str) -> str:
    """What pip-audit prints for the arguments of one service; nothing when it takes too long."""
    command = [*COMMAND, *service.split()]
    # A proxy for the world outside has no way to the service of this process.
    environment = {**os.environ, "no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1")))}
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=PATIENCE, env=environment
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def audit(services: tuple[str, ...] = SERVICES) -> tuple[int, list[str]]:
    """(exit status, lines to show) of the first service that could answer."""
    status, lines = 0, [""]
    for service in services:
        status, lines = judge(ask(service))
        if not lines[0].startswith(SKIPPED):
            break
    return status, lines


def by_checkout(folder: Path) -> tuple[int, list[str]]:
    """As audit(), by a checkout of advisories; how old it is belongs to the answer."""
    today = datetime.now(UTC).date()
    try:
        day = advisories.newest(folder, today)
    except ValueError:
        return 2, [f"pip-audit: DOTMAC_ADVISORIES={folder} has no advisories (vulns/<package>/*.yaml)"]
    with advisories.service(folder) as url:
        status, lines = audit((f"--vulnerability-service=osv --osv-url={url}",))
    age = (today - day).days
    return status, [
        *lines,
        f"pip-audit: by advisories up to {day}, {age} days ago; what became known since is not there",
    ]


def main() -> int:
    """Exit status."""
    checkout, url = os.environ.get("DOTMAC_ADVISORIES"), os.environ.get("DOTMAC_OSV_URL")
    if checkout:
        status, lines = by_checkout(Path(checkout))
    else:
        status, lines = audit((f"--vulnerability-service=osv --osv-url={url}",) if url else SERVICES)
    sys.stdout.write("\n".join(lines) + "\n")
    return 2 if "--strict" in sys.argv[1:] and lines[0].startswith(SKIPPED) else status


if __name__ == "__main__":
    sys.exit(main())
