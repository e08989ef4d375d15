"""The permissions that endpoints ask for and the roles that have them at first; rows are seeded from here.

`dotmac-api migrate` adds what is missing and never takes a grant away or gives one back, so that an administrator's
choice stays. The admin role has every permission, without rows.
"""

from dataclasses import dataclass

ADMIN = "admin"

ROLES = {
    ADMIN: "everything, including people, roles, settings and the scheduler",
    "operator": "runs servers and instances: deploys, suspends, restores",
    "support": "reads everything of the fleet, restarts instances and reads their logs",
    "auditor": "reads everything, including the audit trail; changes nothing",
}

_READERS = ("operator", "support", "auditor")


@dataclass(frozen=True, slots=True)
class PermissionSpec:
    """One permission: `<noun>:<verb>`, and the roles besides admin that have it at first."""

    key: str
    description: str
    roles: tuple[str, ...] = ()


PERMISSIONS: tuple[PermissionSpec, ...] = (
    PermissionSpec("people:read", "list and read people", _READERS),
    PermissionSpec("people:write", "create and change people"),
    PermissionSpec("people:delete", "delete people"),
    PermissionSpec("credentials:read", "list and read user credentials (never the hash)", ("auditor",)),
    PermissionSpec("credentials:write", "create and change user credentials"),
    PermissionSpec("credentials:delete", "delete user credentials"),
    PermissionSpec("sessions:read", "list and read sessions", ("auditor",)),
    PermissionSpec("sessions:write", "create and change sessions"),
    PermissionSpec("sessions:delete", "revoke sessions"),
    PermissionSpec("api-keys:read", "list and read API keys (never the key)", ("auditor",)),
    PermissionSpec("api-keys:write", "create and change API keys"),
    PermissionSpec("api-keys:delete", "revoke API keys"),
    PermissionSpec("rbac:read", "list and read roles, permissions and who has them", ("auditor",)),
    PermissionSpec("rbac:write", "change roles, permissions and who has them"),
    PermissionSpec("audit:read", "read the audit trail", ("auditor",)),
    PermissionSpec("settings:read", "read settings (secrets masked)", _READERS),
    PermissionSpec("settings:write", "change settings"),
    PermissionSpec("scheduler:read", "see scheduled tasks and their runs", _READERS),
    PermissionSpec("scheduler:write", "change scheduled tasks and start them"),
    PermissionSpec("servers:read", "list and read servers", _READERS),
    PermissionSpec("servers:write", "create, change and test servers", ("operator",)),
    PermissionSpec("servers:delete", "delete servers"),
    PermissionSpec("instances:read", "list and read instances, their plans, steps and events", _READERS),
    PermissionSpec("instances:logs", "read the logs of instances", ("operator", "support")),
    PermissionSpec("instances:write", "create and change instances", ("operator",)),
    PermissionSpec("instances:deploy", "deploy, reconfigure, suspend, reactivate, archive", ("operator",)),
    PermissionSpec("instances:restart", "restart instances", ("operator", "support")),
    PermissionSpec("instances:approve", "approve a plan that waits", ("operator",)),
    PermissionSpec("instances:delete", "delete instances"),
    PermissionSpec("backups:read", "list backups and restores", _READERS),
    PermissionSpec("backups:write", "take backups, restore and clone", ("operator",)),
    PermissionSpec("backups:delete", "delete backups with their files, and restores"),
    PermissionSpec("catalog:read", "list releases and plans", _READERS),
    PermissionSpec("webhooks:read", "list webhooks and their deliveries", ("operator", "auditor")),
    PermissionSpec("webhooks:write", "create and change webhooks, replay deliveries", ("operator",)),
    PermissionSpec("webhooks:delete", "delete webhooks"),
)

PERMISSION_KEYS = frozenset(spec.key for spec in PERMISSIONS)
