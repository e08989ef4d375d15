"""/auth: sign-in, tokens, passwords, second factors, and what a person does with its own account."""

import uuid
from typing import Annotated, Any

import pyotp
from fastapi import APIRouter, BackgroundTasks, Request, Response, status
from sqlalchemy import func, select

from dotmac_api.access import authenticate, public, signed_in
from dotmac_api.audit.trail import Note
from dotmac_api.auth import mfa, service, sessions
from dotmac_api.auth.models import AuthSession
from dotmac_api.auth.schemas import (
    Accepted,
    ChangePassword,
    ForgotPassword,
    Login,
    Me,
    MeUpdate,
    MfaChallenge,
    MfaConfirm,
    MfaSecret,
    MfaSetup,
    MfaVerify,
    MySession,
    RecoveryCodes,
    Refresh,
    ResetPassword,
    Revoked,
    Tokens,
)
from dotmac_api.auth.sessions import Device
from dotmac_api.database import DatabaseSession
from dotmac_api.deps import FacadeDep
from dotmac_api.errors import LOCKED_RESPONSE, Forbidden, NotFound, Unauthorized
from dotmac_api.etag import ShownDep, VersionsDep
from dotmac_api.facade import Facade
from dotmac_api.people.models import Person
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Orderable, Page, paginate

router = APIRouter(prefix="/auth", tags=["auth"])

Self = Annotated[Principal, signed_in()]
# Also for somebody whose password must change first.
SelfAnyway = Annotated[Principal, signed_in(password_change=True)]


def device_of(request: Request) -> Device:
    """The address (as the trusted proxies tell it) and the user agent of a request."""
    agent = request.headers.get("user-agent")
    return Device(request.client.host if request.client else "unknown", agent[:300] if agent else None)


async def _deliver(facade: Facade, response: Response, result: service.SignedIn) -> Tokens:
    response.headers["Cache-Control"] = "no-store"
    if result.delivery == "cookie":
        response.set_cookie(
            await facade.domains.text("auth", "refresh_cookie_name"),
            result.refresh_token,
            max_age=result.refresh_seconds,
            **await _cookie_attributes(facade),
        )
    return result.tokens


async def _cookie_attributes(facade: Facade) -> Any:
    # __Host- asks for Secure, Path=/ and no Domain; a browser drops the cookie otherwise.
    same_site = await facade.domains.text("auth", "refresh_cookie_samesite")
    return {"secure": True, "httponly": True, "samesite": same_site, "path": "/"}


async def _cookie(facade: Facade, request: Request) -> str | None:
    """The refresh token of the cookie. Raises Forbidden for a request that another site made the browser send."""
    token = request.cookies.get(await facade.domains.text("auth", "refresh_cookie_name"))
    if token and request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Forbidden("the cookie counts for requests of its own site only", code="cross_site")
    return token


@router.post("/login", dependencies=[public()], responses=LOCKED_RESPONSE)
async def login(
    facade: FacadeDep, request: Request, response: Response, note: Note, body: Login
) -> Tokens | MfaChallenge:
    """Sign in. The refresh token comes as a `__Host-` cookie, or in the body for clients that ask for it."""
    result = await service.login(facade, note, body.username, body.password, device_of(request), body.refresh_token_in)
    if isinstance(result, MfaChallenge):
        response.headers["Cache-Control"] = "no-store"
        return result
    return await _deliver(facade, response, result)


@router.post("/refresh", dependencies=[public()])
async def refresh(
    facade: FacadeDep, request: Request, response: Response, note: Note, body: Refresh | None = None
) -> Tokens:
    """Spend the refresh token for new tokens, delivered the way it came. Using one twice revokes its session; of
    concurrent refreshes of one token exactly one succeeds and the others get 409 refresh_raced."""
    given = body.refresh_token if body else None
    token = given or await _cookie(facade, request)
    if not token:
        raise Unauthorized("send the refresh token, in the cookie or the body", code="invalid_refresh_token")
    arrived: float = request.state.arrived
    delivery = "body" if given else "cookie"
    result = await service.refresh(facade, note, token, device_of(request), delivery, arrived)  # type: ignore[arg-type]
    return await _deliver(facade, response, result)


