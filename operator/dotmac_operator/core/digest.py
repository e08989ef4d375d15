"""Digests of plain data: the same content gives the same digest in every process and version of Python."""

import hashlib
import json
from typing import Any

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode


def digest(value: Any) -> str:
    """64 hex digits: SHA-256 of the canonical JSON (sorted keys, no spaces) of `value`."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()
