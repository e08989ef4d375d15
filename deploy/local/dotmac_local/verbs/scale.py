"""`/scale`: the replicas of a custom resource as an autoscaling/v1 Scale."""

from __future__ import annotations

from typing import Any

from dotmac_local import views
from dotmac_local.apply import PatchError, json_patch, merge_patch
from dotmac_local.errors import ApiError, bad_request, invalid, unsupported_media_type
from dotmac_local.metadata import Object
from dotmac_local.resources import ResourceType, ScalePaths
from dotmac_local.schema import Cause
from dotmac_local.storage import Revision
from dotmac_local.verbs.request import Answer, Target, WriteOptions
from dotmac_local.verbs.write import Writer


def _paths(resource: ResourceType) -> ScalePaths:
    assert resource.scale is not None, "the router offers /scale only where there is one"  # noqa: S101
    return resource.scale


def _read(obj: Object, path: str) -> Any:
    found: Any = obj
    for name in path.strip(".").split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _write(obj: Object, path: str, value: int) -> None:
    *parents, last = path.strip(".").split(".")
    for name in parents:
        obj = obj.setdefault(name, {})
    obj[last] = value


def scale_of(revision: Revision, resource: ResourceType) -> Object:
    """The Scale of a stored object."""
    obj = views.as_object(revision, resource)
    paths = _paths(resource)
    meta = {name: obj["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
            if name in obj["metadata"]}  # fmt: skip
    status: Object = {"replicas": _read(obj, paths.status) or 0}
    if paths.selector and (selector := _read(obj, paths.selector)):
        status["selector"] = selector
    replicas = _read(obj, paths.spec) or 0
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": {"replicas": replicas},
        "status": status,
    }


def put_scale(writer: Writer, target: Target, scale: Object, options: WriteOptions) -> Answer:
    """Write the wanted number of replicas into the object."""
    live = writer.find(target)
    replicas = (scale.get("spec") or {}).get("replicas", 0) if isinstance(scale.get("spec"), dict | None) else None
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise bad_request('Scale in version "v1" cannot be handled as a Scale: spec.replicas must be a number')
    if replicas < 0:
        shown = f"Invalid value: {replicas}: must be greater than or equal to 0"
        raise invalid("autoscaling", "Scale", target.name, [Cause("FieldValueInvalid", shown, "spec.replicas")])
    new = views.as_object(live, target.resource)
    _write(new, _paths(target.resource).spec, replicas)
    meta = scale.get("metadata") or {}
    new["metadata"]["resourceVersion"] = meta.get("resourceVersion") or str(live.rv)
    if meta.get("uid"):
        new["metadata"]["uid"] = meta["uid"]
    answer = writer.replace(target, live, new, options, [])
    if isinstance(answer.body, Revision):
        return Answer(answer.code, scale_of(answer.body, target.resource), target.resource, answer.warnings)
    shown_live = scale_of(live, target.resource)
    shown_live["spec"]["replicas"] = replicas
    return Answer(answer.code, shown_live, target.resource, answer.warnings)


def patch_scale(writer: Writer, target: Target, media_type: str, patch: Any, options: WriteOptions) -> Answer:
    """A merge or JSON patch of the Scale."""
    current = scale_of(writer.find(target), target.resource)
    try:
        if media_type == "application/merge-patch+json":
            wanted = merge_patch(current, patch)
        elif media_type == "application/json-patch+json":
            wanted = json_patch(current, patch)
        else:
            raise unsupported_media_type(["application/json-patch+json", "application/merge-patch+json"])
    except PatchError as error:
        raise ApiError(error.status, error.reason, error.message, {}) from error
    return put_scale(writer, target, wanted, options)
