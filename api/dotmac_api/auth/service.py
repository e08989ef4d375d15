"""Signing in and out: what the endpoints of /auth do.

Sign-in uses transactions of its own: a failure must be counted although the request fails, and no connection is held
while a password is hashed.
"""

import json
import logging
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.exceptions import RedisError
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.audit.models import AuditEvent
from dotmac_api.audit.trail import AuditNote, record
from dotmac_api.auth import lockout, mfa, sessions
from dotmac_api.auth.identity import roles_and_permissions
from dotmac_api.auth.models import AuthSession, PasswordReset, UserCredential
from dotmac_api.auth.opaque import new_token
from dotmac_api.auth.schemas import Delivery, MfaChallenge, Tokens
from dotmac_api.auth.sessions import Device, Refused
from dotmac_api.database import commit
from dotmac_api.errors import Conflict, Unauthorized, Unavailable
from dotmac_api.facade import Facade
from dotmac_api.mail import send_mail
from dotmac_api.people.models import Person, PersonStatus
from dotmac_api.principal import Principal

log = logging.getLogger(__name__)

MFA_SECONDS = 300
RESET_MINUTES = 60


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Tokens of a session; `refresh_token` goes into the cookie or the body, as `delivery` says."""

    tokens: Tokens
    refresh_token: str
    refresh_seconds: int
    delivery: Delivery


def _wrong() -> Unauthorized:
    return Unauthorized("the username or the password is wrong", code="invalid_credentials")


async def _credential(session: AsyncSession, username: str) -> tuple[UserCredential, Person] | None:
    row = (
        await session.execute(
            select(UserCredential, Person)
            .join(Person, Person.id == UserCredential.person_id)
            # The database lowers both: its rules and Python's differ beyond ASCII, and by its locale.
            .where(func.lower(UserCredential.username) == func.lower(username))
        )
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def _locked(credential: UserCredential) -> bool:
    return credential.locked_until is not None and credential.locked_until > datetime.now(UTC)


async def login(
    facade: Facade, note: AuditNote, username: str, password: str, device: Device, delivery: Delivery
) -> SignedIn | MfaChallenge:
    """Check a password; then tokens, or a challenge where a second factor is on.

    Raises Unauthorized, Locked, TooManyRequests, and Unavailable when Redis is down.
    """
    username = username.strip()
    note.actor_name = username
    await facade.limits.hit("login", address=device.ip_address, account=username)
    async with facade.sessions() as session:
        found = await _credential(session, username)
    if found is None:
        await facade.passwords.verify(password, None)
        if await lockout.record_unknown(facade.redis, username):
            raise lockout.locked()
        raise _wrong()
    credential, person = found
    note.actor_id = person.id
    if _locked(credential):
        # It takes as long as for an unknown username that is locked.
        await facade.passwords.verify(password, None)
        raise lockout.locked()
    good, renewed = await facade.passwords.verify(password, credential.password_hash)
    if not good or not credential.is_active or person.status != PersonStatus.ACTIVE:
        if not good:
            await lockout.record_failure(facade.sessions, credential.id)
        raise _wrong()
    async with facade.sessions() as session:
        second = await mfa.confirmed_method(session, person.id)
    if second is not None:
        return await _challenge(facade, credential, delivery)
    return await _complete(facade, credential.id, device, delivery, renewed)


async def _challenge(facade: Facade, credential: UserCredential, delivery: Delivery) -> MfaChallenge:
    token = new_token()
    waiting = {"credential": str(credential.id), "person": str(credential.person_id), "delivery": delivery}
    await facade.redis.set(_mfa_key(facade, token), json.dumps(waiting), ex=MFA_SECONDS)
    return MfaChallenge(mfa_token=token, expires_in=MFA_SECONDS)


def _mfa_key(facade: Facade, token: str) -> str:
    return "dotmac:mfa:" + facade.hashes.of("mfa", token).hex()


async def verify_mfa(facade: Facade, note: AuditNote, token: str, code: str, device: Device) -> SignedIn:
    """The second step of a sign-in. Raises Unauthorized for a wrong or used code, TooManyRequests, Unavailable."""
    try:
        waiting = await facade.redis.get(_mfa_key(facade, token))
    except RedisError:
        raise Unavailable("sign-in is closed while Redis is not available; try again") from None
    data: dict[str, Any] = json.loads(waiting) if waiting else {"person": "-"}
    await facade.limits.hit("mfa", address=device.ip_address, account=data["person"])
    if not waiting:
        raise Unauthorized("the sign-in took too long or was finished; start again", code="mfa_token_invalid")
    person_id = uuid.UUID(data["person"])
    note.actor_id = person_id
    async with facade.sessions.begin() as session:
        method = await mfa.confirmed_method(session, person_id)
        good = method is not None and await mfa.use_code(session, facade.vault, facade.hashes, method, code)
    if not good:
        raise Unauthorized("the code does not fit, or was used before", code="mfa_code_invalid")
    if not await facade.redis.delete(_mfa_key(facade, token)):
        raise Unauthorized("the sign-in took too long or was finished; start again", code="mfa_token_invalid")
    return await _complete(facade, uuid.UUID(data["credential"]), device, data["delivery"], None)


async def _complete(
    facade: Facade, credential_id: uuid.UUID, device: Device, delivery: Delivery, renewed_hash: str | None
) -> SignedIn:
    ttl = timedelta(days=await facade.domains.integer("auth", "jwt_refresh_ttl_days"))
    async with facade.sessions.begin() as session:
        values: dict[str, object] = {"failed_attempts": 0, "locked_until": None, "last_login_at": func.now()}
        if renewed_hash:
            values["password_hash"] = renewed_hash
        credential = await session.scalar(
            update(UserCredential)
            .where(UserCredential.id == credential_id, UserCredential.is_active)
            .values(values)
            .returning(UserCredential)
        )
        if credential is None:
            raise _wrong()
        opened, refresh = await sessions.open_session(session, credential.person_id, credential_id, device, ttl)
        tokens = await _tokens(facade, session, opened, must_change=credential.must_change_password)
    return _signed_in(tokens, refresh, opened.expires_at, delivery)


def _signed_in(tokens: Tokens, refresh: str, expires_at: datetime, delivery: Delivery) -> SignedIn:
    if delivery == "body":
        tokens = tokens.model_copy(update={"refresh_token": refresh})
    seconds = max(0, int((expires_at - datetime.now(UTC)).total_seconds()))
    return SignedIn(tokens, refresh, seconds, delivery)


async def _tokens(facade: Facade, session: AsyncSession, signed_in: AuthSession, *, must_change: bool) -> Tokens:
    roles, permissions = await roles_and_permissions(session, signed_in.person_id)
    minutes = await facade.domains.integer("auth", "jwt_access_ttl_minutes")
    left = int((signed_in.expires_at - datetime.now(UTC)).total_seconds())
    seconds = max(1, min(minutes * 60, left))
    access = facade.tokens.issue(signed_in.person_id, signed_in.id, seconds, sorted(roles), sorted(permissions))
    return Tokens(access_token=access, expires_in=seconds, must_change_password=must_change)


_REFUSALS = {
    Refused.UNKNOWN: ("the refresh token is not valid; sign in again", "invalid_refresh_token"),
    Refused.ENDED: ("the session has ended; sign in again", "session_ended"),
    Refused.REUSED: (
        "the refresh token was used before; the session is revoked",
        "refresh_token_reused",
    ),
}


async def refresh(
    facade: Facade, note: AuditNote, token: str, device: Device, delivery: Delivery, arrived: float
) -> SignedIn:
    """New tokens for a refresh token, which is spent by it. `arrived` is time.monotonic() of the request.

    Raises Unauthorized (a spent token revokes its session, audited), Conflict `refresh_raced` for the losers of
    concurrent refreshes of one token, TooManyRequests, Unavailable.
    """
    async with facade.sessions() as session:
        family = await sessions.session_of_refresh_token(session, token)
    await facade.limits.hit("refresh", address=device.ip_address, account=str(family or token))
    async with facade.sessions() as session:
        rotation = await sessions.rotate(session, facade.identity, token, arrived)
        signed_in = None
        if rotation.token is not None:
            row = await session.execute(
                select(AuthSession, UserCredential.must_change_password)
                .join(UserCredential, UserCredential.id == AuthSession.credential_id)
                .where(AuthSession.id == rotation.session_id)
            )
            opened, must_change = row.one()
            tokens = await _tokens(facade, session, opened, must_change=must_change)
            signed_in = _signed_in(tokens, rotation.token, opened.expires_at, delivery)
        await commit(session)
    note.actor_id = rotation.person_id
    if signed_in is not None:
        note.on("sessions", rotation.session_id)
        return signed_in
    if rotation.refused is Refused.RACED:
        raise Conflict("another request is refreshing with this token; use its answer", code="refresh_raced")
    if rotation.refused is Refused.REUSED:
        await _audit_reuse(facade, rotation.person_id, rotation.session_id, device)
    message, code = _REFUSALS[rotation.refused or Refused.UNKNOWN]
    raise Unauthorized(message, code=code)


async def _audit_reuse(
    facade: Facade, person_id: uuid.UUID | None, session_id: uuid.UUID | None, device: Device
) -> None:
    log.warning("a spent refresh token was used again; the session is revoked")
    event = AuditEvent(
        actor_type="anonymous",
        actor_id=person_id,
        session_id=session_id,
        action="auth.refresh_token_reused",
        entity_type="sessions",
        entity_id=str(session_id),
        is_success=False,
        ip_address=device.ip_address,
        user_agent=device.user_agent,
        details={},
    )
    await record(facade.sessions, event)


async def logout(facade: Facade, session_id: uuid.UUID) -> None:
    async with facade.sessions() as session:
        await sessions.revoke(session, facade.identity, AuthSession.id == session_id, reason="signed out")
        await commit(session)


async def session_of(facade: Facade, token: str) -> uuid.UUID:
    """The session of a refresh token. Raises Unauthorized."""
    async with facade.sessions() as session:
        found = await sessions.session_of_refresh_token(session, token)
    if found is None:
        raise Unauthorized("the refresh token is not valid", code="invalid_refresh_token")
    return found


async def begin_reset(facade: Facade, username: str, device: Device) -> None:
    """Send a reset link to the person's address, if there is such a person; the caller learns nothing.

    Runs after the answer is sent, so that its time tells nothing either.
    """
    name = func.lower(username.strip())
    token = new_token()
    async with facade.sessions.begin() as session:
        row = (
            await session.execute(
                select(UserCredential.id, Person.email)
                .join(Person, Person.id == UserCredential.person_id)
                .where(
                    (func.lower(UserCredential.username) == name) | (func.lower(Person.email) == name),
                    UserCredential.is_active,
                    Person.status == PersonStatus.ACTIVE,
                )
                .limit(1)
            )
        ).one_or_none()
        if row is None:
            log.info("a password reset was asked for an unknown account")
            return
        await session.execute(delete(PasswordReset).where(PasswordReset.credential_id == row.id))
        expires = datetime.now(UTC) + timedelta(minutes=RESET_MINUTES)
        session.add(
            PasswordReset(token_hash=facade.hashes.of("reset", token), credential_id=row.id, expires_at=expires)
        )
    link = f"{facade.settings.public_url.rstrip('/')}/reset-password#token={token}"
    text = (
        f"Somebody at {device.ip_address} asked to reset the password of your account.\n\n"
        f"To choose a new one, open this link within {RESET_MINUTES} minutes:\n\n    {link}\n\n"
        f"or give this token to your client:\n\n    {token}\n\n"
        "If it was not you, do nothing: your password stays as it is.\n"
    )
    await send_mail(facade.domains, row.email, "Reset your password", text)


async def finish_reset(facade: Facade, note: AuditNote, token: str, new_password: str, device: Device) -> None:
    """Set a new password by a reset token, once; every session of the person ends. Raises Unauthorized, Invalid."""
    await facade.limits.hit("reset", address=device.ip_address, account=f"token:{token}")
    hashed = facade.hashes.of("reset", token)
    async with facade.sessions() as session:
        found = await _reset_row(session, hashed)
    if found is None:
        raise _spent_reset()
    await facade.passwords.check_new(new_password, *found)
    password_hash = await facade.passwords.hash(new_password)
    async with facade.sessions() as session:
        credential_id = await session.scalar(
            update(PasswordReset)
            .where(
                PasswordReset.token_hash == hashed,
                PasswordReset.used_at.is_(None),
                PasswordReset.expires_at > func.now(),
            )
            .values(used_at=func.now())
            .returning(PasswordReset.credential_id)
            .execution_options(synchronize_session=False)
        )
        if credential_id is None:
            raise _spent_reset()
        credential = await session.get_one(UserCredential, credential_id)
        note.actor_id = credential.person_id
        set_password(credential, password_hash)
        mine = AuthSession.person_id == credential.person_id
        await sessions.revoke(session, facade.identity, mine, reason="password reset")
        await commit(session)


def _spent_reset() -> Unauthorized:
    return Unauthorized("the token is not valid any more; ask for a new one", code="invalid_reset_token")


async def _reset_row(session: AsyncSession, hashed: bytes) -> tuple[str, str] | None:
    """The username and the e-mail address that a live reset token is for."""
    row = (
        await session.execute(
            select(UserCredential.username, Person.email)
            .join(PasswordReset, PasswordReset.credential_id == UserCredential.id)
            .join(Person, Person.id == UserCredential.person_id)
            .where(
                PasswordReset.token_hash == hashed,
                PasswordReset.used_at.is_(None),
                PasswordReset.expires_at > func.now(),
            )
        )
    ).one_or_none()
    return None if row is None else (row.username, row.email)


def set_password(credential: UserCredential, password_hash: str, *, must_change: bool = False) -> None:
    """Put a new hash in force, and lift a lock."""
    credential.password_hash = password_hash
    credential.password_updated_at = datetime.now(UTC)
    credential.must_change_password = must_change
    credential.failed_attempts = 0
    credential.locked_until = None


async def own_credential(facade: Facade, principal: Principal, password: str, device: Device) -> UserCredential:
    """The credential of the caller's session, if `password` is its own. Raises as login does."""
    await facade.limits.hit("login", address=device.ip_address, account=principal.name)
    async with facade.sessions() as session:
        credential = await session.scalar(
            select(UserCredential)
            .join(AuthSession, AuthSession.credential_id == UserCredential.id)
            .where(AuthSession.id == principal.session_id)
        )
    if credential is None:
        raise _wrong()
    if _locked(credential):
        raise lockout.locked()
    good, _ = await facade.passwords.verify(password, credential.password_hash)
    if not good:
        await lockout.record_failure(facade.sessions, credential.id)
        raise _wrong()
    return credential


async def change_password(facade: Facade, principal: Principal, current: str, new: str, device: Device) -> None:
    """Change one's own password; every other session of the person ends. Raises Unauthorized, Locked, Invalid."""
    credential = await own_credential(facade, principal, current, device)
    if current == new:
        raise Conflict("the new password is the old one", code="password_unchanged")
    async with facade.sessions() as session:
        person = await session.get_one(Person, principal.person_id)
    await facade.passwords.check_new(new, credential.username, person.email)
    password_hash = await facade.passwords.hash(new)
    async with facade.sessions() as session:
        set_password(await session.get_one(UserCredential, credential.id), password_hash)
        others = (AuthSession.person_id == principal.person_id) & (AuthSession.id != principal.session_id)
        await sessions.revoke(session, facade.identity, others, reason="password changed")
        facade.identity.rights_changed(session)
        await session.flush()
        await commit(session)
