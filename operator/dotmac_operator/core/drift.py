"""What is different on a host although nobody changed a spec: names for it, which are the `kind` of a metric, and how
it is told. What was found is a mapping, kind -> what."""

from collections.abc import Iterable, Mapping, Sequence

from dotmac_crds.base import DriftRecord, FoundDrift
from dotmac_operator.core import actions as do
from dotmac_operator.core.conditions import TEXT_LIMIT, rfc3339

KINDS: Mapping[type[do.Action], str] = {
    do.RunContainer: "ContainerMissing",
    do.StartContainer: "ContainerStopped",
    do.UnpauseContainer: "ContainerPaused",
    do.RenameContainer: "ContainerRenamed",
    do.RemoveContainer: "ContainerSurplus",
    do.StopContainer: "ContainerSurplus",
    do.UpdateLimits: "LimitsChanged",
    do.ConnectNetwork: "NetworkDisconnected",
    do.DisconnectNetwork: "NetworkForeign",
    do.CreateNetwork: "NetworkMissing",
    do.CreateVolume: "VolumeMissing",
    do.PullImage: "ImageMissing",
    do.SetRoute: "RouteChanged",
    do.LoadProxy: "ProxyConfigChanged",
    do.GenerateSecrets: "SecretMissing",
}


def kind(action: do.Action) -> str:
    """The kind of drift that an action repairs; empty for one that only looks."""
    if isinstance(action, do.RunContainer | do.RemoveContainer) and action.reason.endswith(DEAD):
        return "ContainerDead"
    return KINDS.get(type(action), "")


def found(actions: Iterable[do.Action], known: Mapping[str, str]) -> dict[str, str]:
    """What is known, and what these actions repair; of each kind the first."""
    made = dict(known)
    for action in actions:
        if told := kind(action):
            made.setdefault(told, f"{action.text}: {action.reason}")
    return made


def records(found: Mapping[str, str]) -> list[FoundDrift]:
    """For a status, before the repair begins: whoever goes on after a crash finds the host in order again."""
    return [FoundDrift(kind=kind, what=what[:TEXT_LIMIT]) for kind, what in sorted(found.items())]


def recorded(records: Sequence[FoundDrift] | None) -> dict[str, str]:
    """What an operator found that did not live to see it repaired."""
    return {record.kind: record.what for record in records or ()}


def repaired(what: str, now: float) -> DriftRecord:
    """For a status, once it is in order again."""
    return DriftRecord(what=what[:TEXT_LIMIT], repaired_at=rfc3339(now))


DEAD = "is dead"
"""How the reason of an action ends that takes a dead container away."""
