"""Names for what can be different on a host although nobody changed a spec; they are the `kind` of a metric."""

from collections.abc import Mapping

from dotmac_operator.core import actions as do

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


DEAD = "is dead"
"""How the reason of an action ends that takes a dead container away."""
