"""Structured logs: one JSON object a line, with the request id and the person."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from dotmac_api import context
from dotmac_api.settings import Settings


class _Context(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = context.request_id.get()
        record.person = context.person.get()
        return True


def configure_logs(settings: Settings) -> None:
    """Send every logger to stderr in the format of the settings. Values of requests are never logged, only names."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Context())
    if settings.log_format == "json":
        fields = "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s %(person)s"
        handler.setFormatter(JsonFormatter(fields, rename_fields={"asctime": "time", "levelname": "level"}))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
    logging.getLogger("alembic").setLevel(max(logging.INFO, root.level))
