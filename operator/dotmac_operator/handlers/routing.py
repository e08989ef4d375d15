"""Which reconcilers a change concerns."""

from collections.abc import Callable
from typing import Any, Protocol

from dotmac_operator.core import names
from dotmac_operator.core.facts import DockerEvent
from dotmac_operator.core.jobs import FINAL
from dotmac_operator.reconcile.store import JOBS, Resource, Store, instance_of, server_name


class Wake(Protocol):
    """`Workers.wake`."""

    def __call__(self, kind: str, key: str, *, urgent: bool = False) -> None: ...


class Routing:
    """Turns changes of objects and events of hosts into wake-ups."""

    def __init__(self, store: Store, wake: Wake) -> None:
        self._store = store
        self._wake = wake

    def changed(self, resource: Resource[Any, Any], before: Resource[Any, Any] | None = None) -> None:
        """An object of ours was added, changed or deleted; `before` is what it was when it has changed."""
        kind, key = resource.ref.kind, resource.key
        self._wake(kind, key, urgent=True)
        if kind == "Server":
            if not _asks_only(before, resource):
                self._namespace_instances(resource.ref.namespace, resource.ref.name)
        elif kind == "Release":
            self._referring(lambda spec: spec.release_ref.name == resource.ref.name)
        elif kind == "InstanceClass":
            self._referring(lambda spec: spec.class_ref.name == resource.ref.name)
        elif kind == "Instance":
            if server_name(resource) and not _same_demand(before, resource):
                self._wake("Server", f"{resource.ref.namespace}/{server_name(resource)}")
            self._jobs(key)
        elif kind in JOBS:
            self._wake("Instance", instance_of(resource))
            self._jobs(instance_of(resource))

    def server_ready(self, key: str) -> None:
        """A Server became ready, or ceased to be."""
        namespace, _, name = key.partition("/")
        self._namespace_instances(namespace, name)

    def docker(self, server_key: str, event: DockerEvent | None) -> None:
        """Something happened on a host; None: its event stream broke."""
        if event is None:
            self._wake("Server", server_key)
            return
        attributes = event.attributes
        if names.JOB in attributes:
            kind, _, name = attributes[names.JOB].partition("/")
            if kind in JOBS:
                self._wake(kind, f"{attributes.get(names.NAMESPACE)}/{name}")
        elif names.INSTANCE_UID in attributes:
            self._wake("Instance", f"{attributes.get(names.NAMESPACE)}/{attributes.get(names.INSTANCE)}")
        elif names.SERVER_UID in attributes or attributes.get("name", "").startswith(names.PROXY_CONTAINER):
            self._wake("Server", server_key)
            self.server_ready(server_key)
        elif event.type in ("network", "volume") and event.action in ("destroy", "disconnect"):
            self._by_name(server_key, attributes.get("name", "") or event.actor_id)
        elif event.type == "image":
            self._by_image(server_key, {attributes.get("name", ""), event.actor_id})

    def _jobs(self, instance: str) -> None:
        """Backups and Restores of an Instance that have not ended may have waited for this."""
        for job in self._store.jobs(instance):
            if job.deleting or job.status.phase not in FINAL:
                self._wake(job.ref.kind, job.key)

    def _by_name(self, server_key: str, name: str) -> None:
        """Events of networks and volumes carry no labels, so their names must do."""
        namespace, _, server = server_key.partition("/")
        for instance in self._store.instances_on(namespace, server):
            if instance.spec is not None and name.startswith(names.base(instance.spec.org_code)):
                self._wake("Instance", instance.key)

    def _by_image(self, server_key: str, references: set[str]) -> None:
        """A tag was moved, or an image removed: those that run it say so."""
        namespace, _, server = server_key.partition("/")
        for instance in self._store.instances_on(namespace, server):
            if references & {pin.reference for pin in instance.status.images or ()}:
                self._wake("Instance", instance.key)

    def _namespace_instances(self, namespace: str, server: str) -> None:
        for instance in self._store.instances():
            unplaced = instance.status.server is None
            if instance.ref.namespace == namespace and (unplaced or instance.status.server == server):
                self._wake("Instance", instance.key)
                self._jobs(instance.key)

    def _referring(self, refers: Callable[[Any], bool]) -> None:
        for instance in self._store.instances():
            if instance.spec is not None and refers(instance.spec):
                self._wake("Instance", instance.key)


def _asks_only(before: Resource[Any, Any] | None, now: Resource[Any, Any]) -> bool:
    """Whether a Server's reconcile token is all that has changed: its own pass then looks at every Instance."""
    if before is None or before.reconcile_token == now.reconcile_token or before.ref.uid != now.ref.uid:
        return False
    return _but_token(before) == _but_token(now)


def _but_token(resource: Resource[Any, Any]) -> tuple[Any, ...]:
    annotations = {key: value for key, value in resource.annotations.items() if key != names.RECONCILE_REQUESTED_AT}
    return resource.generation, resource.deleting, resource.finalizers, resource.labels, annotations


def _same_demand(before: Resource[Any, Any] | None, now: Resource[Any, Any]) -> bool:
    """Whether a change leaves what an Instance takes of its Server as it was. A look at a Server starts a program on
    the host, so a request to prove an Instance must not cause one."""
    if before is None or before.ref.uid != now.ref.uid:
        return False
    return (before.generation, before.deleting) == (now.generation, now.deleting)
