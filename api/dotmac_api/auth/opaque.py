"""Opaque secrets that are shown once and stored as hashes only."""

import hashlib
import hmac
import secrets

from dotmac_api.settings import Settings

REFRESH_BYTES = 48
TOKEN_BYTES = 32
API_KEY_PREFIX = "dmk_"


def new_refresh_token() -> str:
    """48 random bytes as URL-safe text."""
    return secrets.token_urlsafe(REFRESH_BYTES)


def refresh_hash(token: str) -> bytes:
    """SHA-256: enough for 384 random bits, and it needs no key to be looked up by."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def new_token() -> str:
    """32 random bytes as URL-safe text: reset tokens and the tokens between password and second factor."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def new_api_key() -> tuple[str, str]:
    """(the whole key, its public prefix)."""
    key = API_KEY_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    return key, key[: len(API_KEY_PREFIX) + 6]


def new_recovery_code() -> str:
    """80 random bits as four groups of four, without letters that look alike."""
    text = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(16))
    return "-".join(text[i : i + 4] for i in range(0, 16, 4))


class KeyedHash:
    """HMAC-SHA256 under the pepper, apart for each purpose: a stolen table alone verifies no guess."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key_pepper.get_secret_value().encode()

    def of(self, purpose: str, secret: str) -> bytes:
        message = purpose.encode() + b"\0" + secret.encode(errors="surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).digest()
