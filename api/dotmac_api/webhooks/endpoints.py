"""/webhooks."""

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, status

from dotmac_api.access import require
from dotmac_api.database import DatabaseSession, after_commit
from dotmac_api.deps import FacadeDep
from dotmac_api.etag import ShownDep, VersionsDep
from dotmac_api.principal import Principal
from dotmac_api.schemas import ListSlice, Page, page_of
from dotmac_api.webhooks import service
from dotmac_api.webhooks.schemas import DeliveryRead, WebhookCreate, WebhookCreated, WebhookRead, WebhookUpdate
from dotmac_api.webhooks.service import Subscriptions

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

Reader = Annotated[Principal, require("webhooks:read")]
Writer = Annotated[Principal, require("webhooks:write")]


@router.get("")
async def list_webhooks(
    principal: Reader, session: DatabaseSession, page: ListSlice, active: bool | None = None
) -> Page[WebhookRead]:
    found = await service.list_webhooks(session, principal, page, active)
    return page_of(found, page, WebhookRead.model_validate)


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_webhook(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, body: WebhookCreate, shown: ShownDep
) -> WebhookCreated:
    """Each event is POSTed to `url` as JSON with the header `X-DotMac-Signature: t=<unix seconds>,v1=<hex>`.

    v1 is HMAC-SHA256 of `<t>.<body>` under the secret. Refuse what is older than five minutes, and answer 2xx within
    ten seconds; anything else is tried again, five times more within about 1.5 hours.
    """
    subscriptions = Subscriptions(session, facade.vault, facade.settings.webhook_networks)
    row, secret = await subscriptions.create(principal, body)
    return shown.show(row, lambda made: WebhookCreated(**WebhookRead.model_validate(made).model_dump(), secret=secret))


@router.get("/{webhook_id}")
async def get_webhook(
    principal: Reader, session: DatabaseSession, webhook_id: uuid.UUID, shown: ShownDep
) -> WebhookRead:
    return shown.show(await service.find_webhook(session, principal, webhook_id), WebhookRead.model_validate)


@router.patch("/{webhook_id}")
async def update_webhook(
    principal: Writer,
    session: DatabaseSession,
    facade: FacadeDep,
    versions: VersionsDep,
    webhook_id: uuid.UUID,
    body: WebhookUpdate,
) -> WebhookRead:
    row = await versions.check(await service.find_webhook(session, principal, webhook_id))
    subscriptions = Subscriptions(session, facade.vault, facade.settings.webhook_networks)
    row = await subscriptions.update(principal, row, body)
    return versions.show(row, WebhookRead.model_validate)


@router.delete("/{webhook_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_webhook(
    principal: Annotated[Principal, require("webhooks:delete", admin=True)],
    session: DatabaseSession,
    versions: VersionsDep,
    webhook_id: uuid.UUID,
) -> None:
    """Its deliveries go with it."""
    row = await versions.check(await service.find_webhook(session, principal, webhook_id))
    await session.delete(row)
    await session.flush()


@router.get("/{webhook_id}/deliveries")
async def list_deliveries(
    principal: Reader,
    session: DatabaseSession,
    page: ListSlice,
    webhook_id: uuid.UUID,
    state: Literal["pending", "delivered", "dead"] | None = None,
) -> Page[DeliveryRead]:
    """dead: all attempts failed; send it again with /replay."""
    webhook = await service.find_webhook(session, principal, webhook_id)
    found = await service.list_deliveries(session, webhook, page, state)
    return page_of(found, page, lambda told: DeliveryRead.of(*told))


@router.post("/{webhook_id}/deliveries/{delivery_id}/replay", status_code=status.HTTP_202_ACCEPTED)
async def replay_delivery(
    principal: Writer, session: DatabaseSession, facade: FacadeDep, webhook_id: uuid.UUID, delivery_id: uuid.UUID
) -> DeliveryRead:
    webhook = await service.find_webhook(session, principal, webhook_id)
    delivery, transition = await service.replay(session, webhook, delivery_id)

    async def wake() -> None:
        facade.fleet.dispatcher.wake()

    after_commit(session, wake)
    return DeliveryRead.of(delivery, transition)
