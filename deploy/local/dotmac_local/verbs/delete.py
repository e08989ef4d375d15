"""DELETE of one object and of a collection: finalizers, preconditions, propagation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dotmac_local import metadata, views
from dotmac_local.errors import ApiError, bad_request, details, invalid_options
from dotmac_local.kinds import rules_for
from dotmac_local.metadata import Object
from dotmac_local.schema import Cause
from dotmac_local.storage import Revision
from dotmac_local.verbs.request import Answer, Target
from dotmac_local.verbs.write import Writer

POLICIES = ("Background", "Foreground", "Orphan")
_HOLDS = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


@dataclass(frozen=True)
class DeleteOptions:
    """What a DELETE asks for, by body or by query."""

    policy: str = "Background"
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False

    @classmethod
    def parse(cls, body: Any, query: Mapping[str, str]) -> DeleteOptions:
        """Raises ApiError 400 or 422."""
        if body is None:
            # A body, when there is one, speaks for itself: the query does not add to it.
            body = {name: query[name] for name in ("propagationPolicy", "dryRun") if name in query}
            body |= {"orphanDependents": True} if query.get("orphanDependents") == "true" else {}
        if not isinstance(body, dict) or body.get("kind", "DeleteOptions") != "DeleteOptions":
            raise bad_request("the body of a DELETE must be a DeleteOptions object")
        policy, orphan = body.get("propagationPolicy"), body.get("orphanDependents")
        if policy is not None and orphan is not None:
            why = f'Invalid value: "{policy}": orphanDependents and deletionPropagation cannot be both set'
            raise invalid_options("DeleteOptions", [Cause("FieldValueInvalid", why, "propagationPolicy")])
        if policy is not None and policy not in POLICIES:
            supported = ", ".join(f'"{one}"' for one in (*POLICIES, "nil"))
            why = f'Unsupported value: "{policy}": supported values: {supported}'
            raise invalid_options("DeleteOptions", [Cause("FieldValueNotSupported", why, "propagationPolicy")])
        policy = policy or ("Orphan" if orphan else "Background")
        wanted = body.get("preconditions") or {}
        dry_run = body.get("dryRun") or []
        return cls(policy, wanted.get("uid", ""), wanted.get("resourceVersion", ""), "All" in dry_run)


class Deleter:
    """Deletes, or marks for deletion while finalizers hold."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def delete(self, target: Target, options: DeleteOptions) -> Answer:
        """Raises ApiError 404, 409."""
        live = self._writer.find(target)
        self._check_preconditions(target, live, options)
        held = self._hold(target, live, options)
        if held is not None:
            return Answer(200, held, target.resource)
        if not options.dry_run:
            self._writer.remove(target.resource, live)
        resource = target.resource
        shown = details(target.name, resource.group, resource.plural) | {"uid": live.load()["metadata"]["uid"]}
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": shown}
        return Answer(200, status, resource)

    def _hold(self, target: Target, live: Revision, options: DeleteOptions) -> Revision | Object | None:
        """The object as it stays for now, or None when nothing holds it."""
        resource, meta_before = target.resource, live.load()["metadata"]
        obj = views.as_object(live, resource)
        meta = obj["metadata"]
        finalizers = [name for name in meta.get("finalizers", []) if name not in _HOLDS.values()]
        if hold := _HOLDS.get(options.policy):
            finalizers.append(hold)
        elif "deletionTimestamp" in meta_before:
            finalizers = meta.get("finalizers", [])
        meta["finalizers"] = finalizers
        marked = "deletionTimestamp" in meta_before
        stays = (not marked and rules_for(resource).begin_deletion(obj)) or bool(meta["finalizers"]) or marked
        if not meta["finalizers"]:
            del meta["finalizers"]
        if not stays:
            return None
        if marked and meta.get("finalizers") == meta_before.get("finalizers"):
            return live if views.is_raw(live, resource) else obj
        if not marked:
            meta["deletionTimestamp"] = metadata.now()
            if not (resource.kind == "Namespace" and not resource.group):
                meta["deletionGracePeriodSeconds"] = 0
            if resource.has_generation:
                meta["generation"] = meta.get("generation", 0) + 1
        return obj if options.dry_run else self._writer._put(resource, obj)

    def _check_preconditions(self, target: Target, live: Revision, options: DeleteOptions) -> None:
        resource = target.resource
        uid = live.load()["metadata"]["uid"]
        why = ""
        if options.uid and options.uid != uid:
            why = (
                f"the UID in the precondition ({options.uid}) does not match the UID in record ({uid}). The object "
                f"might have been "
                "deleted and then recreated"
            )
        elif options.resource_version and options.resource_version != str(live.rv):
            why = (
                f"the ResourceVersion in the precondition ({options.resource_version}) does not match the "
                f"ResourceVersion in record ({live.rv}). The object might have been modified"
            )
        if why:
            who = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
            message = f'Operation cannot be fulfilled on {who} "{target.name}": {why}'
            raise ApiError(409, "Conflict", message, details(target.name, resource.group, resource.kind))
