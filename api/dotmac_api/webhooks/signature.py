"""The signature that a receiver checks: HMAC-SHA256 over the time and the body, so that neither can be replaced."""

import hashlib
import hmac
import secrets

HEADER = "X-DotMac-Signature"


def sign(secret: str, body: bytes, timestamp: int) -> str:
    """`t=<unix seconds>,v1=<hex>`; the receiver computes v1 over `<t>.<body>` and refuses an old t."""
    mac = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"t={timestamp},v1={mac.hexdigest()}"


def verify(secret: str, body: bytes, header: str, now: int, tolerance: int = 300) -> bool:
    """Whether `header` is the signature of `body` and not older than `tolerance` seconds; for receivers in Python."""
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    if not parts.get("t", "").isdigit() or abs(now - int(parts["t"])) > tolerance:
        return False
    return hmac.compare_digest(sign(secret, body, int(parts["t"])), header)


def new_secret() -> str:
    """256 random bits as text."""
    return "whsec_" + secrets.token_urlsafe(32)
