"""ETag and If-Match: a client can say which version of a row it means to change."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Protocol

from fastapi import Depends, Response

from dotmac_api.database import DatabaseSession
from dotmac_api.deps import IfMatch
from dotmac_api.errors import PreconditionFailed


class Versioned(Protocol):
    """A row that has versions; database.Timestamps is one."""

    @property
    def version(self) -> datetime | str: ...


def etag_of(version: datetime | str | int) -> str:
    """The strong ETag of a version: the time of the last change, or a resourceVersion."""
    text = str(int(version.timestamp() * 1_000_000)) if isinstance(version, datetime) else str(version)
    return f'"{text}"'


def set_etag(response: Response, etag: str) -> None:
    response.headers["ETag"] = etag


def check_if_match(header: str | None, etag: str) -> None:
    """Raises PreconditionFailed unless the header is absent, `*`, or names `etag` (RFC 9110, 13.1.1: strong only)."""
    if header is None or header.strip() == "*":
        return
    if etag not in [part.strip() for part in header.split(",")]:
        raise PreconditionFailed("it has changed since you read it; read it again and repeat the change")


class Shown:
    """For what answers with a row: its version goes into the ETag header."""

    def __init__(self, response: Response) -> None:
        self.response = response

    def show[R: Versioned, S](self, row: R, read: Callable[[R], S]) -> S:
        """The row as `read` makes it of it."""
        set_etag(self.response, etag_of(row.version))
        return read(row)


class Versions(Shown):
    """For what changes a row: the client may say which version it means."""

    def __init__(self, session: DatabaseSession, response: Response, if_match: IfMatch = None) -> None:
        super().__init__(response)
        self._session = session
        self._if_match = if_match

    async def check[R: Versioned](self, row: R) -> R:
        """The row, unless the client means another version: then PreconditionFailed is raised.

        The row is locked first, so that of two changes of one version the second is refused.
        """
        if self._if_match is not None:
            await self._session.refresh(row, with_for_update=True)
            check_if_match(self._if_match, etag_of(row.version))
        return row


ShownDep = Annotated[Shown, Depends()]
VersionsDep = Annotated[Versions, Depends()]
