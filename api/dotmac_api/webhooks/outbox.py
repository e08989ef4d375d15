"""A transition and its deliveries are written in one transaction: none is lost, none is told that did not happen."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, all_, any_, exists, func, insert, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from dotmac_api.mirror.models import TransitionRow
from dotmac_api.people.models import Person, PersonStatus
from dotmac_api.webhooks.models import DeliveryRow, WebhookRow

CHANNEL = "dotmac_webhooks"


async def enqueue(connection: AsyncConnection, transitions: Sequence[int]) -> None:
    """Makes a delivery of each transition for each subscription that wants it, and whose maker may see it still."""
    wanted = (
        select(WebhookRow.id, TransitionRow.id)
        .join(TransitionRow, TransitionRow.id == any_(literal(list(transitions))))
        .where(
            WebhookRow.active,
            or_(func.cardinality(WebhookRow.events) == 0, TransitionRow.event == any_(WebhookRow.events)),
            or_(WebhookRow.organisations.is_(None), TransitionRow.org_code == any_(WebhookRow.organisations)),
            ~_beyond_its_maker(),
        )
        .order_by(TransitionRow.id)
    )
    made = insert(DeliveryRow).from_select(["webhook_id", "transition_id"], wanted)
    done = await connection.execute(made)
    if done.rowcount:
        await connection.execute(select(func.pg_notify(CHANNEL, "")))


def _beyond_its_maker() -> ColumnElement[bool]:
    """Whether the maker of a webhook is limited to other organisations by now, or limited and no longer active."""
    return exists().where(
        Person.id == WebhookRow.created_by,
        Person.organisations.is_not(None),
        or_(
            Person.status != PersonStatus.ACTIVE,
            TransitionRow.org_code.is_(None),
            TransitionRow.org_code != all_(Person.organisations),
        ),
    )
