"""Instances: reads from the mirror, writes to Kubernetes."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.errors import Conflict, ErrorDetail, Forbidden, Invalid, NotFound
from dotmac_api.gateway.edge import refusals
from dotmac_api.gateway.locks import one_at_a_time
from dotmac_api.gateway.refusals import Refused
from dotmac_api.gateway.writes import RECONCILE_REQUESTED_AT, Change, Gateway, Intent, Target, ensure
from dotmac_api.instances.schemas import FIELD_NAMES, SPEC_PATHS, InstanceCreate, InstanceSettings
from dotmac_api.mirror.models import InstanceRow, ServerRow, TransitionRow
from dotmac_api.mirror.projection import project
from dotmac_api.principal import Principal
from dotmac_api.schemas import Orderable, Slice, paginate
from dotmac_api.servers.service import matches, token, visible_servers
from dotmac_crds.kinds import INSTANCE, INSTANCE_CLASS, RELEASE, SERVER, Kind

RESTARTED_AT = "DOTMAC_RESTARTED_AT"
"""Variable whose change has the operator replace the application's containers, the new beside the old."""

ORDERABLE: Orderable = {
    "created_at": InstanceRow.created_at,
    "org_code": InstanceRow.org_code,
    "org_name": InstanceRow.org_name,
    "name": InstanceRow.name,
    "status": InstanceRow.status,
    "plan": InstanceRow.plan_id,
    "release": InstanceRow.release,
    "instance_id": InstanceRow.instance_id,
}

EVENT_ORDER: Orderable = {"id": TransitionRow.id}

type Edit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class InstanceFilter:
    """What a list is narrowed to."""

    status: str | None = None
    org_code: str | None = None
    server_id: uuid.UUID | None = None
    plan: str | None = None
    release: str | None = None
    sector_type: str | None = None
    search: str | None = None


def visible_instances(principal: Principal, wanted: InstanceFilter) -> Select[InstanceRow]:
    """Those that the caller may see, narrowed."""
    query = select(InstanceRow).where(InstanceRow.deleted_at.is_(None), principal.tenancy(InstanceRow.org_code))
    equal = {
        InstanceRow.status: wanted.status,
        InstanceRow.org_code: wanted.org_code,
        InstanceRow.server_id: wanted.server_id,
        InstanceRow.plan_id: wanted.plan,
        InstanceRow.release: wanted.release,
        InstanceRow.sector_type: wanted.sector_type,
    }
    query = query.where(*(column == value for column, value in equal.items() if value is not None))
    if wanted.search:
        columns = (InstanceRow.name, InstanceRow.org_code, InstanceRow.org_name, InstanceRow.domain)
        query = query.where(matches(wanted.search, *columns))
    return query


async def list_instances(
    session: AsyncSession, principal: Principal, page: Slice, wanted: InstanceFilter
) -> tuple[Sequence[InstanceRow], int]:
    return await paginate(session, visible_instances(principal, wanted), page, ORDERABLE)


async def find_instance(session: AsyncSession, principal: Principal, instance_id: uuid.UUID) -> InstanceRow:
    """Raises NotFound, also for another organisation's, and for one that is gone."""
    row = await session.scalar(
        select(InstanceRow).where(
            InstanceRow.instance_id == instance_id,
            InstanceRow.deleted_at.is_(None),
            principal.tenancy(InstanceRow.org_code),
        )
    )
    if row is None:
        raise NotFound(f"there is no instance {instance_id}")
    return row


async def list_events(
    session: AsyncSession, row: InstanceRow, page: Slice, event: str | None
) -> tuple[Sequence[TransitionRow], int]:
    """The history of one instance."""
    query = select(TransitionRow).where(TransitionRow.uid == row.instance_id)
    if event:
        query = query.where(TransitionRow.event == event)
    return await paginate(session, query, page, EVENT_ORDER)


@dataclass(frozen=True)
class Placed:
    """Where a new instance goes: the namespace, and serverRef or placement."""

    namespace: str
    spec: dict[str, Any]


