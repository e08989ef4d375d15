"""Bodies of /people."""

import uuid
from typing import Annotated, Self

from pydantic import EmailStr, Field, model_validator

from dotmac_api.people.models import PersonStatus
from dotmac_api.schemas import Body, Timestamped

OrgCode = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,38}[A-Za-z0-9]$")]
Organisations = Annotated[
    list[OrgCode] | None, Field(max_length=1000, description="org codes this person is limited to; null: no limit")
]
Name = Annotated[str, Field(min_length=1, max_length=80)]


class PersonCreate(Body):
    first_name: Name
    last_name: Name
    display_name: Annotated[str | None, Field(max_length=120)] = None
    email: EmailStr
    phone: Annotated[str | None, Field(max_length=40)] = None
    status: PersonStatus = PersonStatus.ACTIVE
    organisations: Organisations = None
    notes: Annotated[str | None, Field(max_length=2000)] = None


class PersonUpdate(Body):
    """Only the fields that are sent change."""

    first_name: Name | None = None
    last_name: Name | None = None
    display_name: Annotated[str | None, Field(max_length=120)] = None
    email: EmailStr | None = None
    phone: Annotated[str | None, Field(max_length=40)] = None
    status: PersonStatus | None = None
    organisations: Organisations = None
    notes: Annotated[str | None, Field(max_length=2000)] = None

    @model_validator(mode="after")
    def _not_null(self) -> Self:
        for name in ("first_name", "last_name", "email", "status"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} may be left out, but not null")
        return self


class PersonRead(Timestamped):
    id: uuid.UUID
    first_name: str
    last_name: str
    display_name: str | None
    email: str
    phone: str | None
    status: PersonStatus
    organisations: list[str] | None
    notes: str | None
