"""PATCH in its four kinds, and `/scale`, which is a patch of two numbers."""

from __future__ import annotations

from typing import Any

from dotmac_local import metadata, views
from dotmac_local.apply import (
    ApplyConflict,
    PatchError,
    check_configuration,
    json_patch,
    merge_patch,
    server_side_apply,
    strategic_merge,
)
from dotmac_local.errors import ApiError, bad_request, invalid, invalid_options, not_found, unsupported_media_type
from dotmac_local.kinds import events
from dotmac_local.metadata import Object
from dotmac_local.schema import Cause
from dotmac_local.storage import Revision
from dotmac_local.verbs.request import Answer, Target, WriteOptions
from dotmac_local.verbs.write import Writer, begin_object, check_kind

JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


def accepted(target: Target) -> list[str]:
    """The patch types a resource takes, in the order of the real refusal."""
    return [JSON, MERGE, *([] if target.resource.custom else [STRATEGIC]), APPLY]


class Patcher:
    """Turns a patch into a whole object and writes that."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def patch(self, target: Target, media_type: str, body: Any, options: WriteOptions) -> Answer:
        """Raises ApiError: 415 for the wrong type, 404, 409, 422 as every write."""
        if media_type not in accepted(target):
            raise unsupported_media_type(accepted(target))
        if media_type == APPLY:
            return self._apply(target, body, options)
        if options.force:
            why = "Forbidden: may not be specified for non-apply patch"
            raise invalid_options("PatchOptions", [Cause("FieldValueForbidden", why, "force")])
        live = self._writer.find(target)
        before = views.as_object(live, target.resource)
        after = self._patched(target, media_type, before, body)
        if target.resource.storage_group is not None:
            core = Target(self._writer.registry.get("", target.resource.plural), target.namespace, target.name)
            answer = self._write(core, live, events.to_core(after), options)
            return Answer(answer.code, answer.body, target.resource, answer.warnings)
        return self._write(target, live, after, options)

    def _patched(self, target: Target, media_type: str, before: Object, body: Any) -> Object:
        try:
            if media_type == JSON:
                after = json_patch(before, body)
            elif not isinstance(body, dict):
                raise bad_request(f"error decoding patch: a JSON object is needed, not {type(body).__name__}")
            elif media_type == MERGE:
                after = merge_patch(before, body)
            else:
                resource = target.resource
                after = strategic_merge(before, body, (resource.group, resource.version, resource.kind))
        except PatchError as error:
            details: dict[str, Any] | None = {} if error.status == 422 else None
            raise ApiError(error.status, error.reason, error.message, details) from error
        if not isinstance(after, dict):
            raise bad_request("the patched object is not a JSON object")
        return after

    def _write(self, target: Target, live: Revision, after: Object, options: WriteOptions) -> Answer:
        self._check_uid(target, live, after)
        try:
            check_kind(after, target)
            warnings = self._writer._clean(after, target, options)
        except ApiError as error:
            if error.code != 400:
                raise
            # What the patch makes cannot be decoded: here a fault of the patch, not of the request.
            why = f"Invalid value: the patched object: {error.message}"
            raise invalid("", "", "", [Cause("FieldValueInvalid", why, "patch")]) from error
        self._writer._check_names(after, target)
        return self._writer.replace(target, live, after, options, warnings)

    def _check_uid(self, target: Target, live: Revision, after: Object) -> None:
        metadata = after.get("metadata")
        uid = metadata.get("uid") if isinstance(metadata, dict) else None
        if uid is None or uid == live.load()["metadata"]["uid"]:
            return
        cause = Cause("FieldValueInvalid", f'Invalid value: "{uid}": field is immutable', "metadata.uid")
        # Twice, as the real one does: it validates the metadata once for the kind and once for the schema.
        resource = target.resource
        raise invalid(resource.group, resource.kind, target.name, [cause] * (2 if resource.custom else 1))

    # Server-side apply

    def _apply(self, target: Target, body: Any, options: WriteOptions) -> Answer:
        if not options.manager_given:
            cause = Cause("FieldValueRequired", "Required value: is required for apply patch", "fieldManager")
            raise invalid_options("PatchOptions", [cause])
        if not isinstance(body, dict):
            raise bad_request("error decoding YAML: an object is needed")
        if isinstance(body.get("metadata"), dict) and body["metadata"].get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        check_kind(body, target)
        self._check_configuration(target, body)
        warnings = self._writer._clean(body, target, options)
        self._writer._check_names(body, target)
        live = self._writer.store.get(target.resource.storage, target.namespace, target.name)
        if live is None:
            return self._apply_new(target, body, options, warnings)
        merged = self._merge(target, views.as_object(live, target.resource), body, options)
        if sent := body["metadata"].get("resourceVersion"):
            merged["metadata"]["resourceVersion"] = sent  # of `/status` too, into which no metadata is merged
        return self._writer.replace(target, live, merged, options, warnings, applied=True)

    def _check_configuration(self, target: Target, body: Object) -> None:
        try:
            check_configuration(body, target.resource.schema)
        except PatchError as error:
            raise ApiError(error.status, error.reason, error.message) from error

    def _apply_new(self, target: Target, body: Object, options: WriteOptions, warnings: list[str]) -> Answer:
        if target.subresource:
            raise not_found(target.resource, target.name)
        if body["metadata"].get("uid") or body["metadata"].get("resourceVersion"):
            raise not_found(target.resource, target.name)
        self._writer._check_namespace(body, target)
        merged = self._merge(target, None, body, options)
        managed = merged["metadata"].pop("managedFields", [])
        begin_object(merged, target)
        merged["metadata"]["managedFields"] = managed
        return self._writer.insert(target, merged, options, warnings)

    def _merge(self, target: Target, live: Object | None, body: Object, options: WriteOptions) -> Object:
        try:
            return server_side_apply(
                live,
                body,
                manager=options.manager,
                force=options.force,
                subresource=target.subresource,
                time=metadata.now(),
                schema=target.resource.schema,
            )
        except ApplyConflict as error:
            causes = [{"reason": c.reason, "message": c.message, "field": c.field} for c in error.causes]
            raise ApiError(409, "Conflict", error.message, {"causes": causes}) from error
