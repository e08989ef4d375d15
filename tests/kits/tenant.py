"""One tenant for tests of the operator: specs with every feature in use, and the facts of a host that matches them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dotmac_crds.instance import (
    ImagePin,
    InstanceSpec,
    InstanceStatus,
    OneShotRecord,
    ReleaseProgress,
)
from dotmac_crds.instanceclass import InstanceClassSpec
from dotmac_crds.release import ReleaseSpec
from dotmac_crds.server import ServerSpec
from dotmac_operator.core import names, proxy
from dotmac_operator.core.container import ContainerSpec, ExecCheck
from dotmac_operator.core.desired import Desired, Inputs, Tenant, build
from dotmac_operator.core.facts import ContainerFact, HostFacts, ImageFact, NetworkFact, VolumeFact
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.core.view import Memory, Probe, ServerView, View

NOW = 1_800_000_000.0
FINGERPRINT = "SHA256:" + "A" * 43
MEMORY = 8 * 2**30

CANARIES = {
    "hash-key": "c0ffee" * 10 + "beef",
    "database-password": "CANARYdatabasepassword",
    "cache-password": "CANARYcachepassword",
    "admin-password": "CANARYadminpassword",
    "session": "CANARYsessionsecret",
}

RELEASE: dict[str, Any] = {
    "version": "1.0",
    "images": {"app": "example/app:1", "db": "example/postgres:15", "cache": "example/redis:7"},
    "database": {"image": "db"},
    "cache": {"image": "cache"},
    "roles": [
        {
            "name": "web",
            "image": "app",
            "args": ["web"],
            "port": 8000,
            "expose": True,
            "health": {"http": {"path": "/health"}, "interval": 5, "timeout": 2, "retries": 3, "startPeriod": 20},
        },
        {"name": "worker", "image": "app", "args": ["worker"]},
    ],
    "volumes": [{"name": "files", "mountPath": "/files", "roles": ["web", "worker", "migrate"]}],
    "env": [
        {"name": "DATABASE_URL", "from": "database.url"},
        {"name": "CACHE_URL", "from": "cache.url"},
        {"name": "ORG_NAME", "from": "orgName"},
        {"name": "CURRENCY", "from": "setting.currency"},
        {"name": "ADMIN_PASSWORD", "from": "admin.password"},
        {"name": "SESSION", "from": "secret.session"},
    ],
    "secrets": [{"name": "session"}],
    "migrate": {"image": "app", "args": ["migrate"], "timeout": 600},
    "bootstrap": {"image": "app", "args": ["bootstrap"], "timeout": 120},
}
INSTANCE: dict[str, Any] = {
    "orgCode": "ACME",
    "orgName": "Acme Ltd",
    "serverRef": {"name": "host-1"},
    "releaseRef": {"name": "erp-1"},
    "classRef": {"name": "starter"},
    "admin": {"email": "admin@acme.example"},
}
SERVER: dict[str, Any] = {
    "address": "192.0.2.1",
    "credentialsRef": {"name": "ssh-key"},
    "hostKeys": [FINGERPRINT],
    "baseDomain": "erp.example",
    "proxy": {"tls": {"mode": "Off"}},
}


def release_of(**changes: Any) -> ReleaseSpec:
    return ReleaseSpec.model_validate(RELEASE | changes)


def instance_of(**changes: Any) -> InstanceSpec:
    return InstanceSpec.model_validate(INSTANCE | changes)


def server_of(**changes: Any) -> ServerSpec:
    return ServerSpec.model_validate(SERVER | changes)


def upgraded(**changes: Any) -> ReleaseSpec:
    """The next version of the Release: another image in every role."""
    images = {**RELEASE["images"], "app": "example/app:2"}
    return release_of(version="2.0", images=images, **changes)


def credentials_of(values: Mapping[str, str] = CANARIES) -> dict[str, SecretStr]:
    return {key: SecretStr(value) for key, value in values.items()}


def inputs_of(
    spec: InstanceSpec | None = None,
    release: ReleaseSpec | None = None,
    *,
    release_name: str = "erp-1",
    generation: int = 1,
    **changes: Any,
) -> Inputs:
    made = Inputs(
        tenant=Tenant("uid-acme", "tenants", "acme", generation),
        spec=spec or instance_of(),
        release_name=release_name,
        release=release or release_of(),
        plan=InstanceClassSpec(),
        server_name="host-1",
        server=server_of(),
        credentials=credentials_of(),
    )
    return replace(made, **changes)


def desired_of(spec: InstanceSpec | None = None, release: ReleaseSpec | None = None, **changes: Any) -> Desired:
    return build(inputs_of(spec, release, **changes))


def next_desired(**changes: Any) -> Desired:
    """What an upgrade to the next version asks for."""
    return desired_of(release=upgraded(), release_name="erp-2", generation=2, **changes)


def container_fact(spec: ContainerSpec, **changes: Any) -> ContainerFact:
    """The container that this spec makes, running; one-shots have ended well."""
    labels = spec.body()["Labels"]
    fact = ContainerFact(
        id=f"id-{spec.name}",
        name=spec.name,
        image=spec.image,
        image_id=f"sha256:{spec.image}",
        state="running" if spec.restart else "exited",
        labels=labels,
        health="healthy" if isinstance(spec.check, ExecCheck) else "",
        exit_code=None if spec.restart else 0,
        networks={spec.network: "10.210.0.5"},
        created=int(NOW) - 60,
    )
    return replace(fact, **changes)


def proxy_fact(*networks: str, **changes: Any) -> ContainerFact:
    spec = proxy.container(server_of(), "uid-server")
    attached = dict.fromkeys((names.PROXY_NETWORK, *networks), "10.210.1.2")
    return container_fact(spec, **{"networks": attached, "health": "", **changes})


def config_of(*routes: proxy.Route, server: ServerSpec | None = None) -> str:
    spec = (server or server_of()).proxy
    config = proxy.base_config(spec)
    for route in routes:
        config = proxy.with_route(config, route, spec)
    return proxy.render(config).decode()


def images_of(desired: Desired) -> dict[str, ImageFact]:
    return {reference: ImageFact(f"sha256:{reference}", reference) for reference in desired.images}


def owner_labels(desired: Desired) -> dict[str, str]:
    return {
        name: desired.labels[name]
        for name in (names.MANAGED_BY, names.INSTANCE_UID, names.NAMESPACE, names.INSTANCE, names.ORG)
    }


def fresh_facts() -> HostFacts:
    """A host with its proxy and nothing else."""
    networks = (NetworkFact("n0", names.PROXY_NETWORK, subnets=("10.210.0.0/27",)),)
    return HostFacts(1, (proxy_fact(),), networks, proxy_config=config_of())


def met_facts(desired: Desired, *, one_shots: bool = True, more: Iterable[ContainerFact] = ()) -> HostFacts:
    """A host on which everything is as desired."""
    shots = [spec for spec in (desired.migrate, desired.bootstrap) if spec is not None] if one_shots else []
    made = [container_fact(spec) for spec in (*desired.infrastructure, *shots, *desired.apps)]
    network = NetworkFact("n1", desired.network, labels=owner_labels(desired), subnets=("10.210.0.32/27",))
    return HostFacts(
        1,
        (proxy_fact(desired.network), *made, *more),
        (*fresh_facts().networks, network),
        tuple(VolumeFact(name, owner_labels(desired)) for name in desired.volumes),
        images_of(desired),
        config_of(desired.route),
    )


def met_record(desired: Desired) -> InstanceStatus:
    """The status of an Instance that was converged."""
    shots = [
        OneShotRecord(name=spec.role, hash=spec.hash, finished_at="2026-11-22T10:00:00Z")
        for spec in (desired.bootstrap, desired.migrate)
        if spec is not None
    ]
    verified = OneShotRecord(name="verify", hash=desired.serving_hash, finished_at="2026-11-22T10:00:00Z")
    return InstanceStatus(
        observed_generation=desired.tenant.generation,
        server="host-1",
        release=ReleaseProgress(current=desired.release_name, current_version=desired.version),
        one_shots=[*shots, verified],
        applied_hash=desired.hash,
        serving=[spec.name for spec in (*desired.infrastructure, *desired.apps)],
        volumes=list(desired.volumes),
        images=[ImagePin(reference=name, id=f"sha256:{name}") for name in desired.images],
    )


def healthy(desired: Desired) -> Memory:
    """Every container that the operator probes itself has answered."""
    return Memory(probes={f"id-{spec.name}": Probe(True, NOW - 5) for spec in desired.apps})


def view_of(desired: Desired, facts: HostFacts, **changes: Any) -> View:
    made = View(
        desired=desired,
        facts=facts,
        record=InstanceStatus(server="host-1"),
        server=ServerView("host-1", server_of(), True, memory=MEMORY),
        now=NOW,
        credential_keys=frozenset(CANARIES),
    )
    return replace(made, **changes)


def met_view(desired: Desired | None = None, **changes: Any) -> View:
    """A View in which nothing is to be done."""
    desired = desired or desired_of()
    defaults: dict[str, Any] = {"record": met_record(desired), "memory": healthy(desired)}
    facts = changes.pop("facts", None) or met_facts(desired)
    return view_of(desired, facts, **(defaults | changes))


def with_container(facts: HostFacts, spec: ContainerSpec, **changes: Any) -> HostFacts:
    """The same host with one container changed."""
    made = tuple(replace(c, **changes) if c.name == spec.name else c for c in facts.containers)
    return replace(facts, containers=made)


def without_container(facts: HostFacts, *specs: ContainerSpec) -> HostFacts:
    gone = {spec.name for spec in specs}
    return replace(facts, containers=tuple(c for c in facts.containers if c.name not in gone))


def without_volume(facts: HostFacts, name: str) -> HostFacts:
    return replace(facts, volumes=tuple(v for v in facts.volumes if v.name != name))
