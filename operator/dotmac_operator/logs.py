"""Logging: plain lines for people or JSON for machines, each with the object that it is about."""

import contextlib
import contextvars
import logging
from collections.abc import Iterator
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

_subject: contextvars.ContextVar[dict[str, str]] = contextvars.ContextVar("subject", default={})  # noqa: B039 - never changed in place


@contextlib.contextmanager
def about(**fields: str) -> Iterator[None]:
    """Adds fields (instance, server, step, host) to every line that is logged inside."""
    token = _subject.set({**_subject.get(), **fields})
    try:
        yield
    finally:
        _subject.reset(token)


class _Subject(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        fields = _subject.get()
        record.subject = " ".join(f"{name}={value}" for name, value in fields.items())
        for name, value in fields.items():
            setattr(record, name, value)
        return True


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))} | {10: "\\n", 13: "\\r", 9: "\t"}
"""What hosts and containers say is quoted in messages: it must neither begin a line of its own nor steer a terminal."""


class _Plain(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        record.message = record.message.translate(_CONTROL)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        subject = getattr(record, "subject", "")
        return f"{line} [{subject}]" if subject else line


def configure(format_: Literal["plain", "json"], level: str) -> None:
    """One handler on standard error; libraries only speak when something is wrong."""
    handler = logging.StreamHandler()
    handler.addFilter(_Subject())
    if format_ == "json":
        fields = "%(asctime)s %(levelname)s %(name)s %(message)s"
        handler.setFormatter(JsonFormatter(fields, rename_fields={"asctime": "time", "levelname": "level"}))
    else:
        handler.setFormatter(_Plain("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("kopf", "urllib3", "kubernetes", "asyncio", "httpx", "httpcore", "docker"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
