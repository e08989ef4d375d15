"""Settings of the operator, by environment variables `DOTMAC_OPERATOR_*` and the command line."""

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


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

    @field_validator("namespaces", mode="before")
    @classmethod
    def _by_comma(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
