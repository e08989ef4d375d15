"""Which Server a new Instance goes to: the least loaded one that matches and fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dotmac_crds.instance import LabelSelector, SelectorRequirement


@dataclass(frozen=True)
class Candidate:
    """One Server, as placement sees it. Memory in bytes."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    schedulable: bool
    instances: int
    max_instances: int
    memory_capacity: int
    memory_allocated: int


def choose(candidates: Sequence[Candidate], selector: LabelSelector, memory: int) -> tuple[str | None, str]:
    """(name of the Server or None, why none).

    Least loaded: by the share of memory that would be given away, then by Instances, then by name, so that the
    choice is the same whatever order the Servers come in.
    """
    matching = [c for c in candidates if matches(selector, c.labels)]
    if not matching:
        return None, f"none of {len(candidates)} Servers of the namespace matches spec.placement.selector"
    fitting = [c for c in matching if _refusal(c, memory) == ""]
    if not fitting:
        return None, "; ".join(f"{c.name}: {_refusal(c, memory)}" for c in matching[:5])
    best = min(fitting, key=lambda c: ((c.memory_allocated + memory) / max(1, c.memory_capacity), c.instances, c.name))
    return best.name, ""


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Kubernetes' own semantics: all labels and all expressions; NotIn also matches an absent label."""
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    return all(_holds(requirement, labels) for requirement in selector.match_expressions)


def _holds(requirement: SelectorRequirement, labels: Mapping[str, str]) -> bool:
    present = requirement.key in labels
    if requirement.operator == "Exists":
        return present
    if requirement.operator == "DoesNotExist":
        return not present
    listed = present and labels[requirement.key] in requirement.values
    return listed if requirement.operator == "In" else not listed


def _refusal(candidate: Candidate, memory: int) -> str:
    if not candidate.ready:
        return "not ready"
    if not candidate.schedulable:
        return "schedulable is false"
    if candidate.instances >= candidate.max_instances:
        return f"full ({candidate.instances} Instances)"
    if candidate.memory_allocated + memory > candidate.memory_capacity:
        return "too little memory left"
    return ""
