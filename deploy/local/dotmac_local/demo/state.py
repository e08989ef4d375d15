"""What the demo remembers between its commands: ports, users and uids, in .local/demo/settings.json."""

import hashlib
import json
import socket
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from dotmac_local.demo.images import ROOT

LOCAL = ROOT / ".local"
DIRECTORY = LOCAL / "demo"
CONTROL_PLANE = LOCAL / "control-plane"
LOGS = LOCAL / "log"
ENV_FILE = LOCAL / "env"
EXAMPLES = ROOT / "deploy" / "examples"
IDENTITY = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
"""Tells the demos of several clones on one machine apart."""
RUNTIME = Path("/run/dotmac-demo") / IDENTITY
USER = f"dotmac-{IDENTITY}"
"""The unprivileged user that the operator logs in as, and the group of our own dockerd's socket."""
PORTS = (
    "ssh_port",
    "http_port",
    "https_port",
    "api_port",
    "diagnostics_port",
    "metrics_port",
    "postgres_port",
    "redis_port",
)
_FILE = DIRECTORY / "settings.json"


@dataclass(frozen=True)
class Settings:
    """Choices of the first `up` that later ones keep."""

    engine_socket: str = ""
    """Socket of the Engine that is used; empty until it was chosen."""
    own_engine: bool = False
    ssh_port: int = 2222
    http_port: int = 8080
    https_port: int = 8443
    api_port: int = 8000
    diagnostics_port: int = 8001
    """Of the operator's diagnostics, which the facade asks for logs."""
    metrics_port: int = 8081
    """Of the operator's /metrics, /healthz and /readyz."""
    postgres_port: int = 15432
    redis_port: int = 16379
    network_pool: str = ""
    """Where the tenants' subnets are taken from; empty: the Server's default."""
    kubeconfig: str = ""
    """A cluster of the user's; empty for the embedded control plane."""
    made_crds: list[str] = field(default_factory=list)
    """CRDs that were not in the user's cluster before."""
    loaded: list[str] = field(default_factory=list)
    """Archives whose images the Engine has."""
    network: dict[str, str] = field(default_factory=dict)
    """The machine's network before our own dockerd; see firewall.py."""
    uids: list[str] = field(default_factory=list)
    """uids of the Server and the Instances: their objects in the Engine carry them as labels."""

    @classmethod
    def load(cls) -> Self | None:
        """What the last `up` chose, or None when there is no demo."""
        try:
            return cls(**json.loads(_FILE.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self) -> None:
        """Write it, whole or not at all."""
        DIRECTORY.mkdir(parents=True, exist_ok=True)
        draft = _FILE.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self), indent=1) + "\n")
        draft.rename(_FILE)

    def with_free_ports(self, *names: str) -> "Settings":
        """The same with each of these ports that is taken on loopback replaced by the next free one."""
        taken = {getattr(self, port) for port in PORTS if port not in names}
        chosen: dict[str, Any] = {}
        for name in names:
            chosen[name] = free_port(getattr(self, name), avoid=taken)
            taken.add(chosen[name])
        return replace(self, **chosen)

    @property
    def kubeconfig_path(self) -> Path:
        """The kubeconfig that kubectl and the operator use."""
        return Path(self.kubeconfig) if self.kubeconfig else CONTROL_PLANE / "kubeconfig"


def free_port(first: int, *, avoid: Collection[int] = ()) -> int:
    """The first port from `first` on that can be listened to on 127.0.0.1; OSError when 200 in a row are taken."""
    for port in range(first, first + 200):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in avoid:
                return port
    raise OSError(f"no free port between {first} and {first + 199} on 127.0.0.1")
