"""What a setting is worth now: environment, then database, then default."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select

from dotmac_api.database import Sessions
from dotmac_api.domains.models import DomainSetting
from dotmac_api.domains.specs import BY_NAME, SettingSpec, Value
from dotmac_api.vault import Vault

# Another replica's change is seen after at most this many seconds.
CACHE_SECONDS = 5.0

Source = Literal["environment", "database", "default"]


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting's value and where it comes from; the value of a secret is in the clear and must not leave."""

    spec: SettingSpec
    value: Value
    source: Source


class SettingsStore:
    """Reads settings through a cache of a few seconds. With the database away, the last known values hold."""

    def __init__(self, sessions: Sessions, vault: Vault, overrides: Mapping[tuple[str, str], Value]) -> None:
        self._sessions, self._vault, self._overrides = sessions, vault, overrides
        self._stored: dict[tuple[str, str], Any] = {}
        self._expires = 0.0

    def forget(self) -> None:
        """Read the database at the next question."""
        self._expires = 0.0

    async def effective(self, domain: str, key: str) -> Effective:
        """The value in force. Raises KeyError for a setting that does not exist."""
        spec = BY_NAME[domain, key]
        if (domain, key) in self._overrides:
            return Effective(spec, self._overrides[domain, key], "environment")
        stored = await self._rows()
        if (domain, key) in stored and not spec.fixed:
            value = stored[domain, key]
            return Effective(spec, self._vault.decrypt(value) if spec.secret else spec.check(value), "database")
        return Effective(spec, spec.default, "default")

    async def _rows(self) -> dict[tuple[str, str], Any]:
        now = time.monotonic()
        if now >= self._expires:
            self._expires = now + CACHE_SECONDS
            try:
                async with self._sessions() as session:
                    rows = await session.scalars(select(DomainSetting))
                    self._stored = {(row.domain, row.key): row.value for row in rows}
            except BaseException:
                self._expires = 0.0
                raise
        return self._stored

    async def integer(self, domain: str, key: str) -> int:
        value = (await self.effective(domain, key)).value
        assert isinstance(value, int)  # noqa: S101 - the spec has checked it
        return value

    async def boolean(self, domain: str, key: str) -> bool:
        return bool((await self.effective(domain, key)).value)

    async def text(self, domain: str, key: str) -> str:
        return str((await self.effective(domain, key)).value)

    async def texts(self, domain: str, key: str) -> list[str]:
        value = (await self.effective(domain, key)).value
        return value if isinstance(value, list) else []
