"""Everything that a step may look at: what is desired, what was observed, what was recorded, and the time."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from dotmac_crds.instance import InstanceStatus
from dotmac_crds.lifecycle import State
from dotmac_crds.server import ServerSpec
from dotmac_operator.core import names, proxy
from dotmac_operator.core.connections import OpenRequests
from dotmac_operator.core.container import ContainerSpec, ExecCheck, RemoteCheck
from dotmac_operator.core.desired import Desired
from dotmac_operator.core.digest import digest
from dotmac_operator.core.facts import ContainerFact, HostFacts, NetworkFact, VolumeFact
from dotmac_operator.core.lifecycle import Policy

CRASH_LIMIT = 5
"""Restarts within `CRASH_WINDOW`. With Docker's pauses of 0.1, 0.2, 0.4 ... s, three seconds of an app that dies at
once."""
CRASH_WINDOW = 600.0
"""Seconds."""
CRASH_CALM = 60.0
"""Seconds without a restart after which a container is well again: Docker's longest pause."""


@dataclass(frozen=True)
class Neighbour:
    """Another Instance of the same Server."""

    key: str
    """`namespace/name`."""
    uid: str
    org_code: str
    hosts: tuple[str, ...]
    memory: int
    """Bytes."""
    serving: bool = False
    """Whether it has ever been served: what it has then is not taken from it by a newcomer."""
    archived: bool = False
    """Whether nothing of it runs, nor will without a new look at what the Server can hold."""


@dataclass(frozen=True)
class ServerView:
    """What an Instance needs to know about its Server."""

    name: str
    spec: ServerSpec
    ready: bool
    message: str = ""
    memory: int = 0
    """Total bytes of the host; 0 when it was never probed."""


@dataclass(frozen=True)
class Probe:
    """What is known of a container that Docker itself does not check."""

    ok: bool
    at: float
    """Unix seconds of the last answer."""
    message: str = ""


@dataclass(frozen=True)
class Memory:
    """What this process remembers between two passes. Losing it costs a probe, never correctness."""

    probes: Mapping[str, Probe] = field(default_factory=dict)
    """Container id -> its last probe."""
    unhealthy_since: Mapping[str, float] = field(default_factory=dict)
    """Container id -> when it was first seen not healthy, Unix seconds."""
    verified: str = ""
    """`View.verify_key` of the last request that went through the proxy."""
    verify_since: float = 0.0
    """When the first request for the present serving hash was made; 0: not yet."""
    verify_message: str = ""
    restarts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Container id -> when Docker's policy has restarted it lately, Unix seconds."""
    open_requests: Mapping[str, OpenRequests] = field(default_factory=dict)
    """Container id -> what the proxy had open to it when it was last asked."""


