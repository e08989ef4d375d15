"""GET /releases and /plans."""

import uuid
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query, Response
from sqlalchemy import select

from dotmac_api.access import require
from dotmac_api.database import DatabaseSession
from dotmac_api.errors import NotFound
from dotmac_api.etag import etag_of, set_etag
from dotmac_api.mirror.models import PlanRow, ReleaseRow
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Orderable, Page, page_of, paginate
from dotmac_api.servers.schemas import MirroredRead, common

router = APIRouter(tags=["catalog"])
Reader = Annotated[Principal, require("catalog:read")]
Version = Annotated[str | None, Query(max_length=63, pattern=r"^[^\x00]*$")]

RELEASE_ORDER: Orderable = {
    "created_at": ReleaseRow.created_at,
    "name": ReleaseRow.name,
    "version": ReleaseRow.version,
    "release_id": ReleaseRow.release_id,
}
PLAN_ORDER: Orderable = {
    "created_at": PlanRow.created_at,
    "name": PlanRow.name,
    "max_users": PlanRow.max_users,
    "plan_id": PlanRow.plan_uid,
}


class ReleaseRead(MirroredRead):
    release_id: uuid.UUID
    version: str
    yanked: bool
    images: dict[str, str]
    roles: list[str]
    upgrade_from: list[str]

    @classmethod
    def of(cls, row: ReleaseRow) -> Self:
        return cls.model_validate(
            common(row)
            | {
                "release_id": row.release_id,
                "version": row.version,
                "yanked": row.yanked,
                "images": row.spec.get("images") or {},
                "roles": [role["name"] for role in row.spec.get("roles") or []],
                "upgrade_from": row.spec.get("upgradeFrom") or [],
            }
        )


class PlanRead(MirroredRead):
    plan_id: uuid.UUID
    max_users: int | None
    max_storage: str | None
    resources: dict[str, Any]

    @classmethod
    def of(cls, row: PlanRow) -> Self:
        return cls.model_validate(
            common(row)
            | {
                "plan_id": row.plan_uid,
                "max_users": row.max_users,
                "max_storage": row.max_storage,
                "resources": row.spec.get("resources") or {},
            }
        )


@router.get("/releases")
async def list_releases(
    _principal: Reader, session: DatabaseSession, page: ListSlice, version: Version = None, yanked: bool | None = None
) -> Page[ReleaseRead]:
    query = select(ReleaseRow).where(ReleaseRow.deleted_at.is_(None))
    if version is not None:
        query = query.where(ReleaseRow.version == version)
    if yanked is not None:
        query = query.where(ReleaseRow.yanked.is_(yanked))
    return page_of(await paginate(session, query, page, RELEASE_ORDER), page, ReleaseRead.of)


@router.get("/releases/{release_id}")
async def get_release(
    _principal: Reader, session: DatabaseSession, release_id: uuid.UUID, response: Response
) -> ReleaseRead:
    row = await session.get(ReleaseRow, release_id)
    if row is None or row.deleted_at is not None:
        raise NotFound(f"there is no release {release_id}")
    set_etag(response, etag_of(row.resource_version))
    return ReleaseRead.of(row)


@router.get("/plans")
async def list_plans(_principal: Reader, session: DatabaseSession, page: ListSlice) -> Page[PlanRead]:
    query = select(PlanRow).where(PlanRow.deleted_at.is_(None))
    return page_of(await paginate(session, query, page, PLAN_ORDER), page, PlanRead.of)


@router.get("/plans/{plan_id}")
async def get_plan(_principal: Reader, session: DatabaseSession, plan_id: uuid.UUID, response: Response) -> PlanRead:
    row = await session.get(PlanRow, plan_id)
    if row is None or row.deleted_at is not None:
        raise NotFound(f"there is no plan {plan_id}")
    set_etag(response, etag_of(row.resource_version))
    return PlanRead.of(row)
