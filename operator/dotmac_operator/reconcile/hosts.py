"""The hosts that are connected: one inventory for each Server."""

import threading
from collections.abc import Callable

from dotmac_crds.server import ServerSpec
from dotmac_operator.core.facts import DockerEvent
from dotmac_operator.core.server import HostProblem
from dotmac_operator.core.tenancy import HOST_KEY
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.port import HostAddress, HostPool
from dotmac_operator.reconcile.context import Secrets
from dotmac_operator.reconcile.routing import Routing
from dotmac_operator.reconcile.store import Server

OnEvent = Callable[[str, DockerEvent | None], None]
"""Called with the Server's key and the event, or None when its stream broke."""


class Hosts:
    """Inventories by Server key. Thread-safe."""

    def __init__(self, pool: HostPool, on_event: OnEvent, parallel: int = 1) -> None:
        """`parallel` is how many actions of one Instance may run at a time, where one does not need another."""
        self.parallel = parallel
        self._pool = pool
        self._on_event = on_event
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[HostAddress, Inventory]] = {}
        self._routing: dict[str, Routing] = {}

    def attach(self, address: HostAddress) -> Inventory:
        """The inventory of this host; a new one when its address, user or keys have changed."""
        with self._lock:
            kept = self._kept.get(address.name)
            if kept is not None and kept[0] == address:
                return kept[1]
            if kept is not None:
                kept[1].close()
            inventory = Inventory(self._pool.get(address), lambda event: self._on_event(address.name, event))
            self._kept[address.name] = (address, inventory)
            return inventory

    def inventory(self, key: str) -> Inventory | None:
        """None while the Server was not reached in this process."""
        with self._lock:
            kept = self._kept.get(key)
            return kept[1] if kept else None

    def connected(self) -> list[tuple[str, Inventory]]:
        """Every Server that was reached, with its inventory."""
        with self._lock:
            return [(key, kept[1]) for key, kept in self._kept.items()]

    def routing(self, key: str) -> Routing:
        """What orders the changes of a host's proxy configuration."""
        with self._lock:
            return self._routing.setdefault(key, Routing())

    def detach(self, key: str) -> None:
        with self._lock:
            kept = self._kept.pop(key, None)
        if kept is not None:
            kept[1].close()
        self._pool.forget(key)

    def close(self) -> None:
        with self._lock:
            kept, self._kept = list(self._kept.values()), {}
        for _, inventory in kept:
            inventory.close()
        self._pool.close()


def host_address(secrets: Secrets, server: Server, spec: ServerSpec) -> HostAddress | HostProblem:
    """How to reach a Server's host, with the key from its Secret; or what is missing. Raises ClusterError."""
    name = spec.credentials_ref.name
    found = secrets.secret(server.ref.namespace, name)
    if found is None:
        return HostProblem("SecretMissing", f"spec.credentialsRef: Secret {name} does not exist: create it", True)
    key = found.values.get(HOST_KEY)
    if key is None:
        return HostProblem("SecretMissing", f"spec.credentialsRef: Secret {name} has no key {HOST_KEY}", True)
    pinned = tuple(spec.host_keys) or tuple(server.status.host_keys or ())
    return HostAddress(
        name=server.key,
        address=spec.address,
        port=spec.port,
        user=spec.user,
        private_key=key,
        passphrase=found.values.get("passphrase"),
        host_keys=pinned,
        trust_on_first_use=spec.host_key_policy == "TrustOnFirstUse" and not pinned,
        max_operations=spec.max_concurrent_operations,
    )
