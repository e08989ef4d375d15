"""Carries out actions. Every action is safe to repeat: after a crash the plan is made again from what is there."""

import logging
import re
import secrets
import string
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from dotmac_crds.server import Proxy
from dotmac_operator.core import actions as do
from dotmac_operator.core import connections, names, proxy
from dotmac_operator.core.connections import OpenRequests
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.desired import GeneratedKey
from dotmac_operator.core.masking import printed_forms
from dotmac_operator.core.secret import SecretStr, mask
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.port import Conflict, Engine, EngineError, HostError, Progress
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.ports import Cluster, ObjectRef
from dotmac_operator.reconcile.routing import Change, ProxyRefused

log = logging.getLogger(__name__)

_ALPHABETS = {
    "Alphanumeric": string.ascii_letters + string.digits,
    "Hex": "0123456789abcdef",
    "UrlSafe": string.ascii_letters + string.digits + "-_",
}
_BACKUP_LINE = re.compile(r"^dotmac-backup sha256=([0-9a-f]{64}) size=([0-9]+)$", re.MULTILINE)


LOG_LINES = 20
"""Of a failed container, for the status."""


class BackupUnreadable(HostError):
    """The dump ended, but its log tells no checksum, so it is not trusted."""

    reason = "BackupFailed"

    def __init__(self, message: str, container: str) -> None:
        super().__init__(message)
        self.container = container


class NameTaken(HostError):
    """Somebody else's container has the name of one of ours."""

    reason = "NameTaken"


class DataVolumeMissing(HostError):
    """A volume with data went away; the next observation says what is to be done."""

    reason = "DataVolumeMissing"


class Overtaken(Exception):
    """What was planned cannot be done any more, because somebody else was faster: plan again."""


@dataclass
class Results:
    """What actions found out; the reconciler keeps it between passes."""

    probes: dict[str, tuple[bool, str]] = field(default_factory=dict)
    """Container name -> (works, message)."""
    open_requests: dict[str, OpenRequests] = field(default_factory=dict)
    """Container name -> what the proxy has open to it."""
    verified: bool | None = None
    verify_message: str = ""
    backup: tuple[str, str, int, str] | None = None
    """(file, sha256, bytes, release)."""


