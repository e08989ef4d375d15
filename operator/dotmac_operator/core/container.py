"""A container as it must be, and the Engine API body that makes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dotmac_operator.core import names
from dotmac_operator.core.digest import digest
from dotmac_operator.core.facts import Inspected
from dotmac_operator.core.quantity import cpu_nanos, memory_bytes
from dotmac_operator.core.secret import SecretStr

NANOSECONDS = 1_000_000_000
NO_NETWORK = "none"
"""Docker's own name for it."""

type EnvValue = str | SecretStr


@dataclass(frozen=True)
class Limit:
    """What one container may take: Kubernetes quantities and a count."""

    cpu: str
    memory: str
    pids: int


@dataclass(frozen=True)
class ExecCheck:
    """A health check that Docker runs inside the container. Times in seconds."""

    test: tuple[str, ...]
    """Docker's own form: `CMD` and argv, or `CMD-SHELL` and one constant line."""
    interval: int = 5
    timeout: int = 5
    retries: int = 10
    start_period: int = 60

    @property
    def argv(self) -> tuple[str, ...]:
        """What Docker runs for it."""
        return ("/bin/sh", "-c", *self.test[1:]) if self.test[0] == "CMD-SHELL" else self.test[1:]


@dataclass(frozen=True)
class RemoteCheck:
    """A health check that the operator makes from the host, as a kubelet does. Times in seconds."""

    kind: str
    """http or tcp."""
    port: int
    path: str = "/"
    timeout: int = 5
    start_period: int = 60
    retries: int = 3
    interval: int = 10


