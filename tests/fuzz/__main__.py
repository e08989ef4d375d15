"""`python -m tests.fuzz [--seconds N] [--seed S]`: schemathesis as the administrator of one tenant, then of all.

Passes when no request answers 5xx, no answer of success shows a tenant anything of the other, and everything of the
other tenant is afterwards as it was. --seconds counts the time of generated requests, without the start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.facade import Facade, foreign, serving

HOOKS = "tests.fuzz.hooks"
ROOT = Path(__file__).resolve().parents[2]
# Streams never end by themselves; mail settings would have the facade call any host; the rest is served to machines.
LEFT_OUT = r"/stream$|/settings/notifications|^/metrics$"


@dataclass(frozen=True)
class Part:
    """One run of schemathesis: as whom, which of its phases, and for which part of the time."""

    username: str
    phases: str
    share: float


PARTS = (
    Part("globex", "fuzzing", 0.3),
    Part("globex", "stateful", 0.3),
    Part("root", "fuzzing", 0.2),
    Part("root", "stateful", 0.2),
)
# The same cases in every run, some 10 s for each account: only where there is time for more than them.
COVERAGE = (Part("globex", "coverage", 1.0), Part("root", "coverage", 1.0))
LONG = 120


def fuzz(facade: Facade, part: Part, seconds: int, seed: int, others: Path | None) -> list[str]:
    """Runs schemathesis; what it printed if it found something."""
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", f"{facade.url}/openapi.json", "--max-time", str(seconds), "--seed", str(seed)]
    command += ["--phases", part.phases]
    command += [
        "--checks",
        "not_a_server_error" + (",cross_tenant" if others else ""),
        "--exclude-path-regex",
        LEFT_OUT,
    ]
    command += ["--header", f"Authorization: Bearer {facade.tokens[part.username]}", "--generation-database", "none"]
    command += ["--suppress-health-check", "all", "--warnings", "off", "--no-color", "--continue-on-failure"]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": HOOKS,
        "FUZZ_SEED": str(seed),
        "FUZZ_USER": part.username,
        "PYTHONPATH": str(ROOT),
    }
    if others is not None:
        environment["FUZZ_FOREIGN"] = str(others)
    done = subprocess.run(
        command, env=environment, cwd=facade.log.parent, capture_output=True, text=True, check=False,
        timeout=seconds * 4 + 120,
    )  # fmt: skip
    return [done.stdout + done.stderr] if done.returncode else []


def run(seconds: int, seed: int) -> list[str]:
    """What is wrong, in words; [] when all is well."""
    parts = (*COVERAGE, *PARTS) if seconds >= LONG else PARTS
    with serving() as facade:
        wrong = []
        for username in ("globex", "root"):
            with _protected(facade, wrong) if username == "globex" else nullcontext() as others:
                for part in parts:
                    if part.username == username:
                        wrong += fuzz(facade, part, max(1, int(seconds * part.share)), seed, others)
        for line in facade.tally():
            print(line)  # noqa: T201 - a command
        return wrong + [f"in the log: {failure}" for failure in facade.failures()]


@contextmanager
def _protected(facade: Facade, wrong: list[str]) -> Iterator[Path]:
    """A file for the hooks that names what belongs to ACME; afterwards notes what of it has changed."""
    theirs = foreign(facade, "acme", "globex")
    protected = ("instance_id", "backup_id", "restore_id", "webhook_id", "person_id")
    assert all(theirs[name] for name in protected), "nothing to protect"
    ids = {name: list(rows) for name, rows in theirs.items() if rows}
    file = facade.log.with_name("foreign.json")
    marks = [uid for rows in ids.values() for uid in rows]
    file.write_text(json.dumps({"ids": ids, "marks": [*marks, "acme.example", "log of acme"]}))
    yield file
    after = foreign(facade, "acme", "globex")
    for name, rows in theirs.items():
        wrong += [
            f"{name} {uid} of the other tenant changed"
            for uid in rows
            if _essence(after[name].get(uid)) != _essence(rows[uid])
        ]
    return wrong


MOVING = ("mirrored_at", "last_seen_at", "last_used_at", "updated_at", "expires_at")


def _essence(row: dict[str, Any] | None) -> dict[str, Any] | None:
    """A row without what its owner's own requests move."""
    return None if row is None else {name: value for name, value in row.items() if name not in MOVING}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="for both accounts together (default: 600)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    wrong = run(options.seconds, options.seed)
    for finding in wrong:
        print(finding, file=sys.stderr)  # noqa: T201
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
