"""The page of conditions knows every reason that the code can write, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from dotmac_operator.core import gate, status
from dotmac_operator.core.reasons import CONDITIONS, NOTHING, REASONS, page

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "operator" / "dotmac_operator"
WORD = re.compile(r"[A-Z][A-Za-z]+")
# Call -> position of the reason among its arguments.
CALLS = {
    "condition": 2,
    "Problem": 0,
    "HostProblem": 0,
    "SpecError": 0,
    "NotYet": 0,
    "failed": 0,
    "blocked": 0,
    "one_shot": 3,
    "waits": 0,
    "waiting": 1,
    "Refused": 0,
    "Report": 1,
    "complete": 1,
    "cause": 1,
}
NAMED = ("reason", "ROLLED_BACK")
"""Variables that hold a reason, alone or first of a tuple."""
# Reasons of Events and of errors that never reach a condition.
ELSEWHERE = {"NotReady", "Ready"}


def words(node: ast.expr) -> Iterator[str]:
    """String constants that an expression may be: itself, either side of a choice, the first of a tuple."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and WORD.fullmatch(node.value):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from words(node.body)
        yield from words(node.orelse)
    elif isinstance(node, ast.Tuple) and node.elts:
        yield from words(node.elts[0])


def assigned(node: ast.Assign) -> Iterator[str]:
    for target in node.targets:
        first = target.elts[0] if isinstance(target, ast.Tuple) and target.elts else target
        if isinstance(first, ast.Name) and first.id in NAMED:
            every = node.value.elts if first.id == "ROLLED_BACK" and isinstance(node.value, ast.Tuple) else [node.value]
            for value in every:
                yield from words(value)


def written() -> dict[str, str]:
    """Reason -> a place in the code that writes it."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if (
            path.relative_to(PACKAGE).parts[0] not in ("core", "reconcile", "hosts", "handlers")
            or path.stem == "reasons"
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            made: list[str] = []
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                position = CALLS.get(called)
                if position is not None and len(node.args) > position:
                    made = list(words(node.args[position]))
            elif isinstance(node, ast.Assign):
                made = list(assigned(node))
            found |= {word: f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}" for word in made}
    # Those that are made of other words.
    found |= dict.fromkeys(status.STOPPED, "core/status.py") | dict.fromkeys(
        (gate.APPROVAL, gate.WINDOW, gate.BACKUP), "core/gate.py"
    )
    found |= dict.fromkeys((status.IMAGE_MOVED, "FeaturesNotSupported", "ModulesNotSupported"), "core")
    return found


def test_every_reason_in_the_code_has_its_remedy() -> None:
    missing = {word: place for word, place in written().items() if word not in REASONS and word not in ELSEWHERE}
    assert not missing, "add them to core/reasons.py"


def test_no_reason_is_left_over() -> None:
    # Running is also a state of an Instance: see _stopped_aspects.
    assert sorted(set(REASONS) - set(written())) == []


def test_the_collection_sees_each_way_of_writing_one() -> None:
    found = written()
    for word in ("Converged", "Waiting", "HostKeyChanged", "MigrateFailed", "VerifyFailed", "OrgCodeTaken", "NoDomain",
                 "ServerChanged", "SecretMissing", "UpgradeFailed", "NotServed", "NotRunning", "Invalid"):  # fmt: skip
        assert word in found, word


def test_every_condition_is_told() -> None:
    types = re.compile(r"condition\(\s*\"([A-Z][A-Za-z]+)\"")
    named = {name for path in (PACKAGE / "core").glob("*.py") for name in types.findall(path.read_text())}
    assert named <= set(CONDITIONS)
    assert {"Reachable", "HostKeyVerified", "DockerReady", "ProxyReady", "AppHealthy"} <= set(CONDITIONS)


def test_what_needs_somebody_says_what_to_do() -> None:
    for name, reason in REASONS.items():
        assert reason.state == "good" or reason.remedy != NOTHING, name


def test_the_page_is_up_to_date() -> None:
    """Else: python -m dotmac_operator.core.reasons > deploy/docs/conditions.md"""
    assert (ROOT / "deploy" / "docs" / "conditions.md").read_text() == page()
