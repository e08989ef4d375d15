"""Writes on instances, to Kubernetes, in the name of the caller."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.errors import Conflict, ErrorDetail, Forbidden, Invalid, NotFound, PreconditionFailed
from dotmac_api.gateway.edge import refusals
from dotmac_api.gateway.locks import one_at_a_time
from dotmac_api.gateway.refusals import Refused
from dotmac_api.gateway.writes import RECONCILE_REQUESTED_AT, Change, Gateway, Intent, New, Target, ensure
from dotmac_api.instances.approval import note_request
from dotmac_api.instances.schemas import FIELD_NAMES, SPEC_PATHS, TAG, Deploy, InstanceCreate, InstanceSettings
from dotmac_api.mirror.models import InstanceRow, ServerRow
from dotmac_api.mirror.projection import project
from dotmac_api.principal import Principal
from dotmac_api.servers.service import token, visible_servers
from dotmac_crds.base import GROUP
from dotmac_crds.kinds import INSTANCE, INSTANCE_CLASS, RELEASE, SERVER, Kind

RESTART_REQUESTED_AT = f"{GROUP}/restart-requested-at"
"""Annotation whose change has the operator replace the application's containers, the new beside the old."""

FORCE_WINDOW = f"{GROUP}/force-window"
"""Annotation that lets the operator work outside of the maintenance windows."""

type Edit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Defaults:
    """What a new instance gets that its maker does not say: settings of the platform."""

    namespace: str
    base_domain: str = ""
    strategy: str = "least_instances"


