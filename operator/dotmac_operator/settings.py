"""Settings of the operator, by environment variables `DOTMAC_OPERATOR_*` and the command line."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dotmac_operator.serving.address import address_of

DEFAULT_METRICS_ADDRESS = "127.0.0.1:8081"
OFF = "off"
SHORTEST_TOKEN = 32


class Settings(BaseSettings):
    """Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="DOTMAC_OPERATOR_", extra="ignore")

    namespaces: Annotated[list[str], NoDecode] = Field(
        default=[], description="Namespaces to watch, separated by commas; empty with all_namespaces."
    )
    all_namespaces: bool = Field(default=False, description="Watch every namespace.")
    workers: int = Field(default=32, ge=1, le=512, description="Threads: passes that may run at the same time.")
    resync: float = Field(default=600.0, ge=5, description="A pass without any reason, jittered by a fifth.")
    log_format: Literal["plain", "json"] = "plain"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    breaker_failures: int = Field(default=3, ge=1, description="Failed connects until a host is left alone.")
    breaker_seconds: float = Field(default=60.0, ge=1, description="How long a host is left alone.")
    metrics_address: str | None = Field(
        default=None,
        description="host:port of /metrics, /healthz and /readyz, or off. When it is given and taken the operator does "
        f"not start; when it is not given, {DEFAULT_METRICS_ADDRESS} is used if it is free.",
    )
    watch_canary_seconds: float = Field(
        default=30.0, ge=1, description="How often each watch is compared with the API: one GET for each kind."
    )
    diagnostics_address: str = Field(
        default="127.0.0.1:8082", description="host:port of logs and diagnostics for the facade; needs a token."
    )
    diagnostics_token: SecretStr | None = Field(
        default=None, description=f"At least {SHORTEST_TOKEN} characters that the facade must show. None: no endpoint."
    )
    diagnostics_token_file: Path | None = Field(default=None, description="A file with the token, read at the start.")
    leader_election: bool = Field(default=True, description="Act only while holding a Lease, and fence hosts with it.")
    leader_election_name: str = Field(
        default="dotmac-operator", pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", description="Name of the Lease."
    )
    leader_election_namespace: str = Field(
        default="", description="Namespace of the Lease; empty: the pod's, else the first one watched."
    )
    leader_election_lease_duration: float = Field(default=8.0, ge=3, description="Others take the Lease after this.")
    leader_election_renew_deadline: float = Field(default=6.0, ge=2, description="Unrenewed for so long: no more acts.")
    leader_election_retry_period: float = Field(
        default=1.5, ge=0.5, description="Between two renewals; who stands by looks twice as often."
    )
    fencing_domain: str = Field(
        default="",
        pattern=r"^([a-z0-9][a-z0-9.-]{0,199})?$",
        description="Who manages the hosts, as they remember it; empty: namespace, name and cluster of the Lease.",
    )

    @model_validator(mode="after")
    def _lease_times(self) -> Self:
        lease, renew, retry = (
            self.leader_election_lease_duration,
            self.leader_election_renew_deadline,
            self.leader_election_retry_period,
        )
        if not lease > renew > 1.2 * retry:  # the rule of client-go
            raise ValueError(
                "LEADER_ELECTION_LEASE_DURATION must exceed LEADER_ELECTION_RENEW_DEADLINE, which must exceed "
                "1.2 times LEADER_ELECTION_RETRY_PERIOD"
            )
        return self

    @field_validator("namespaces", mode="before")
    @classmethod
    def _by_comma(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("metrics_address", "diagnostics_address")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and value != OFF:
            address_of(value)
        return value

    @model_validator(mode="after")
    def _token(self) -> Self:
        if self.diagnostics_token_file is not None:
            if self.diagnostics_token is not None:
                raise ValueError("set DOTMAC_OPERATOR_DIAGNOSTICS_TOKEN or ..._TOKEN_FILE, not both")
            try:
                self.diagnostics_token = SecretStr(self.diagnostics_token_file.read_text().strip())
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "it is no text"
                raise ValueError(
                    f"the file of DOTMAC_OPERATOR_DIAGNOSTICS_TOKEN_FILE cannot be read: {reason}"
                ) from None
        token = self.diagnostics_token
        if token is not None and len(token.get_secret_value()) < SHORTEST_TOKEN:
            raise ValueError(
                f"the token of DOTMAC_OPERATOR_DIAGNOSTICS_TOKEN(_FILE) has fewer than {SHORTEST_TOKEN} characters: "
                "make one with `openssl rand -hex 32`"
            )
        return self
