"""The last known version of every object of ours, parsed once for each version. Fed by the watch."""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from dotmac_crds.backup import BackupSpec, BackupStatus, RestoreSpec, RestoreStatus
from dotmac_crds.base import FINALIZER, Model
from dotmac_crds.instance import InstanceSpec, InstanceStatus
from dotmac_crds.instanceclass import InstanceClassSpec, InstanceClassStatus
from dotmac_crds.kinds import KINDS
from dotmac_crds.release import ReleaseSpec, ReleaseStatus
from dotmac_crds.server import ServerSpec, ServerStatus
from dotmac_operator.core import names
from dotmac_operator.reconcile.ports import Body, ObjectRef
from dotmac_operator.reconcile.sharing import compact

_UID = re.compile(r"[A-Za-z0-9-]{1,63}")

GONE_KEPT = 10_000
"""Uids of deleted objects that are remembered. An answer to a write is late by seconds, not by so many deletions."""

TOKEN_LIMIT = 1024
"""Characters of `status.lastHandledReconcileAt`."""

_RAW = ("orgCode", "deletion", "credentialsRef")
_MODELS = {kind.name: (kind.spec, kind.status) for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Resource[SpecT: Model, StatusT: Model]:
    """One version of one object."""

    ref: ObjectRef
    generation: int
    deleting: bool
    finalizers: tuple[str, ...]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: SpecT | None
    """None when it does not parse; `error` says why."""
    status: StatusT
    error: str = ""
    raw_spec: Mapping[str, Any] = field(default_factory=dict)
    """Of the spec as it was sent, what must work with an invalid one, too: departures, and keeping a Server's key."""

    @property
    def key(self) -> str:
        return self.ref.key

    @property
    def paused(self) -> bool:
        return names.says_yes(self.annotations, names.PAUSED)

    @property
    def orphaned(self) -> bool:
        """Whether somebody asks to let go of what is on a host that is gone."""
        return names.says_yes(self.annotations, names.ORPHAN)

    @property
    def reconcile_token(self) -> str | None:
        """As much of it as a status can repeat."""
        return self.annotations.get(names.RECONCILE_REQUESTED_AT, "")[:TOKEN_LIMIT] or None

    @property
    def held(self) -> bool:
        """Whether our finalizer keeps it."""
        return FINALIZER in self.finalizers


type Instance = Resource[InstanceSpec, InstanceStatus]
type Server = Resource[ServerSpec, ServerStatus]
type Release = Resource[ReleaseSpec, ReleaseStatus]
type InstanceClass = Resource[InstanceClassSpec, InstanceClassStatus]
type Backup = Resource[BackupSpec, BackupStatus]
type Restore = Resource[RestoreSpec, RestoreStatus]

JOBS = ("Backup", "Restore")
"""Kinds of which each object is about one Instance and is done once."""


def ref_of(body: Body) -> ObjectRef:
    """Which version of which object it is."""
    meta = body["metadata"]
    return ObjectRef(
        body["kind"], meta.get("namespace", ""), meta["name"], meta.get("uid", ""), meta.get("resourceVersion", "")
    )


def parse(body: Body) -> Resource[Any, Any]:
    """An object as the API server sends it. An unreadable spec is kept as such, an unreadable status is empty."""
    meta = body["metadata"]
    spec_model, status_model = _MODELS[body["kind"]]
    raw = body.get("spec") or {}
    spec, error = None, ""
    try:
        spec = spec_model.model_validate(raw)
    except ValidationError as failure:
        error = "; ".join(f"spec.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in failure.errors()[:3])
    try:
        status = status_model.model_validate(body.get("status") or {})
    except ValidationError:
        status = status_model()
    compact(status)
    if spec is not None:
        compact(spec)
    return Resource(
        ref=ref_of(body),
        generation=meta.get("generation", 1),
        deleting="deletionTimestamp" in meta,
        finalizers=tuple(meta.get("finalizers") or ()),
        labels=meta.get("labels") or {},
        annotations=meta.get("annotations") or {},
        spec=spec,
        status=status,
        error=error,
        raw_spec={key: raw[key] for key in _RAW if key in raw},
    )


class Store:
    """Thread-safe. Reads never block on anything but each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, dict[str, Resource[Any, Any]]] = {kind: {} for kind in _MODELS}
        """Kind -> key -> object."""
        self._here: dict[tuple[str, str], dict[str, Instance]] = {}
        """(namespace, Server) -> the Instances on it by key."""
        self._jobs: dict[str, dict[tuple[str, str], Resource[Any, Any]]] = {}
        """Instance's key -> its Backups and Restores by kind and key."""
        self._uids: dict[str, str] = {}
        """uid -> key of the Instance."""
        self._restored: dict[tuple[str, str], frozenset[str]] = {}
        """(namespace, uid in the annotation) -> keys of the Instances that say they were restored from it."""
        self._keys: dict[tuple[str, str], frozenset[str]] = {}
        """(namespace, Secret) -> names of the Servers that sign in with it."""
        self._gone: dict[str, None] = {}
        self._proven: set[str] = set()
        self.revision = 0
        """Grows with every change, so that what was computed from the store can be kept until then."""

    def put(self, body: Body) -> tuple[Resource[Any, Any] | None, Resource[Any, Any]]:
        """Parses a version and keeps it."""
        return self.keep(parse(body))

    def keep(
        self, fresh: Resource[Any, Any], *, proven: bool = False
    ) -> tuple[Resource[Any, Any] | None, Resource[Any, Any]]:
        """Takes a version in; returns (the one before, the one now). An older version than the kept one is ignored.

        `proven`: it was the present one, and what comes by the watch from now on cannot be older.

        So is any version of an object that was dropped: the answer to our last write may come after the watch's word
        that the object is gone, and a ghost would hold its name, its memory and its Server for good.
        """
        with self._lock:
            if fresh.ref.uid in self._gone:
                return fresh, fresh
            if proven:
                self._proven.add(fresh.ref.uid)
            kept = self._objects[fresh.ref.kind].get(fresh.key)
            if kept is not None and kept.ref.uid == fresh.ref.uid and _older(fresh, kept):
                return kept, kept
            self._replace(kept, fresh)
            return kept, fresh

    def _replace(self, kept: Resource[Any, Any] | None, fresh: Resource[Any, Any] | None) -> None:
        """Readers without the lock find the old one or the new one, never none in between."""
        self.revision += 1
        for job in (kept, fresh):
            if job is not None and job.ref.kind in JOBS:
                self._replace_job(job, job is fresh)
        if kept is not None and kept.ref.kind == "Instance":
            self._here[_home(kept)].pop(kept.key)
        if fresh is not None:
            self._objects[fresh.ref.kind][fresh.key] = fresh
            if fresh.ref.kind == "Instance":
                self._here.setdefault(_home(fresh), {})[fresh.key] = fresh
        elif kept is not None:
            del self._objects[kept.ref.kind][kept.key]
        self._replace_claims(kept, fresh)

    def _replace_claims(self, kept: Resource[Any, Any] | None, fresh: Resource[Any, Any] | None) -> None:
        """The new claim before the old one goes, so that no reader misses one that stays."""
        for index, of in ((self._restored, _restored_from), (self._keys, _signs_in)):
            old, new = of(kept), of(fresh)
            if new is not None and old != new:
                index[new[0]] = index.get(new[0], frozenset()) | {new[1]}
            if old is not None and old != new:
                index[old[0]] -= {old[1]}
                if not index[old[0]]:
                    del index[old[0]]
        if fresh is not None and fresh.ref.kind == "Instance":
            self._uids[fresh.ref.uid] = fresh.key
        if kept is not None and kept.ref.kind == "Instance" and (fresh is None or fresh.ref.uid != kept.ref.uid):
            self._uids.pop(kept.ref.uid, None)

    def _replace_job(self, job: Resource[Any, Any], there: bool) -> None:
        home, place = instance_of(job), (job.ref.kind, job.key)
        if there:
            self._jobs.setdefault(home, {})[place] = job
            return
        others = self._jobs.get(home, {})
        others.pop(place, None)
        if not others:
            self._jobs.pop(home, None)

    def drop(self, kind: str, key: str, uid: str) -> None:
        with self._lock:
            self._gone[uid] = None
            self._proven.discard(uid)
            if len(self._gone) > GONE_KEPT:
                del self._gone[next(iter(self._gone))]
            kept = self._objects[kind].get(key)
            if kept is not None and kept.ref.uid == uid:
                self._replace(kept, None)

    def proven(self, uid: str) -> bool:
        """Whether the present version of an object was seen by this process, and not only a list that may be old."""
        return uid in self._proven

    def instance(self, key: str) -> Instance | None:
        found: Instance | None = self._get("Instance", key)
        return found

    def server(self, key: str) -> Server | None:
        found: Server | None = self._get("Server", key)
        return found

    def release(self, name: str) -> Release | None:
        found: Release | None = self._get("Release", name)
        return found

    def instance_class(self, name: str) -> InstanceClass | None:
        found: InstanceClass | None = self._get("InstanceClass", name)
        return found

    def backup(self, key: str) -> Backup | None:
        found: Backup | None = self._get("Backup", key)
        return found

    def restore(self, key: str) -> Restore | None:
        found: Restore | None = self._get("Restore", key)
        return found

    def job(self, kind: str, key: str) -> Resource[Any, Any] | None:
        """A Backup or a Restore."""
        found: Resource[Any, Any] | None = self._get(kind, key)
        return found

    def jobs(self, instance: str) -> list[Resource[Any, Any]]:
        """The Backups and Restores that name the Instance with this key."""
        if instance not in self._jobs:  # of a fleet, most have none at any moment: no lock for them
            return []
        with self._lock:
            return list(self._jobs.get(instance, {}).values())

    def instances(self) -> list[Instance]:
        return self._all("Instance")

    def servers(self, namespace: str) -> list[Server]:
        return [server for server in self._all("Server") if server.ref.namespace == namespace]

    def all_servers(self) -> list[Server]:
        return self._all("Server")

    def instances_on(self, namespace: str, server: str) -> list[Instance]:
        """Instances whose choice of Server is recorded, or fixed by serverRef, to be this one."""
        with self._lock:
            return list(self._here.get((namespace, server), {}).values())

    def uid_on_host(self, instance: Instance) -> str:
        """The uid that an Instance's containers carry: its own, or that of the one which it was restored from.

        Nobody takes what a living Instance has: the uid of one that is here counts for nothing in an annotation, nor
        does a uid that two of a namespace claim.
        """
        told = instance.annotations.get(names.RESTORED_UID, "")
        if not told or not _UID.fullmatch(told):
            return instance.ref.uid
        lives = self._uids.get(told, instance.key) != instance.key
        others = self._restored.get((instance.ref.namespace, told), frozenset()) - {instance.key}
        return instance.ref.uid if lives or others else told

    def signs_in(self, namespace: str, secret: str) -> str:
        """A Server that signs in to its host with this Secret; empty when none does."""
        return min(self._keys.get((namespace, secret), ()), default="")

    def _get(self, kind: str, key: str) -> Any:
        # One look into a dictionary is atomic: no lock, which hundreds of passes would wait for.
        return self._objects[kind].get(key)

    def _all(self, kind: str) -> list[Any]:
        with self._lock:
            return list(self._objects[kind].values())


def _restored_from(found: Resource[Any, Any] | None) -> tuple[tuple[str, str], str] | None:
    """What an Instance claims by its annotation, and its key."""
    if found is None or found.ref.kind != "Instance" or not (told := found.annotations.get(names.RESTORED_UID)):
        return None
    return (found.ref.namespace, told), found.key


def _signs_in(found: Resource[Any, Any] | None) -> tuple[tuple[str, str], str] | None:
    """The Secret with a Server's key, and its name; also of a spec that cannot be read."""
    reference = found.raw_spec.get("credentialsRef") if found is not None and found.ref.kind == "Server" else None
    name = reference.get("name") if isinstance(reference, Mapping) else None
    return ((found.ref.namespace, name), found.ref.name) if found is not None and isinstance(name, str) else None


def _home(instance: Instance) -> tuple[str, str]:
    return instance.ref.namespace, server_name(instance) or ""


def instance_of(job: Resource[Any, Any]) -> str:
    """The key of the Instance that a Backup or Restore is about; one that cannot be read is about none."""
    return f"{job.ref.namespace}/{job.spec.instance_ref.name if job.spec is not None else ''}"


def server_name(instance: Instance) -> str | None:
    """The Server that an Instance lives on or must live on; None before it was placed."""
    if instance.status.server:
        return instance.status.server
    if instance.spec is not None and instance.spec.server_ref is not None:
        return instance.spec.server_ref.name
    return None


def relevant(before: Resource[Any, Any] | None, now: Resource[Any, Any]) -> bool:
    """Whether a change is one that a reconciler acts on: all but status and bookkeeping."""
    if before is None or before.ref.uid != now.ref.uid:
        return True
    old = (before.generation, before.deleting, before.finalizers, before.labels, before.annotations)
    return old != (now.generation, now.deleting, now.finalizers, now.labels, now.annotations)


def _older(fresh: Resource[Any, Any], kept: Resource[Any, Any]) -> bool:
    """By resourceVersion, which is ordered within one resource type. Source: KEP-5504, comparable resource versions."""
    a, b = fresh.ref.resource_version, kept.ref.resource_version
    return a.isdigit() and b.isdigit() and int(a) < int(b)
