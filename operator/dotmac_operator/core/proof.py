"""What is said of a Server whose Instances were all compared at once: see ADR 0029."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dotmac_crds.server import PROOF_DETAILS, Proof, ProofDetail
from dotmac_operator.core.conditions import TEXT_LIMIT, rfc3339
from dotmac_operator.core.plan import Plan


@dataclass(frozen=True)
class Finding:
    """What was found of one Instance."""

    name: str
    result: Literal["InSync", "Differs", "NotProven"]
    reason: str = ""
    message: str = ""


def in_sync(name: str) -> Finding:
    return Finding(name, "InSync")


def differs(name: str, reason: str, message: str) -> Finding:
    return Finding(name, "Differs", reason, message)


def not_proven(name: str, reason: str, message: str) -> Finding:
    return Finding(name, "NotProven", reason, message)


def judge(name: str, plan: Plan, outdated: bool) -> Finding:
    """By what its own pass would do; `outdated`: it would write another status than there is."""
    if plan.rolled_back:
        return differs(name, "UpgradeRolledBack", "what it asks for has failed; what served before is kept")
    if plan.held is not None:
        return differs(name, plan.held.reason, plan.held.message)
    if plan.current is not None:
        step, verdict = plan.current
        told = f"step {step}: {verdict.message}" if verdict.message else f"step {step}"
        return differs(name, verdict.reason or "Differs", told)
    if outdated:
        return differs(name, "Progressing", "the host is as asked; its status does not say so yet")
    return in_sync(name)


def summary(findings: Sequence[Finding], at: float) -> Proof:
    """For the Server's status; `at` in Unix seconds. Bounded, however many Instances there are."""
    held = {result: [f for f in findings if f.result == result] for result in ("InSync", "Differs", "NotProven")}
    told = [f for result in ("Differs", "NotProven") for f in sorted(held[result], key=lambda f: f.name)]
    return Proof(
        at=rfc3339(at),
        result=f"{len(held['InSync'])}/{len(findings)}",
        instances=len(findings),
        in_sync=len(held["InSync"]),
        differing=len(held["Differs"]),
        not_proven=len(held["NotProven"]),
        details=[_detail(finding) for finding in told[:PROOF_DETAILS]],
    )


def _detail(finding: Finding) -> ProofDetail:
    assert finding.result != "InSync"  # noqa: S101 - `summary` has sorted them out
    return ProofDetail(
        name=finding.name, result=finding.result, reason=finding.reason, message=finding.message[:TEXT_LIMIT]
    )
