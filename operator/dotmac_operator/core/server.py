"""What a Server's host must have before any Instance: the proxy, its network and volumes. And a Server's status."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dotmac_crds.base import Condition, DriftRecord
from dotmac_crds.server import Allocated, Proof, ServerFacts, ServerSpec, ServerStatus
from dotmac_operator.core import drift, names, proxy
from dotmac_operator.core.actions import (
    Action,
    CreateNetwork,
    CreateVolume,
    DisconnectNetwork,
    LoadProxy,
    PullImage,
    RemoveContainer,
    RunContainer,
)
from dotmac_operator.core.conditions import condition, merge, rfc3339
from dotmac_operator.core.facts import ContainerFact, DiskFact, EngineInfo, HostFacts
from dotmac_operator.core.quantity import mebibytes, memory_bytes
from dotmac_operator.core.repair import repairs
from dotmac_operator.core.subnets import free_subnet

DISK_PRESSURE = 0.10
"""Free share of the disk below which no image should be pulled any more."""


def plan_proxy(spec: ServerSpec, uid: str, facts: HostFacts) -> tuple[Action, ...]:
    """What the host still needs for its proxy; empty when it runs with the right configuration."""
    actions = tuple(_make(spec, uid, facts))
    if actions:
        return actions
    running = next((c for c in facts.containers if c.name == names.PROXY_CONTAINER and c.running), None)
    if running is None:
        return ()
    config = proxy.parse(facts.proxy_config)
    if config is None:
        return (LoadProxy("the proxy has no configuration", proxy.base_config(spec.proxy)),)
    wanted = proxy.rebase(config, spec.proxy)
    return () if wanted == config else (LoadProxy("the proxy's configuration differs from the spec", wanted),)


def _make(spec: ServerSpec, uid: str, facts: HostFacts) -> Iterator[Action]:
    wanted = proxy.container(spec, uid)
    labels = tuple(wanted.labels.items())
    if wanted.image not in facts.images:
        yield PullImage("the host does not have it", wanted.image)
    if not any(network.name == names.PROXY_NETWORK for network in facts.networks):
        subnet = free_subnet(spec.capacity.network_pool, facts.networks)
        if subnet is not None:
            yield CreateNetwork("the proxy has no network", names.PROXY_NETWORK, subnet, labels)
    for volume in (names.PROXY_CONFIG_VOLUME, names.PROXY_DATA_VOLUME):
        if not any(found.name == volume for found in facts.volumes):
            yield CreateVolume("it does not exist", volume, labels)
    container = proxy_of(facts)
    if container is not None and container.labels.get(names.HASH) != wanted.hash:
        yield RemoveContainer("the proxy differs from the spec", container.name, grace=35)
        container = None
    if container is None:
        yield RunContainer("the proxy does not exist", wanted)
        return
    for action in repairs(wanted, container):
        # The networks of its tenants are not the Server's to judge: their Instances connect it.
        if not isinstance(action, DisconnectNetwork):
            yield action


def proxy_of(facts: HostFacts) -> ContainerFact | None:
    """The proxy's container: by its name, or, renamed, by its labels."""
    ours = [c for c in facts.containers if c.labels.get(names.ROLE) == names.PROXY and names.SERVER_UID in c.labels]
    named = (c for c in facts.containers if c.name == names.PROXY_CONTAINER)
    return next(named, None) or next(iter(ours), None)


@dataclass(frozen=True)
class HostProblem:
    """Why a host cannot be used: the reason of a `HostError` or of a missing Secret."""

    reason: str
    message: str
    retryable: bool


@dataclass(frozen=True)
class ServerSituation:
    """What one pass learned about a Server."""

    generation: int
    now: float
    instances: int = 0
    memory: int = 0
    """Bytes given to Instances."""
    info: EngineInfo | None = None
    disk: DiskFact | None = None
    proxy_ready: bool = False
    proxy_message: str = ""
    repaired: Mapping[str, str] = field(default_factory=dict)
    """Kind of drift -> what was found of the proxy, and is in order now."""
    problem: HostProblem | None = None
    paused: bool = False
    deleting: str = ""
    offered_key: str | None = None
    reconcile_token: str | None = None
    proof: Proof | None = None
    """What was found of the Instances, when the token is a new one."""


# Which condition a problem denies; those before it in the chain hold, those after it are unknown.
_CHAIN = ("Reachable", "HostKeyVerified", "DockerReady", "ProxyReady")
_DENIES = {
    "HostKeyUnknown": "HostKeyVerified",
    "HostKeyChanged": "HostKeyVerified",
    "AuthenticationFailed": "DockerReady",
    "DockerNotPermitted": "DockerReady",
    "DockerAbsent": "DockerReady",
    "DockerTooOld": "DockerReady",
    "EngineError": "ProxyReady",
    "Conflict": "ProxyReady",
    "NotFound": "ProxyReady",
    "ProxyRefused": "ProxyReady",
    "NameTaken": "ProxyReady",
    "ForwardingRefused": "ProxyReady",
}


