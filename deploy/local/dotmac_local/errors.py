"""Refusals as Kubernetes words them: every one ends up as a `kind: Status` document.

The wording and the details follow what a kube-apiserver v1.36 answers; clients read `reason` and `details.causes`,
people read `message`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dotmac_local.schema import Cause

if TYPE_CHECKING:
    from dotmac_local.resources import ResourceType

STALE = "the object has been modified; please apply your changes to the latest version and try again"


class ApiError(Exception):
    """A refused request: HTTP status, machine-readable reason and the `details` of the Status that answers it."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers: dict[str, str] = {}
        self.content_type = "application/json"
        self.continue_token = ""

    def status(self) -> dict[str, Any]:
        """The Status object (a dict ready for JSON)."""
        meta = {"continue": self.continue_token} if self.continue_token else {}
        status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": meta, "status": "Failure"}
        status["message"] = self.message
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        return status | {"code": self.code}


def details(name: str, group: str, kind: str, causes: Sequence[Cause] = ()) -> dict[str, Any]:
    """`Status.details`: empty parts are left out, as Go's omitempty does."""
    shown: dict[str, Any] = {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}
    if causes:
        shown["causes"] = [
            {k: v for k, v in (("reason", c.reason), ("message", c.message), ("field", c.field)) if v} for c in causes
        ]
    return shown


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def not_found(kind: ResourceType, name: str) -> ApiError:
    message = f'{kind.qualified} "{name}" not found'
    return ApiError(404, "NotFound", message, details(name, kind.group, kind.plural))


def already_exists(kind: ResourceType, name: str) -> ApiError:
    message = f'{kind.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, details(name, kind.group, kind.plural))


def conflict(kind: ResourceType, name: str, why: str = STALE) -> ApiError:
    message = f'Operation cannot be fulfilled on {kind.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, details(name, kind.group, kind.plural))


def forbidden(kind: ResourceType, name: str, why: str, causes: Sequence[Cause] = ()) -> ApiError:
    quoted = f' "{name}"' if name else ""
    return ApiError(
        403,
        "Forbidden",
        f"{kind.qualified}{quoted} is forbidden: {why}",
        details(name, kind.group, kind.plural, causes),
    )


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> ApiError:
    """422: the message joins the causes as `field: message`, in brackets when there are several (equal ones once)."""
    lines = list(dict.fromkeys(f"{c.field}: {c.message}" for c in causes))
    joined = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    who = f"{kind}.{group}" if group else kind
    return ApiError(422, "Invalid", f'{who} "{name}" is invalid: {joined}', details(name, group, kind, causes))


def invalid_options(kind: str, causes: Sequence[Cause]) -> ApiError:
    """422 about the request's own options (ListOptions, PatchOptions ...), which live in meta.k8s.io."""
    return invalid("meta.k8s.io", kind, "", causes)


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    types = ", ".join(accepted)
    message = f"the body of the request was in an unknown format - accepted media types include: {types}"
    return ApiError(415, "UnsupportedMediaType", message)


def not_acceptable(accepted: Sequence[str]) -> ApiError:
    message = f"only the following media types are accepted: {', '.join(accepted)}"
    return ApiError(406, "NotAcceptable", message)


def method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def timed_out(message: str = "Timeout: request did not complete within the allotted timeout") -> ApiError:
    return ApiError(504, "Timeout", message, {})


def overloaded(seconds: int = 1) -> ApiError:
    """429 with Retry-After: clients wait and try again by themselves."""
    error = ApiError(
        429, "TooManyRequests", "too many requests, please try again later", {"retryAfterSeconds": seconds}
    )
    error.headers["Retry-After"] = str(seconds)
    return error