@dataclass(frozen=True)
class ContainerSpec:
    """Everything that a container is made of."""

    base_name: str
    """Name without the hash: `dotmac-<orgcode>-<role>[-<n>]`."""
    role: str
    image: str
    network: str
    aliases: tuple[str, ...]
    limit: Limit
    index: int = 0
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: Mapping[str, EnvValue] = field(default_factory=dict)
    secret_key: bytes = field(default=b"", repr=False)
    """Key for the versions of secrets in the hash."""
    mounts: Mapping[str, str] = field(default_factory=dict)
    """Path in the container -> volume."""
    read_only: frozenset[str] = frozenset()
    """Those of these paths that nothing may be written to."""
    capabilities: tuple[str, ...] = ()
    check: ExecCheck | RemoteCheck | None = None
    stop_grace: int = 30
    restart: bool = True
    """False for a container that runs to its end once."""
    user: str = ""
    """The image's own user when empty."""
    ports: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """`80/tcp` -> (host address, host port). The proxy's only; tenants publish nothing."""
    pinned: str = ""
    """Id of the image to make it from in place of what the reference points to; not part of the hash."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that say who it belongs to; not part of the hash."""
    restarted: str = ""
    """A new value makes another container of it, although nothing else has changed."""
    fixed_hash: str = ""
    """For one-shots: what makes it run again, in place of everything that it is made of."""
    single: bool = False
    """True: at most one version of it can exist, so its name carries no hash."""
    resized: bool = False
    """True: other limits are given to the container that runs. They make no other one, so they are not in the hash."""

    @cached_property
    def hash(self) -> str:
        content = self._content(masked=True)
        if self.resized:
            limits = self.limits()
            content["HostConfig"] = {k: v for k, v in content["HostConfig"].items() if k not in limits}
        return self.fixed_hash or digest(content | ({"Restarted": self.restarted} if self.restarted else {}))

    @cached_property
    def name(self) -> str:
        return self.base_name if self.single else f"{self.base_name}-{names.short(self.hash)}"

    def body(self) -> dict[str, Any]:
        """The Engine API's create body, with secrets in clear: hand it to the engine and to nobody else."""
        made = self._content(masked=False)
        made["Image"] = self.pinned or self.image
        made["Labels"] = {**self.labels, names.ROLE: self.role, names.INDEX: str(self.index), names.HASH: self.hash}
        made["Labels"][names.STOP_GRACE] = str(self.stop_grace)
        if self.resized:
            made["Labels"][names.LIMITS] = self._limits_version
        return made

    def limits(self) -> dict[str, Any]:
        """The Engine API's update body that gives a container its limits back."""
        memory = memory_bytes(self.limit.memory)
        return {
            "Memory": memory,
            "MemorySwap": memory,
            "NanoCpus": cpu_nanos(self.limit.cpu),
            "PidsLimit": self.limit.pids,
            "RestartPolicy": {"Name": self._restart_policy},
        }

    @property
    def _limits_version(self) -> str:
        return names.short(digest(self.limits()))

    def made_with_limits(self, labels: Mapping[str, str]) -> bool:
        """Whether a container of these labels had these limits when it was made; it may have got others since."""
        return not self.resized or labels.get(names.LIMITS) == self._limits_version

    def keeps_limits(self, found: Inspected) -> bool:
        """Whether a container still has the limits that it was made with.

        A limit that Docker notes as 0 or not at all is one that the host's kernel cannot enforce; MemorySwap is not
        looked at, because Docker changes it by itself where swap is not accounted. Source: moby, daemon_unix.go.
        """
        return (
            found.memory in (0, memory_bytes(self.limit.memory))
            and found.nano_cpus in (0, cpu_nanos(self.limit.cpu))
            and found.pids in (None, self.limit.pids)
            and found.restart_policy in ("", self._restart_policy)
        )

    @property
    def _restart_policy(self) -> str:
        return "unless-stopped" if self.restart else "no"

    def _content(self, *, masked: bool) -> dict[str, Any]:
        made: dict[str, Any] = {
            "Image": self.image,
            "Env": [f"{name}={self._value(value, masked)}" for name, value in sorted(self.env.items())],
            "StopTimeout": self.stop_grace,
            "HostConfig": self._host_config(),
            "NetworkingConfig": {"EndpointsConfig": self._endpoints()},
        }
        if self.command is not None:
            made["Entrypoint"] = list(self.command)
        if self.args is not None:
            made["Cmd"] = list(self.args)
        if self.user:
            made["User"] = self.user
        if self.ports:
            made["ExposedPorts"] = {port: {} for port in self.ports}
        made["Healthcheck"] = self._health_check()
        return made

    def _endpoints(self) -> dict[str, Any]:
        return {} if self.network == NO_NETWORK else {self.network: {"Aliases": list(self.aliases)}}

    def _mount(self, path: str, volume: str) -> dict[str, Any]:
        made: dict[str, Any] = {"Type": "volume", "Source": volume, "Target": path}
        return made | {"ReadOnly": True} if path in self.read_only else made

    def _value(self, value: EnvValue, masked: bool) -> str:
        if isinstance(value, SecretStr):
            return value.version(self.secret_key) if masked else value.reveal()
        return value

    def _host_config(self) -> dict[str, Any]:
        memory = memory_bytes(self.limit.memory)
        made: dict[str, Any] = {
            "NetworkMode": self.network,
            "RestartPolicy": {"Name": self._restart_policy},
            "Memory": memory,
            "MemorySwap": memory,
            "NanoCpus": cpu_nanos(self.limit.cpu),
            "PidsLimit": self.limit.pids,
            "CapDrop": ["ALL"],
            "CapAdd": sorted(self.capabilities),
            "SecurityOpt": ["no-new-privileges"],
            "Mounts": [self._mount(path, volume) for path, volume in sorted(self.mounts.items())],
            # Without a bound, one chatty tenant fills the host's disk.
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        }
        if self.ports:
            made["PortBindings"] = {
                port: [{"HostIp": address, "HostPort": str(number)}] for port, (address, number) in self.ports.items()
            }
        return made

    def _health_check(self) -> dict[str, Any]:
        if not isinstance(self.check, ExecCheck):
            return {"Test": ["NONE"]}  # an image's own check would speak in place of the Release's
        return {
            "Test": list(self.check.test),
            "Interval": self.check.interval * NANOSECONDS,
            "Timeout": self.check.timeout * NANOSECONDS,
            "Retries": self.check.retries,
            "StartPeriod": self.check.start_period * NANOSECONDS,
        }
