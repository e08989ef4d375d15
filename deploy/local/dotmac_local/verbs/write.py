"""Create, update, patch. Everything between two awaits is atomic; the caller waits for the commit before it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from dotmac_local import metadata, views
from dotmac_local.apply import track_update
from dotmac_local.errors import STALE, ApiError, already_exists, bad_request, conflict, forbidden, invalid, not_found
from dotmac_local.kinds import events, rules_for
from dotmac_local.metadata import Object
from dotmac_local.resources import Registry, ResourceType
from dotmac_local.schema import Cause
from dotmac_local.storage import Revision, Store
from dotmac_local.verbs.request import Answer, Target, WriteOptions

_NAMESPACES = "/namespaces"

Afterwards = Callable[[Revision], None]


class Writer:
    """The verbs that change objects.

    `hooks` are called for every stored revision of a storage, in the same turn of the event loop.
    """

    def __init__(self, store: Store, registry: Registry) -> None:
        self.store = store
        self.registry = registry
        self.hooks: dict[str, Afterwards] = {}

    # Create

    def create(self, target: Target, body: Object, options: WriteOptions) -> Answer:
        """A new object; raises ApiError."""
        resource = target.resource
        if resource.storage_group is not None:
            return self._create_alias(target, body, options)
        check_kind(body, target)
        warnings = self._clean(body, target, options)
        self._check_namespace(body, target)
        begin_object(body, target)
        body["metadata"]["managedFields"] = self._track(None, body, target, options)
        return self.insert(target, body, options, warnings)

    def _create_alias(self, target: Target, body: Object, options: WriteOptions) -> Answer:
        """An events.k8s.io Event is stored as the core Event it mirrors."""
        core = self.registry.get("", target.resource.plural)
        check_kind(body, target)
        stored = self.create(Target(core, target.namespace), events.to_core(body), options)
        if isinstance(stored.body, Revision):
            return Answer(stored.code, stored.body, target.resource, stored.warnings)
        return Answer(stored.code, events.from_core(stored.body), target.resource, stored.warnings)

    def insert(self, target: Target, obj: Object, options: WriteOptions, warnings: list[str]) -> Answer:
        """Validate a prepared new object and store it."""
        resource, meta = target.resource, obj["metadata"]
        self._validate(target, obj, None)
        if options.admit:
            options.admit(target, obj, None)
        if not meta["managedFields"]:
            del meta["managedFields"]
        if self.store.get(resource.storage, target.namespace, meta["name"]):
            raise already_exists(resource, meta["name"])
        warnings += metadata.warnings(obj)
        if options.dry_run:
            return Answer(201, obj, resource, warnings)
        return Answer(201, self._put(resource, obj, views.new_tag(resource, obj)), resource, warnings)

    # Update

    def update(self, target: Target, body: Object, options: WriteOptions) -> Answer:
        """PUT: the whole object replaced; raises ApiError."""
        resource = target.resource
        if resource.storage_group is not None:
            body = events.to_core(body)
            core = self.registry.get("", resource.plural)
            answer = self.update(Target(core, target.namespace, target.name), body, options)
            return Answer(answer.code, answer.body, resource, answer.warnings)
        check_kind(body, target)
        warnings = self._clean(body, target, options)
        self._check_names(body, target)
        live = self.find(target)
        sent = body["metadata"].get("resourceVersion")
        if resource.custom and not sent:
            why = "Invalid value: 0: must be specified for an update"
            cause = Cause("FieldValueInvalid", why, "metadata.resourceVersion")
            raise invalid(resource.group, resource.plural, target.name, [cause])
        return self.replace(target, live, body, options, warnings)

    def find(self, target: Target) -> Revision:
        """The live revision; raises ApiError 404."""
        found = self.store.get(target.resource.storage, target.namespace, target.name)
        if found is None:
            raise not_found(target.resource, target.name)
        return found

    def replace(
        self,
        target: Target,
        live: Revision,
        new: Object,
        options: WriteOptions,
        warnings: list[str],
        *,
        applied: bool = False,
    ) -> Answer:
        """Store `new` in place of `live`, unless nothing would change. `applied`: managedFields are final already."""
        resource = target.resource
        old = views.as_object(live, resource)
        self._check_preconditions(target, new, live, old)
        metadata.carry_over(new, old)
        new = self._isolate(target, new, old, live)
        rules_for(resource).prepare(new, old)
        resource.schema.default(new)
        new = views.ordered(new)
        if resource.has_generation and _spec_changed(resource, new, old):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if not applied:
            new["metadata"]["managedFields"] = self._track(old, new, target, options)
        if not new["metadata"].get("managedFields"):
            new["metadata"].pop("managedFields", None)
        self._validate(target, new, old)
        if options.admit:
            options.admit(target, new, old)
        warnings = (
            warnings + metadata.warnings(new)
            if new["metadata"].get("finalizers") != old["metadata"].get("finalizers")
            else warnings
        )
        if not views.is_new(live) and same(new, old):
            return Answer(200, live if views.is_raw(live, resource) else old, resource, warnings)
        if options.dry_run:
            return Answer(200, new, resource, warnings)
        if self._is_released(resource, new):
            self.remove(resource, live)
            return Answer(200, new, resource, warnings)
        return Answer(200, self._put(resource, new), resource, warnings)

    def _check_preconditions(self, target: Target, new: Object, live: Revision, old: Object) -> None:
        resource, meta = target.resource, new["metadata"]
        if meta.get("uid") and meta["uid"] != old["metadata"]["uid"]:
            key = "/".join(part for part in (resource.group, resource.plural, target.namespace, target.name) if part)
            raise conflict(
                resource,
                target.name,
                f"StorageError: invalid object, Code: 4, Key: /registry/{key}, ResourceVersion: 0, "
                f"AdditionalErrorMsg: Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: "
                f"{old['metadata']['uid']}",
            )
        sent = meta.get("resourceVersion")
        if sent and sent != "0" and sent != str(live.rv):
            if not sent.isdecimal():
                cause = Cause(
                    "FieldValueInvalid",
                    f'Invalid value: "{sent}": strconv.ParseUint: invalid syntax',
                    "metadata.resourceVersion",
                )
                raise invalid(resource.group, resource.kind, target.name, [cause])
            raise conflict(resource, target.name, STALE)
        meta["resourceVersion"] = str(live.rv)

    def _isolate(self, target: Target, new: Object, old: Object, live: Revision) -> Object:
        """Status is written through `/status` only, and nothing else is written there."""
        if target.subresource == "status":
            kept = views.as_object(live, target.resource)
            _take(kept, new, "status")
            if "managedFields" in new["metadata"]:
                kept["metadata"]["managedFields"] = new["metadata"]["managedFields"]
            return kept
        if target.resource.has_status:
            _take(new, old, "status")
        return new

    # What both share

    def _clean(self, body: Object, target: Target, options: WriteOptions) -> list[str]:
        """Decode metadata, prune unknown fields; Strict refuses them, Warn returns them as warnings."""
        unknown = metadata.decode(body, target.resource) + target.resource.schema.prune(body)
        return report_unknown(list(dict.fromkeys(unknown)), target.resource, options)

    def _check_names(self, body: Object, target: Target) -> None:
        meta = body["metadata"]
        name = meta.setdefault("name", target.name)
        if name != target.name:
            raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({target.name})")
        self._check_namespace_given(meta, target)

    def _check_namespace_given(self, meta: Object, target: Target) -> None:
        if target.resource.namespaced and meta.get("namespace", target.namespace) != target.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")

    def _check_namespace(self, body: Object, target: Target) -> None:
        """Objects are created in a namespace that exists and stays."""
        meta = body["metadata"]
        self._check_namespace_given(meta, target)
        if not target.resource.namespaced:
            meta.pop("namespace", None)
            return
        meta["namespace"] = target.namespace
        found = self.store.get(_NAMESPACES, "", target.namespace)
        if found is None:
            raise not_found(self.registry.get("", "namespaces"), target.namespace)
        if "deletionTimestamp" in found.load()["metadata"]:
            why = f"unable to create new content in namespace {target.namespace} because it is being terminated"
            cause = Cause(
                "NamespaceTerminating", f"namespace {target.namespace} is being terminated", "metadata.namespace"
            )
            raise forbidden(target.resource, meta.get("name", ""), why, [cause])

    def _track(self, old: Object | None, new: Object, target: Target, options: WriteOptions) -> list[Object]:
        """The managedFields of `new`. Nobody comes to own what no such write can set."""
        return track_update(
            None if old is None else _settable(old, target),
            _settable(new, target),
            manager=options.manager,
            subresource=target.subresource,
            api_version=target.resource.api_version,
            time=options.time or metadata.now(),
            schema=target.resource.schema,
        )

    def _validate(self, target: Target, obj: Object, old: Object | None) -> None:
        resource = target.resource
        causes = metadata.validate(obj, resource)
        if old is not None:
            causes += metadata.validate_update(obj, old)
        causes = resource.schema.validate(obj, old, causes)
        if not causes or not resource.custom:
            causes += rules_for(resource).validate(obj, old)
        if causes:
            raise invalid(resource.group, resource.kind, obj["metadata"].get("name", ""), causes)

    def _put(self, resource: ResourceType, obj: Object, tag: str = "") -> Revision:
        revision = self.store.put(resource.storage, views.ordered(obj), tag or resource.tag)
        self._after(revision)
        return revision

    def _is_released(self, resource: ResourceType, obj: Object) -> bool:
        meta = obj["metadata"]
        return "deletionTimestamp" in meta and not meta.get("finalizers") and rules_for(resource).released(obj)

    def remove(self, resource: ResourceType, live: Revision) -> Revision:
        """Take an object out of the store; watchers see its last stored state."""
        revision = self.store.delete(resource.storage, live.load(), live.tag)
        self._after(revision)
        return revision

    def _after(self, revision: Revision) -> None:
        if hook := self.hooks.get(revision.storage):
            hook(revision)

    def finalize_namespace(
        self, target: Target, live: Revision, finalizers: list[str], options: WriteOptions
    ) -> Answer:
        """`/finalize`: what still holds a namespace; the only way to change spec.finalizers."""
        obj = live.load()
        obj["spec"] = {"finalizers": finalizers} if finalizers else {}
        if options.dry_run:
            return Answer(200, obj, target.resource)
        if self._is_released(target.resource, obj):
            self.remove(target.resource, live)
            return Answer(200, obj, target.resource)
        return Answer(200, self._put(target.resource, obj), target.resource)

    # Controllers write like clients do, without a request

    def amend(
        self,
        resource: ResourceType,
        live: Revision,
        change: Callable[[Object], None],
        options: WriteOptions,
        subresource: str = "",
    ) -> None:
        """Let a built-in controller change an object in place; it keeps to the rules of every update."""
        new = views.as_object(live, resource)
        change(new)
        target = Target(resource, live.namespace, live.name, subresource)
        self.replace(target, live, new, options, [])


def begin_object(body: Object, target: Target) -> None:
    """Make a decoded body a new object: system fields, no status from the client, defaults."""
    resource = target.resource
    metadata.begin(body, generation=resource.has_generation)
    if resource.has_status:
        body.pop("status", None)
    rules_for(resource).prepare(body, None)
    resource.schema.default(body)


def _settable(obj: Object, target: Target) -> Object:
    """The part of an object that a write to the main resource can set."""
    if target.subresource or not target.resource.has_status:
        return obj
    out = {key: value for key, value in obj.items() if key != "status"}
    if target.resource.storage == _NAMESPACES:
        out["spec"] = {}
    return out


def check_kind(body: Object, target: Target) -> None:
    """The body must be of the kind that the path names."""
    resource = target.resource
    if not resource.custom:
        # Built-in kinds are decoded into a known type, which the path tells.
        body["kind"] = body.get("kind") or resource.kind
        body["apiVersion"] = body.get("apiVersion") or resource.api_version
    kind, api_version = body.get("kind"), body.get("apiVersion")
    if not kind:
        shown = orjson.dumps(body).decode()
        raise bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): Object 'Kind' is missing in "
            f"'{shown}' ({shown})"
        )
    if kind == resource.kind and api_version == resource.api_version:
        return
    if resource.custom:
        name = (body.get("metadata") or {}).get("name", "") if isinstance(body.get("metadata"), dict) else ""
        causes = []
        if kind != resource.kind:
            causes.append(Cause("FieldValueInvalid", f'Invalid value: "{kind}": must be {resource.kind}', "kind"))
        if api_version != resource.api_version:
            message = f'Invalid value: "{api_version or ""}": must be {resource.api_version}'
            causes.append(Cause("FieldValueInvalid", message, "apiVersion"))
        raise invalid(resource.group, str(kind), name, causes)
    raise bad_request(
        f"{kind} in version {str(api_version)!r} cannot be handled as a {resource.kind}: expected "
        f"{resource.api_version}, Kind={resource.kind}"
    )


def report_unknown(paths: list[str], resource: ResourceType, options: WriteOptions) -> list[str]:
    """Warnings about unknown and repeated fields; raises ApiError 400 under Strict."""
    messages = [f'duplicate field "{path}"' for path in options.duplicates]
    messages += [f'unknown field "{path}"' for path in paths]
    if not messages or options.validation == "Ignore":
        return []
    if options.validation == "Warn":
        return messages
    joined = ", ".join(messages)
    raise bad_request(
        f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: strict decoding '
        f"error: {joined}"
    )


def _take(into: Object, source: Object, name: str) -> None:
    if name in source:
        into[name] = source[name]
    else:
        into.pop(name, None)


def _spec_changed(resource: ResourceType, new: Object, old: Object) -> bool:
    """generation counts changes of what is wanted: not of metadata, nor of status where that is a subresource."""
    apart = {"metadata", "status"} if resource.has_status else {"metadata"}
    return any(new.get(name) != old.get(name) for name in (new.keys() | old.keys()) - apart)


def same(new: Object, old: Object) -> bool:
    """Whether a write changes nothing but the times in managedFields."""
    if any(new.get(name) != old.get(name) for name in (new.keys() | old.keys()) - {"metadata"}):
        return False
    ours, theirs = new["metadata"], old["metadata"]
    if any(ours.get(name) != theirs.get(name) for name in (ours.keys() | theirs.keys()) - {"managedFields"}):
        return False
    return _timeless(ours.get("managedFields")) == _timeless(theirs.get("managedFields"))


def _timeless(entries: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name != "time"} for entry in entries or []]


__all__ = [
    "Answer",
    "ApiError",
    "Target",
    "WriteOptions",
    "Writer",
    "begin_object",
    "check_kind",
    "report_unknown",
    "same",
]
