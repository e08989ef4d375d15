"""/sessions."""

import uuid
from typing import Annotated

from fastapi import APIRouter, status

from dotmac_api.access import require
from dotmac_api.auth.models import AuthSession
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.errors import NotAllowed
from dotmac_api.etag import ShownDep, VersionsDep
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Page, page_of
from dotmac_api.sessions import service
from dotmac_api.sessions.schemas import SessionRead, SessionStatus, SessionUpdate

router = APIRouter(prefix="/sessions", tags=["sessions"])


def _read(row: AuthSession) -> SessionRead:
    columns = {name: getattr(row, name) for name in SessionRead.model_fields if name != "status"}
    return SessionRead(status=service.status_of(row), **columns)


@router.get("")
async def list_sessions(
    principal: Annotated[Principal, require("sessions:read")],
    session: DatabaseSession,
    page: ListSlice,
    person_id: uuid.UUID | None = None,
    status: SessionStatus | None = None,
) -> Page[SessionRead]:
    found = await service.list_sessions(session, principal, page, person_id=person_id, status=status)
    return page_of(found, page, _read)


@router.post("", include_in_schema=False)
async def create_session(_principal: Annotated[Principal, require("sessions:write", admin=True)]) -> None:
    """Nobody opens a session for somebody else: it would be a sign-in without its factors."""
    raise NotAllowed(
        "a session is opened by signing in: POST /api/v1/auth/login; for a program, POST /api/v1/api-keys",
        headers={"Allow": "GET"},
    )


@router.get("/{session_id}")
async def get_session(
    principal: Annotated[Principal, require("sessions:read")],
    session: DatabaseSession,
    shown: ShownDep,
    session_id: uuid.UUID,
) -> SessionRead:
    return shown.show(await service.get_session(session, principal, session_id), _read)


@router.patch("/{session_id}")
async def shorten_session(
    principal: Annotated[Principal, require("sessions:write", admin=True)],
    session: DatabaseSession,
    facade: FacadeDep,
    versions: VersionsDep,
    session_id: uuid.UUID,
    body: SessionUpdate,
) -> SessionRead:
    """Let a session end earlier."""
    row = await versions.check(await service.get_session(session, principal, session_id))
    await service.shorten_session(session, facade.identity, row, body.expires_at)
    return versions.show(row, _read)


@router.delete("/{session_id}", status_code=status.HTTP_204_NO_CONTENT)
async def end_session(
    principal: Annotated[Principal, require("sessions:delete", admin=True)],
    session: DatabaseSession,
    facade: FacadeDep,
    versions: VersionsDep,
    session_id: uuid.UUID,
) -> None:
    """Revoke a session, on every replica at once; its row stays for the record until it is pruned."""
    row = await versions.check(await service.get_session(session, principal, session_id))
    await service.end_session(session, facade.identity, row)
