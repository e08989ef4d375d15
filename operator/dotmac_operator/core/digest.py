"""Digests of plain data: the same content gives the same digest in every process and version of Python."""

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """64 hex digits: SHA-256 of the canonical JSON (sorted keys, no spaces) of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
