"""The settings that exist: domain, key, type, default and bounds. Nothing outside this list can be stored."""

import re
from dataclasses import dataclass
from typing import Literal

Value = int | bool | str | list[str]
Kind = Literal["integer", "boolean", "string", "list"]


class ValueRefused(ValueError):
    """The value does not fit its spec; the message says why, never the value."""


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """One setting. `fixed` says why it cannot be changed at run time; low and high bound an integer or a length."""

    domain: str
    key: str
    kind: Kind
    default: Value
    description: str
    low: int = 0
    high: int = 500
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    secret: bool = False
    fixed: str | None = None

    def check(self, value: object) -> Value:
        """`value` if it fits, else ValueRefused."""
        if self.kind == "integer":
            return self._integer(value)
        if self.kind == "boolean":
            if not isinstance(value, bool):
                raise ValueRefused("must be true or false")
            return value
        if self.kind == "list":
            if not isinstance(value, list) or len(value) > self.high:
                raise ValueRefused(f"must be a list of at most {self.high} texts")
            return [self._text(item, 200) for item in value]
        return self._text(value, self.high)

    def parse(self, text: str) -> Value:
        """The value of an environment variable: lists are comma separated. Raises ValueRefused."""
        if self.kind == "integer" and re.fullmatch(r"-?\d{1,12}", text):
            return self.check(int(text))
        if self.kind == "boolean" and text.lower() in ("true", "false", "1", "0"):
            return text.lower() in ("true", "1")
        if self.kind == "list":
            return self.check([part.strip() for part in text.split(",") if part.strip()])
        return self.check(text)

    def _integer(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise ValueRefused(f"must be an integer from {self.low} to {self.high}")
        return value

    def _text(self, value: object, longest: int) -> str:
        if not isinstance(value, str) or len(value) > longest or "\x00" in value:
            raise ValueRefused(f"must be a text of at most {longest} characters")
        if not self.secret:
            value = value.strip()
        if self.choices and value not in self.choices:
            raise ValueRefused(f"must be one of {', '.join(self.choices)}")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise ValueRefused(f"must match {self.pattern}")
        return value


_ENVIRONMENT = "set by the environment only"
_HOST_PREFIX = "fixed by the __Host- prefix of the cookie (RFC 6265bis, 4.1.3.2)"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def _rate(key: str, times: int, seconds: int, what: str) -> tuple[SettingSpec, SettingSpec]:
    return (
        SettingSpec("auth", f"{key}_rate_max", "integer", times, f"{what} in one window", 1, 100_000),
        SettingSpec("auth", f"{key}_rate_window_seconds", "integer", seconds, f"window of {what}", 1, 86_400),
    )


SPECS: tuple[SettingSpec, ...] = (
    SettingSpec("auth", "jwt_secret", "string", "", "the signing key", secret=True, fixed=_ENVIRONMENT),
    SettingSpec("auth", "jwt_algorithm", "string", "HS256", "follows from the signing key", fixed=_ENVIRONMENT),
    SettingSpec("auth", "jwt_access_ttl_minutes", "integer", 15, "life of an access token", 1, 60),
    SettingSpec("auth", "jwt_refresh_ttl_days", "integer", 30, "longest life of a session", 1, 30),
    SettingSpec(
        "auth",
        "refresh_cookie_name",
        "string",
        "__Host-dotmac_refresh",
        "its name",
        pattern=r"__Host-[A-Za-z0-9_-]{1,40}",
    ),
    SettingSpec("auth", "refresh_cookie_samesite", "string", "strict", "its SameSite", choices=("strict", "lax")),
    SettingSpec("auth", "refresh_cookie_secure", "boolean", True, "always Secure", fixed=_HOST_PREFIX),
    SettingSpec("auth", "refresh_cookie_domain", "string", "", "no Domain", fixed=_HOST_PREFIX),
    SettingSpec("auth", "refresh_cookie_path", "string", "/", "always /", fixed=_HOST_PREFIX),
    SettingSpec("auth", "totp_issuer", "string", "DotMac", "shown in apps", 1, 60, pattern=r"[^:%]{1,60}"),
    SettingSpec("auth", "totp_encryption_key", "string", "", "encrypts TOTP secrets", secret=True, fixed=_ENVIRONMENT),
    SettingSpec("auth", "default_auth_provider", "string", "local", "of new credentials", choices=("local",)),
    *_rate("login", 10, 60, "sign-ins per address and per account"),
    *_rate("refresh", 10, 60, "refreshes per address and per session"),
    *_rate("reset", 5, 300, "password resets per address and per account"),
    *_rate("mfa", 5, 300, "second factors per address and per account"),
    *_rate("api_key", 600, 60, "requests with one API key"),
    SettingSpec("auth", "session_rate_max", "integer", 6_000, "requests of one session in 60 s", 60, 10_000_000),
    SettingSpec("audit", "enabled", "boolean", True, "whether requests are audited"),
    SettingSpec(
        "audit",
        "methods",
        "list",
        ["POST", "PUT", "PATCH", "DELETE"],
        "HTTP methods that are audited",
        0,
        6,
        choices=_METHODS,
    ),
    SettingSpec("audit", "skip_paths", "list", ["/health", "/metrics"], "path prefixes that are not audited", 0, 50),
    SettingSpec(
        "audit",
        "read_trigger_header",
        "string",
        "X-Audit-Read",
        "a read with this header is audited too",
        0,
        60,
        pattern=r"[A-Za-z0-9-]*",
    ),
    SettingSpec(
        "audit",
        "read_trigger_query",
        "string",
        "audit",
        "a read with this query parameter is audited too",
        0,
        60,
        pattern=r"[A-Za-z0-9_-]*",
    ),
    SettingSpec("audit", "retention_days", "integer", 365, "events older than this are pruned", 1, 3650),
    SettingSpec("scheduler", "enabled", "boolean", True, "whether due tasks run"),
    SettingSpec("scheduler", "session_retention_days", "integer", 30, "ended sessions are kept so long", 1, 365),
    SettingSpec("scheduler", "idempotency_retention_hours", "integer", 24, "answers are kept so long", 1, 168),
    SettingSpec(
        "platform",
        "certificate_notice_days",
        "integer",
        21,
        "days before a certificate's end at which it is told of; they are renewed a month before",
        1,
        90,
    ),
    SettingSpec(
        "platform",
        "base_domain",
        "string",
        "",
        "domain of instances on servers without one",
        0,
        253,
        pattern=r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*)?",
    ),
    SettingSpec(
        "platform",
        "default_server_strategy",
        "string",
        "least_instances",
        "for instances that name no server",
        choices=("explicit", "least_instances"),
    ),
    SettingSpec("notifications", "smtp_host", "string", "", "mail server; empty: no mail is sent", 0, 253),
    SettingSpec("notifications", "smtp_port", "integer", 587, "its port", 1, 65_535),
    SettingSpec("notifications", "smtp_username", "string", "", "sign-in, if it wants one", 0, 200),
    SettingSpec("notifications", "smtp_password", "string", "", "its password", 0, 200, secret=True),
    SettingSpec(
        "notifications",
        "smtp_security",
        "string",
        "starttls",
        "how the connection is protected",
        choices=("starttls", "tls", "none"),
    ),
    SettingSpec(
        "notifications",
        "smtp_from",
        "string",
        "no-reply@localhost",
        "sender's address",
        3,
        254,
        pattern=r"[^\s@<>,;]+@[^\s@<>,;]+",
    ),
)

BY_NAME: dict[tuple[str, str], SettingSpec] = {(spec.domain, spec.key): spec for spec in SPECS}
DOMAINS: tuple[str, ...] = tuple(dict.fromkeys(spec.domain for spec in SPECS))
