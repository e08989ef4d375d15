"""Encryption of what is stored and must be read back: Fernet, with keys that can be rotated."""

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from dotmac_api.errors import Conflict, Unavailable
from dotmac_api.settings import Settings

MARK = "enc:"


class EncryptionKeyMissing(Conflict):
    code = "encryption_key_missing"

    def __init__(self) -> None:
        super().__init__("no encryption key is configured, so no secret is stored: set DOTMAC_API_ENCRYPTION_KEYS")


class Undecryptable(Unavailable):
    """A stored secret fits none of the keys, or was never encrypted. It is never used as if it were plain text."""

    code = "secret_undecryptable"


class Vault:
    """`enc:` and a Fernet token. The first key encrypts; all of them decrypt."""

    def __init__(self, settings: Settings) -> None:
        keys = [Fernet(key.get_secret_value().encode()) for key in settings.encryption_keys]
        self._fernet = MultiFernet(keys) if keys else None

    @property
    def ready(self) -> bool:
        """Whether there is a key."""
        return self._fernet is not None

    def encrypt(self, text: str) -> str:
        """Raises EncryptionKeyMissing without a key."""
        if self._fernet is None:
            raise EncryptionKeyMissing
        return MARK + self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, stored: str) -> str:
        """Raises EncryptionKeyMissing without a key, Undecryptable when no key fits."""
        if self._fernet is None:
            raise EncryptionKeyMissing
        try:
            return self._fernet.decrypt(_token(stored)).decode()
        except InvalidToken:
            raise Undecryptable("a stored secret fits none of DOTMAC_API_ENCRYPTION_KEYS") from None

    def rotate(self, stored: str) -> str:
        """The same secret under the first key. Raises as decrypt does."""
        if self._fernet is None:
            raise EncryptionKeyMissing
        try:
            return MARK + self._fernet.rotate(_token(stored)).decode()
        except InvalidToken:
            raise Undecryptable("a stored secret fits none of DOTMAC_API_ENCRYPTION_KEYS") from None


def _token(stored: str) -> bytes:
    if not stored.startswith(MARK):
        raise Undecryptable("a stored secret is not encrypted; set it again")
    return stored.removeprefix(MARK).encode()
