"""The request that the current task works for, for log lines."""

from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
person: ContextVar[str | None] = ContextVar("person", default=None)
