"""Kubernetes' refusals as the facade's errors, each with the field of the request that it is about."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dotmac_api.errors import (
    ApiError,
    BadRequest,
    Conflict,
    ErrorDetail,
    Forbidden,
    Invalid,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from dotmac_api.gateway.refusals import FIELD_CONFLICT, Refused, Unreachable
from dotmac_api.gateway.writes import Intent
from dotmac_api.principal import Principal

FieldNames = Mapping[str, str]
"""Path in the resource -> field of the request body."""


def intent_of(principal: Principal, if_match: str | None, *, force: bool = False) -> Intent:
    """Who writes, and the versions that If-Match accepts (RFC 9110, 13.1.1: strong ETags; absent or `*`: any)."""
    versions = None
    if if_match is not None and if_match.strip() != "*":
        versions = frozenset(
            part.strip().strip('"') for part in if_match.split(",") if not part.strip().startswith("W/")
        )
    person = str(principal.person_id)
    return Intent(actor=f"{principal.name} ({person})", person=person, if_match=versions, force=force)


@contextmanager
def refusals(fields: FieldNames, intent: Intent | None = None) -> Iterator[None]:
    """Turns what the gateway raises into ApiErrors."""
    try:
        yield
    except Refused as refusal:
        raise as_error(refusal, fields, intent) from refusal
    except Unreachable as failure:
        text = f"{failure}; it is not known whether a change was taken: read before you repeat it"
        raise Unavailable(text, headers={"Retry-After": "5"}) from failure


def as_error(refusal: Refused, fields: FieldNames, intent: Intent | None = None) -> ApiError:
    """One refusal as the facade answers it."""
    details = [
        ErrorDetail(
            field=field_name(cause.field, fields), message=_message(cause.reason, cause.message), type=cause.reason
        )
        for cause in refusal.causes
    ]
    if refusal.status == 404:
        return NotFound(refusal.message)
    if refusal.owned_elsewhere:
        text = "somebody else manages this field; change it there, or take it over with ?force=true"
        return Conflict(text, details=details, code="field_conflict")
    if refusal.stale and intent is not None and intent.if_match is not None:
        return PreconditionFailed("it has changed since you read it; read it again and repeat the change")
    if refusal.status == 409:
        code = "already_exists" if refusal.reason == "AlreadyExists" else "conflict"
        return Conflict(refusal.message, details=details, code=code)
    if refusal.status == 422:
        first = f"{details[0].field}: {details[0].message}" if details else refusal.message
        return Invalid(first, details=details)
    if "typed patch object" in refusal.message:
        # A configuration that server-side apply cannot merge, such as a key twice in a list; Kubernetes says 500.
        return Invalid(refusal.message)
    if refusal.status in (401, 403):
        text = f"Kubernetes does not let the facade do this; give its service account the right: {refusal.message}"
        return Forbidden(text, code="kubernetes_forbidden")
    if refusal.status == 400:
        return BadRequest(refusal.message, details=details)
    return Unavailable(f"Kubernetes answered {refusal.status}: {refusal.message}", headers={"Retry-After": "5"})


def field_name(path: str, fields: FieldNames) -> str:
    """`spec.domains[0].host` -> `body.domains[0].host`: the longest known beginning is replaced, the rest is kept."""
    for known in sorted(fields, key=len, reverse=True):
        if path == known or path.startswith((f"{known}.", f"{known}[")):
            rest = re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", path[len(known) :])
            return f"body.{fields[known]}{rest}"
    return path


def _message(reason: str, message: str) -> str:
    return f"{message}; or take it over with ?force=true" if reason == FIELD_CONFLICT else message
