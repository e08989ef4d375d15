"""TOTP (RFC 6238) with each step usable once, and recovery codes."""

import hmac
import time
import uuid

import pyotp
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.auth.models import MfaMethod, RecoveryCode
from dotmac_api.auth.opaque import KeyedHash, new_recovery_code
from dotmac_api.errors import Conflict
from dotmac_api.vault import Vault

STEP_SECONDS = 30
# One step of clock drift to each side (RFC 6238, 5.2).
DRIFT_STEPS = 1
RECOVERY_CODES = 10


def matching_step(secret: str, code: str, now: float | None = None) -> int | None:
    """The time step whose code this is, within the drift; None when there is none."""
    totp = pyotp.TOTP(secret, interval=STEP_SECONDS)
    current = int((time.time() if now is None else now) // STEP_SECONDS)
    matched = None
    for step in range(current - DRIFT_STEPS, current + DRIFT_STEPS + 1):
        if hmac.compare_digest(totp.generate_otp(step).encode(), code.encode(errors="surrogatepass")):
            matched = step
    return matched


async def confirmed_method(session: AsyncSession, person_id: uuid.UUID) -> MfaMethod | None:
    """The second factor in force, if any."""
    found: MfaMethod | None = await session.scalar(
        select(MfaMethod).where(MfaMethod.person_id == person_id, MfaMethod.confirmed_at.is_not(None))
    )
    return found


async def begin_setup(session: AsyncSession, vault: Vault, person_id: uuid.UUID) -> str:
    """A new secret that waits for its first code; earlier unconfirmed ones are dropped. Returns the secret."""
    await session.execute(delete(MfaMethod).where(MfaMethod.person_id == person_id, MfaMethod.confirmed_at.is_(None)))
    secret = pyotp.random_base32()
    session.add(MfaMethod(person_id=person_id, secret=vault.encrypt(secret)))
    await session.flush()
    return secret


async def confirm(session: AsyncSession, vault: Vault, hashes: KeyedHash, person_id: uuid.UUID, code: str) -> list[str]:
    """Turn the waiting secret on with its first code; returns new recovery codes. Raises Conflict."""
    waiting = await session.scalar(
        select(MfaMethod)
        .where(MfaMethod.person_id == person_id, MfaMethod.confirmed_at.is_(None))
        .order_by(MfaMethod.created_at.desc())
        .limit(1)
        .with_for_update()
    )
    if waiting is None:
        raise Conflict("nothing waits to be confirmed: POST /api/v1/auth/mfa/setup first", code="mfa_not_set_up")
    step = matching_step(vault.decrypt(waiting.secret), code)
    if step is None:
        raise Conflict("the code does not fit; check the clock of your device and send the next one", code="mfa_code")
    await session.execute(
        delete(MfaMethod).where(MfaMethod.person_id == person_id, MfaMethod.confirmed_at.is_not(None))
    )
    waiting.last_step = step
    waiting.confirmed_at = await session.scalar(select(func.now()))
    await session.execute(delete(RecoveryCode).where(RecoveryCode.person_id == person_id))
    codes = [new_recovery_code() for _ in range(RECOVERY_CODES)]
    session.add_all(RecoveryCode(person_id=person_id, code_hash=hashes.of("recovery", c)) for c in codes)
    await session.flush()
    return codes


async def use_code(session: AsyncSession, vault: Vault, hashes: KeyedHash, method: MfaMethod, code: str) -> bool:
    """Spend a TOTP code or a recovery code of the person; False when it does not fit or was used before."""
    code = code.strip().lower()
    if len(code) == 6 and code.isdecimal():
        step = matching_step(vault.decrypt(method.secret), code)
        if step is None:
            return False
        used = await session.scalar(
            update(MfaMethod)
            .where(MfaMethod.id == method.id, MfaMethod.last_step < step)
            .values(last_step=step)
            .returning(MfaMethod.id)
            .execution_options(synchronize_session=False)
        )
        return used is not None
    used = await session.scalar(
        update(RecoveryCode)
        .where(
            RecoveryCode.person_id == method.person_id,
            RecoveryCode.code_hash == hashes.of("recovery", code),
            RecoveryCode.used_at.is_(None),
        )
        .values(used_at=func.now())
        .returning(RecoveryCode.id)
        .execution_options(synchronize_session=False)
    )
    return used is not None


async def turn_off(session: AsyncSession, person_id: uuid.UUID) -> None:
    """Forget the second factor and its recovery codes, for a person whose device is lost."""
    await session.execute(delete(MfaMethod).where(MfaMethod.person_id == person_id))
    await session.execute(delete(RecoveryCode).where(RecoveryCode.person_id == person_id))
