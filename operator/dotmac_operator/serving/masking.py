"""Secrets out of log lines, in the forms in which programs print them."""

import json
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

from dotmac_operator.core.secret import SecretStr, mask

SHORTEST_LINE = 12
"""Characters of a line of a secret of several lines (a private key) that is masked by itself: shorter ones, such as
the beginning of a certificate, say nothing and may be anywhere."""


def printed_forms(secrets: Iterable[SecretStr]) -> frozenset[SecretStr]:
    """Each secret as it is, as JSON and URLs write it, and line by line."""
    found: set[str] = set()
    for secret in secrets:
        text = secret.reveal()
        lines = [line.strip() for line in text.splitlines()]
        parts = [text, *(line for line in lines if len(lines) > 1 and len(line) >= SHORTEST_LINE)]
        for part in parts:
            found |= {part, json.dumps(part)[1:-1], repr(part)[1:-1], quote(part, safe=""), quote_plus(part)}
    return frozenset(SecretStr(text) for text in found if text)


def masked(line: str, forms: frozenset[SecretStr], limit: int) -> str:
    """`line` without secrets and then cut to `limit` characters, so that the cut leaves no half of one."""
    return mask(line, forms)[:limit]
