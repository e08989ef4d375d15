"""Secrets out of log lines, in the forms in which programs print them."""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from dotmac_operator.core.secret import SecretStr, mask

SHORTEST_LINE = 12
"""Characters of a line of a secret of several lines (a private key) that is masked by itself: shorter ones, such as
the beginning of a certificate, say nothing and may be anywhere."""
SHORTEST_BASE64 = 6
"""Characters: fewer are the inside of some word as often as of a secret."""
WRAPPED = (64, 76)
"""Characters in a line of base64, as openssl and base64 (RFC 2045, section 6.8) break it."""


def printed_forms(secrets: Iterable[SecretStr]) -> frozenset[SecretStr]:
    """Each secret as it is, as JSON and URLs write it, in base64 and in hexadecimal, and line by line."""
    found: set[str] = set()
    for secret in secrets:
        text = secret.reveal()
        lines = [line.strip() for line in text.splitlines()]
        parts = [text, *(line for line in lines if len(lines) > 1 and len(line) >= SHORTEST_LINE)]
        for part in parts:
            found |= {part, json.dumps(part)[1:-1], repr(part)[1:-1], quote(part, safe=""), quote_plus(part)}
            if len(part) >= SHORTEST_BASE64:
                data = part.encode(errors="surrogatepass")
                found |= {data.hex(), data.hex().upper(), *_base64(data)}
    return frozenset(SecretStr(text) for text in found if text)


def _base64(data: bytes) -> Iterator[str]:
    """Whole, in lines, and as a part of something longer, such as `user:password` of basic authentication.

    Three bytes make four characters, so a part looks otherwise at each of the three places where it can begin. The
    characters that it shares with its neighbours are left out.
    """
    whole = b64encode(data).decode()
    forms = [whole, *(whole[at : at + width] for width in WRAPPED for at in range(0, len(whole), width))]
    for before in range(3):
        encoded = b64encode(b"\0" * before + data).decode()
        end = len(encoded) - {0: 0, 1: 3, 2: 2}[(before + len(data)) % 3]
        forms.append(encoded[(0, 2, 3)[before] : end])
    for form in forms:
        if len(form) >= SHORTEST_BASE64:
            yield form
            yield form.replace("+", "-").replace("/", "_")


def masked(line: str, forms: frozenset[SecretStr], limit: int) -> str:
    """`line` without secrets and then cut to `limit` characters, so that the cut leaves no half of one."""
    return mask(line, forms)[:limit]
