"""/settings: what administrators change at run time, by domain."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from dotmac_api.access import require
from dotmac_api.audit.trail import Note
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep, IfMatch
from dotmac_api.domains import service
from dotmac_api.domains.schemas import SettingRead, SettingWrite
from dotmac_api.domains.specs import DOMAINS, SPECS
from dotmac_api.errors import NotFound
from dotmac_api.etag import check_if_match, set_etag
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Page, page_of_list

router = APIRouter(prefix="/settings", tags=["settings"])

Reader = Annotated[Principal, require("settings:read")]
Name = Annotated[str, Path(max_length=60)]


@router.get("/{domain}")
async def list_settings(
    principal: Reader,
    facade: FacadeDep,
    session: DatabaseSession,
    domain: Name,
    page: ListSlice,
) -> Page[SettingRead]:
    """The settings of a domain, in the order of `key` unless asked otherwise."""
    if domain not in DOMAINS:
        raise NotFound(f"there is no domain {domain!r}; there are {', '.join(DOMAINS)}")
    specs = sorted((s for s in SPECS if s.domain == domain), key=lambda s: s.key)
    part = page_of_list(specs, page, "key")
    stored = await service.changed_at(session, domain)
    items = [await service.read_setting(facade, s, stored.get(s.key)) for s in part.items]
    return Page(items=items, count=part.count, limit=page.limit, offset=page.offset)


@router.get("/{domain}/{key}")
async def get_setting(
    principal: Reader, facade: FacadeDep, session: DatabaseSession, response: Response, domain: Name, key: Name
) -> SettingRead:
    spec = service.spec_of(domain, key)
    stored = (await service.changed_at(session, domain)).get(key)
    set_etag(response, service.setting_etag(stored))
    return await service.read_setting(facade, spec, stored)


@router.put("/{domain}/{key}")
async def put_setting(
    principal: Annotated[Principal, require("settings:write", admin=True)],
    facade: FacadeDep,
    session: DatabaseSession,
    note: Note,
    response: Response,
    domain: Name,
    key: Name,
    body: SettingWrite,
    if_match: IfMatch = None,
) -> SettingRead:
    """Change a setting; a secret is stored encrypted, and refused without an encryption key."""
    principal.require_unlimited()
    spec = service.spec_of(domain, key)
    if if_match is not None:
        await service.lock_setting(session, spec)
        stored = await service.changed_at(session, domain)
        check_if_match(if_match, service.setting_etag(stored.get(key)))
    before = await service.read_setting(facade, spec, None)
    value = await service.write_setting(facade, session, principal, spec, body.value)
    stored = await service.changed_at(session, domain)
    set_etag(response, service.setting_etag(stored[key]))
    note.on("settings", f"{domain}.{key}")
    note.change({"value": before.value}, {"value": value})
    return before.model_copy(update={"value": value, "source": "database", "updated_at": stored[key]})
