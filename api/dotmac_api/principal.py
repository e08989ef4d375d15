"""Who acts: the identity that a request was authenticated as, and what it may do."""

import uuid
from dataclasses import dataclass

from sqlalchemy import ColumnElement, false, true
from sqlalchemy.orm import InstrumentedAttribute

from dotmac_api.errors import Forbidden
from dotmac_api.rbac.catalogue import ADMIN


@dataclass(frozen=True, slots=True)
class Principal:
    """A person, through a session or an API key.

    `permissions` are what the roles grant, cut down to the scopes of the key where there is one. `organisations` are
    the org codes that the person is limited to; None means no limit.
    """

    person_id: uuid.UUID
    name: str
    session_id: uuid.UUID | None
    api_key_id: uuid.UUID | None
    roles: frozenset[str]
    permissions: frozenset[str]
    organisations: frozenset[str] | None = None
    must_change_password: bool = False

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.roles

    @property
    def limited(self) -> bool:
        """Whether this person sees some organisations only."""
        return self.organisations is not None

    def sees(self, org_code: str | None) -> bool:
        """Whether rows of this organisation exist for this person; None is a row of no organisation."""
        return self.organisations is None or (org_code is not None and org_code in self.organisations)

    def tenancy(self, column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None]) -> ColumnElement[bool]:
        """The WHERE clause that hides other organisations' rows: `select(X).where(principal.tenancy(X.org_code))`."""
        if self.organisations is None:
            return true()
        if not self.organisations:
            return false()
        return column.in_(sorted(self.organisations))

    def require_unlimited(self) -> None:
        """Raises Forbidden for a person limited to organisations: the object belongs to the whole platform."""
        if self.limited:
            raise Forbidden("this concerns every organisation, and your account is limited to some")
