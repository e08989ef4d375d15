"""Release: one version of an ERP, cluster-scoped."""

from typing import Annotated, Literal

from pydantic import Field

from dotmac_crds.base import (
    LIST_ATOMIC,
    LIST_SET,
    AbsolutePath,
    Argv,
    Capability,
    Conditions,
    EnvName,
    EnvValue,
    ImageReference,
    Model,
    ObservedGeneration,
    Port,
    Seconds,
    ShortName,
    list_map,
    rule,
    schema,
)

Capabilities = Annotated[list[Capability], Field(max_length=14, json_schema_extra=LIST_SET)]
VersionText = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]*$")]

# Where a value of the environment comes from. One word per source, so that a typing error is refused at once.
ENV_SOURCES = (
    r"^(orgCode|orgName|domain|url|features|modules"
    r"|admin\.(email|username|password)"
    r"|database\.(host|port|name|user|password|url)"
    r"|cache\.(host|port|password|url)"
    r"|quota\.(maxUsers|maxStorage)"
    r"|secret\.[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    r"|setting\.[A-Za-z][A-Za-z0-9_]*)$"
)


class HttpProbe(Model):
    """Healthy when a GET answers with a status below 400."""

    path: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^/[^\s\x00-\x1f]*$")] = "/"
    """Path of the request."""
    port: Port | None = None
    """Port in the container; the role's port when absent."""


class TcpProbe(Model):
    """Healthy when a connection is accepted."""

    port: Port | None = None
    """Port in the container; the role's port when absent."""


class ExecProbe(Model):
    """Healthy when a program in the container exits with 0."""

    command: Annotated[Argv, Field(min_length=1)]
    """The program and its arguments; no shell is involved."""


class Health(Model):
    """How a container shows that it works."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema(
            [
                rule(
                    "(has(self.http) ? 1 : 0) + (has(self.tcp) ? 1 : 0) + (has(self.exec) ? 1 : 0) == 1",
                    "set exactly one of http, tcp and exec",
                )
            ]
        ),
    }

    http: HttpProbe | None = None
    """Ask by HTTP."""
    tcp: TcpProbe | None = None
    """Connect by TCP."""
    exec: ExecProbe | None = None
    """Run a program in the container."""
    interval: Seconds = 10
    """Seconds between two checks."""
    timeout: Seconds = 5
    """Seconds until one check has failed."""
    retries: Annotated[int, Field(ge=1, le=100, json_schema_extra={"format": "int32"})] = 3
    """Failures in a row after which a container counts as unhealthy."""
    start_period: Annotated[int, Field(ge=0, le=3600, json_schema_extra={"format": "int32"})] = 60
    """Seconds after the start in which failures do not count."""


class Role(Model):
    """One kind of container of the application."""

    name: ShortName
    """Name of the role, such as web, worker or beat."""
    image: ShortName
    """Key of spec.images."""
    command: Argv | None = None
    """Entry point; the image's own when absent."""
    args: Argv | None = None
    """Arguments; the image's own when absent."""
    port: Port | None = None
    """Port that it listens on, inside the tenant's network. Nothing is published but the proxy."""
    expose: bool = False
    """True for the one role that the proxy sends requests to."""
    replicas: Annotated[int, Field(ge=1, le=10, json_schema_extra={"format": "int32"})] = 1
    """Containers of this role."""
    health: Health | None = None
    """Health check; without one, a container that runs counts as healthy."""
    stop_grace_period: Seconds = 30
    """Seconds between SIGTERM and SIGKILL."""
    drain_timeout: Seconds = 30
    """Seconds that open requests may take to end once another version or a page is served, before SIGTERM; for the
    exposed role."""
    capabilities: Capabilities = []
    """Linux capabilities given back after all were dropped."""


class Database(Model):
    """The tenant's own database server."""

    engine: Literal["postgres"] = "postgres"
    """Kind of database."""
    image: ShortName
    """Key of spec.images; it must follow the environment contract of the well-known postgres image."""
    capabilities: Capabilities = []
    """Capabilities given back; an image that starts as root needs CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID."""
    data_path: AbsolutePath = "/var/lib/postgresql/data"
    """Where the data volume is mounted."""


class Cache(Model):
    """The tenant's own cache server."""

    engine: Literal["redis"] = "redis"
    """Kind of cache."""
    image: ShortName
    """Key of spec.images; it must have `redis-server`, `redis-cli` and `sh` on its path."""
    capabilities: Capabilities = []
    """Capabilities given back after all were dropped."""


class ReleaseVolume(Model):
    """A named volume of the tenant, kept across Releases."""

    name: ShortName
    """Name of the volume within the tenant."""
    mount_path: AbsolutePath
    """Where it is mounted."""
    roles: Annotated[list[ShortName], Field(min_length=1, max_length=16, json_schema_extra=LIST_SET)]
    """Roles (and `migrate`, `bootstrap`) that mount it."""


class ReleaseEnv(Model):
    """One environment variable of every container of the application."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema([rule("has(self.value) != has(self.from)", "set exactly one of value and from")]),
    }

    name: EnvName
    """Name of the variable."""
    value: EnvValue | None = None
    """A fixed value."""
    from_: Annotated[str, Field(max_length=64, pattern=ENV_SOURCES)] | None = Field(default=None, alias="from")
    """A value of the tenant: orgCode, orgName, domain, url, features, modules, admin.*, database.*, cache.*, quota.*,
    secret.NAME, setting.NAME."""


class GeneratedSecret(Model):
    """A secret that is generated once for each Instance."""

    name: ShortName
    """Key in the Instance's credentials Secret; used as `from: secret.NAME`."""
    length: Annotated[int, Field(ge=16, le=256, json_schema_extra={"format": "int32"})] = 32
    """Characters."""
    alphabet: Literal["Alphanumeric", "Hex", "UrlSafe", "Fernet"] = "Alphanumeric"
    """Characters it is made of; Fernet gives 32 random bytes in URL-safe base64, whatever the length says."""


