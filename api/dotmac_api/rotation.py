"""Re-encrypts every stored secret under the first of the encryption keys, after which the older keys can go."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from dotmac_api.auth.models import MfaMethod
from dotmac_api.database import Sessions
from dotmac_api.domains.models import DomainSetting
from dotmac_api.domains.service import rotate_secrets
from dotmac_api.idempotency.models import IdempotencyKey
from dotmac_api.vault import EncryptionKeyMissing, Undecryptable, Vault
from dotmac_api.webhooks.models import WebhookRow

# Every text column that holds what the vault encrypted; a model that stores a secret is named here.
ENCRYPTED: tuple[InstrumentedAttribute[str], ...] = (MfaMethod.secret, WebhookRow.secret)


async def unreadable(session: AsyncSession, vault: Vault) -> tuple[int, int]:
    """(how many secrets are stored, how many of them fit none of the keys)."""
    stored = [str(row.value) for row in await session.scalars(select(DomainSetting).where(DomainSetting.is_secret))]
    for column in ENCRYPTED:
        stored += await session.scalars(select(column).where(column.is_not(None)))
    return len(stored), sum(not _fits(vault, text) for text in stored)


def _fits(vault: Vault, stored: str) -> bool:
    try:
        vault.decrypt(stored)
    except (EncryptionKeyMissing, Undecryptable):
        return False
    return True


async def rotate_everything(
    sessions: Sessions, vault: Vault, columns: Sequence[InstrumentedAttribute[str]] = ENCRYPTED
) -> dict[str, int]:
    """All or nothing, in one transaction. Returns table -> how many secrets. Raises Undecryptable.

    Kept answers of idempotency keys are dropped instead: they live for a day only.
    """
    counts: dict[str, int] = {}
    async with sessions.begin() as session:
        counts["domain_settings"] = await rotate_secrets(session, vault)
        for column in columns:
            model = column.class_
            rows = (await session.scalars(select(model).where(column.is_not(None)).with_for_update())).all()
            for row in rows:
                setattr(row, column.key, vault.rotate(getattr(row, column.key)))
            counts[model.__tablename__] = len(rows)
        await session.execute(delete(IdempotencyKey).where(IdempotencyKey.status.is_not(None)))
    return counts