@router.post("/logout", dependencies=[public()], status_code=status.HTTP_204_NO_CONTENT)
async def logout(facade: FacadeDep, request: Request, response: Response, body: Refresh | None = None) -> None:
    """End the session of the access token, or else of the refresh token in the body or the cookie."""
    await service.logout(facade, await _session_to_end(facade, request, body))
    name = await facade.domains.text("auth", "refresh_cookie_name")
    response.delete_cookie(name, **await _cookie_attributes(facade))


async def _session_to_end(facade: Facade, request: Request, body: Refresh | None) -> uuid.UUID:
    try:
        principal = await authenticate(request)
    except Unauthorized:
        # Also beside an access token that has expired: who sends one still means to sign out.
        token = (body.refresh_token if body else None) or await _cookie(facade, request)
        if token:
            return await service.session_of(facade, token)
        if "authorization" in request.headers:
            raise
        raise Unauthorized("send the access token or the refresh token") from None
    if principal.session_id is None:
        raise Forbidden("an API key has no session; revoke it at /api-keys")
    return principal.session_id


@router.post("/forgot-password", dependencies=[public()], status_code=status.HTTP_202_ACCEPTED)
async def forgot_password(
    facade: FacadeDep, request: Request, tasks: BackgroundTasks, body: ForgotPassword
) -> Accepted:
    """Ask for a reset token by e-mail; the answer is the same whether or not there is such an account."""
    device = device_of(request)
    await facade.limits.hit("reset", address=device.ip_address, account=body.username)
    tasks.add_task(service.begin_reset, facade, body.username, device)
    return Accepted(message="if there is such an account, a message is on its way to its e-mail address")


@router.post("/reset-password", dependencies=[public()], status_code=status.HTTP_204_NO_CONTENT)
async def reset_password(facade: FacadeDep, request: Request, note: Note, body: ResetPassword) -> None:
    """Set a new password with the token of the e-mail; it works once, and every session of the person ends."""
    await service.finish_reset(facade, note, body.token, body.new_password, device_of(request))


@router.post("/mfa/setup", responses=LOCKED_RESPONSE)
async def mfa_setup(
    principal: Self, facade: FacadeDep, request: Request, session: DatabaseSession, body: MfaSetup
) -> MfaSecret:
    """A new TOTP secret, in force once it is confirmed. Asks for the password, and for a code of the one in force."""
    device = device_of(request)
    await service.own_credential(facade, principal, body.password, device)
    method = await mfa.confirmed_method(session, principal.person_id)
    if method is not None:
        await facade.limits.hit("mfa", address=device.ip_address, account=str(principal.person_id))
        if not body.code or not await mfa.use_code(session, facade.vault, facade.hashes, method, body.code):
            raise Unauthorized("a second factor is on: send one of its codes", code="mfa_code_invalid")
    secret = await mfa.begin_setup(session, facade.vault, principal.person_id)
    issuer = await facade.domains.text("auth", "totp_issuer")
    uri = pyotp.TOTP(secret).provisioning_uri(name=principal.name, issuer_name=issuer)
    return MfaSecret(secret=secret, otpauth_uri=uri)


@router.post("/mfa/confirm")
async def mfa_confirm(
    principal: Self, facade: FacadeDep, request: Request, session: DatabaseSession, body: MfaConfirm
) -> RecoveryCodes:
    """Turn the new second factor on with its first code; shows the recovery codes."""
    await facade.limits.hit("mfa", address=device_of(request).ip_address, account=str(principal.person_id))
    codes = await mfa.confirm(session, facade.vault, facade.hashes, principal.person_id, body.code)
    return RecoveryCodes(recovery_codes=codes)