class OneShot(Model):
    """A container that runs to its end once for each change of what it is made of."""

    image: ShortName
    """Key of spec.images."""
    command: Argv | None = None
    """Entry point; the image's own when absent."""
    args: Argv | None = None
    """Arguments."""
    timeout: Seconds = 600
    """Seconds after which it has failed."""
    capabilities: Capabilities = []
    """Linux capabilities given back after all were dropped."""


class Migrate(OneShot):
    """The one-shot that brings the database to this version."""

    on_failure: Literal["RestoreIfNeeded", "Restore", "Keep"] = "RestoreIfNeeded"
    """What becomes of the database when the change to this version fails after migrate has begun. RestoreIfNeeded: it
    is set back to the dump of step backup when the previous version does not answer any more. Restore: always, for
    migrations that the previous version survives but should not work with. Keep: never."""


class ReleaseSpec(Model):
    """One version of an ERP."""

    model_config = {
        **Model.model_config,
        "json_schema_extra": schema(
            [
                rule(
                    "self.roles.all(r, r.image in self.images) && self.database.image in self.images"
                    " && (!has(self.cache) || self.cache.image in self.images)"
                    " && (!has(self.migrate) || self.migrate.image in self.images)"
                    " && (!has(self.bootstrap) || self.bootstrap.image in self.images)",
                    "each image of a role, the database, the cache, migrate and bootstrap must be a key of spec.images",
                    path=".images",
                ),
                rule(
                    "self.roles.filter(r, r.expose).size() == 1 && self.roles.all(r, !r.expose || has(r.port))",
                    "exactly one role has expose: true, and it needs a port",
                    path=".roles",
                ),
                rule(
                    "self.roles.all(r, !has(r.health) || has(r.health.exec) || has(r.port)"
                    " || (has(r.health.http) && has(r.health.http.port))"
                    " || (has(r.health.tcp) && has(r.health.tcp.port)))",
                    "a role with http or tcp health needs a port, its own or the check's",
                    path=".roles",
                ),
                rule(
                    "self.roles.all(r, !(r.name in"
                    " ['database', 'cache', 'migrate', 'bootstrap', 'backup', 'restore', 'proxy']))",
                    "database, cache, migrate, bootstrap, backup, restore and proxy are names of the operator;"
                    " choose others",
                    path=".roles",
                ),
                rule(
                    "!has(self.volumes) || self.volumes.all(v, v.roles.all(n,"
                    " n in ['migrate', 'bootstrap'] || self.roles.exists(r, r.name == n)))",
                    "a volume names a role that does not exist",
                    path=".volumes",
                ),
                rule(
                    "!has(self.volumes) || self.volumes.all(v, !(v.name in ['database', 'backups']))",
                    "database and backups are the operator's own volumes; choose other names",
                    path=".volumes",
                ),
                rule(
                    "!has(self.env) || self.env.all(e, !has(e.from) || !e.from.startsWith('secret.')"
                    " || (has(self.secrets) && self.secrets.exists(s, e.from == 'secret.' + s.name)))",
                    "an env takes a secret that spec.secrets does not generate",
                    path=".env",
                ),
                rule(
                    "has(self.cache) || !has(self.env)"
                    " || self.env.all(e, !has(e.from) || !e.from.startsWith('cache.'))",
                    "an env takes a cache value, but spec.cache is absent",
                    path=".env",
                ),
            ]
        ),
    }

    version: VersionText
    """Version of the application, as upgradeFrom ranges compare it."""
    images: Annotated[dict[ShortName, ImageReference], Field(min_length=1, max_length=16)]
    """Name -> reference. One with a digest is pulled by it; what was pulled is recorded in each Instance's status."""
    roles: Annotated[list[Role], Field(min_length=1, max_length=16, json_schema_extra=list_map("name"))]
    """Containers of the application."""
    database: Database
    """The tenant's database server."""
    cache: Cache | None = None
    """The tenant's cache server; none when absent."""
    volumes: Annotated[list[ReleaseVolume], Field(max_length=16, json_schema_extra=list_map("name"))] = []
    """Named volumes of the tenant."""
    env: Annotated[list[ReleaseEnv], Field(max_length=64, json_schema_extra=list_map("name"))] = []
    """Environment of the application, migrate and bootstrap."""
    secrets: Annotated[list[GeneratedSecret], Field(max_length=16, json_schema_extra=list_map("name"))] = []
    """Secrets generated once for each Instance."""
    migrate: Migrate | None = None
    """Brings the tenant's database to this version; runs before any container of this version serves."""
    bootstrap: OneShot | None = None
    """Makes the organisation and its admin; must be idempotent."""
    upgrade_from: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[0-9A-Za-z.+_!<>=~, *-]+$")]],
        Field(max_length=16, json_schema_extra=LIST_ATOMIC),
    ] = []
    """Ranges (PEP 440, such as `>=6.0,<7`) of versions that may be upgraded to this one; empty: any."""
    yanked: bool = False
    """True: no Instance may move to this Release; those that run it stay."""


class ReleaseStatus(Model):
    """Nothing of a Release lives on a host; the status exists for GitOps health checks."""

    observed_generation: ObservedGeneration = -1
    """The generation that this status is about."""
    conditions: Conditions = []
    """Ready."""
