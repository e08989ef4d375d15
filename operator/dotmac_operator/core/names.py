"""Names and labels of everything that is made on a host."""

from collections.abc import Mapping

PREFIX = "platform.dotmac.io/"
MANAGED_BY = f"{PREFIX}managed-by"
OPERATOR = "dotmac-operator"
INSTANCE_UID = f"{PREFIX}instance-uid"
NAMESPACE = f"{PREFIX}namespace"
INSTANCE = f"{PREFIX}instance"
ORG = f"{PREFIX}org"
ROLE = f"{PREFIX}role"
INDEX = f"{PREFIX}index"
RELEASE = f"{PREFIX}release"
RELEASE_VERSION = f"{PREFIX}release-version"
GENERATION = f"{PREFIX}generation"
HASH = f"{PREFIX}hash"
PORT = f"{PREFIX}port"
"""On containers that the proxy may send requests to: the port they listen on."""
DRAIN = f"{PREFIX}drain-timeout"
"""On containers that the proxy may send requests to: seconds that these may take to end once it is replaced."""
STOP_GRACE = f"{PREFIX}stop-grace"
"""Seconds between SIGTERM and SIGKILL."""
LIMITS = f"{PREFIX}limits"
"""On containers that may get other limits while they run: digest of those that they were made with."""
PATH = f"{PREFIX}path"
"""On those that are checked by http: the path that is asked for."""
SERVER_UID = f"{PREFIX}server-uid"
JOB = f"{PREFIX}job"
"""On containers that work for a Backup or a Restore, which no step of an Instance looks at: `<kind>/<name>`."""
JOB_UID = f"{PREFIX}job-uid"

MANAGED = f"{MANAGED_BY}={OPERATOR}"
"""Filter for every object of ours on a host."""

PAUSED = f"{PREFIX}paused"
RECONCILE_REQUESTED_AT = f"{PREFIX}reconcile-requested-at"
ORPHAN = f"{PREFIX}orphan"
FOR_INSTANCES = f"{PREFIX}for-instances"
"""On a Secret: whether Instances may refer to it. `true` opens one that is kept from them for its kind."""
RESTORED_UID = f"{PREFIX}restored-uid"
"""On an Instance that was made again from an export: the uid that it had, which its containers carry."""
FORCE_WINDOW = f"{PREFIX}force-window"
APPROVE = f"{PREFIX}approve"
RESTART_REQUESTED_AT = f"{PREFIX}restart-requested-at"

PROXY_CONTAINER = "dotmac-proxy"
PROXY_NETWORK = "dotmac-proxy"
PROXY_CONFIG_VOLUME = "dotmac-proxy-config"
PROXY_DATA_VOLUME = "dotmac-proxy-data"

DATABASE = "database"
CACHE = "cache"
MIGRATE = "migrate"
BOOTSTRAP = "bootstrap"
BACKUP = "backup"
RESTORE = "restore"
PROXY = "proxy"
ONE_SHOTS = (MIGRATE, BOOTSTRAP, BACKUP, RESTORE)
OWN_ROLES = frozenset({DATABASE, CACHE, *ONE_SHOTS, PROXY})
"""Roles that a Release cannot name; all others are the application's."""


def slug(org_code: str) -> str:
    """The organisation's code as a DNS label: lower case, `_` as `-`."""
    return org_code.lower().replace("_", "-")


def base(org_code: str) -> str:
    """What the names of all of a tenant's Docker objects begin with."""
    return f"dotmac-{org_code.lower()}"


def short(digest: str) -> str:
    """The part of a digest that goes into a name: 8 hex digits."""
    return digest[:8]


def says_yes(annotations: Mapping[str, str], name: str) -> bool:
    """Whether an annotation that is on or off is on."""
    return annotations.get(name, "").lower() in ("true", "yes", "1")


def is_app(labels: Mapping[str, str]) -> bool:
    """Whether a container with these labels runs the application itself."""
    return labels.get(ROLE, PROXY) not in OWN_ROLES
