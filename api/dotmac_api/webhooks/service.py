"""Webhooks: subscriptions within the caller's organisations, their deliveries, and sending one again."""

import uuid
from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from dotmac_api.errors import Conflict, Invalid, NotFound
from dotmac_api.mirror.models import TransitionRow
from dotmac_api.principal import Principal
from dotmac_api.schemas import Orderable, Slice, paginate, unknown_order
from dotmac_api.vault import Vault
from dotmac_api.webhooks.destination import DestinationRefused, Network, check_url
from dotmac_api.webhooks.models import PENDING, DeliveryRow, WebhookRow
from dotmac_api.webhooks.outbox import CHANNEL
from dotmac_api.webhooks.schemas import WebhookCreate, WebhookUpdate
from dotmac_api.webhooks.signature import new_secret

ORDERABLE: Orderable = {
    "created_at": WebhookRow.created_at,
    "updated_at": WebhookRow.updated_at,
    "url": WebhookRow.url,
    "id": WebhookRow.id,
}


def visible_webhooks(principal: Principal) -> ColumnElement[bool]:
    """The WHERE clause: a limited person has those that tell of its own organisations only."""
    if principal.organisations is None:
        return true()
    mine = sorted(principal.organisations)
    return and_(WebhookRow.organisations.is_not(None), WebhookRow.organisations.contained_by(mine))


async def list_webhooks(
    session: AsyncSession, principal: Principal, page: Slice, active: bool | None
) -> tuple[Sequence[WebhookRow], int]:
    query = select(WebhookRow).where(visible_webhooks(principal))
    if active is not None:
        query = query.where(WebhookRow.active.is_(active))
    return await paginate(session, query, page, ORDERABLE)


async def find_webhook(session: AsyncSession, principal: Principal, webhook_id: uuid.UUID) -> WebhookRow:
    """Raises NotFound, also for one that tells of other organisations."""
    row = await session.scalar(select(WebhookRow).where(WebhookRow.id == webhook_id, visible_webhooks(principal)))
    if row is None:
        raise NotFound(f"there is no webhook {webhook_id}")
    return row


class Subscriptions:
    """Makes and changes webhooks."""

    def __init__(self, session: AsyncSession, vault: Vault, networks: Sequence[Network]) -> None:
        self._session = session
        self._vault = vault
        self._networks = networks

    async def create(self, principal: Principal, body: WebhookCreate) -> tuple[WebhookRow, str]:
        """The webhook, and its secret in plain text, to be shown this once."""
        self._check(principal, body.url, body.organisations)
        secret = body.secret or new_secret()
        values = body.model_dump(exclude={"secret"})
        row = WebhookRow(**values, secret=self._vault.encrypt(secret), created_by=principal.person_id)
        self._session.add(row)
        await self._session.flush()
        await self._session.refresh(row)
        return row, secret

    async def update(self, principal: Principal, row: WebhookRow, body: WebhookUpdate) -> WebhookRow:
        changes = body.model_dump(exclude_unset=True)
        self._check(principal, changes.get("url", row.url), changes.get("organisations", row.organisations))
        if "secret" in changes:
            changes["secret"] = self._vault.encrypt(changes["secret"])
        for name, value in changes.items():
            setattr(row, name, value)
        await self._session.flush()
        await self._session.refresh(row)
        return row

    def _check(self, principal: Principal, url: str, organisations: list[str] | None) -> None:
        try:
            check_url(url, self._networks)
        except DestinationRefused as refusal:
            raise Invalid.field("body.url", str(refusal)) from refusal
        mine = principal.organisations
        if mine is not None and (organisations is None or not set(organisations) <= mine):
            raise Invalid.field("body.organisations", "your account is limited; name some of your own organisations")


async def list_deliveries(
    session: AsyncSession, webhook: WebhookRow, page: Slice, state: str | None
) -> tuple[list[tuple[DeliveryRow, TransitionRow]], int]:
    """Newest first unless asked otherwise; the order is that of what happened."""
    where = [DeliveryRow.webhook_id == webhook.id]
    if state is not None:
        where.append(DeliveryRow.state == state)
    if page.order_by not in (None, "sequence"):
        raise unknown_order(["sequence"])
    count = await session.scalar(select(func.count()).select_from(DeliveryRow).where(*where)) or 0
    order = DeliveryRow.transition_id.asc() if page.order_dir == "asc" else DeliveryRow.transition_id.desc()
    query = (
        select(DeliveryRow, TransitionRow)
        .join(TransitionRow, TransitionRow.id == DeliveryRow.transition_id)
        .where(*where)
        .order_by(order, DeliveryRow.id)
        .offset(page.offset)
        .limit(page.limit)
    )
    return [(delivery, transition) for delivery, transition in await session.execute(query)], count


async def replay(
    session: AsyncSession, webhook: WebhookRow, delivery_id: uuid.UUID
) -> tuple[DeliveryRow, TransitionRow]:
    """Has an ended delivery sent again, with a fresh count of attempts. Raises NotFound; Conflict while it is due."""
    query = (
        select(DeliveryRow, TransitionRow)
        .join(TransitionRow, TransitionRow.id == DeliveryRow.transition_id)
        .where(DeliveryRow.id == delivery_id, DeliveryRow.webhook_id == webhook.id)
        .with_for_update(of=DeliveryRow)
    )
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise NotFound(f"there is no delivery {delivery_id} of this webhook")
    delivery, transition = found
    if delivery.state == PENDING:
        raise Conflict("it is not delivered yet and will be tried by itself; replay what is delivered or dead")
    delivery.state, delivery.attempts, delivery.finished_at = PENDING, 0, None
    delivery.next_attempt_at = func.now()
    await session.flush()
    await session.refresh(delivery)
    await session.execute(select(func.pg_notify(CHANNEL, "")))
    return delivery, transition
