"""A masked type for secret values: it cannot be printed, logged, formatted or pickled by accident."""

import hashlib
import hmac
from typing import NoReturn


class SecretStr:
    """A secret value. `reveal()` is the only way to the text; every other view of it is `***`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself. Call it where the value leaves for its one destination, never earlier."""
        return self._value

    def version(self, key: bytes) -> str:
        """16 hex digits that change when the value changes: HMAC-SHA256 under the tenant's own key.

        A bare digest of a weak password on a label could be guessed offline; a keyed one cannot.
        """
        return hmac.new(key, self._value.encode(), hashlib.sha256).hexdigest()[:16]

    def __repr__(self) -> str:
        return "SecretStr('***')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretStr) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((SecretStr, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretStr is not serialised")


def mask(text: str, secrets: "frozenset[SecretStr] | set[SecretStr]") -> str:
    """`text` with every occurrence of each secret (4 characters or longer) replaced by `***`.

    For text that comes from outside, such as a container's log lines, before it goes into a status or an Event.
    """
    for secret in sorted((s.reveal() for s in secrets), key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, "***")
    return text
