"""Reading and writing settings through their specs."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.database import after_commit
from dotmac_api.domains.models import DomainSetting
from dotmac_api.domains.schemas import SettingRead
from dotmac_api.domains.specs import BY_NAME, DOMAINS, SettingSpec, Value, ValueRefused
from dotmac_api.domains.store import Effective
from dotmac_api.errors import Conflict, Invalid, NotFound
from dotmac_api.etag import etag_of
from dotmac_api.facade import Facade
from dotmac_api.principal import Principal
from dotmac_api.vault import Undecryptable, Vault

MASK = "***"


def spec_of(domain: str, key: str) -> SettingSpec:
    """Raises NotFound, naming what there is."""
    if domain not in DOMAINS:
        raise NotFound(f"there is no domain {domain!r}; there are {', '.join(DOMAINS)}")
    if (domain, key) not in BY_NAME:
        raise NotFound(f"there is no setting {key!r} in {domain}")
    return BY_NAME[domain, key]


def _shown(spec: SettingSpec, value: Value) -> Value | None:
    if spec.secret:
        return MASK if value else None
    return value


def setting_etag(updated_at: datetime | None) -> str:
    """The version of what is stored; before anything is, the default's."""
    return etag_of(updated_at or "default")


async def lock_setting(session: AsyncSession, spec: SettingSpec) -> None:
    """One change of a setting at a time: there may be no row yet that could be locked."""
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{spec.domain}.{spec.key}", 1))))


async def changed_at(session: AsyncSession, domain: str) -> dict[str, datetime]:
    """key -> when it was last stored, for the stored settings of a domain."""
    rows = await session.execute(
        select(DomainSetting.key, DomainSetting.updated_at).where(DomainSetting.domain == domain)
    )
    return {row.key: row.updated_at for row in rows}


async def read_setting(facade: Facade, spec: SettingSpec, updated_at: datetime | None) -> SettingRead:
    """What clients see of a setting; a secret is masked."""
    try:
        now = await facade.domains.effective(spec.domain, spec.key)
    except Undecryptable:
        # It is stored, and it is no use: say where it comes from and show the mask.
        now = Effective(spec, MASK, "database")
    bounded = spec.kind == "integer"
    return SettingRead(
        domain=spec.domain,
        key=spec.key,
        type=spec.kind,
        value=_fixed_value(facade, spec) if spec.fixed else _shown(spec, now.value),
        default=None if spec.secret else spec.default,
        description=spec.description,
        source="environment" if spec.fixed else now.source,
        is_secret=spec.secret,
        read_only=spec.fixed or ("set by the environment" if now.source == "environment" else None),
        minimum=spec.low if bounded else None,
        maximum=spec.high if bounded else None,
        choices=list(spec.choices),
        updated_at=updated_at,
    )


def _fixed_value(facade: Facade, spec: SettingSpec) -> Value | None:
    if spec.key == "jwt_algorithm":
        return facade.tokens.algorithm
    if spec.key == "totp_encryption_key":
        return MASK if facade.vault.ready else None
    return MASK if spec.secret else spec.default


async def write_setting(
    facade: Facade, session: AsyncSession, principal: Principal, spec: SettingSpec, value: Value
) -> Value | None:
    """Store a value; returns it as it may be shown.

    Raises Conflict when it cannot be changed here or there is no key for a secret, and Invalid.
    """
    if spec.fixed:
        raise Conflict(f"{spec.domain}.{spec.key} is {spec.fixed}", code="read_only")
    if (spec.domain, spec.key) in facade.settings.overrides:
        raise Conflict(f"{spec.domain}.{spec.key} is set by the environment", code="read_only")
    if spec.secret and value == MASK:
        raise Invalid.field("body.value", "is the mask that reading shows; send the secret itself")
    try:
        checked = spec.check(value)
    except ValueRefused as error:
        raise Invalid.field("body.value", str(error)) from None
    stored = facade.vault.encrypt(str(checked)) if spec.secret else checked
    row: dict[str, Any] = {"domain": spec.domain, "key": spec.key, "value": stored, "is_secret": spec.secret}
    row["updated_by"] = principal.person_id
    statement = insert(DomainSetting).values(row)
    changes = {name: statement.excluded[name] for name in ("value", "is_secret", "updated_by")}
    await session.execute(
        statement.on_conflict_do_update(index_elements=["domain", "key"], set_={**changes, "updated_at": func.now()})
    )

    async def forget() -> None:
        facade.domains.forget()

    after_commit(session, forget)
    return _shown(spec, checked)


async def rotate_secrets(session: AsyncSession, vault: Vault) -> int:
    """Re-encrypt every stored secret setting under the first key; returns how many. Raises Undecryptable."""
    rows = (await session.scalars(select(DomainSetting).where(DomainSetting.is_secret).with_for_update())).all()
    for row in rows:
        row.value = vault.rotate(str(row.value))
    await session.flush()
    return len(rows)
