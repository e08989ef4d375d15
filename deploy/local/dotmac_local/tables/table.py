"""Table and PartialObjectMetadata documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dotmac_local import views
from dotmac_local.kinds import events
from dotmac_local.resources import ResourceType
from dotmac_local.storage import Revision
from dotmac_local.tables.columns import Column, columns_of

Object = dict[str, Any]


def partial(obj: Object) -> Object:
    """Only the metadata of an object."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def render_table(
    resource: ResourceType, revisions: Iterable[Revision], meta: Object, include: str = "Metadata"
) -> Object:
    """A Table. `include` says what each row carries of its object: None, Metadata or Object."""
    columns = columns_of(resource)
    meta = {name: value for name, value in meta.items() if value != ""}
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": [column.definition() for column in columns],
        "rows": [_row(resource, columns, revision, include) for revision in revisions],
    }


def _row(resource: ResourceType, columns: list[Column], revision: Revision, include: str) -> Object:
    obj = views.as_object(revision, resource)
    shown = events.to_core(obj) if resource.storage_group is not None else obj
    carried = {"None": None, "Object": obj}.get(include, partial(obj))
    return {"cells": [column.cell(shown) for column in columns], "object": carried}
