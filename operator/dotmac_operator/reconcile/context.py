"""What an Instance refers to, looked up and turned into the inputs of the pure core."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from dotmac_crds.base import NameRef
from dotmac_crds.instance import InstanceSpec
from dotmac_operator.core import desired, names, tenancy
from dotmac_operator.core.conditions import find, is_true
from dotmac_operator.core.desired import Desired, Inputs, Tenant
from dotmac_operator.core.errors import SpecError
from dotmac_operator.core.lifecycle import Policy, policy
from dotmac_operator.core.placement import Candidate, choose
from dotmac_operator.core.quantity import memory_bytes
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.core.steps.preflight import release_allowed
from dotmac_operator.core.tenancy import Claimant, Claims, Secret
from dotmac_operator.core.view import Neighbour, ServerView
from dotmac_operator.reconcile.ports import Cluster
from dotmac_operator.reconcile.store import Instance, InstanceClass, Release, Server, Store, server_name

RESTART_LIMIT = 253
"""Characters of an annotation's value that tell one request for a restart from another."""


class NotYet(Exception):
    """Something that the Instance refers to is not there or not ready; it is looked at again by itself."""

    def __init__(self, reason: str, message: str, *, stalled: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.stalled = stalled


class Secrets(Protocol):
    """Where Secrets come from: `ports.Cluster`, or what was just read of it."""

    def secret(self, namespace: str, name: str) -> Secret | None: ...


def secrets_of(instance: Instance) -> set[tuple[str, str]]:
    """(namespace, name) of every Secret that `Contexts.load` may ask for."""
    referred = desired.secret_references(instance.spec) if instance.spec is not None else ()
    return {(instance.ref.namespace, name) for name in (*referred, tenancy.credentials_of(instance.ref.name))}


@dataclass(frozen=True)
class Context:
    """One Instance with everything it refers to, at one moment."""

    instance: Instance
    spec: InstanceSpec
    server: Server
    desired: Desired
    credentials: Mapping[str, SecretStr] | None
    claimed: bool
    """Whether the credentials Secret, if there is one, says whose it is."""
    secrets: frozenset[SecretStr]
    """Every secret value that could show up in a container's log."""
    policy: Policy = Policy()
    before: Desired | None = None
    """What the Release that serves asks for, after a change of it has failed."""


class Contexts:
    """Looks up what Instances refer to."""

    def __init__(self, store: Store, cluster: Cluster) -> None:
        self._store = store
        self._cluster = cluster
        self._claims: dict[str, tuple[int, tuple[Neighbour, ...]]] = {}
        """Server's key -> its Instances, at a revision of the store."""

    def place(self, instance: Instance, spec: InstanceSpec) -> str:
        """The name of the Instance's Server: the recorded one, the one of serverRef, or the best that fits.

        Raises:
            NotYet: nothing fits, or the spec names another Server than the data lives on.
        """
        recorded = instance.status.server
        wanted = spec.server_ref.name if spec.server_ref else None
        if recorded and wanted and recorded != wanted:
            message = f"the tenant's data lives on Server {recorded}: set spec.serverRef.name back to it"
            raise NotYet("ServerChanged", message, stalled=True)
        if recorded:
            return recorded
        if wanted:
            if self._store.server(f"{instance.ref.namespace}/{wanted}") is None:
                raise NotYet("ServerNotFound", _no_server(wanted, instance.ref.namespace))
            return wanted
        release, plan = self._release(spec), self._class(spec)
        memory = _memory(release, plan)
        candidates = [self._candidate(server) for server in self._store.servers(instance.ref.namespace)]
        assert spec.placement is not None  # noqa: S101 - a CEL rule of the resource
        name, why = choose([c for c in candidates if c is not None], spec.placement.selector, memory)
        if name is None:
            raise NotYet("NoServerFits", why)
        return name

    def serving(self, instance: Instance, spec: InstanceSpec, now: float) -> Context:
        """As `load`, for the Release that serves, whichever the spec asks for, and without what only the application's
        environment needs: enough to work on the tenant's data.

        Raises:
            NotYet, SpecError
        """
        current = instance.status.release.current if instance.status.release else None
        made = _bare(spec)
        if current is not None:
            made = made.model_copy(update={"release_ref": NameRef(name=current)})
        return self.load(instance, made, now)

    def load(self, instance: Instance, spec: InstanceSpec, now: float, secrets: Secrets | None = None) -> Context:
        """Everything that the pure core needs. `now` in Unix seconds decides whether a trial is over; `secrets` is the
        API itself when None.

        Raises:
            NotYet, SpecError
        """
        secrets = secrets or self._cluster
        name = server_name(instance) or ""
        server = self._store.server(f"{instance.ref.namespace}/{name}")
        if server is None or server.spec is None:
            raise NotYet("ServerNotFound", _no_server(name, instance.ref.namespace))
        release, plan = self._release(spec), self._class(spec)
        assert release.spec is not None and plan.spec is not None  # noqa: S101 - _release and _class say so
        rules = policy(spec, plan.spec, instance.annotations)
        if rules.wanted(now) == "Running" and not instance.deleting:
            self._allow(instance, spec, release)
        else:
            spec = _bare(spec)
        namespace = instance.ref.namespace
        tenant = Tenant(self._store.uid_on_host(instance), namespace, instance.ref.name, instance.generation)
        claimant = Claimant(instance.ref.name, instance.ref.uid, spec.org_code)
        own = self._own_credentials(instance, claimant, secrets)
        credentials = own.values if own is not None else None
        present = self._referenced(namespace, spec, claimant, secrets)
        inputs = Inputs(
            tenant=tenant,
            spec=spec,
            release_name=release.ref.name,
            release=release.spec,
            plan=plan.spec,
            server_name=server.ref.name,
            server=server.spec,
            credentials=credentials or {},
            secrets=present,
            restarted=(instance.annotations.get(names.RESTART_REQUESTED_AT) or "")[:RESTART_LIMIT]
            or instance.status.last_handled_restart_at
            or "",
        )
        values = [*(credentials or {}).values(), *(v for content in present.values() for v in content.values())]
        made = desired.build(inputs)
        may_wait = instance.status.failure is not None or rules.approval or bool(rules.windows)
        before = self._before(instance, inputs) if may_wait else None
        claimed = own is None or tenancy.claimed(own, claimant)
        return Context(instance, spec, server, made, credentials, claimed, frozenset(values), rules, before)

    def _own_credentials(self, instance: Instance, claimant: Claimant, secrets: Secrets) -> Secret | None:
        try:
            return self.credentials(instance, claimant, secrets)
        except SpecError:
            if instance.deleting:  # what is somebody else's is of no use to its last dump, and must not keep it
                return None
            raise

    def credentials(self, instance: Instance, claimant: Claimant, secrets: Secrets | None = None) -> Secret | None:
        """The Secret with the generated secrets of an Instance; None when there is none. `secrets`: as for `load`.

        Raises:
            SpecError: CredentialsTaken, when it is not its own.
        """
        found = (secrets or self._cluster).secret(instance.ref.namespace, claimant.credentials)
        if found is None:
            return None
        why = tenancy.taken(found, claimant, self._claims_on(instance.ref.namespace, found))
        if why:
            raise SpecError("CredentialsTaken", f"Secret {found.name} is not this Instance's, nothing was done: {why}")
        return found

    def _referenced(
        self, namespace: str, spec: InstanceSpec, claimant: Claimant, secrets: Secrets
    ) -> dict[str, Mapping[str, SecretStr]]:
        """Content of the Secrets that a spec refers to, of those that exist."""
        present = {}
        for name, field in sorted(desired.secret_references(spec).items()):
            found = secrets.secret(namespace, name)
            if found is None:
                continue
            own = name == claimant.credentials  # judged before
            why = "" if own else tenancy.refused(found, claimant, self._claims_on(namespace, found))
            if why:
                raise SpecError("SecretRefused", f"{field} refers to Secret {name}, {why}")
            present[name] = found.values
        return present

    def _claims_on(self, namespace: str, secret: Secret) -> Claims:
        living = (owner.name for owner in secret.owners if self._lives(namespace, owner))
        by_name = self._store.instance(f"{namespace}/{tenancy.holder(secret.name)}")
        # A namesake that has never had it claims nothing: else a name would be enough to take a Secret from others.
        holds = by_name is not None and by_name.status.credentials_ref is not None
        named = by_name.ref.name if by_name is not None and holds else ""
        return Claims(self._store.signs_in(namespace, secret.name), next(living, named))

    def _lives(self, namespace: str, owner: tenancy.Owner) -> bool:
        found = self._store.instance(f"{namespace}/{owner.name}")
        return found is not None and found.ref.uid == owner.uid

    def _before(self, instance: Instance, inputs: Inputs) -> Desired | None:
        """What the Release that serves asks for, by the present spec: from it a lost container can be made again, if
        its hash shows that nothing else of the spec has changed."""
        progress = instance.status.release
        current = progress.current if progress else None
        if current is None or current == inputs.release_name:
            return None
        found = self._store.release(current)
        if found is None or found.spec is None:
            return None
        try:
            return desired.build(replace(inputs, release_name=current, release=found.spec))
        except SpecError:
            return None

    def server_view(self, server: Server) -> ServerView:
        assert server.spec is not None  # noqa: S101 - load has looked
        ready = find(server.status.conditions, "Ready")
        memory = server.status.facts.memory if server.status.facts else None
        return ServerView(
            name=server.ref.name,
            spec=server.spec,
            ready=ready is not None and ready.status == "True",
            message=ready.message if ready else "it was not reached yet",
            memory=memory_bytes(memory) if memory else 0,
        )

    def neighbours(self, instance: Instance, server: Server) -> tuple[Neighbour, ...]:
        """The other Instances of a Server."""
        return tuple(claim for claim in self._on(server) if claim.key != instance.key)

    def _on(self, server: Server) -> tuple[Neighbour, ...]:
        """All Instances of a Server, made once for all of their passes while nothing changes."""
        revision = self._store.revision  # before looking: a change meanwhile makes the next one look again
        known = self._claims.get(server.key)
        if known is not None and known[0] == revision:
            return known[1]
        here = self._store.instances_on(server.ref.namespace, server.ref.name)
        claims = (self._neighbour(each, server) for each in here)
        made = tuple(sorted((claim for claim in claims if claim is not None), key=lambda claim: claim.key))
        self._claims[server.key] = (revision, made)
        return made

    def memory_of(self, instance: Instance) -> int:
        """Bytes that an Instance may take; 0 while it is archived, or its Release or class is unknown."""
        if instance.spec is None or is_archived(instance):
            return 0
        try:
            return _memory(self._release(instance.spec), self._class(instance.spec))
        except NotYet:
            return 0

    def _neighbour(self, other: Instance, server: Server) -> Neighbour | None:
        if other.spec is None or server.spec is None:
            return None
        try:
            hosts = tuple(host for host, _ in desired.domains(other.spec, server.spec))
        except SpecError:
            hosts = ()
        serving = other.status.release is not None and other.status.release.current is not None
        memory, archived = self.memory_of(other), is_archived(other)
        return Neighbour(
            other.key, self._store.uid_on_host(other), other.spec.org_code, hosts, memory, serving, archived
        )

    def _candidate(self, server: Server) -> Candidate | None:
        if server.spec is None or server.deleting:
            return None
        here = self._store.instances_on(server.ref.namespace, server.ref.name)
        total = memory_bytes(server.status.facts.memory) if server.status.facts and server.status.facts.memory else 0
        return Candidate(
            name=server.ref.name,
            labels=server.labels,
            ready=is_true(server.status.conditions, "Ready"),
            schedulable=server.spec.schedulable,
            instances=len(here),
            max_instances=server.spec.capacity.max_instances,
            memory_capacity=total - memory_bytes(server.spec.capacity.reserved_memory),
            memory_allocated=sum(self.memory_of(other) for other in here),
        )

    def _release(self, spec: InstanceSpec) -> Release:
        found = self._store.release(spec.release_ref.name)
        if found is None:
            raise NotYet(
                "ReleaseNotFound", f"Release {spec.release_ref.name} does not exist: create it or choose another"
            )
        if found.spec is None:
            raise NotYet("InvalidRelease", f"Release {spec.release_ref.name}: {found.error}", stalled=True)
        return found

    def _class(self, spec: InstanceSpec) -> InstanceClass:
        found = self._store.instance_class(spec.class_ref.name)
        if found is None:
            message = f"InstanceClass {spec.class_ref.name} does not exist: create it or choose another"
            raise NotYet("ClassNotFound", message)
        if found.spec is None:
            raise NotYet("InvalidClass", f"InstanceClass {spec.class_ref.name}: {found.error}", stalled=True)
        return found

    @staticmethod
    def _allow(instance: Instance, spec: InstanceSpec, release: Release) -> None:
        progress = instance.status.release
        assert release.spec is not None  # noqa: S101 - _release says so
        verdict = release_allowed(
            spec.release_ref.name,
            release.spec,
            progress.current if progress else None,
            progress.current_version if progress else None,
        )
        if verdict is not None:
            raise NotYet(verdict.reason, verdict.message, stalled=True)


def is_archived(instance: Instance) -> bool:
    """Whether nothing of it runs, and it is to stay so."""
    return instance.spec is not None and instance.spec.state == instance.status.state == "Archived"


def _bare(spec: InstanceSpec) -> InstanceSpec:
    """Without what only the application's environment needs: a missing Secret must not keep a tenant from being
    suspended."""
    settings = spec.settings.model_copy(update={"values": {}})
    admin = spec.admin.model_copy(update={"password_secret_ref": None})
    bare = {"env": [], "env_from": [], "features": {}, "modules": [], "settings": settings, "admin": admin}
    return spec.model_copy(update=bare)


def _no_server(name: str, namespace: str) -> str:
    return f"Server {name} does not exist in namespace {namespace}: create it"


def _memory(release: Release, plan: InstanceClass) -> int:
    """Bytes that the long-running containers of a Release may take under a class."""
    assert release.spec is not None and plan.spec is not None  # noqa: S101 - callers have looked
    resources = plan.spec.resources
    own = {limits.name: limits.memory for limits in resources.roles}
    total = sum(
        role.replicas * memory_bytes(own.get(role.name, resources.default.memory)) for role in release.spec.roles
    )
    total += memory_bytes(resources.database.memory)
    return total + (memory_bytes(resources.cache.memory) if release.spec.cache else 0)