class InstanceWriter:
    """The writes of one request."""

    def __init__(self, gateway: Gateway, intent: Intent) -> None:
        self._gateway = gateway
        self._intent = intent

    async def create(
        self, session: AsyncSession, principal: Principal, body: InstanceCreate, namespace: str
    ) -> InstanceRow:
        """Raises Forbidden for an organisation that is not the caller's, Invalid for references to nothing."""
        if not principal.sees(body.org_code):
            field = ErrorDetail(field="body.org_code", message="is not one of your organisations", type="tenancy")
            raise Forbidden("org_code: is not one of your organisations", details=[field])
        place = await self._place(session, principal, body, namespace)
        spec: dict[str, Any] = {"orgCode": body.org_code, **place}
        _edit_spec(spec, body)
        await self._check_references(body)
        name = body.name or body.org_code.lower().replace("_", "-")
        target = Target(INSTANCE, name, namespace)
        await one_at_a_time(session, target)
        with refusals(FIELD_NAMES, self._intent):
            return accepted(await self._gateway.create(target, spec, body.labels or {}, self._intent))

    async def update(self, row: InstanceRow, body: InstanceSettings, *, reconcile: bool = False) -> InstanceRow:
        """Changes the fields that were sent; `reconcile`: and has the operator act on them afresh."""
        await self._check_references(body)

        def edit(config: dict[str, Any]) -> None:
            _edit_spec(ensure(config, "spec"), body)
            if "labels" in body.model_fields_set:
                config["metadata"]["labels"] = body.labels or {}
            if reconcile:
                ask_reconcile(config)

        return await self.apply(row, edit, removes=_removed(row, body))

    async def release(self, row: InstanceRow, release: str, *, reconcile: bool = False) -> InstanceRow:
        """Another release."""
        await self._exists(RELEASE, release, "release")

        def edit(config: dict[str, Any]) -> None:
            ensure(config, "spec")["releaseRef"] = {"name": release}
            if reconcile:
                ask_reconcile(config)

        return await self.apply(row, edit)

    async def plan(self, row: InstanceRow, plan: str) -> InstanceRow:
        """Another InstanceClass."""
        await self._exists(INSTANCE_CLASS, plan, "plan")
        return await self.apply(row, lambda config: ensure(config, "spec").update(classRef={"name": plan}))

    async def reconcile(self, row: InstanceRow) -> InstanceRow:
        """Has the operator look, and try again what it had given up."""
        return await self.apply(row, ask_reconcile)

    async def restart(self, row: InstanceRow) -> InstanceRow:
        """Replaces the application's containers; the old ones serve until the new ones are healthy."""

        def edit(config: dict[str, Any]) -> None:
            env = ensure(config, "spec").setdefault("env", [])
            env[:] = [item for item in env if item["name"] != RESTARTED_AT]
            env.append({"name": RESTARTED_AT, "value": token()})

        return await self.apply(row, edit)

    async def flag(self, row: InstanceRow, key: str, enabled: bool | None) -> InstanceRow:
        """Sets a flag, or (None) takes it back to what the application does without one."""
        if enabled is None and key not in (row.spec.get("features") or {}):
            raise NotFound(f"the instance has no flag {key}")

        def edit(config: dict[str, Any]) -> None:
            features = ensure(config, "spec", "features")
            if enabled is None:
                features.pop(key, None)
            else:
                features[key] = enabled

        return await self.apply(row, edit, removes=(("f:spec", "f:features", f"f:{key}"),) if enabled is None else ())

    async def module(self, row: InstanceRow, name: str, active: bool) -> InstanceRow:
        """Activates or deactivates a module."""
        if not active and name not in (row.spec.get("modules") or []):
            raise NotFound(f"the instance has no module {name}")

        def edit(config: dict[str, Any]) -> None:
            modules = ensure(config, "spec").setdefault("modules", [])
            modules[:] = [*(m for m in modules if m != name), *([name] if active else [])]

        return await self.apply(row, edit, removes=() if active else (("f:spec", "f:modules", f'v:"{name}"'),))

    async def add_domain(self, row: InstanceRow, domain: dict[str, Any]) -> InstanceRow:
        """Raises Conflict when the instance has it already."""
        host = domain["host"]
        if any(kept["host"] == host for kept in row.spec.get("domains") or []):
            detail = ErrorDetail(field="body.host", message="the instance has this domain", type="already_exists")
            raise Conflict(f"host: the instance has {host} already", details=[detail], code="already_exists")
        return await self.apply(row, lambda config: ensure(config, "spec").setdefault("domains", []).append(domain))

    async def remove_domain(self, row: InstanceRow, host: str) -> InstanceRow:
        """Raises NotFound when the instance does not have it."""
        if not any(kept["host"] == host for kept in row.spec.get("domains") or []):
            raise NotFound(f"the instance has no domain {host}")

        def edit(config: dict[str, Any]) -> None:
            domains = ensure(config, "spec").setdefault("domains", [])
            domains[:] = [kept for kept in domains if kept["host"] != host]

        return await self.apply(row, edit, removes=(("f:spec", "f:domains", f'k:{{"host":"{host}"}}'),))

    async def delete(self, row: InstanceRow) -> InstanceRow:
        with refusals(FIELD_NAMES, self._intent):
            return accepted(await self._gateway.delete(target_of(row), self._intent))

    async def apply(self, row: InstanceRow, edit: Edit, removes: tuple[tuple[str, ...], ...] = ()) -> InstanceRow:
        with refusals(FIELD_NAMES, self._intent):
            return accepted(await self._gateway.change(target_of(row), Change(edit, removes), self._intent))

    async def _place(
        self, session: AsyncSession, principal: Principal, body: InstanceCreate, namespace: str
    ) -> dict[str, Any]:
        if body.placement is not None:
            return {"placement": {"selector": {"matchLabels": body.placement}}}
        if body.server_id is not None:
            server = await session.scalar(
                select(ServerRow).where(
                    ServerRow.server_id == body.server_id,
                    ServerRow.namespace == namespace,
                    ServerRow.deleted_at.is_(None),
                    visible_servers(principal),
                )
            )
            if server is None:
                raise Invalid.field("body.server_id", "there is no such server; see GET /servers")
            return {"serverRef": {"name": server.name}}
        name = body.server or ""
        await self._exists(SERVER, name, "server", namespace)
        return {"serverRef": {"name": name}}

    async def _check_references(self, body: InstanceSettings) -> None:
        if body.release is not None:
            await self._exists(RELEASE, body.release, "release")
        if body.plan is not None:
            await self._exists(INSTANCE_CLASS, body.plan, "plan")

    async def _exists(self, kind: Kind, name: str, field: str, namespace: str | None = None) -> None:
        """Kubernetes takes references to nothing; people rather hear of the typing error at once."""
        with refusals(FIELD_NAMES, self._intent):
            try:
                found = await self._gateway.get(Target(kind, name, namespace))
            except Refused as refusal:
                if not refusal.missing:
                    raise
                where = {"Release": "releases", "InstanceClass": "plans", "Server": "servers"}[kind.name]
                raise Invalid.field(f"body.{field}", f"there is no {kind.name} {name}; see GET /{where}") from refusal
        if found["spec"].get("yanked"):
            raise Invalid.field(f"body.{field}", f"Release {name} was yanked: no instance may move to it")


