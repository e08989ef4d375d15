"""spec + Release + class + secrets -> Desired: the Docker objects and the route that must exist on the host."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from dotmac_crds.instance import InstanceSpec
from dotmac_crds.instanceclass import InstanceClassSpec, Limits
from dotmac_crds.release import Health, OneShot, ReleaseSpec, Role
from dotmac_crds.server import ServerSpec
from dotmac_operator.core import database, names, tenancy
from dotmac_operator.core.container import ContainerSpec, EnvValue, ExecCheck, Limit, RemoteCheck
from dotmac_operator.core.digest import digest
from dotmac_operator.core.environment import Environment
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.proxy import Route
from dotmac_operator.core.quantity import memory_bytes
from dotmac_operator.core.secret import SecretStr

ADMIN_PASSWORD = "admin-password"  # noqa: S105 - the name of a key
DATABASE_PASSWORD = "database-password"  # noqa: S105
CACHE_PASSWORD = "cache-password"  # noqa: S105
HASH_KEY = "hash-key"


@dataclass(frozen=True)
class Tenant:
    """Which Instance this is."""

    uid: str
    namespace: str
    name: str
    generation: int = 1

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def credentials(self) -> str:
        return tenancy.credentials_of(self.name)


@dataclass(frozen=True)
class Inputs:
    """Everything that Desired is computed from."""

    tenant: Tenant
    spec: InstanceSpec
    release_name: str
    release: ReleaseSpec
    plan: InstanceClassSpec
    server_name: str
    server: ServerSpec
    credentials: Mapping[str, SecretStr] = field(default_factory=dict)
    """Content of the credentials Secret; empty until step `secrets` has made it."""
    secrets: Mapping[str, Mapping[str, SecretStr]] = field(default_factory=dict)
    """Name -> content of the Secrets that the spec refers to; an absent Secret is absent here."""
    restarted: str = ""
    """Value of the annotation that last asked for new containers of the application."""


@dataclass(frozen=True)
class GeneratedKey:
    """One secret to generate."""

    key: str
    length: int
    alphabet: str


@dataclass(frozen=True)
class Desired:
    """What must exist on the host for one Instance. Comparable, and free of anything that moves by itself."""

    tenant: Tenant
    org_code: str
    release_name: str
    version: str
    labels: Mapping[str, str]
    network: str
    network_pool: str
    volumes: tuple[str, ...]
    database: ContainerSpec
    cache: ContainerSpec | None
    migrate: ContainerSpec | None
    migrate_timeout: int
    migrate_on_failure: str
    """RestoreIfNeeded, Restore or Keep: what becomes of the database when the change fails."""
    bootstrap: ContainerSpec | None
    bootstrap_timeout: int
    apps: tuple[ContainerSpec, ...]
    exposed_role: str
    route: Route
    generated: tuple[GeneratedKey, ...]
    memory: int
    """Bytes that its long-running containers may take together."""
    restarted: str = ""
    """Value of the annotation that last asked for new containers of the application."""

    @cached_property
    def hash(self) -> str:
        """Digest of everything that a rollout would change: the identity of one attempt."""
        parts = [spec.hash for spec in (self.database, *self.apps)]
        parts += [spec.hash for spec in (self.cache, self.migrate, self.bootstrap) if spec is not None]
        resized = [spec.limits() for spec in self.infrastructure if spec.resized]
        return digest([self.release_name, self.version, self.route.digest(), *parts, *resized])

    @cached_property
    def serving_hash(self) -> str:
        """Digest of what a user sees: the exposed containers and the route. Verified once for each value."""
        exposed = [spec.hash for spec in self.apps if spec.role == self.exposed_role]
        return digest([exposed, self.route.digest()])

    @property
    def infrastructure(self) -> tuple[ContainerSpec, ...]:
        return (self.database,) if self.cache is None else (self.database, self.cache)

    @property
    def long_running(self) -> tuple[ContainerSpec, ...]:
        return (*self.infrastructure, *self.apps)

    @property
    def images(self) -> tuple[str, ...]:
        found = [spec.image for spec in (*self.infrastructure, *self.apps)]
        found += [spec.image for spec in (self.migrate, self.bootstrap) if spec is not None]
        return tuple(sorted(set(found)))


def domains(spec: InstanceSpec, server: ServerSpec) -> list[tuple[str, str]]:
    """(host name, TLS mode) in the order of the spec, or the default one.

    Raises:
        SpecError: NoDomain, when there is neither a domain nor a base domain; TlsNotServed, when a domain wants TLS on
            a Server without.
    """
    default_mode = server.proxy.tls.mode
    if spec.domains:
        wanting = [domain.host for domain in spec.domains if domain.tls not in (None, "Off")]
        if wanting and default_mode == "Off":
            raise SpecError(
                "TlsNotServed",
                f"domain {wanting[0]} wants TLS, but the Server's proxy publishes no HTTPS port (proxy.tls.mode: "
                '"Off"): change one of the two',
            )
        return [(domain.host, domain.tls or default_mode) for domain in spec.domains]
    if server.base_domain is None:
        raise SpecError("NoDomain", "spec.domains is empty and the Server has no baseDomain: set one of the two")
    return [(f"{names.slug(spec.org_code)}.{server.base_domain}", default_mode)]


def url(spec: InstanceSpec, server: ServerSpec) -> str:
    """Where the Instance is served: its first domain, with the port where it is not the scheme's own."""
    host, mode = domains(spec, server)[0]
    scheme, port, usual = (
        ("http", server.proxy.http_port, 80) if mode == "Off" else ("https", server.proxy.https_port, 443)
    )
    return f"{scheme}://{host}" + ("" if port == usual else f":{port}") + "/"