class InstanceWriter:
    """The writes of one request."""

    def __init__(self, gateway: Gateway, intent: Intent, principal: Principal) -> None:
        self._gateway = gateway
        self.intent = intent
        self._principal = principal

    async def create(
        self, session: AsyncSession, body: InstanceCreate, defaults: Defaults, like: InstanceRow | None = None
    ) -> InstanceRow:
        """Raises Forbidden for an organisation that is not the caller's, Invalid for references to nothing.

        `like`: the instance that it is a clone of.
        """
        if not self._principal.sees(body.org_code):
            field = ErrorDetail(field="body.org_code", message="is not one of your organisations", type="tenancy")
            raise Forbidden("org_code: is not one of your organisations", details=[field])
        self._check_secrets(body, like)
        slug = body.org_code.lower().replace("_", "-")
        spec: dict[str, Any] = {"orgCode": body.org_code}
        _edit_spec(spec, body)
        if server := await self._place(session, spec, body, defaults):
            own = (server.get("spec") or {}).get("baseDomain")
            if not own and not spec.get("domains") and defaults.base_domain:
                spec["domains"] = [{"host": f"{slug}.{defaults.base_domain}"}]
        await self._check_references(body)
        target = Target(INSTANCE, body.name or slug, defaults.namespace)
        await one_at_a_time(session, target)
        annotations = {TAG + key: value for key, value in body.tags.items()}
        with refusals(FIELD_NAMES, self.intent):
            return accepted(await self._gateway.create(target, New(spec, body.labels or {}, annotations), self.intent))

    def check_version(self, row: InstanceRow) -> None:
        """Raises PreconditionFailed when If-Match names another version than this row's."""
        if self.intent.if_match is not None and str(row.resource_version) not in self.intent.if_match:
            raise PreconditionFailed("it has changed since you read it; read it again and repeat the request")

    async def update(self, row: InstanceRow, body: InstanceSettings, *, reconcile: bool = False) -> InstanceRow:
        """Changes the fields that were sent; `reconcile`: and has the operator act on them afresh."""
        self._check_secrets(body, row)
        await self._check_references(body)

        def edit(config: dict[str, Any]) -> None:
            _edit_spec(ensure(config, "spec"), body)
            if "labels" in body.model_fields_set:
                config["metadata"]["labels"] = body.labels or {}
            if reconcile:
                ask_reconcile(config)

        lowers = "approval" in body.model_fields_set and body.approval != "Required"
        look = self.may_lower_approval if lowers else None
        return await self.apply(row, edit, removes=_removed(row, body), look=look)

    async def release(self, row: InstanceRow, release: str) -> InstanceRow:
        """Another release."""
        await self._exists(RELEASE, release, "release")
        return await self.apply(row, lambda config: ensure(config, "spec").update(releaseRef={"name": release}))

    async def deploy(self, row: InstanceRow, body: Deploy) -> InstanceRow:
        """Another release, if one is named; has the operator look, and try again what it had given up."""
        if body.release is not None:
            await self._exists(RELEASE, body.release, "release")

        def edit(config: dict[str, Any]) -> None:
            if body.release is not None:
                ensure(config, "spec")["releaseRef"] = {"name": body.release}
            ask_reconcile(config)
            if body.force_window:
                ensure(config, "metadata", "annotations")[FORCE_WINDOW] = "true"

        return await self.apply(row, edit)

    async def plan(self, row: InstanceRow, plan: str) -> InstanceRow:
        """Another InstanceClass."""
        await self._exists(INSTANCE_CLASS, plan, "plan")
        return await self.apply(row, lambda config: ensure(config, "spec").update(classRef={"name": plan}))

    async def restart(self, row: InstanceRow) -> InstanceRow:
        """Replaces the application's containers; the old ones serve until the new ones are healthy."""

        def edit(config: dict[str, Any]) -> None:
            ensure(config, "metadata", "annotations")[RESTART_REQUESTED_AT] = token()

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
        with refusals(FIELD_NAMES, self.intent):
            return accepted(await self._gateway.delete(target_of(row), self.intent))

    async def apply(
        self,
        row: InstanceRow,
        edit: Edit,
        removes: tuple[tuple[str, ...], ...] = (),
        *,
        look: Edit | None = None,
        asks: bool = True,
    ) -> InstanceRow:
        """One change. `look` may refuse it, seeing the whole object; `asks`: it may need an approval."""
        seen: dict[str, Any] = {}

        def looks(live: dict[str, Any]) -> None:
            seen.clear()
            seen.update(live)
            if look is not None:
                look(live)

        def edits(config: dict[str, Any]) -> None:
            if asks:
                # What was forced was the change before this one.
                ensure(config, "metadata", "annotations").pop(FORCE_WINDOW, None)
            edit(config)
            if asks:
                note_request(config, seen, self.intent.person, datetime.now(UTC))

        with refusals(FIELD_NAMES, self.intent):
            change = Change(edits, removes, looks)
            return accepted(await self._gateway.change(target_of(row), change, self.intent))

    def may_lower_approval(self, live: dict[str, Any]) -> None:
        """Raises Forbidden when approvals are asked for and the caller is no administrator."""
        if live["spec"].get("approval") == "Required" and not self._principal.is_admin:
            raise Forbidden("only an administrator lets changes go without an approval")

    async def _place(
        self, session: AsyncSession, spec: dict[str, Any], body: InstanceCreate, defaults: Defaults
    ) -> dict[str, Any] | None:
        """Puts serverRef or placement into the spec; the Server, where one is named."""
        if body.server_id is None and body.server is None:
            if body.placement is None and defaults.strategy == "explicit":
                text = "name a server: this platform chooses none (platform.default_server_strategy is explicit)"
                raise Invalid.field("body.server", text)
            spec["placement"] = {"selector": {"matchLabels": body.placement or {}}}
            return None
        name = body.server
        if name is None or self._principal.limited:
            name = await self._named(session, body, defaults.namespace)
        server = await self._exists(SERVER, name, "server", defaults.namespace)
        spec["serverRef"] = {"name": name}
        return server

    async def _named(self, session: AsyncSession, body: InstanceCreate, namespace: str) -> str:
        """The name of a server that the caller may see."""
        asked = ServerRow.name == body.server if body.server else ServerRow.server_id == body.server_id
        name = await session.scalar(
            select(ServerRow.name).where(
                asked,
                ServerRow.namespace == namespace,
                ServerRow.deleted_at.is_(None),
                visible_servers(self._principal),
            )
        )
        if name is None:
            field = "server" if body.server else "server_id"
            raise Invalid.field(f"body.{field}", "there is no such server; see GET /servers, or leave it to placement")
        return name

    def _check_secrets(self, body: InstanceSettings, row: InstanceRow | None) -> None:
        """Raises Invalid when somebody limited to organisations refers to a Secret that `row` does not refer to yet.

        All tenants of a namespace have their Secrets there, as servers have their SSH keys, and a tenant's container
        shows what is in its environment.
        """
        if not self._principal.limited:
            return
        known = [item.get("secretKeyRef") for item in (row.spec.get("env") or [] if row else [])]
        for number, item in enumerate(body.env or []):
            if item.secret is not None and item.secret.model_dump() not in known:
                text = "your account is limited, and the Secret may be somebody else's: have an administrator set it"
                raise Invalid.field(f"body.env.{number}.secret", text)

    async def _check_references(self, body: InstanceSettings) -> None:
        if body.release is not None:
            await self._exists(RELEASE, body.release, "release")
        if body.plan is not None:
            await self._exists(INSTANCE_CLASS, body.plan, "plan")

    async def _exists(self, kind: Kind, name: str, field: str, namespace: str | None = None) -> dict[str, Any]:
        """Kubernetes takes references to nothing; people rather hear of the typing error at once."""
        with refusals(FIELD_NAMES, self.intent):
            try:
                found = await self._gateway.get(Target(kind, name, namespace))
            except Refused as refusal:
                if not refusal.missing:
                    raise
                where = {"Release": "releases", "InstanceClass": "plans", "Server": "servers"}[kind.name]
                raise Invalid.field(f"body.{field}", f"there is no {kind.name} {name}; see GET /{where}") from refusal
        if found["spec"].get("yanked"):
            raise Invalid.field(f"body.{field}", f"Release {name} was yanked: no instance may move to it")
        return found


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
            if parents and not inner:
                # An empty map may lack what the resource wants in it.
                del spec[parents[0]]


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
    if field == "maintenance_windows" and body.maintenance_windows is not None:
        return [window.model_dump() for window in body.maintenance_windows]
    value = getattr(body, field)
    return value.isoformat() if isinstance(value, datetime) else value


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
        elif isinstance(kept, list) and field != "maintenance_windows":
            # Windows have one owner as a whole: a conflict tells of another one.
            made += [(*path, item) for item in sorted(_items(kept) - _items(value))]
    return tuple(made)


def _items(items: list[Any]) -> set[str]:
    """The items of a list-map or a set, as managedFields names them."""
    made = set()
    for item in items:
        key = "host" if isinstance(item, dict) and "host" in item else "name"
        made.add(f'k:{{"{key}":"{item[key]}"}}' if isinstance(item, dict) else f'v:"{item}"')
    return made
