"""What a step wants done, as data. The reconciler executes it; nothing here touches a host."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dotmac_operator.core.container import ContainerSpec, ExecCheck, RemoteCheck
from dotmac_operator.core.desired import GeneratedKey
from dotmac_operator.core.proxy import Config, Route


@dataclass(frozen=True)
class Action:
    """One effect. `reason` says why it is needed; `text` what it is, without any secret."""

    reason: str

    @property
    def text(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class GenerateSecrets(Action):
    secret: str
    org_code: str
    keys: tuple[GeneratedKey, ...]

    @property
    def text(self) -> str:
        return f"generate {', '.join(key.key for key in self.keys)} in Secret {self.secret}"


@dataclass(frozen=True)
class ClaimCredentials(Action):
    """The Secret is to say whose it is, and to go with its Instance."""

    secret: str
    org_code: str

    @property
    def text(self) -> str:
        return f"label Secret {self.secret}"


@dataclass(frozen=True)
class PullImage(Action):
    reference: str

    @property
    def text(self) -> str:
        return f"pull image {self.reference}"


@dataclass(frozen=True)
class CreateNetwork(Action):
    name: str
    subnet: str
    labels: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        return f"create network {self.name} ({self.subnet})"


@dataclass(frozen=True)
class CreateVolume(Action):
    name: str
    labels: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        return f"create volume {self.name}"


@dataclass(frozen=True)
class RunContainer(Action):
    """Create the container, unless one of that name exists, and start it."""

    container: ContainerSpec

    @property
    def text(self) -> str:
        return f"run container {self.container.name} from {self.container.image}"


@dataclass(frozen=True)
class StartContainer(Action):
    name: str

    @property
    def text(self) -> str:
        return f"start container {self.name}"


@dataclass(frozen=True)
class StopContainer(Action):
    name: str
    grace: int = 10
    """Seconds between SIGTERM and SIGKILL."""

    @property
    def text(self) -> str:
        return f"stop container {self.name}"


@dataclass(frozen=True)
class UnpauseContainer(Action):
    name: str

    @property
    def text(self) -> str:
        return f"unpause container {self.name}"


@dataclass(frozen=True)
class RenameContainer(Action):
    name: str
    """As it is called now."""
    wanted: str

    @property
    def text(self) -> str:
        return f"rename container {self.name} back to {self.wanted}"


@dataclass(frozen=True)
class UpdateLimits(Action):
    """Gives a container the limits that it should have, without a restart."""

    name: str
    container: ContainerSpec

    @property
    def text(self) -> str:
        return f"set the limits of container {self.name}"


@dataclass(frozen=True)
class RemoveContainer(Action):
    name: str
    grace: int = 10
    """Seconds between SIGTERM and SIGKILL."""

    @property
    def text(self) -> str:
        return f"remove container {self.name}"


@dataclass(frozen=True)
class ConnectNetwork(Action):
    network: str
    container: str
    aliases: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return f"connect {self.container} to network {self.network}"


@dataclass(frozen=True)
class DisconnectNetwork(Action):
    network: str
    container: str

    @property
    def text(self) -> str:
        return f"disconnect {self.container} from network {self.network}"


@dataclass(frozen=True)
class RemoveNetwork(Action):
    name: str

    @property
    def text(self) -> str:
        return f"remove network {self.name}"


@dataclass(frozen=True)
class RemoveVolume(Action):
    name: str

    @property
    def text(self) -> str:
        return f"remove volume {self.name} and its data"


@dataclass(frozen=True)
class ProbeContainer(Action):
    """Ask a container over the network whether it works; the answer becomes a fact of the next observation."""

    name: str
    address: str
    check: RemoteCheck

    @property
    def text(self) -> str:
        return f"probe {self.name} by {self.check.kind} on port {self.check.port}"


@dataclass(frozen=True)
class ProbeInside(Action):
    """Run a container's health check at once, in place of waiting for Docker's first one."""

    name: str
    check: ExecCheck

    @property
    def text(self) -> str:
        return f"probe {self.name} by its own check"


@dataclass(frozen=True)
class CountConnections(Action):
    """Ask the proxy how many requests it has open to a container; the answer becomes a fact of the next observation."""

    name: str
    address: str
    port: int

    @property
    def text(self) -> str:
        return f"count open requests of {self.name}"


@dataclass(frozen=True)
class SetRoute(Action):
    route: Route
    first: bool = False
    """The Instance has none yet, so that nobody's requests are switched by it."""

    @property
    def text(self) -> str:
        hosts = ", ".join(host for host, _ in self.route.hosts)
        target = f"the page {self.route.page}" if self.route.page else ", ".join(self.route.upstreams)
        return f"route {hosts} to {target}"


@dataclass(frozen=True)
class RemoveRoute(Action):
    owner: str

    @property
    def text(self) -> str:
        return "remove the route"


@dataclass(frozen=True)
class LoadProxy(Action):
    """Load a whole configuration: the proxy has none, or its base differs from the Server's spec."""

    config: Config

    @property
    def text(self) -> str:
        return "load the proxy's configuration"


@dataclass(frozen=True)
class VerifyRoute(Action):
    """A request through the proxy, as a user would make it."""

    host: str
    tls: bool
    path: str
    below: int = 400
    """Status codes below this one are good answers."""
    unless: str = ""
    """Why the answer does not count, whatever it is."""

    @property
    def text(self) -> str:
        return f"request {'https' if self.tls else 'http'}://{self.host}{self.path} through the proxy"


@dataclass(frozen=True)
class RecordBackup(Action):
    """Read the checksum out of a finished backup container's log."""

    container: str
    file: str
    release: str

    @property
    def text(self) -> str:
        return f"record backup {self.file}"


_TOGETHER: tuple[tuple[type[Action], ...], ...] = (
    (CreateNetwork, CreateVolume),
    (RunContainer, StartContainer),
    (RemoveContainer,),
    (PullImage,),
    (ProbeContainer, ProbeInside, CountConnections),
)
"""Kinds of which one action never needs another one of the same step to be done before it."""


def batches(actions: Sequence[Action]) -> Iterator[list[Action]]:
    """The actions in their order, with neighbours that do not need each other put together."""
    batch: list[Action] = []
    kinds: tuple[type[Action], ...] = ()
    for action in actions:
        if batch and not isinstance(action, kinds):
            yield batch
            batch = []
        if not batch:
            kinds = next((group for group in _TOGETHER if isinstance(action, group)), ())
        batch.append(action)
    if batch:
        yield batch