def compute(old: ServerStatus, spec: ServerSpec | None, situation: ServerSituation) -> ServerStatus:
    """The new status; equal to the old one when nothing that a reader could care about has changed."""
    facts = _facts(situation) or old.facts
    capacity = None
    if facts is not None and facts.memory is not None and spec is not None:
        capacity = mebibytes(max(0, memory_bytes(facts.memory) - memory_bytes(spec.capacity.reserved_memory)))
    new = old.model_copy(
        update={
            "observed_generation": situation.generation,
            "facts": facts,
            "allocated": Allocated(
                instances=situation.instances, memory=mebibytes(situation.memory), memory_capacity=capacity
            ),
            "host_keys": _pinned(old, spec, situation),
            "drift": _drift(old, situation),
            "repairing": None if situation.repaired else old.repairing,
            "conditions": merge(old.conditions, _conditions(situation), situation.generation, situation.now),
            "last_handled_reconcile_at": situation.reconcile_token or old.last_handled_reconcile_at,
            "proof": situation.proof or old.proof,
        }
    )
    if new == old:
        return old
    return new.model_copy(update={"last_probe_time": rfc3339(situation.now)})


def _facts(situation: ServerSituation) -> ServerFacts | None:
    info, disk = situation.info, situation.disk
    if info is None:
        return None
    return ServerFacts(
        os=info.os[:253],
        kernel=info.kernel[:253],
        arch=info.arch[:253],
        cpus=info.cpus,
        memory=mebibytes(info.memory),
        disk=_gibibytes(disk.total) if disk else None,
        disk_free=_gibibytes(disk.free) if disk else None,
        docker_version=info.version[:253],
    )


def _drift(old: ServerStatus, situation: ServerSituation) -> DriftRecord | None:
    if not situation.repaired:
        return old.drift
    return drift.repaired("; ".join(situation.repaired.values()), situation.now)


def _gibibytes(size: int) -> str:
    return f"{size // 2**30}Gi"


def _pinned(old: ServerStatus, spec: ServerSpec | None, situation: ServerSituation) -> list[str] | None:
    """The key that TrustOnFirstUse pins: the first one, for good."""
    if spec is None or spec.host_key_policy != "TrustOnFirstUse" or spec.host_keys:
        return None
    if old.host_keys:
        return old.host_keys
    return [situation.offered_key] if situation.offered_key else None


def _conditions(situation: ServerSituation) -> Iterator[Condition]:
    yield from _chain(situation)
    yield from _disk(situation)
    problem = situation.problem
    if situation.deleting:
        yield condition("Ready", False, "Deleting", situation.deleting)
        yield condition("Reconciling", True, "Deleting", situation.deleting)
        yield condition("Stalled", False, "Deleting")
        yield condition("DeletionBlocked", True, "DeletionBlocked", situation.deleting)
    elif situation.paused:
        yield condition("Ready", None, "Paused", f"annotation {names.PAUSED} is set: the host is not looked at")
        yield condition("Reconciling", False, "Paused")
        yield condition("Stalled", False, "Paused")
    elif problem is not None:
        stalled = not problem.retryable
        yield condition("Ready", False, problem.reason, problem.message)
        yield condition("Reconciling", not stalled, problem.reason, problem.message)
        yield condition("Stalled", stalled, problem.reason, problem.message if stalled else "")
    else:
        ready = situation.proxy_ready
        reason, message = ("Converged", "") if ready else ("Progressing", situation.proxy_message)
        yield condition("Ready", ready, reason, message or "Instances can be deployed to it")
        yield condition("Reconciling", not ready, reason, message)
        yield condition("Stalled", False, reason)


def _chain(situation: ServerSituation) -> Iterator[Condition]:
    if situation.paused or situation.deleting:
        return  # it was not looked at
    problem = situation.problem
    denied = _DENIES.get(problem.reason, "Reachable") if problem else ""
    holds: bool | None = True
    for type_ in _CHAIN:
        if problem is not None and type_ == denied:
            yield condition(type_, False, problem.reason, problem.message)
            holds = None
        elif type_ == "ProxyReady" and holds:
            reason = "Running" if situation.proxy_ready else "NotRunning"
            yield condition(type_, situation.proxy_ready, reason, situation.proxy_message)
        else:
            yield condition(type_, holds, "Observed" if holds else "NotObserved")


def _disk(situation: ServerSituation) -> Iterable[Condition]:
    disk = situation.disk
    if disk is None or disk.total == 0:
        return
    short = disk.free < disk.total * DISK_PRESSURE
    message = f"{_gibibytes(disk.free)} of {_gibibytes(disk.total)} are free" if short else ""
    yield condition("DiskPressure", short, "LittleSpace" if short else "EnoughSpace", message)