def generate(key: GeneratedKey) -> SecretStr:
    """A new random secret."""
    if key.alphabet == "Fernet":
        from base64 import urlsafe_b64encode

        return SecretStr(urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return SecretStr("".join(secrets.choice(_ALPHABETS[key.alphabet]) for _ in range(key.length)))


@dataclass(frozen=True)
class Site:
    """Whose actions these are, and where they are carried out."""

    owner: ObjectRef
    server_key: str
    proxy: Proxy


def log_tail(inventory: Inventory, container: str, secrets: frozenset[SecretStr]) -> str:
    """The last lines of a container that has failed, for a status: without secrets, however they are written."""
    try:
        return mask(inventory.host.engine.logs(container, tail=LOG_LINES).strip(), printed_forms(secrets))
    except HostError as error:
        return f"(no log: {error.reason})"


class Executor:
    """Carries out the actions of one object on its host."""

    def __init__(self, cluster: Cluster, hosts: Hosts, site: Site, progress: Progress | None = None) -> None:
        """`progress` hears of long actions, such as a pull; the log when it is None."""
        self._cluster = cluster
        self._hosts = hosts
        self._site = site
        self._progress = progress or log.info

    def run(self, action: do.Action, inventory: Inventory, results: Results) -> None:
        """Carries out one action.

        Raises:
            HostError: the host refused or did not answer; what was done is found by the next observation.
        """
        log.info("%s (%s)", action.text, action.reason)
        try:
            self._dispatch(action, inventory, results)
        finally:
            if not isinstance(action, LOOKS):
                inventory.invalidate(action.name if isinstance(action, do.UpdateLimits) else "")

    def run_all(self, actions: Sequence[do.Action], inventory: Inventory, results: Results) -> None:
        """Carries out actions in their order; those that do not need each other at the same time.

        Raises:
            HostError: as `run`, once nothing runs any more.
        """
        for batch in do.batches(actions):
            if len(batch) == 1 or self._hosts.parallel == 1:
                for action in batch:
                    self.run(action, inventory, results)
                continue
            with ThreadPoolExecutor(min(len(batch), self._hosts.parallel), thread_name_prefix="action") as pool:
                begun = [pool.submit(copy_context().run, self.run, action, inventory, results) for action in batch]
            for future in begun:
                future.result()

    def _dispatch(self, action: do.Action, inventory: Inventory, results: Results) -> None:
        engine = inventory.host.engine
        simple = _SIMPLE.get(type(action))
        if simple is not None:
            simple(engine, action)
        elif isinstance(action, do.GenerateSecrets):
            values = {key.key: generate(key) for key in action.keys}
            self._cluster.write_credentials(self._site.owner, action.secret, action.org_code, values)
        elif isinstance(action, do.ClaimCredentials):
            self._cluster.claim_credentials(self._site.owner, action.secret, action.org_code)
        elif isinstance(action, do.PullImage):
            engine.pull(action.reference, self._progress)
        elif isinstance(action, do.RunContainer):
            run_container(engine, action.container)
        elif isinstance(action, do.ProbeContainer):
            results.probes[action.name] = _probe(inventory, action)
        elif isinstance(action, do.ProbeInside):
            results.probes[action.name] = _probe_inside(engine, action)
        elif isinstance(action, do.CountConnections):
            table = proxy_connections(engine)
            results.open_requests[action.name] = connections.open_requests(table, action.address, action.port)
        elif isinstance(action, do.SetRoute):
            self._set_route(inventory, action)
        elif isinstance(action, do.RemoveRoute):
            owner = action.owner
            self._change_proxy(inventory, lambda config: proxy.without_route(config, owner))
        elif isinstance(action, do.VerifyRoute):
            results.verified, results.verify_message = self._verify(inventory, action)
        elif isinstance(action, do.RecordBackup):
            results.backup = _read_backup(engine, action)
        else:
            raise TypeError(f"no way to carry out {type(action).__name__}")

    def _set_route(self, inventory: Inventory, action: do.SetRoute) -> None:
        def change(config: proxy.Config) -> proxy.Config:
            return proxy.with_route(config, action.route, self._site.proxy)

        self._change_proxy(inventory, change, action.first)

    def _change_proxy(self, inventory: Inventory, change: Change, patient: bool = False) -> None:
        """Reads, changes and loads the configuration; one at a time for each host, so that no route is lost.
        `patient`: together with those that are expected."""
        engine = inventory.host.engine

        def load(changes: list[Change]) -> None:
            current = proxy.parse(inventory.proxy_config())
            made = current or proxy.base_config(self._site.proxy)
            for one in changes:
                made = one(made)
            if made != current:
                load_proxy(engine, made)

        self._hosts.routing(self._site.server_key).apply(self._site.owner.uid, change, load, patient=patient)

    def _verify(self, inventory: Inventory, action: do.VerifyRoute) -> tuple[bool, str]:
        bind = self._site.proxy.bind_address
        address = "127.0.0.1" if bind == "0.0.0.0" else bind  # noqa: S104 - compared, not bound
        port = self._site.proxy.https_port if action.tls else self._site.proxy.http_port
        sni = action.host if action.tls else None
        try:
            status = inventory.host.http(address, port, action.path, headers={"Host": action.host}, tls_server_name=sni)
        except HostError as error:
            if not error.retryable:
                raise
            return False, str(error)
        if status >= action.below:
            return False, f"the proxy answered {status} for {action.host}{action.path}"
        return not action.unless, action.unless


def run_container(engine: Engine, spec: ContainerSpec) -> None:
    """Creates the container unless one of its name exists, and starts it.

    Raises:
        NameTaken: a container of its name exists that is not ours.
        DataVolumeMissing: Docker has made a volume of it in place of one that went meanwhile.
    """
    try:
        engine.create_container(spec.name, spec.body())
    except Conflict:
        log.debug("container %s exists", spec.name)
        _refuse_strangers(engine, spec)
    if spec.role == names.DATABASE:
        _refuse_new_volumes(engine, spec)
    engine.start_container(spec.name)


def _refuse_strangers(engine: Engine, spec: ContainerSpec) -> None:
    labels = (engine.inspect_container(spec.name).get("Config") or {}).get("Labels") or {}
    if labels.get(names.HASH) != spec.hash:
        raise NameTaken(f"a container that is not ours has the name {spec.name}: rename or remove it")
    owner = labels.get(names.INSTANCE_UID)
    if owner != spec.labels.get(names.INSTANCE_UID):
        raise NameTaken(
            f"container {spec.name} belongs to an Instance with uid {owner}: if this one was restored from it, "
            f"annotate it with {names.RESTORED_UID}={owner}; else remove the container"
        )


def _refuse_new_volumes(engine: Engine, spec: ContainerSpec) -> None:
    """Docker makes a volume that is missing at the creation of a container, empty and without our labels. From its
    creation on, the container keeps its volumes from being removed, so what is true now stays true."""
    labelled = {volume.name for volume in engine.volumes([names.MANAGED])}
    lost = sorted(set(spec.mounts.values()) - labelled)
    if lost:
        engine.remove_container(spec.name)
        raise DataVolumeMissing(f"volume {lost[0]} with the tenant's data went while {spec.role} was being made")


def remove_container(engine: Engine, name: str, grace: float) -> None:
    """Stops it in peace first: a database that is killed has to recover."""
    if grace > 0:
        engine.stop_container(name, grace)
    engine.remove_container(name)


def proxy_connections(engine: Engine) -> str:
    """The kernel's table of the proxy's connections, if the proxy's image has the program that tells it."""
    return engine.exec(names.PROXY_CONTAINER, connections.ARGV).stdout.decode(errors="replace")


def load_proxy(engine: Engine, config: proxy.Config) -> None:
    """Loads a whole configuration, which the proxy takes or refuses as one.

    It serves at once; `proxy.SHUTDOWN_DELAY` seconds later the clients of the old one are gone, and this returns.
    """
    made = proxy.render(proxy.turned(config))
    result = engine.exec(names.PROXY_CONTAINER, proxy.RELOAD_ARGV, stdin=made, deadline=60.0)
    if result.exit_code != 0:
        told = result.stderr.decode(errors="replace").strip().splitlines()
        raise ProxyRefused(f"the proxy refused its configuration: {told[-1][:500] if told else result.exit_code}")


def _probe(inventory: Inventory, action: do.ProbeContainer) -> tuple[bool, str]:
    check = action.check
    try:
        if check.kind == "tcp":
            inventory.host.tcp(action.address, check.port, deadline=check.timeout)
            return True, ""
        status = inventory.host.http(
            action.address, check.port, check.path, headers={"Host": action.address}, deadline=check.timeout
        )
    except HostError as error:
        if not error.retryable:
            raise
        return False, str(error)
    return status < 400, "" if status < 400 else f"{check.path} answered {status}"


def _probe_inside(engine: Engine, action: do.ProbeInside) -> tuple[bool, str]:
    try:
        code = engine.exec_code(action.name, action.check.argv, deadline=action.check.timeout)
    except HostError as error:
        if not error.retryable:
            raise
        return False, str(error)
    return code == 0, "" if code == 0 else f"its check ended with {code}"


def _read_backup(engine: Engine, action: do.RecordBackup) -> tuple[str, str, int, str]:
    found = _BACKUP_LINE.search(engine.logs(action.container, tail=20).replace("\r", ""))
    if found is None:
        raise BackupUnreadable(f"container {action.container} tells no checksum of {action.file}", action.container)
    return action.file, found.group(1), int(found.group(2)), action.release


def _create_network(engine: Engine, a: do.CreateNetwork) -> None:
    try:
        engine.create_network(a.name, a.subnet, dict(a.labels))
    except EngineError as error:
        # Two Instances may choose the same free subnet at the same moment; the next observation shows another one.
        # The engine says so as 403 or 409, whichever of its layers finds it first.
        if "overlap" in str(error).lower() or "conflicts with network" in str(error).lower():
            raise Overtaken(f"subnet {a.subnet} was taken meanwhile") from None
        if not isinstance(error, Conflict):
            raise
        log.debug("network %s exists", a.name)


LOOKS = (
    do.ProbeContainer, do.ProbeInside, do.CountConnections, do.VerifyRoute, do.RecordBackup,
    do.GenerateSecrets, do.ClaimCredentials,
)  # fmt: skip
"""Actions that change nothing on the host."""

_SIMPLE: dict[type[do.Action], Callable[[Engine, Any], object]] = {
    do.LoadProxy: lambda engine, a: load_proxy(engine, a.config),
    do.CreateNetwork: _create_network,
    do.CreateVolume: lambda engine, a: engine.create_volume(a.name, dict(a.labels)),
    do.StartContainer: lambda engine, a: engine.start_container(a.name),
    do.StopContainer: lambda engine, a: engine.stop_container(a.name, a.grace),
    do.UnpauseContainer: lambda engine, a: engine.unpause_container(a.name),
    do.RenameContainer: lambda engine, a: engine.rename_container(a.name, a.wanted),
    do.UpdateLimits: lambda engine, a: engine.update_container(a.name, a.container.limits()),
    do.RemoveContainer: lambda engine, a: remove_container(engine, a.name, a.grace),
    do.ConnectNetwork: lambda engine, a: engine.connect_network(a.network, a.container, a.aliases),
    do.DisconnectNetwork: lambda engine, a: engine.disconnect_network(a.network, a.container),
    do.RemoveNetwork: lambda engine, a: engine.remove_network(a.name),
    do.RemoveVolume: lambda engine, a: engine.remove_volume(a.name),
}
