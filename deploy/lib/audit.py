"""Known vulnerabilities of what is installed: `python deploy/lib/audit.py`.

Runs pip-audit, which asks PyPI's vulnerability service, and OSV's where that one knows nothing, as many mirrors do not.
Exit status 1 on findings; 0 when there are none, and when neither can be reached, which one clear line tells: a check
that was not made must not pass for one that was.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

COMMAND = [
    sys.executable,
    "-m",
    "pip_audit",
    "--format=json",
    "--progress-spinner=off",
    "--skip-editable",
    "--timeout=10",
]
SERVICES = ("pypi", "osv")
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
    """What pip-audit prints; nothing when it takes too long."""
    command = [*COMMAND, f"--vulnerability-service={service}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)  # noqa: S603
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def audit() -> tuple[int, list[str]]:
    """(exit status, lines to show) of the first service that could answer."""
    status, lines = 0, [""]
    for service in SERVICES:
        status, lines = judge(ask(service))
        if not lines[0].startswith(SKIPPED):
            break
    return status, lines


def main() -> int:
    """Exit status."""
    status, lines = audit()
    sys.stdout.write("\n".join(lines) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