def generated_keys(release: ReleaseSpec, spec: InstanceSpec) -> tuple[GeneratedKey, ...]:
    """The secrets that an Instance's credentials Secret must hold. Lengths follow the earlier platform."""
    keys = [GeneratedKey(HASH_KEY, 64, "Hex"), GeneratedKey(DATABASE_PASSWORD, 32, "Alphanumeric")]
    if release.cache is not None:
        keys.append(GeneratedKey(CACHE_PASSWORD, 32, "Alphanumeric"))
    if spec.admin.password_secret_ref is None:
        keys.append(GeneratedKey(ADMIN_PASSWORD, 24, "Alphanumeric"))
    keys += [GeneratedKey(secret.name, secret.length, secret.alphabet) for secret in release.secrets]
    return tuple(keys)


def secret_references(spec: InstanceSpec) -> Mapping[str, str]:
    """Name of each Secret that the spec refers to -> the first field that does."""
    found: dict[str, str] = {}
    for env in spec.env:
        if env.secret_key_ref is not None:
            found.setdefault(env.secret_key_ref.name, f"spec.env[{env.name}]")
    for source in spec.env_from:
        found.setdefault(source.secret_ref.name, "spec.envFrom")
    if spec.admin.password_secret_ref is not None:
        found.setdefault(spec.admin.password_secret_ref.name, "spec.admin.passwordSecretRef")
    return found


def build(inputs: Inputs) -> Desired:
    """The desired state of one Instance.

    Raises:
        SpecError: the spec cannot be met as it stands; the reason and the remedy are in it.
    """
    return _Builder(inputs).build()


