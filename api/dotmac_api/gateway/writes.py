"""Writes by server-side apply in the name of the person who asked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dotmac_api.gateway.client import APPLY, KubernetesClient, Object, resource_path
from dotmac_api.gateway.ownership import other_owners, owned
from dotmac_api.gateway.refusals import FIELD_CONFLICT, Cause, Refused
from dotmac_crds.base import API_VERSION, GROUP
from dotmac_crds.kinds import Kind

MANAGER = "dotmac-api"
REQUESTED_BY = f"{GROUP}/requested-by"
RECONCILE_REQUESTED_AT = f"{GROUP}/reconcile-requested-at"
RETRIES = 5


@dataclass(frozen=True)
class Target:
    """One object. The uid guards against one of the same name that was made since."""

    kind: Kind
    name: str
    namespace: str | None = None
    uid: str | None = None

    @property
    def path(self) -> str:
        return resource_path(self.kind.plural, self.namespace, self.name)


@dataclass(frozen=True)
class Intent:
    """Who asks for a write, and on what terms."""

    actor: str
    """Put into the annotation `platform.dotmac.io/requested-by`."""
    person: str = ""
    """Id of the person."""
    if_match: frozenset[str] | None = None
    """resourceVersions of which the object must still have one; None: any."""
    force: bool = False
    """Take fields over from other managers."""


@dataclass(frozen=True)
class Change:
    """A change of one object: `edit` gets the configuration that we own and alters it in place."""

    edit: Callable[[Object], None]
    removes: tuple[tuple[str, ...], ...] = ()
    """Paths, in the notation of managedFields, that must be gone afterwards."""
    look: Callable[[Object], None] = lambda _: None
    """Gets the whole object, as it is before the edit; what it raises stops the change."""


@dataclass(frozen=True)
class New:
    """An object to make."""

    spec: Object
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


class Gateway:
    """Reads and writes single objects of our group."""

    def __init__(self, client: KubernetesClient) -> None:
        self.client = client

    async def get(self, target: Target) -> Object:
        """The object now. Raises Refused (404) when it is gone or another one has its name."""
        found = await self.client.get(target.path)
        _same(found, target)
        return found

    async def create(self, target: Target, new: New, intent: Intent) -> Object:
        """Makes the object. Raises Refused: 409 AlreadyExists, 422 with causes.

        Apply makes or changes, so the caller holds a lock per name between its replicas; between us and other
        clients, the answer 200 in place of 201 tells.
        """
        try:
            await self.client.get(target.path)
        except Refused as refusal:
            if not refusal.missing:
                raise
        else:
            raise _exists(target)
        metadata: Object = {"name": target.name, "annotations": new.annotations | {REQUESTED_BY: intent.actor}}
        if target.namespace:
            metadata["namespace"] = target.namespace
        if new.labels:
            metadata["labels"] = new.labels
        body = {"apiVersion": API_VERSION, "kind": target.kind.name, "metadata": metadata, "spec": new.spec}
        status, made = await self._apply(target, body, force=False)
        if status != 201:
            raise _exists(target)
        return made

    async def change(self, target: Target, change: Change, intent: Intent) -> Object:
        """Alters the object and returns it as accepted.

        Raises Refused: 404; 409 with causes FieldManagerConflict when somebody else owns the field and `force` is off;
        409 Conflict when `if_match` no longer holds; 422 with causes.
        """
        for left in reversed(range(RETRIES)):
            live = await self.get(target)
            if intent.if_match is not None and live["metadata"]["resourceVersion"] not in intent.if_match:
                raise Refused(409, "Conflict", "the object was changed since it was read")
            change.look(live)
            for path in change.removes:
                removable(live, path)
            body = owned(live, MANAGER)
            change.edit(body)
            annotations = body["metadata"].setdefault("annotations", {})
            annotations[REQUESTED_BY] = intent.actor
            # What we own was read at this version: a write in between would be lost otherwise.
            body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
            body["metadata"]["uid"] = live["metadata"]["uid"]
            try:
                return (await self._apply(target, body, intent.force))[1]
            except Refused as refusal:
                if not refusal.stale or left == 0 or intent.if_match is not None:
                    raise
        raise AssertionError("the last try raises")

    async def delete(self, target: Target, intent: Intent) -> Object:
        """Notes who asked, then deletes with the uid as a precondition. Returns the object as it was last."""
        live = await self.change(target, Change(edit=lambda _: None), intent)
        preconditions = {"uid": live["metadata"]["uid"]}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        await self.client.request("DELETE", target.path, body=body)
        return live

    async def _apply(self, target: Target, body: Object, force: bool) -> tuple[int, Object]:
        params = {"fieldManager": MANAGER, "force": "true" if force else "false", "fieldValidation": "Strict"}
        return await self.client.request("PATCH", target.path, params=params, body=body, content_type=APPLY)


def _same(found: Object, target: Target) -> None:
    if target.uid is not None and found["metadata"]["uid"] != target.uid:
        raise Refused(404, "NotFound", f"{target.kind.name} {target.name} with uid {target.uid} is gone")


def _exists(target: Target) -> Refused:
    cause = Cause("AlreadyExists", f"a {target.kind.name} of this name exists; choose another name", "metadata.name")
    return Refused(409, "AlreadyExists", f"{target.kind.name} {target.name} already exists", (cause,))


def removable(live: Object, path: tuple[str, ...]) -> None:
    """Raises Refused (409) when somebody else owns the field: server-side apply would leave it there."""
    others = other_owners(live, path, MANAGER)
    if others:
        field = ".".join(step.removeprefix("f:") for step in path)
        names = ", ".join(others)
        message = f"{names} owns this field; remove it there"
        raise Refused(409, "Conflict", f"cannot remove {field}", (Cause(FIELD_CONFLICT, message, field),))


def ensure(config: Object, *path: str) -> Any:
    """The map at `path`, made where it is missing."""
    here = config
    for step in path:
        here = here.setdefault(step, {})
    return here
