"""Settings of the facade, read from the environment (`DOTMAC_API_*`); secrets have no defaults."""

import base64
import binascii
import difflib
import json
import os
import re
import secrets
from collections import Counter
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dotmac_api.domains.specs import SPECS, Value, ValueRefused
from dotmac_api.telemetry import missing_packages

PREFIX = "DOTMAC_API_"
MIN_SECRET_BYTES = 32


class SettingsRefused(RuntimeError):
    """The environment is not fit to start with; the message names every variable, what is wrong and the remedy."""


def _weak(secret: str) -> str | None:
    """Why `secret` is too weak to sign or hash with, or None."""
    if len(secret.encode()) < MIN_SECRET_BYTES:
        return f"is shorter than {MIN_SECRET_BYTES} bytes"
    commonest = Counter(secret).most_common(1)[0][1]
    if len(set(secret)) < 10 or commonest > len(secret) // 2:
        return "repeats too few characters to be random"
    return None


def _check_ed25519(kid: str, pem: str) -> None:
    """Raises ValueError unless `pem` is an Ed25519 private key without a passphrase."""
    try:
        fit = isinstance(load_pem_private_key(pem.encode(), password=None), Ed25519PrivateKey)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        fit = False
    if not fit:
        raise ValueError(f"key {kid!r} is no Ed25519 private key; make one with `openssl genpkey -algorithm ed25519`")