def target_of(row: InstanceRow) -> Target:
    return Target(INSTANCE, row.name, row.namespace, str(row.instance_id))


def accepted(obj: dict[str, Any]) -> InstanceRow:
    """What Kubernetes answered, as a row that is not stored: the mirror will bring it."""
    return InstanceRow(**project({**obj, "kind": INSTANCE.name}))


def ask_reconcile(config: dict[str, Any]) -> None:
    ensure(config, "metadata", "annotations")[RECONCILE_REQUESTED_AT] = token()


def wire_domain(host: str, tls: str | None) -> dict[str, Any]:
    return {"host": host, "tls": tls} if tls else {"host": host}


def _edit_spec(spec: dict[str, Any], body: InstanceSettings) -> None:
    for field in SPEC_PATHS.keys() & body.model_fields_set:
        *parents, last = SPEC_PATHS[field]
        value = _wire(field, body)
        if value is not None:
            ensure(spec, *parents)[last] = value
        elif (inner := _existing(spec, parents)) is not None:
            inner.pop(last, None)


def _wire(field: str, body: InstanceSettings) -> Any:
    if field == "domains" and body.domains is not None:
        return [wire_domain(d.host, d.tls) for d in body.domains]
    if field == "env" and body.env is not None:
        return [
            {"name": e.name, "value": e.value}
            if e.secret is None
            else {"name": e.name, "secretKeyRef": e.secret.model_dump()}
            for e in body.env
        ]
    return getattr(body, field)


def _existing(spec: dict[str, Any], parents: list[str]) -> dict[str, Any] | None:
    here: dict[str, Any] | None = spec
    for name in parents:
        here = (here or {}).get(name)
    return here


def _removed(row: InstanceRow, body: InstanceSettings) -> tuple[tuple[str, ...], ...]:
    """Everything that the row has and the body takes away, so that what others own is refused and not ignored."""
    made: list[tuple[str, ...]] = []
    for field in SPEC_PATHS.keys() & body.model_fields_set:
        path = ("f:spec", *(f"f:{name}" for name in SPEC_PATHS[field]))
        value = _wire(field, body)
        kept = _existing(row.spec, list(SPEC_PATHS[field]))
        if value is None:
            made.append(path)
        elif isinstance(kept, dict):
            made += [(*path, f"f:{key}") for key in kept.keys() - value.keys()]
        elif isinstance(kept, list):
            made += [(*path, item) for item in sorted(_items(kept) - _items(value))]
    return tuple(made)


def _items(items: list[Any]) -> set[str]:
    """The items of a list-map or a set, as managedFields names them."""
    made = set()
    for item in items:
        key = "host" if isinstance(item, dict) and "host" in item else "name"
        made.add(f'k:{{"{key}":"{item[key]}"}}' if isinstance(item, dict) else f'v:"{item}"')
    return made
