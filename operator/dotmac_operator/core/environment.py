"""The environment of a tenant's containers: the Release's variables first, the Instance's over them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from dotmac_crds.instance import InstanceSpec
from dotmac_crds.instanceclass import Quotas
from dotmac_crds.release import ReleaseSpec
from dotmac_operator.core import database, names
from dotmac_operator.core.container import EnvValue
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.secret import SecretStr

_NOTHING = SecretStr("")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Environment:
    """Everything that a variable can be made of."""

    spec: InstanceSpec
    release: ReleaseSpec
    quotas: Quotas
    domain: str
    url: str
    credentials: Mapping[str, SecretStr]
    secrets: Mapping[str, Mapping[str, SecretStr]]

    def application(self) -> dict[str, EnvValue]:
        """For the application, migrate and bootstrap.

        Raises:
            SpecError: SecretMissing, SettingNotSupported, FeaturesNotSupported, ModulesNotSupported.
        """
        self._refuse_unused()
        made: dict[str, EnvValue] = {}
        for env in self.release.env:
            made[env.name] = env.value if env.from_ is None else self._source(env.from_)  # type: ignore[assignment]
        for source in self.spec.env_from:
            for key, value in self._secret(source.secret_ref.name, "spec.envFrom").items():
                made[_variable(source.prefix + key, source.secret_ref.name)] = value
        for own in self.spec.env:
            if own.secret_key_ref is not None:
                made[own.name] = self._key(own.secret_key_ref.name, own.secret_key_ref.key, f"spec.env[{own.name}]")
            else:
                made[own.name] = own.value or ""
        return made

    def database_server(self, data_path: str) -> dict[str, EnvValue]:
        return {
            "POSTGRES_USER": database.USER,
            "POSTGRES_DB": database.NAME,
            "POSTGRES_PASSWORD": self._credential("database-password"),
            "POSTGRES_INITDB_ARGS": "--encoding=UTF8 --data-checksums",
            "PGDATA": f"{data_path}/pgdata",
        }

    def cache_server(self) -> dict[str, EnvValue]:
        password = self._credential("cache-password")
        return {"REDIS_PASSWORD": password, "REDISCLI_AUTH": password}

    def _credential(self, key: str) -> SecretStr:
        # Empty until step `secrets` has made the Secret; nothing is created on a host before that.
        return self.credentials.get(key, _NOTHING)

    def _source(self, source: str) -> EnvValue:
        area, _, key = source.partition(".")
        if area == "secret":
            return self._credential(key)
        if area == "setting":
            return self._setting(key)
        if area == "database":
            return self._database(key)
        if area == "cache":
            return self._cache(key)
        if area == "admin":
            return self._admin(key)
        if area == "quota":
            value = self.quotas.max_users if key == "maxUsers" else self.quotas.max_storage
            return "" if value is None else str(value)
        return self._plain(source)

    def _plain(self, source: str) -> str:
        values = {
            "orgCode": self.spec.org_code,
            "orgName": self.spec.org_name,
            "domain": self.domain,
            "url": self.url,
            "features": json.dumps(dict(sorted(self.spec.features.items()))),
            "modules": ",".join(sorted(self.spec.modules)),
        }
        return values[source]

    def _setting(self, key: str) -> str:
        fixed = {
            "sectorType": self.spec.settings.sector_type,
            "accountingFramework": self.spec.settings.accounting_framework,
            "currency": self.spec.settings.currency,
        }
        return fixed.get(key) or self.spec.settings.values.get(key, "")

    def _database(self, key: str) -> EnvValue:
        password = self._credential("database-password")
        address = f"{names.DATABASE}:{database.POSTGRES_PORT}"
        values: dict[str, EnvValue] = {
            "host": names.DATABASE,
            "port": str(database.POSTGRES_PORT),
            "name": database.NAME,
            "user": database.USER,
            "password": password,
            # Quoted: what follows an `@` would be taken for the host, and told in an error that no mask knows.
            "url": SecretStr(f"postgresql://{database.USER}:{_quoted(password)}@{address}/{database.NAME}"),
        }
        return values[key]

    def _cache(self, key: str) -> EnvValue:
        password = self._credential("cache-password")
        values: dict[str, EnvValue] = {
            "host": names.CACHE,
            "port": str(database.REDIS_PORT),
            "password": password,
            "url": SecretStr(f"redis://:{_quoted(password)}@{names.CACHE}:{database.REDIS_PORT}/0"),
        }
        return values[key]

    def _admin(self, key: str) -> EnvValue:
        admin = self.spec.admin
        if key == "email":
            return admin.email
        if key == "username":
            return admin.username
        if admin.password_secret_ref is None:
            return self._credential("admin-password")
        return self._key(admin.password_secret_ref.name, admin.password_secret_ref.key, "spec.admin.passwordSecretRef")

    def _secret(self, name: str, field: str) -> Mapping[str, SecretStr]:
        try:
            return self.secrets[name]
        except KeyError:
            raise SpecError(
                "SecretMissing", f"{field} refers to Secret {name}, which does not exist: create it"
            ) from None

    def _key(self, name: str, key: str, field: str) -> SecretStr:
        try:
            return self._secret(name, field)[key]
        except KeyError:
            raise SpecError(
                "SecretMissing", f"{field} refers to key {key} of Secret {name}, which has no such key"
            ) from None

    def _refuse_unused(self) -> None:
        """What a tenant asks for and the Release does not take would be ignored in silence; say so instead."""
        taken = {env.from_ for env in self.release.env if env.from_ is not None}
        unknown = sorted(name for name in self.spec.settings.values if f"setting.{name}" not in taken)
        if unknown:
            raise SpecError(
                "SettingNotSupported",
                f"the Release takes no setting {', '.join(unknown)}: remove it from spec.settings.values",
            )
        for field, given in (("features", self.spec.features), ("modules", self.spec.modules)):
            if given and field not in taken:
                raise SpecError(f"{field.title()}NotSupported", f"the Release takes no {field}: remove spec.{field}")


def _quoted(password: SecretStr) -> str:
    return quote(password.reveal(), safe="")


def _variable(name: str, secret: str) -> str:
    if not _NAME.fullmatch(name):
        raise SpecError(
            "EnvNameInvalid",
            f"spec.envFrom: key of Secret {secret} would become the variable {name}, which is no valid name: rename "
            "it, or take single keys by spec.env",
        )
    return name
