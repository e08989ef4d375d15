"""The tasks that exist. Rows, endpoints and tests all come from this registry."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dotmac_api.facade import Facade
from dotmac_api.scheduler import fleet, tasks


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task: `run` returns one line about what it did. The interval is in seconds, and can be changed at run time."""

    name: str
    description: str
    interval_seconds: int
    run: Callable[[Facade], Awaitable[str]]


TASKS: tuple[TaskSpec, ...] = (
    TaskSpec("prune_sessions", "delete sessions, reset tokens and recovery codes that ended", 86_400, tasks.sessions),
    TaskSpec("prune_audit", "delete audit events older than audit.retention_days", 86_400, tasks.audit_events),
    TaskSpec("prune_idempotency_keys", "delete kept answers to repeated requests", 3_600, tasks.idempotency_keys),
    TaskSpec("deliver_webhooks", "send webhooks that are due; processes also do so by themselves", 300, fleet.webhooks),
    TaskSpec("prune_webhooks", "delete webhook deliveries that ended 14 days ago", 86_400, fleet.deliveries),
    TaskSpec("expire_trials", "tell of trials that are over; the operator suspends their tenants", 300, fleet.trials),
    TaskSpec("check_certificates", "tell of certificates that end soon, not renewed", 3_600, fleet.certificates),
    TaskSpec("verify_mirror", "compare the mirror with Kubernetes; list anew what differs", 21_600, fleet.mirror),
)