@router.post("/mfa/verify", dependencies=[public()])
async def mfa_verify(facade: FacadeDep, request: Request, response: Response, note: Note, body: MfaVerify) -> Tokens:
    """Finish a sign-in with a code; each code works once."""
    result = await service.verify_mfa(facade, note, body.mfa_token, body.code, device_of(request))
    return await _deliver(facade, response, result)


async def _me(session: DatabaseSession, principal: Principal, person: Person) -> Me:
    return Me(
        id=person.id,
        username=principal.name,
        first_name=person.first_name,
        last_name=person.last_name,
        display_name=person.display_name,
        email=person.email,
        phone=person.phone,
        organisations=person.organisations,
        roles=sorted(principal.roles),
        permissions=sorted(principal.permissions),
        mfa_enabled=await mfa.confirmed_method(session, person.id) is not None,
        must_change_password=principal.must_change_password,
    )


@router.get("/me")
async def me(principal: SelfAnyway, session: DatabaseSession, shown: ShownDep) -> Me:
    """Who I am and what I may do."""
    person = await session.get_one(Person, principal.person_id)
    made = await _me(session, principal, person)
    return shown.show(person, lambda _: made)


@router.patch("/me")
async def update_me(principal: Self, session: DatabaseSession, versions: VersionsDep, body: MeUpdate) -> Me:
    person = await versions.check(await session.get_one(Person, principal.person_id))
    for name, value in body.model_dump(exclude_unset=True).items():
        setattr(person, name, value)
    await session.flush()
    await session.refresh(person)
    made = await _me(session, principal, person)
    return versions.show(person, lambda _: made)


@router.post("/me/password", status_code=status.HTTP_204_NO_CONTENT, responses=LOCKED_RESPONSE)
async def change_password(principal: SelfAnyway, facade: FacadeDep, request: Request, body: ChangePassword) -> None:
    """Change my password; my other sessions end."""
    await service.change_password(facade, principal, body.current_password, body.new_password, device_of(request))


_ORDERABLE: Orderable = {
    "last_seen_at": AuthSession.last_seen_at,
    "created_at": AuthSession.created_at,
    "expires_at": AuthSession.expires_at,
    "id": AuthSession.id,
}


@router.get("/me/sessions")
async def my_sessions(principal: SelfAnyway, session: DatabaseSession, page: ListSlice) -> Page[MySession]:
    """My live sessions."""
    query = select(AuthSession).where(
        AuthSession.person_id == principal.person_id,
        AuthSession.revoked_at.is_(None),
        AuthSession.expires_at > func.now(),
    )
    rows, count = await paginate(session, query, page, _ORDERABLE)
    items = [
        MySession(
            id=row.id,
            current=row.id == principal.session_id,
            ip_address=row.ip_address,
            user_agent=row.user_agent,
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            expires_at=row.expires_at,
        )
        for row in rows
    ]
    return Page(items=items, count=count, limit=page.limit, offset=page.offset)


@router.delete("/me/sessions")
async def end_my_other_sessions(principal: SelfAnyway, facade: FacadeDep, session: DatabaseSession) -> Revoked:
    """End every session of mine but this one."""
    others = (AuthSession.person_id == principal.person_id) & (AuthSession.id != principal.session_id)
    ended = await sessions.revoke(session, facade.identity, others, reason="ended by its owner")
    return Revoked(revoked=len(ended))


@router.delete("/me/sessions/{session_id}", status_code=status.HTTP_204_NO_CONTENT)
async def end_my_session(
    principal: SelfAnyway, facade: FacadeDep, session: DatabaseSession, session_id: uuid.UUID
) -> None:
    """End one session of mine, which may be this one."""
    which = (AuthSession.person_id == principal.person_id) & (AuthSession.id == session_id)
    if not await sessions.revoke(session, facade.identity, which, reason="ended by its owner"):
        raise NotFound(f"you have no live session {session_id}")
