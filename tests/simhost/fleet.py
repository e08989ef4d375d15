"""Simulated hosts in an event loop of their own thread, and what makes Servers of them."""

import asyncio
import base64
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncssh
import uvloop
from tests.simhost.host import Identity, SimHost

from dotmac_crds.base import API_VERSION
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.port import HostAddress

USER = "deployer"
SECRET = "sim-ssh"
BOOT_SECONDS = 60.0


@dataclass(frozen=True)
class FleetSettings:
    hosts: int = 1
    address: str = "127.0.0.1"
    first_port: int = 0
    """Of the first host, the others follow; 0: any free ones."""
    prefix: str = "sim"
    delay: float = 0.0
    """Seconds, each way."""


@dataclass
class SimFleet:
    """`with SimFleet(FleetSettings(hosts=3)) as fleet: ...`. Hosts are called `sim-0` and so on."""

    settings: FleetSettings = FleetSettings()
    hosts: dict[str, SimHost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._user_key = asyncssh.generate_private_key("ssh-ed25519")
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="simhosts", daemon=True)

    @property
    def private_key(self) -> str:
        """The user's, in OpenSSH form."""
        return self._user_key.export_private_key("openssh").decode()

    # ---- life

    def start(self) -> "SimFleet":
        self._thread.start()
        self.call(self._boot)
        return self

    def close(self) -> None:
        self.call(self._shut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __enter__(self) -> "SimFleet":
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _boot(self) -> None:
        for number in range(self.settings.hosts):
            await self._add(f"{self.settings.prefix}-{number}", number)

    async def _add(self, name: str, number: int) -> SimHost:
        key = asyncssh.generate_private_key("ssh-ed25519")
        host = SimHost(Identity(name, key, USER, self._user_key), self._loop)
        host.link.delay_in = host.link.delay_out = self.settings.delay
        first = self.settings.first_port
        await host.listen(self.settings.address, first + number if first else 0)
        self.hosts[name] = host
        return host

    def add(self, name: str) -> SimHost:
        """One more host, on any free port. From any thread."""
        made: SimHost = self.call(lambda: self._add(name, 0))
        return made

    async def _shut(self) -> None:
        for host in self.hosts.values():
            await host.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---- from any thread

    def call(self, work: Callable[[], Any], seconds: float = BOOT_SECONDS) -> Any:
        """Runs `work`, a function or a coroutine function, in the hosts' loop; returns what it returns."""

        async def run() -> Any:
            made = work()
            return await made if inspect.isawaitable(made) else made

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(seconds)

    def __getitem__(self, name: str) -> SimHost:
        return self.hosts[name]

    # ---- as the operator sees them

    def address_of(self, host: SimHost, **changes: Any) -> HostAddress:
        values: dict[str, Any] = {
            "name": f"tenants/{host.name}",
            "address": self.settings.address,
            "port": host.port,
            "user": USER,
            "private_key": SecretStr(self.private_key),
            "passphrase": None,
            "host_keys": (host.host_key,),
        }
        return HostAddress(**{**values, **changes})

    def secret(self, namespace: str) -> dict[str, Any]:
        """The Secret that the Servers refer to."""
        data = {"ssh-privatekey": base64.b64encode(self.private_key.encode()).decode()}
        meta = {"name": SECRET, "namespace": namespace}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": data}

    def server(self, host: SimHost, namespace: str, **spec: Any) -> dict[str, Any]:
        """A Server resource; `spec` adds to its spec or replaces parts of it."""
        usual = {
            "address": self.settings.address,
            "port": host.port,
            "user": USER,
            "credentialsRef": {"name": SECRET},
            "hostKeys": [host.host_key],
            "baseDomain": f"{host.name}.example",
            "proxy": {"tls": {"mode": "Off"}},
        }
        meta = {"name": host.name, "namespace": namespace}
        return {"apiVersion": API_VERSION, "kind": "Server", "metadata": meta, "spec": usual | spec}
