"""Bodies of /instances/{id}/logs, /usage and /health."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field

from dotmac_api.instances.schemas import Progress
from dotmac_api.mirror.models import InstanceRow
from dotmac_api.mirror.projection import condition
from dotmac_api.servers.schemas import ConditionRead

NOTICES = (100, 90, 80)
"""Percent of the plan's storage at which the earlier platform sent a notice."""

_FACTORS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class LogLine(BaseModel):
    """One line, with the tenant's secrets masked by the operator."""

    container: str
    role: str
    time: Annotated[str, Field(description="RFC 3339, as Docker noted it; `since` takes it")]
    stream: Annotated[str, Field(description="stdout or stderr")]
    line: str


class ContainerUsage(BaseModel):
    role: str
    container: str
    cpu_percent: Annotated[float, Field(description="100 is one processor in full use")]
    memory_bytes: int
    memory_limit_bytes: int
    pids: int


class VolumeUsage(BaseModel):
    name: str
    bytes: Annotated[int | None, Field(description="null while it is being measured")]


class UsageTold(BaseModel):
    """What the operator answers about consumption."""

    containers: list[ContainerUsage]
    volumes: list[VolumeUsage]


class UsageRead(Progress):
    """What the tenant takes of its host now, beside what its plan grants."""

    containers: list[ContainerUsage]
    volumes: list[VolumeUsage]
    max_users: int | None
    max_storage: str | None
    storage_bytes: Annotated[int | None, Field(description="of all volumes; null while one is not measured")]
    storage_percent: Annotated[float | None, Field(description="of the plan's storage")]
    storage_notice: Annotated[int | None, Field(description="the highest of 80, 90 and 100 percent that is reached")]

    @classmethod
    def of(cls, row: InstanceRow, told: UsageTold) -> Self:
        quota = row.observed.get("quota") or {}
        used = None if any(v.bytes is None for v in told.volumes) else sum(v.bytes or 0 for v in told.volumes)
        most = quantity_bytes(quota.get("maxStorage"))
        percent = round(used / most * 100, 1) if used is not None and most else None
        return cls(
            **cls.marks(row),
            containers=told.containers,
            volumes=told.volumes,
            max_users=quota.get("maxUsers"),
            max_storage=quota.get("maxStorage"),
            storage_bytes=used,
            storage_percent=percent,
            storage_notice=next((n for n in NOTICES if percent is not None and percent >= n), None),
        )


class ComponentHealth(BaseModel):
    """One container. `state` and what follows it come from the host itself, and are null when it was not asked."""

    role: str
    container: str
    image: str | None = None
    health: str
    state: Annotated[str | None, Field(description="running, exited, restarting, ...")] = None
    restarts: int | None = None
    started_at: str | None = None
    exit_code: int | None = None
    oom_killed: bool | None = None


class HealthTold(BaseModel):
    """What the operator answers about health."""

    components: list[ComponentHealth]


class HealthRead(Progress):
    """The tenant's containers, and the conditions that sum them up."""

    healthy: bool | None
    live: Annotated[bool, Field(description="whether the host was asked just now; else this is the last known")]
    live_error: Annotated[str | None, Field(description="why it was not")]
    components: list[ComponentHealth]
    conditions: list[ConditionRead]
    last_checked: Annotated[datetime | None, Field(description="when the conditions last changed")]

    @classmethod
    def of(cls, row: InstanceRow, live: HealthTold | None, error: str | None) -> Self:
        """From the mirror, and from what the operator answered, if it did."""
        summary = ("Ready", "DatabaseReady", "AppHealthy", "RouteReady")
        words = [condition(row.observed, type_) for type_ in summary[1:]]
        conditions = [c for c in row.observed.get("conditions") or [] if c["type"] in summary]
        return cls(
            **cls.marks(row),
            healthy=False if "False" in words else (True if set(words) == {"True"} else None),
            live=live is not None,
            live_error=error,
            components=_components(row.observed.get("components") or [], live),
            conditions=conditions,
            last_checked=max((c["lastTransitionTime"] for c in conditions), default=None),
        )


def _components(recorded: Sequence[Mapping[str, Any]], live: HealthTold | None) -> list[ComponentHealth]:
    """What is on the host now where that is known; else what the status tells."""
    if live is None:
        return [ComponentHealth.model_validate(dict(c)) for c in recorded]
    images = {c["container"]: c["image"] for c in recorded}
    return [c.model_copy(update={"image": images.get(c.container)}) for c in live.components]


def quantity_bytes(quantity: str | None) -> int | None:
    """`5Gi` -> bytes, in the notation of Kubernetes' resource.Quantity; None for none."""
    if not quantity:
        return None
    for suffix, factor in _FACTORS.items():
        if quantity.endswith(suffix):
            return int(Decimal(quantity.removesuffix(suffix)) * factor)
    return int(Decimal(quantity))