@dataclass(frozen=True)
class View:
    """One snapshot of one Instance."""

    desired: Desired
    facts: HostFacts
    record: InstanceStatus
    server: ServerView
    now: float
    """Unix seconds."""
    credential_keys: frozenset[str] | None = None
    """Keys of the credentials Secret; None when it does not exist."""
    credentials_claimed: bool = True
    """Whether the credentials Secret, if there is one, says whose it is."""
    neighbours: tuple[Neighbour, ...] = ()
    memory: Memory = Memory()
    policy: Policy = Policy()

    before: Desired | None = None
    """What the Release that serves asks for, while a change of it waits or has failed; None when it is not known."""
    token: str = ""
    """The last value of the annotation that asks for another try."""
    job: str = ""
    """The Backup or Restore that works on the Instance's data now; empty: none does."""

    @cached_property
    def wanted(self) -> State:
        """The state to be in now."""
        return self.policy.wanted(self.now)

    @property
    def reached(self) -> State:
        """The state that the Instance was in when it last was as asked."""
        return self.record.state or "Running"

    @property
    def failed(self) -> bool:
        """Whether this very state has failed before and must not be tried again by itself."""
        failure, tenant = self.record.failure, self.desired.tenant
        return failure is not None and failure.hash == self.desired.hash and failure.generation == tenant.generation

    @cached_property
    def verify_key(self) -> str:
        """What is asked for through the proxy: what is desired, or, after a failure, what served before."""
        if not self.failed:
            return self.desired.serving_hash
        restores = [c.name for c in self.of_role(names.RESTORE) if c.exit_code == 0]
        return digest(["back", sorted(self.record.serving or ()), self.desired.hash, restores])

    @property
    def verified_back(self) -> bool:
        """Whether the previous version has answered since a change failed, with the database as it is now."""
        return self.failed and self.memory.verified == self.verify_key

    @cached_property
    def containers(self) -> tuple[ContainerFact, ...]:
        """The Instance's own containers, running or not."""
        uid = self.desired.tenant.uid
        return tuple(c for c in self.facts.containers if c.labels.get(names.INSTANCE_UID) == uid)

    @cached_property
    def _by_name(self) -> dict[str, ContainerFact]:
        return {container.name: container for container in self.containers}

    @cached_property
    def config(self) -> proxy.Config | None:
        parsed = self.facts.proxy_parsed
        return proxy.parse(self.facts.proxy_config) if parsed is None else dict(parsed)

    @cached_property
    def route(self) -> proxy.Route | None:
        """The Instance's route in the running proxy."""
        return proxy.route_of(self.config, self.desired.tenant.uid)

    @cached_property
    def _by_version(self) -> dict[tuple[str, str, str], ContainerFact]:
        return {_version(container): container for container in self.containers}

    def container(self, spec: ContainerSpec) -> ContainerFact | None:
        """By its name, or, renamed, by the labels that the name is made of."""
        found = self._by_name.get(spec.name)
        return found or self._by_version.get((spec.role, str(spec.index), spec.hash))

    def of_role(self, role: str) -> tuple[ContainerFact, ...]:
        return tuple(c for c in self.containers if c.labels.get(names.ROLE) == role)

    @property
    def proxy(self) -> ContainerFact | None:
        return next((c for c in self.facts.containers if c.name == names.PROXY_CONTAINER), None)

    def network(self, name: str) -> NetworkFact | None:
        return next((n for n in self.facts.networks if n.name == name), None)

    def volume(self, name: str) -> VolumeFact | None:
        return next((v for v in self.facts.volumes if v.name == name), None)

    @property
    def database_volume(self) -> str:
        return self.desired.volumes[0]

    @cached_property
    def pins(self) -> Mapping[str, str]:
        """Reference -> id of the image that the version which serves was made from."""
        return {pin.reference: pin.id for pin in self.record.images or ()}

    def moved(self, reference: str) -> bool:
        """Whether a reference does not point any more to the image that the Instance runs."""
        pin, found = self.pins.get(reference), self.facts.images.get(reference)
        if pin is None or found is None:
            return pin is not None
        return pin != found.id and not any(digest.endswith(f"@{pin}") for digest in found.digests)

    def pinned(self, spec: ContainerSpec) -> ContainerSpec:
        """The same container, made from the image that the Instance runs."""
        pin = self.pins.get(spec.image, "")
        return replace(spec, pinned=pin) if self.moved(spec.image) and pin in self.facts.images else spec

    @property
    def data_volumes(self) -> tuple[str, ...]:
        """Volumes with data that nobody can make again: those of an Instance that has served. Dumps are not among
        them: a tenant whose dumps are lost must be served on."""
        recorded = self.record.volumes
        if recorded is None:  # written by an earlier version of the operator
            served = self.record.release is not None and self.record.release.current is not None
            return (self.database_volume,) if served else ()
        return tuple(name for name in recorded if name in self.desired.volumes and name != self.desired.volumes[1])

    def serves(self, container: ContainerFact) -> bool:
        """Whether the running proxy sends requests to this container."""
        return self.route is not None and any(u.rpartition(":")[0] == container.name for u in self.route.upstreams)

    def done(self, name: str, hash_: str) -> bool:
        """Whether a one-shot of this digest is recorded as done."""
        return any(shot.name == name and shot.hash == hash_ for shot in self.record.one_shots or ())

    @property
    def verified(self) -> bool:
        serving = self.desired.serving_hash
        return self.memory.verified == serving or self.done("verify", serving)

    @cached_property
    def _app_ids(self) -> frozenset[str]:
        found = (self.container(spec) for spec in self.desired.apps)
        return frozenset(container.id for container in found if container is not None)

    def made_name(self, container: ContainerFact) -> str:
        """The name that a container was made with, where the record knows it; its present one else."""
        serving = self.record.serving or ()
        if container.name in serving:
            return container.name
        role, index, hash_ = _version(container)
        end = f"-{names.short(hash_)}"
        parts = (f"-{role}{end}", f"-{role}-{int(index or 0) + 1}{end}")
        base = self.desired.network
        return next((base + part for part in parts if base + part in serving), container.name)

    def served_once(self, container: ContainerFact) -> bool:
        """Whether it is of a version that was verified once."""
        return self.made_name(container) in (self.record.serving or ())

    @property
    def outdated(self) -> tuple[ContainerFact, ...]:
        """Application containers of another version, in a stable order."""
        found = (c for c in self.containers if names.is_app(c.labels) and c.id not in self._app_ids)
        return tuple(sorted(found, key=lambda c: c.name))

    @property
    def previous(self) -> tuple[ContainerFact, ...]:
        """Those of the outdated that were verified once: a failure must leave them in place."""
        return tuple(c for c in self.outdated if self.served_once(c))

    @property
    def way_back(self) -> bool:
        """Whether a change that fails can give way to what served before it: something else than now was verified
        once, and its application is there. It may be that no container differs, but a migration."""
        applied = self.record.applied_hash
        return applied not in (None, self.desired.hash) and any(
            names.is_app(c.labels) and self.served_once(c) for c in self.containers
        )

    @property
    def debris(self) -> tuple[ContainerFact, ...]:
        """Those of the outdated that never served: the spec changed again before they did."""
        return tuple(c for c in self.outdated if not self.served_once(c) and not self.serves(c))

    def health(self, spec: ContainerSpec, container: ContainerFact) -> str:
        """healthy, starting, unhealthy, or Docker's word for a container that does not run."""
        if self.crashes(container):
            return "restarting"  # also while it runs for a moment: a status that flips with each crash costs writes
        if not container.running:
            return container.state
        if isinstance(spec.check, ExecCheck):
            return self._probed(container) if container.health in ("", "starting") else container.health
        if isinstance(spec.check, RemoteCheck):
            return self._probed(container)
        return "healthy"

    def crashes(self, container: ContainerFact) -> bool:
        """Whether Docker's policy restarts it again and again."""
        times = self.memory.restarts.get(container.id, ())
        restless = container.state == "restarting" or (bool(times) and self.now - times[-1] < CRASH_CALM)
        return len(times) >= CRASH_LIMIT and restless

    def _probed(self, container: ContainerFact) -> str:
        probe = self.memory.probes.get(container.id)
        if probe is not None:
            return "healthy" if probe.ok else "starting"
        # It passed its gate before this process began: it is on record as healthy.
        recorded = any(c.container == container.name and c.health == "healthy" for c in self.record.components or ())
        return "healthy" if recorded else "starting"


def _version(container: ContainerFact) -> tuple[str, str, str]:
    labels = container.labels
    return labels.get(names.ROLE, ""), labels.get(names.INDEX, "0"), labels.get(names.HASH, "")
