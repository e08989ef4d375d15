"""InstanceClass: a plan, with limits, quotas and defaults; cluster-scoped."""

from typing import Annotated

from pydantic import Field

from dotmac_crds.base import Conditions, Cpu, Memory, Model, ObservedGeneration, ShortName, list_map, rule, schema
from dotmac_crds.lifecycle import MaintenanceWindows, Update

Pids = Annotated[int, Field(ge=16, le=65536, json_schema_extra={"format": "int32"})]


def _more_than_nothing(field: str) -> dict[str, str]:
    return rule(
        f"!has(self.{field}) || (type(self.{field}) == int ? self.{field} > 0 : self.{field}.matches('[1-9]'))",
        f"{field} must be more than 0, which Docker takes for no limit at all",
        path=f".{field}",
    )


class Limits(Model):
    """Limits of one container."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema([_more_than_nothing("cpu"), _more_than_nothing("memory")]),
    }

    cpu: Cpu = "1"
    """Processors, such as 1, 0.5 or 500m."""
    memory: Memory = "512Mi"
    """Memory, such as 512Mi; a container that takes more is killed by the kernel."""
    pids: Pids = 256
    """Processes and threads."""


class RoleLimits(Limits):
    """Limits of each container of one role."""

    name: ShortName
    """Name of the role."""


class ClassResources(Model):
    """Limits of a tenant's containers."""

    default: Limits = Limits()
    """For each container of a role that is not listed, and for migrate and bootstrap."""
    roles: Annotated[list[RoleLimits], Field(max_length=16, json_schema_extra=list_map("name"))] = []
    """For each container of the named role."""
    database: Limits = Limits()
    """For the database."""
    cache: Limits = Limits(cpu="0.5", memory="128Mi", pids=64)
    """For the cache."""


class Quotas(Model):
    """What the plan grants; handed to the application as `from: quota.*` and reported in each Instance's status."""

    max_users: Annotated[int, Field(ge=1, le=1_000_000, json_schema_extra={"format": "int32"})] | None = None
    """Users; unlimited when absent."""
    max_storage: Memory | None = None
    """Storage, a quantity; unlimited when absent."""


class Defaults(Model):
    """What an Instance of the plan does not say itself."""

    update: Update = Update()
    """How a change is put in place; each field counts where the Instance has none."""
    maintenance_windows: MaintenanceWindows | None = None
    """When disruptive work may be done; an Instance with windows of its own, or an empty list, has only those."""


class InstanceClassSpec(Model):
    """A plan."""

    resources: ClassResources = ClassResources()
    """Limits of a tenant's containers."""
    quotas: Quotas = Quotas()
    """What the plan grants."""
    defaults: Defaults = Defaults()
    """What an Instance of the plan does not say itself."""


class InstanceClassStatus(Model):
    """Nothing of a class lives on a host; the status exists for GitOps health checks."""

    observed_generation: ObservedGeneration = -1
    """The generation that this status is about."""
    conditions: Conditions = []
    """Ready."""
