"""Bodies of /webhooks."""

import uuid
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dotmac_api.instances.schemas import OrgCode
from dotmac_api.mirror.models import TransitionRow
from dotmac_api.mirror.transitions import EVENTS, Event
from dotmac_api.schemas import Body, Row, Timestamped
from dotmac_api.webhooks.models import DeliveryRow

Url = Annotated[str, Field(min_length=8, max_length=2000)]
Description = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]
Secret = Annotated[str, Field(min_length=24, max_length=200, pattern=r"^[\x21-\x7e]+$")]
Events = Annotated[list[Event], Field(max_length=len(EVENTS), description="empty: all")]
Organisations = Annotated[
    list[OrgCode] | None, Field(max_length=1000, description="org codes to be told about; null: all, and servers")
]


class WebhookCreate(Body):
    url: Url
    description: Description = ""
    events: Events = []
    organisations: Organisations = None
    active: bool = True
    secret: Annotated[Secret | None, Field(description="generated when absent; shown once, in this answer")] = None


class WebhookUpdate(Body):
    """Only the fields that are sent change."""

    url: Url | None = None
    description: Description | None = None
    events: Events | None = None
    organisations: Organisations = None
    active: bool | None = None
    secret: Secret | None = None

    @model_validator(mode="after")
    def _not_null(self) -> Self:
        for name in self.model_fields_set - {"organisations"}:
            if getattr(self, name) is None:
                raise ValueError(f"{name} may be left out, but not null")
        return self


class WebhookRead(Timestamped):
    id: uuid.UUID
    url: str
    description: str
    events: list[str]
    organisations: list[str] | None
    active: bool
    created_by: uuid.UUID | None


class WebhookCreated(WebhookRead):
    """The only answer that shows the secret."""

    secret: str


class DeliveryRead(Row):
    id: uuid.UUID
    state: Literal["pending", "delivered", "dead"]
    attempts: int
    next_attempt_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None
    sequence: int
    event: str
    uid: uuid.UUID
    name: str
    org_code: str | None

    @classmethod
    def of(cls, delivery: DeliveryRow, transition: TransitionRow) -> Self:
        return cls(
            id=delivery.id,
            state=delivery.state,
            attempts=delivery.attempts,
            next_attempt_at=delivery.next_attempt_at if delivery.state == "pending" else None,
            last_status=delivery.last_status,
            last_error=delivery.last_error,
            created_at=delivery.created_at,
            finished_at=delivery.finished_at,
            sequence=transition.id,
            event=transition.event,
            uid=transition.uid,
            name=transition.name,
            org_code=transition.org_code,
        )
