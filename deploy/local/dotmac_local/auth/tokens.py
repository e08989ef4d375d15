"""Bearer tokens: the administrator's random one, and signed ones for service accounts."""

from __future__ import annotations

import hmac
import time
import uuid
from dataclasses import dataclass

import jwt

from dotmac_local.auth.users import ADMIN, User, service_account
from dotmac_local.storage import Store

ISSUER = "https://kubernetes.default.svc"
_ALGORITHM = "HS256"
SERVICE_ACCOUNTS = "/serviceaccounts"
# Kubernetes refuses shorter lives (ten minutes) and this one caps longer ones at a day.
MIN_SECONDS, MAX_SECONDS = 600, 86400


@dataclass(frozen=True)
class Credentials:
    """The secrets of one server: the administrator's token and the key that signs service accounts' tokens."""

    admin_token: str
    signing_key: bytes

    def __repr__(self) -> str:
        return "Credentials(<hidden>)"


class Tokens:
    """Issues and checks tokens."""

    def __init__(self, credentials: Credentials, store: Store) -> None:
        self._credentials = credentials
        self._store = store

    def user(self, token: str) -> User | None:
        """Who a token stands for; None when it is not valid (any more)."""
        if hmac.compare_digest(token.encode(), self._credentials.admin_token.encode()):
            return ADMIN
        claims = self._claims(token, ISSUER)
        return None if claims is None else self._account(claims)

    def review(self, token: str, audiences: list[str]) -> User | None:
        """TokenReview: any of the audiences will do."""
        if hmac.compare_digest(token.encode(), self._credentials.admin_token.encode()):
            return ADMIN
        claims = self._claims(token, audiences or ISSUER)
        return None if claims is None else self._account(claims)

    def _claims(self, token: str, audience: str | list[str]) -> dict[str, str] | None:
        try:
            claims: dict[str, str] = jwt.decode(
                token, self._credentials.signing_key, algorithms=[_ALGORITHM], audience=audience, issuer=ISSUER
            )
        except jwt.PyJWTError:
            return None
        return claims

    def _account(self, claims: dict[str, str]) -> User | None:
        """A token dies with its service account, also when one of the same name follows."""
        _, _, namespace, name = claims["sub"].split(":", 3)
        found = self._store.get(SERVICE_ACCOUNTS, namespace, name)
        if found is None or found.load()["metadata"]["uid"] != claims["uid"]:
            return None
        return service_account(namespace, name, claims["uid"], claims["jti"])

    def issue(self, namespace: str, name: str, uid: str, audiences: list[str], seconds: int) -> tuple[str, int]:
        """A token for a service account, and when it expires (seconds since the epoch)."""
        now = int(time.time())
        expires = now + seconds
        claims = {
            "iss": ISSUER,
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "aud": audiences or [ISSUER],
            "iat": now,
            "nbf": now,
            "exp": expires,
            "jti": str(uuid.uuid4()),
            "uid": uid,
        }
        return jwt.encode(claims, self._credentials.signing_key, algorithm=_ALGORITHM), expires
