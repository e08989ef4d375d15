"""What Kubernetes says no with, as typed errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIELD_CONFLICT = "FieldManagerConflict"


@dataclass(frozen=True)
class Cause:
    """One thing that is wrong. `field` is a path such as `spec.releaseRef.name`; empty when Kubernetes names none."""

    reason: str
    message: str
    field: str = ""


class Unreachable(RuntimeError):
    """Kubernetes gave no answer; trying again later is right."""


class Refused(RuntimeError):
    """Kubernetes answered no."""

    def __init__(self, status: int, reason: str, message: str, causes: tuple[Cause, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = causes

    @property
    def expired(self) -> bool:
        """The resourceVersion or continue token is too old: list again."""
        return self.status == 410 or self.reason in ("Expired", "Gone")

    @property
    def missing(self) -> bool:
        return self.status == 404

    @property
    def stale(self) -> bool:
        """The object was changed since it was read; not a conflict about who owns a field."""
        return self.status == 409 and self.reason == "Conflict" and not self.owned_elsewhere

    @property
    def owned_elsewhere(self) -> bool:
        """Another field manager, such as kubectl or a GitOps tool, owns a field that was to be changed."""
        return self.status == 409 and any(cause.reason == FIELD_CONFLICT for cause in self.causes)


def from_status(status: int, body: Mapping[str, Any]) -> Refused:
    """A Kubernetes `Status` object, or whatever a proxy answered, as an error."""
    details = body.get("details") or {}
    causes = tuple(
        Cause(str(c.get("reason", "")), str(c.get("message", "")), str(c.get("field", "")).lstrip("."))
        for c in details.get("causes") or ()
    )
    message = str(body.get("message") or f"HTTP {status}")
    return Refused(status, str(body.get("reason") or ""), message, causes)
