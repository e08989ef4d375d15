"""ETag and If-Match: a client can say which version of a row it means to change."""

from datetime import datetime

from fastapi import Response

from dotmac_api.errors import PreconditionFailed


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
