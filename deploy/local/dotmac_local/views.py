"""A stored object as a client asked for it: in the version of the request, pruned and defaulted by today's schema."""

from __future__ import annotations

import orjson

from dotmac_local.kinds import events
from dotmac_local.metadata import Object
from dotmac_local.resources import ResourceType
from dotmac_local.storage import Revision

_NEW = "~"


def is_raw(revision: Revision, resource: ResourceType) -> bool:
    """Whether the stored bytes are the answer as they are."""
    return revision.tag.removesuffix(_NEW) == resource.tag


def new_tag(resource: ResourceType, obj: Object) -> str:
    """The tag of an object that is created now.

    A kube-apiserver drops the status of a new custom object, stores it so, and shows the default of the status on
    reading. Its first update is therefore stored even when it changes nothing. The mark makes ours behave alike.
    """
    return resource.tag + _NEW if resource.custom and "status" in obj else resource.tag


def is_new(revision: Revision) -> bool:
    return revision.tag.endswith(_NEW)


def as_object(revision: Revision, resource: ResourceType) -> Object:
    """A fresh copy in the version of `resource`."""
    obj = revision.load()
    if is_raw(revision, resource):
        return obj
    if resource.storage_group is not None:
        return events.from_core(obj)
    obj["apiVersion"] = resource.api_version
    # The schema may have changed since this was stored; a kube-apiserver too shows old objects through the new one.
    resource.schema.prune(obj)
    resource.schema.default(obj)
    return obj


def as_bytes(revision: Revision, resource: ResourceType) -> bytes:
    return revision.data if is_raw(revision, resource) else orjson.dumps(as_object(revision, resource))


def ordered(obj: Object) -> Object:
    """apiVersion, kind and metadata first: lists of built-in kinds cut the first two off the stored bytes."""
    head = {"apiVersion": obj.get("apiVersion"), "kind": obj.get("kind"), "metadata": obj.get("metadata")}
    return head | obj


def item_prefix(resource: ResourceType) -> bytes:
    """What every stored object of a resource starts with."""
    return b'{"apiVersion":%s,"kind":%s,' % (orjson.dumps(resource.api_version), orjson.dumps(resource.kind))
