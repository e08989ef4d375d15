"""Errors of the pure core. Each becomes a condition: `reason` for programs, the text for people."""


class SpecError(ValueError):
    """The spec cannot be met as it stands; retrying does not help until somebody changes an object."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
