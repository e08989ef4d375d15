"""A transition and its deliveries are written in one transaction: none is lost, none is told that did not happen."""

from collections.abc import Sequence

from sqlalchemy import any_, func, insert, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dotmac_api.mirror.models import TransitionRow
from dotmac_api.webhooks.models import DeliveryRow, WebhookRow

CHANNEL = "dotmac_webhooks"


async def enqueue(connection: AsyncConnection, transitions: Sequence[int]) -> None:
    """Makes a delivery of each transition for each subscription that wants it."""
    wanted = (
        select(WebhookRow.id, TransitionRow.id)
        .join(TransitionRow, TransitionRow.id == any_(literal(list(transitions))))
        .where(
            WebhookRow.active,
            or_(func.cardinality(WebhookRow.events) == 0, TransitionRow.event == any_(WebhookRow.events)),
            or_(WebhookRow.organisations.is_(None), TransitionRow.org_code == any_(WebhookRow.organisations)),
        )
        .order_by(TransitionRow.id)
    )
    made = insert(DeliveryRow).from_select(["webhook_id", "transition_id"], wanted)
    done = await connection.execute(made)
    if done.rowcount:
        await connection.execute(select(func.pg_notify(CHANNEL, "")))
