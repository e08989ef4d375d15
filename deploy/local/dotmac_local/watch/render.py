"""Watch events in the form that was asked for: whole objects, tables, or metadata alone."""

from __future__ import annotations

import orjson

from dotmac_local import views
from dotmac_local.resources import ResourceType
from dotmac_local.server.negotiation import Form
from dotmac_local.storage import Revision
from dotmac_local.tables import render_table
from dotmac_local.tables.table import partial
from dotmac_local.watch.stream import Render, json_render


def renderer(resource: ResourceType, form: Form, include: str = "Metadata") -> Render:
    """How the events of one watch are written."""
    if form.transform == "Table":
        return _table_render(resource, include)
    if form.transform:
        return lambda kind, revision: _event(kind, partial(views.as_object(revision, resource)))
    return json_render(resource)


def _event(kind: str, obj: object) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), orjson.dumps(obj))


def _table_render(resource: ResourceType, include: str) -> Render:
    """Only the first event carries the column definitions, as kubectl expects."""
    first = True

    def render(kind: str, revision: Revision) -> bytes:
        nonlocal first
        table = render_table(resource, [revision], {"resourceVersion": str(revision.rv)}, include)
        if not first:
            table["columnDefinitions"] = None
        first = False
        return _event(kind, table)

    return render