class Settings(BaseSettings):
    """What one process of the facade needs. Durations are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", hide_input_in_errors=True)

    database_url: SecretStr = Field(description="postgresql://user:password@host/database")
    redis_url: SecretStr = Field(description="redis://host:6379/0")
    jwt_keys: SecretStr = Field(
        description="JSON object kid -> key, the first signs: a PEM Ed25519 private key (EdDSA), or 32 random bytes or"
        " more as text (HS256); later entries only verify, so that a rotation ends no session"
    )
    api_key_pepper: SecretStr = Field(description="HMAC-SHA256 key for API keys and one-time tokens, 32 bytes or more")
    encryption_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(), description="Fernet keys, comma separated; the first encrypts, the others only decrypt"
    )
    metrics_token: SecretStr | None = Field(default=None, description="bearer token of /metrics; without it 404")

    issuer: str = "dotmac-api"
    audience: str = "dotmac"
    public_url: str = Field(default="http://127.0.0.1:8000", description="used in links of e-mails")
    trusted_proxies: str = Field(default="", description="addresses whose X-Forwarded-For counts, comma separated")
    database_pool: int = Field(default=10, ge=1, le=200)
    database_timeout: float = Field(default=5.0, gt=0, le=60)
    redis_timeout: float = Field(default=1.0, gt=0, le=10)
    password_hash_concurrency: int = Field(default=2, ge=1, le=64)
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    scheduler_enabled: bool = True
    log_format: Literal["json", "plain"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    otlp_endpoint: str | None = Field(
        default=None, description="base URL that traces are sent to (OTLP over HTTP), such as http://collector:4318"
    )

    overrides: Annotated[dict[tuple[str, str], Any], NoDecode] = Field(
        default_factory=dict, description="(domain, key) -> value of domain settings that the environment decides"
    )

    kubeconfig: Path | None = Field(default=None, description="else the cluster's own service account")
    kube_context: str | None = Field(default=None, description="context of the kubeconfig; its current one if absent")
    namespace: str = Field(default="default", description="where servers and instances are made and mirrored from")
    all_namespaces: bool = Field(default=False, description="mirror the servers and instances of every namespace")
    mirror_enabled: bool = Field(default=True, description="run a projector here; one of all replicas leads")
    mirror_max_lag_seconds: float = Field(default=15.0, gt=0, description="/health/ready fails beyond it")
    webhooks_enabled: bool = Field(default=True, description="deliver webhooks from this process")
    webhook_allow_networks: str = Field(
        default="", description="private networks that webhooks may call, such as 10.1.0.0/16, comma separated"
    )

    operator_url: str | None = Field(
        default=None,
        description="the operator's diagnostics endpoint, such as http://dotmac-operator:8082",
    )
    operator_token: SecretStr | None = Field(default=None, description="its token, DOTMAC_OPERATOR_DIAGNOSTICS_TOKEN")

    @cached_property
    def webhook_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Private networks that webhooks may call. Raises ValueError for what is no network."""
        parts = (part.strip() for part in self.webhook_allow_networks.split(","))
        return tuple(ip_network(part) for part in parts if part)

    @field_validator("public_url")
    @classmethod
    def _link(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise ValueError("must be the http:// or https:// URL that people reach this at")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: str) -> str:
        for part in filter(None, (part.strip() for part in value.split(","))):
            try:
                network = ip_network(part)
            except ValueError:
                raise ValueError(f"{part!r} is no address or network; name those of your proxies") from None
            if network.prefixlen == 0:
                raise ValueError(f"{part} is everybody: anyone could pretend to come from any address")
        return value

    @field_validator("webhook_allow_networks")
    @classmethod
    def _networks(cls, value: str) -> str:
        for part in value.split(","):
            if part.strip():
                ip_network(part.strip())
        return value

    @field_validator("encryption_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("encryption_keys")
    @classmethod
    def _fernet(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in value:
            try:
                Fernet(key.get_secret_value().encode())
            except (ValueError, binascii.Error):
                raise ValueError("every part must be a Fernet key (dotmac-api generate-key)") from None
        return value

    @field_validator("api_key_pepper")
    @classmethod
    def _strong(cls, value: SecretStr) -> SecretStr:
        if reason := _weak(value.get_secret_value()):
            raise ValueError(f"{reason}; make one with `openssl rand -base64 48`")
        return value

    @field_validator("operator_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value:
            url = urlsplit(value)
            if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
                raise ValueError("must be an http:// or https:// URL")
            if url.username or url.password:
                raise ValueError("holds a password; DOTMAC_API_OPERATOR_TOKEN is for secrets")
        return value or None

    @field_validator("metrics_token", "operator_token")
    @classmethod
    def _long_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("is shorter than 16 characters; make one with `openssl rand -base64 24`")
        return value

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, value: SecretStr) -> SecretStr:
        scheme, separator, rest = value.get_secret_value().partition("://")
        if not separator or scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise ValueError("must be a postgresql:// URL; other databases are not supported")
        return SecretStr(f"postgresql+psycopg://{rest}")

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        try:
            url = urlsplit(value.get_secret_value())
            port = url.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if url.scheme not in ("redis", "rediss") or not url.hostname:
            raise ValueError("must be a redis:// or rediss:// URL with a host")
        if port is None:
            # The rate limiter takes no URL without a port.
            return SecretStr(url._replace(netloc=f"{url.netloc}:6379").geturl())
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// URL with a host")
        if missing := missing_packages():
            raise ValueError(f"needs {', '.join(missing)}; install the extra: pip install 'dotmac-operator[telemetry]'")
        return value

    @field_validator("jwt_keys")
    @classmethod
    def _signing_keys(cls, value: SecretStr) -> SecretStr:
        for kid, key in _keys(value).items():
            if key.startswith("-----BEGIN"):
                _check_ed25519(kid, key)
            elif reason := _weak(key):
                raise ValueError(f"key {kid!r} {reason}; make one with `openssl rand -base64 48`")
        return value

    @cached_property
    def signing_keys(self) -> dict[str, str]:
        """kid -> key text, the signing one first."""
        return _keys(self.jwt_keys)


def _keys(value: SecretStr) -> dict[str, str]:
    """Raises ValueError for what is no object of texts."""
    try:
        keys = json.loads(value.get_secret_value())
    except ValueError:
        keys = None
    if not isinstance(keys, dict) or not keys or not all(isinstance(v, str) and k for k, v in keys.items()):
        raise ValueError('must be a JSON object such as {"2026-11": "<key>"}')
    return keys


def load_settings() -> Settings:
    """Settings from the environment, or SettingsRefused with one line for each variable that is missing or weak."""
    try:
        return Settings(overrides=_overrides())
    except ValidationError as error:
        lines = [_complaint(e["loc"], e["type"], e["msg"]) for e in error.errors(include_input=False)]
        raise SettingsRefused("the facade cannot start:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _overrides() -> dict[tuple[str, str], Value]:
    """Domain settings in the environment, such as DOTMAC_API_AUTH_JWT_ACCESS_TTL_MINUTES."""
    found: dict[tuple[str, str], Value] = {}
    for spec in SPECS:
        name = f"{PREFIX}{spec.domain}_{spec.key}".upper()
        if spec.fixed or name not in os.environ:
            continue
        try:
            found[spec.domain, spec.key] = spec.parse(os.environ[name])
        except ValueRefused as error:
            raise SettingsRefused(f"the facade cannot start:\n  {name} {error}") from None
    return found


# What Kubernetes sets in a pod for a Service of the name dotmac-api, and what `deploy/demo` writes down for clients.
_NOT_OURS = re.compile(rf"{PREFIX}(URL|SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP).*)?)")


def misspelt() -> dict[str, str]:
    """Variables that look like a setting, and are none -> the setting that may be meant."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    known += [f"{PREFIX}{spec.domain}_{spec.key}".upper() for spec in SPECS if not spec.fixed]
    strangers = (n for n in os.environ if n.startswith(PREFIX) and n not in known and not _NOT_OURS.fullmatch(n))
    meant = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.9) for name in strangers}
    return {name: matches[0] for name, matches in meant.items() if matches}


def _complaint(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not loc and ":" in message:
        field, _, message = message.partition(": ")
        loc = (field,)
    name = PREFIX + str(loc[0]).upper() if loc else PREFIX + "*"
    if kind == "missing":
        message = f"is not set: {Settings.model_fields[str(loc[0])].description}"
    return f"{name} {message}"


def random_key() -> str:
    """48 random bytes as URL-safe text, fit for jwt_keys and api_key_pepper."""
    return base64.urlsafe_b64encode(secrets.token_bytes(48)).decode()