class _Builder:
    """Puts the parts of one Desired together; each method makes one part."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs
        self.spec, self.release = inputs.spec, inputs.release
        self.base = names.base(inputs.spec.org_code)
        self.hosts = domains(inputs.spec, inputs.server)
        self.environment = Environment(
            spec=inputs.spec,
            release=inputs.release,
            quotas=inputs.plan.quotas,
            domain=self.hosts[0][0],
            url=url(inputs.spec, inputs.server),
            credentials=inputs.credentials,
            secrets=inputs.secrets,
        )
        revealed = inputs.credentials.get(HASH_KEY, SecretStr(""))
        self.hash_key = revealed.reveal().encode()
        self.labels = {
            names.MANAGED_BY: names.OPERATOR,
            names.INSTANCE_UID: inputs.tenant.uid,
            names.NAMESPACE: inputs.tenant.namespace,
            names.INSTANCE: inputs.tenant.name,
            names.ORG: inputs.spec.org_code,
            names.RELEASE: inputs.release_name,
            names.RELEASE_VERSION: inputs.release.version,
            names.GENERATION: str(inputs.tenant.generation),
        }

    def build(self) -> Desired:
        app_env = self.environment.application()
        apps = tuple(self._app(role, index, app_env) for role in self.release.roles for index in range(role.replicas))
        cache = self._cache()
        exposed = next(role for role in self.release.roles if role.expose)
        infrastructure = [self._database()] + ([cache] if cache else [])
        return Desired(
            tenant=self.inputs.tenant,
            org_code=self.spec.org_code,
            release_name=self.inputs.release_name,
            version=self.release.version,
            labels=self.labels,
            network=self.base,
            network_pool=self.inputs.server.capacity.network_pool,
            volumes=self._volumes(),
            database=infrastructure[0],
            cache=cache,
            migrate=self._migrate(app_env),
            migrate_timeout=self.release.migrate.timeout if self.release.migrate else 0,
            migrate_on_failure=self.release.migrate.on_failure if self.release.migrate else "Keep",
            bootstrap=self._bootstrap(app_env),
            bootstrap_timeout=self.release.bootstrap.timeout if self.release.bootstrap else 0,
            apps=apps,
            exposed_role=exposed.name,
            route=self._route(exposed, apps),
            generated=generated_keys(self.release, self.spec),
            memory=sum(memory_bytes(made.limit.memory) for made in (*infrastructure, *apps)),
            restarted=self.inputs.restarted,
        )

    def _volumes(self) -> tuple[str, ...]:
        own = [names.DATABASE, "backups"]
        return tuple(f"{self.base}-{name}" for name in own + [volume.name for volume in self.release.volumes])

    def _mounts(self, role: str) -> dict[str, str]:
        return {v.mount_path: f"{self.base}-{v.name}" for v in self.release.volumes if role in v.roles}

    def _limit(self, role: str) -> Limit:
        resources = self.inputs.plan.resources
        own = next((limits for limits in resources.roles if limits.name == role), None)
        return _limit(own or resources.default)

    def _database(self) -> ContainerSpec:
        release = self.release.database
        return ContainerSpec(
            base_name=f"{self.base}-{names.DATABASE}",
            role=names.DATABASE,
            image=self.release.images[release.image],
            network=self.base,
            aliases=(names.DATABASE,),
            limit=_limit(self.inputs.plan.resources.database),
            env=self.environment.database_server(release.data_path),
            secret_key=self.hash_key,
            mounts={release.data_path: f"{self.base}-{names.DATABASE}"},
            capabilities=tuple(release.capabilities),
            check=database.POSTGRES_CHECK,
            stop_grace=60,
            resized=True,
            labels=self.labels,
        )

    def _cache(self) -> ContainerSpec | None:
        release = self.release.cache
        if release is None:
            return None
        return ContainerSpec(
            base_name=f"{self.base}-{names.CACHE}",
            role=names.CACHE,
            image=self.release.images[release.image],
            network=self.base,
            aliases=(names.CACHE,),
            limit=_limit(self.inputs.plan.resources.cache),
            command=database.REDIS_COMMAND,
            args=(),
            env=self.environment.cache_server(),
            secret_key=self.hash_key,
            capabilities=tuple(release.capabilities),
            check=database.REDIS_CHECK,
            stop_grace=10,
            resized=True,
            labels=self.labels,
        )

    def _app(self, role: Role, index: int, env: Mapping[str, EnvValue]) -> ContainerSpec:
        # The first keeps its name when others join it: the proxy has it by its name.
        suffix = f"-{index + 1}" if index else ""
        return ContainerSpec(
            base_name=f"{self.base}-{role.name}{suffix}",
            role=role.name,
            index=index,
            image=self.release.images[role.image],
            network=self.base,
            aliases=(role.name,),
            limit=self._limit(role.name),
            command=_argv(role.command),
            args=_argv(role.args),
            env={**env, "DOTMAC_ROLE": role.name},
            secret_key=self.hash_key,
            mounts=self._mounts(role.name),
            capabilities=tuple(role.capabilities),
            check=_check(role.health, role.port),
            stop_grace=role.stop_grace_period,
            restarted=self.inputs.restarted,
            labels={**self.labels, **_exposure(role)},
        )

    def _migrate(self, env: Mapping[str, EnvValue]) -> ContainerSpec | None:
        if self.release.migrate is None:
            return None
        made = self._one_shot(names.MIGRATE, self.release.migrate, env)
        # The database's form depends on the version and on the program, not on a tenant's environment: an env
        # change must not migrate again.
        content = [self.release.version, made.image, made.command, made.args]
        return replace(made, fixed_hash=digest(content))

    def _bootstrap(self, env: Mapping[str, EnvValue]) -> ContainerSpec | None:
        if self.release.bootstrap is None:
            return None
        made = self._one_shot(names.BOOTSTRAP, self.release.bootstrap, env)
        # Once for each organisation and admin: an upgrade must not set the admin's password back.
        content = [self.spec.org_code, self.spec.org_name, self.spec.admin.email, self.spec.admin.username]
        return replace(made, fixed_hash=digest(content))

    def _one_shot(self, role: str, release: OneShot, env: Mapping[str, EnvValue]) -> ContainerSpec:
        return ContainerSpec(
            base_name=f"{self.base}-{role}",
            role=role,
            image=self.release.images[release.image],
            network=self.base,
            aliases=(),
            limit=self._limit(role),
            command=_argv(release.command),
            args=_argv(release.args),
            env={**env, "DOTMAC_ROLE": role},
            secret_key=self.hash_key,
            mounts=self._mounts(role),
            capabilities=tuple(release.capabilities),
            restart=False,
            labels=self.labels,
        )

    def _route(self, exposed: Role, apps: tuple[ContainerSpec, ...]) -> Route:
        port = exposed.port
        if port is None:
            raise SpecError("InvalidRelease", f"role {exposed.name} is exposed but has no port")
        upstreams = tuple(f"{spec.name}:{port}" for spec in apps if spec.role == exposed.name)
        return Route(self.inputs.tenant.uid, tuple(self.hosts), upstreams)


def _limit(limits: Limits) -> Limit:
    return Limit(limits.cpu, limits.memory, limits.pids)


def _exposure(role: Role) -> dict[str, str]:
    """What has to be known of a container that serves, also when its Release is gone."""
    if not role.expose:
        return {}
    path = {names.PATH: role.health.http.path} if role.health is not None and role.health.http is not None else {}
    return {names.PORT: str(role.port), names.DRAIN: str(role.drain_timeout), **path}


def _argv(argv: list[str] | None) -> tuple[str, ...] | None:
    return None if argv is None else tuple(argv)


def _check(health: Health | None, port: int | None) -> ExecCheck | RemoteCheck | None:
    if health is None:
        return None
    times = (health.interval, health.timeout, health.retries, health.start_period)
    if health.exec is not None:
        return ExecCheck(("CMD", *health.exec.command), *times)
    probe = health.http or health.tcp
    probe_port = (probe.port if probe else None) or port
    if probe_port is None:
        raise SpecError("InvalidRelease", "a role with http or tcp health needs a port")
    path = health.http.path if health.http else "/"
    return RemoteCheck(
        kind="http" if health.http else "tcp",
        port=probe_port,
        path=path,
        timeout=health.timeout,
        start_period=health.start_period,
        retries=health.retries,
        interval=health.interval,
    )


def containers(desired: Desired) -> Iterator[ContainerSpec]:
    """Every long-running container, infrastructure first."""
    yield from desired.infrastructure
    yield from desired.apps
