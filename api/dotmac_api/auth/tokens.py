"""Access tokens: JWTs whose algorithm is pinned to the key that their `kid` names."""

import functools
import time
import uuid
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dotmac_api.errors import Unauthorized
from dotmac_api.settings import Settings

_REQUIRED = ["sub", "session_id", "typ", "iat", "exp", "iss", "aud"]
LEEWAY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class _Key:
    kid: str
    algorithm: str
    signing: str | Ed25519PrivateKey
    verifying: str | Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid access token says."""

    person_id: uuid.UUID
    session_id: uuid.UUID
    expires_at: int


def _key(kid: str, text: str) -> _Key:
    if not text.startswith("-----BEGIN"):
        return _Key(kid, "HS256", text, text)
    private = load_pem_private_key(text.encode(), password=None)
    if not isinstance(private, Ed25519PrivateKey):
        raise ValueError(f"jwt_keys: key {kid!r} is a PEM key, but not an Ed25519 private key")
    return _Key(kid, "EdDSA", private, private.public_key())


class TokenIssuer:
    """Signs with the first key, verifies with any."""

    def __init__(self, settings: Settings) -> None:
        self._keys = {kid: _key(kid, text) for kid, text in settings.signing_keys.items()}
        self._first = next(iter(self._keys.values()))
        self._issuer, self._audience = settings.issuer, settings.audience
        # A client sends the same token many times; what its signature says does not change.
        self._decoded = functools.lru_cache(maxsize=4096)(self._decode)

    @property
    def algorithm(self) -> str:
        """The algorithm that new tokens are signed with."""
        return self._first.algorithm

    def issue(
        self, person_id: uuid.UUID, session_id: uuid.UUID, ttl_seconds: int, roles: list[str], scopes: list[str]
    ) -> str:
        """An access token for a session. Roles and scopes are for clients to read; the facade asks the database."""
        now = int(time.time())
        claims = {
            "sub": str(person_id),
            "session_id": str(session_id),
            "typ": "access",
            "iat": now,
            "exp": now + ttl_seconds,
            "iss": self._issuer,
            "aud": self._audience,
            "roles": roles,
            "scopes": scopes,
        }
        return jwt.encode(claims, self._first.signing, self._first.algorithm, headers={"kid": self._first.kid})

    def verify(self, token: str) -> Claims:
        """The claims of a valid access token. Raises Unauthorized, without telling which check failed but expiry."""
        claims = self._decoded(token)
        if claims.expires_at + LEEWAY_SECONDS <= time.time():
            raise _expired()
        return claims

    def _decode(self, token: str) -> Claims:
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            claims: dict[str, Any] = jwt.decode(
                token,
                key.verifying,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED},
            )
            if claims["typ"] != "access":
                raise Unauthorized("the access token is not valid", code="invalid_token")
            return Claims(uuid.UUID(claims["sub"]), uuid.UUID(claims["session_id"]), int(claims["exp"]))
        except jwt.ExpiredSignatureError:
            raise _expired() from None
        except (jwt.InvalidTokenError, KeyError, ValueError, TypeError):
            raise Unauthorized("the access token is not valid", code="invalid_token") from None


def _expired() -> Unauthorized:
    return Unauthorized("the access token has expired; refresh it", code="token_expired")
