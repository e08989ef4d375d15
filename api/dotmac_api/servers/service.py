"""Servers: reads from the mirror, writes to Kubernetes."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import ColumnElement, exists, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.errors import NotFound
from dotmac_api.gateway.edge import refusals
from dotmac_api.gateway.locks import one_at_a_time
from dotmac_api.gateway.writes import RECONCILE_REQUESTED_AT, Change, Gateway, Intent, New, Target, ensure
from dotmac_api.mirror.models import InstanceRow, ServerRow
from dotmac_api.mirror.projection import project
from dotmac_api.principal import Principal
from dotmac_api.schemas import Orderable, Slice, paginate
from dotmac_api.servers.schemas import FIELD_NAMES, SPEC_FIELDS, ServerCreate, ServerUpdate
from dotmac_crds.kinds import SERVER

ORDERABLE: Orderable = {
    "created_at": ServerRow.created_at,
    "name": ServerRow.name,
    "hostname": ServerRow.hostname,
    "status": ServerRow.status,
    "server_id": ServerRow.server_id,
}


@dataclass(frozen=True)
class ServerFilter:
    """What a list is narrowed to."""

    status: str | None = None
    search: str | None = None
    schedulable: bool | None = None


def visible_servers(principal: Principal) -> ColumnElement[bool]:
    """The WHERE clause of servers that the caller may see: a limited person sees those that carry its instances."""
    if not principal.limited:
        return true()
    mine = (InstanceRow.server_id == ServerRow.server_id, InstanceRow.deleted_at.is_(None))
    return exists().where(*mine, principal.tenancy(InstanceRow.org_code))


async def list_servers(
    session: AsyncSession, principal: Principal, page: Slice, wanted: ServerFilter
) -> tuple[Sequence[ServerRow], int]:
    query = select(ServerRow).where(ServerRow.deleted_at.is_(None), visible_servers(principal))
    if wanted.status:
        query = query.where(ServerRow.status == wanted.status)
    if wanted.schedulable is not None:
        query = query.where(ServerRow.spec["schedulable"].as_boolean().is_not_distinct_from(wanted.schedulable))
    if wanted.search:
        query = query.where(matches(wanted.search, ServerRow.name, ServerRow.hostname))
    return await paginate(session, query, page, ORDERABLE)


async def find_server(session: AsyncSession, principal: Principal, server_id: uuid.UUID) -> ServerRow:
    """Raises NotFound, also for one that the caller may not see or that is gone."""
    row = await session.scalar(
        select(ServerRow).where(
            ServerRow.server_id == server_id, ServerRow.deleted_at.is_(None), visible_servers(principal)
        )
    )
    if row is None:
        raise NotFound(f"there is no server {server_id}")
    return row


async def create_server(
    session: AsyncSession, gateway: Gateway, body: ServerCreate, intent: Intent, namespace: str
) -> ServerRow:
    target = Target(SERVER, body.name, namespace)
    spec: dict[str, Any] = {}
    _edit(spec, body)
    await one_at_a_time(session, target)
    with refusals(FIELD_NAMES, intent):
        return accepted(await gateway.create(target, New(spec, body.labels or {}), intent))


async def update_server(gateway: Gateway, row: ServerRow, body: ServerUpdate, intent: Intent) -> ServerRow:
    def edit(config: dict[str, Any]) -> None:
        _edit(ensure(config, "spec"), body)
        if "labels" in body.model_fields_set:
            config["metadata"]["labels"] = body.labels or {}

    with refusals(FIELD_NAMES, intent):
        return accepted(await gateway.change(target_of(row), Change(edit, removes=_removed(body)), intent))


async def check_server(gateway: Gateway, row: ServerRow, intent: Intent) -> ServerRow:
    """Has the operator look at the host now; status.lastHandledReconcileAt shows the token when it has."""

    def edit(config: dict[str, Any]) -> None:
        ensure(config, "metadata", "annotations")[RECONCILE_REQUESTED_AT] = token()

    with refusals(FIELD_NAMES, intent):
        return accepted(await gateway.change(target_of(row), Change(edit), intent))


async def delete_server(gateway: Gateway, row: ServerRow, intent: Intent) -> ServerRow:
    with refusals(FIELD_NAMES, intent):
        return accepted(await gateway.delete(target_of(row), intent))


def target_of(row: ServerRow) -> Target:
    return Target(SERVER, row.name, row.namespace, str(row.server_id))


def accepted(obj: dict[str, Any]) -> ServerRow:
    """What Kubernetes answered, as a row that is not stored: the mirror will bring it."""
    return ServerRow(**project({**obj, "kind": SERVER.name}))


def token() -> str:
    """A new value for the annotation that asks for a reconciliation."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def matches(search: str, *columns: Any) -> ColumnElement[bool]:
    """The WHERE clause: `search` somewhere in one of the columns, whatever the case."""
    pattern = "%" + search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    return or_(*(column.ilike(pattern) for column in columns))


def _edit(spec: dict[str, Any], body: ServerCreate | ServerUpdate) -> None:
    for ours, theirs in SPEC_FIELDS.items():
        if ours in body.model_fields_set:
            put(spec, theirs, getattr(body, ours))
    if body.credentials_secret is not None:
        spec["credentialsRef"] = {"name": body.credentials_secret}


def put(spec: dict[str, Any], name: str, value: object) -> None:
    """Sets a field, or takes it out (then the default holds) for None. Nested bodies are merged, camelCase."""
    if value is None:
        spec.pop(name, None)
    elif isinstance(value, BaseModel):
        inner = spec.setdefault(name, {})
        for key in value.model_fields_set:
            put(inner, _camel(key), getattr(value, key))
        if not inner:
            del spec[name]
    else:
        spec[name] = value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _removed(body: ServerUpdate) -> tuple[tuple[str, ...], ...]:
    gone = [name for name in body.model_fields_set if name in SPEC_FIELDS and getattr(body, name) is None]
    return tuple(("f:spec", f"f:{SPEC_FIELDS[name]}") for name in gone)
