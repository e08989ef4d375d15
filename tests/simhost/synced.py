"""A fleet in sync, made without deploying it: objects in the API, and on simulated hosts what a deploy would have left.

What must be there is computed by the operator's own core, so it is what the operator itself would have made; its first
start is the judge of that.
"""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Any

import aiohttp
from tests.kits.controlplane import ControlPlane
from tests.kits.tenant import RELEASE
from tests.simhost.control import ControlClient

from dotmac_crds.base import API_VERSION, FINALIZER
from dotmac_crds.instance import InstanceSpec, InstanceStatus, OneShotRecord, QuotaStatus
from dotmac_crds.instanceclass import InstanceClassSpec
from dotmac_crds.release import ReleaseSpec
from dotmac_crds.server import ServerSpec
from dotmac_operator.core import desired, names, proxy, tenancy
from dotmac_operator.core.conditions import rfc3339
from dotmac_operator.core.desired import Desired, Inputs, Tenant
from dotmac_operator.core.facts import HostFacts
from dotmac_operator.core.plan import plan
from dotmac_operator.core.secret import SecretStr
from dotmac_operator.core.status import Situation, compute
from dotmac_operator.core.view import Memory, Probe, ServerView, View
from dotmac_operator.hosts.inventory import Inventory
from dotmac_operator.hosts.pool import SshHostPool
from dotmac_operator.hosts.port import HostAddress
from dotmac_operator.kube import FIELD_MANAGER

type Object = dict[str, Any]

RELEASE_NAME, CLASS_NAME = "erp-1", "small"
CLASS: Object = {"resources": {"default": {"cpu": "1", "memory": "64Mi", "pids": 64}}}
WRITERS = 24
KEYS = ("hash-key", "database-password", "cache-password", "admin-password", "session")


@dataclass(frozen=True)
class Shape:
    hosts: int = 50
    tenants: int = 40
    """On each host."""
    namespace: str = "bench"


@dataclass(frozen=True)
class Settled:
    """One Instance with everything that was made of it."""

    server: str
    uid: str
    spec: InstanceSpec
    desired: Desired


class SyncedFleet:
    """Fills an empty control plane, with CRDs and the namespace, and simulated hosts in another process."""

    def __init__(self, plane: ControlPlane, control: ControlClient, shape: Shape) -> None:
        self._plane = plane
        self._control = control
        self._shape = shape
        self._servers: dict[str, tuple[str, ServerSpec]] = {}
        self._key = SecretStr("")
        self._release = ReleaseSpec.model_validate(RELEASE)
        self._class = InstanceClassSpec.model_validate(CLASS)

    def make(self) -> None:
        asyncio.run(self._make())

    async def _make(self) -> None:
        context = ssl.create_default_context(cafile=str(self._plane.ca))
        headers = {"Authorization": f"Bearer {self._plane.token}"}
        async with aiohttp.ClientSession(
            self._plane.url, headers=headers, connector=aiohttp.TCPConnector(limit=WRITERS, ssl=context)
        ) as session:
            self._session = session
            await self._catalog()
            settled = await in_turns(self._instance(*each) for each in self._places())
            self._fill_hosts(settled)
            statuses = await asyncio.to_thread(self._statuses, settled)
            await in_turns(self._apply_status(one, status) for one, status in statuses)

    def _places(self) -> Iterator[tuple[str, int]]:
        """(Server, number of the tenant)."""
        for number in range(self._shape.hosts * self._shape.tenants):
            yield f"sim-{number % self._shape.hosts}", number

    # ---- the API

    async def _post(self, path: str, body: Object) -> Object:
        async with self._session.post(path, json=body) as answer:
            made: Object = await answer.json()
            assert answer.status == 201, made
            return made

    def _path(self, plural: str) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self._shape.namespace}/{plural}"

    async def _catalog(self) -> None:
        for kind, plural, name, spec in (
            ("Release", "releases", RELEASE_NAME, RELEASE),
            ("InstanceClass", "instanceclasses", CLASS_NAME, CLASS),
        ):
            body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
            await self._post(f"/apis/{API_VERSION}/{plural}", body)
        more = {"capacity": {"maxInstances": 500, "networkPool": "10.210.0.0/16"}}
        secret, *servers = self._control("manifests", namespace=self._shape.namespace, spec=more)
        self._key = SecretStr(base64.b64decode(secret["data"]["ssh-privatekey"]).decode())
        await self._post(f"/api/v1/namespaces/{self._shape.namespace}/secrets", secret)
        for server in servers:
            server["metadata"]["finalizers"] = [FINALIZER]
            made = await self._post(self._path("servers"), server)
            self._servers[server["metadata"]["name"]] = (
                made["metadata"]["uid"],
                ServerSpec.model_validate(made["spec"]),
            )

    async def _instance(self, server: str, number: int) -> Settled:
        name = f"t{number}"
        spec = {
            "orgCode": name,
            "orgName": f"Tenant {number}",
            "serverRef": {"name": server},
            "releaseRef": {"name": RELEASE_NAME},
            "classRef": {"name": CLASS_NAME},
            "admin": {"email": f"admin@{name}.example"},
        }
        meta = {"name": name, "namespace": self._shape.namespace, "finalizers": [FINALIZER]}
        body = {"apiVersion": API_VERSION, "kind": "Instance", "metadata": meta, "spec": spec}
        made = await self._post(self._path("instances"), body)
        uid = made["metadata"]["uid"]
        credentials = {key: f"{key}-{number:08}" for key in KEYS}
        await self._credentials(name, uid, credentials)
        parsed = InstanceSpec.model_validate(made["spec"])
        inputs = Inputs(
            tenant=Tenant(uid, self._shape.namespace, name),
            spec=parsed,
            release_name=RELEASE_NAME,
            release=self._release,
            plan=self._class,
            server_name=server,
            server=self._servers[server][1],
            credentials={key: SecretStr(value) for key, value in credentials.items()},
        )
        return Settled(server, uid, parsed, desired.build(inputs))

    async def _credentials(self, name: str, uid: str, values: dict[str, str]) -> None:
        owner = {"apiVersion": API_VERSION, "kind": "Instance", "name": name, "uid": uid, "controller": True}
        labels = tenancy.labels(name, name)  # its orgCode is its name
        meta = {"name": f"{name}-credentials", "labels": labels, "ownerReferences": [owner]}
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "data": data}
        await self._post(f"/api/v1/namespaces/{self._shape.namespace}/secrets", body)

    async def _apply_status(self, one: Settled, status: InstanceStatus) -> None:
        meta = {"name": one.desired.tenant.name, "namespace": self._shape.namespace, "uid": one.uid}
        body = {"apiVersion": API_VERSION, "kind": "Instance", "metadata": meta, "status": status.to_wire()}
        async with self._session.patch(
            f"{self._path('instances')}/{meta['name']}/status",
            params={"fieldManager": FIELD_MANAGER, "force": "true"},
            headers={"Content-Type": "application/apply-patch+yaml"},
            data=json.dumps(body),
        ) as answer:
            assert answer.status == 200, await answer.text()

    # ---- the hosts

    def _fill_hosts(self, settled: list[Settled]) -> None:
        for name, (uid, server) in self._servers.items():
            here = [one for one in settled if one.server == name]
            self._control("seed", host=name, **self._contents(uid, server, here))
        self._control("forget-calls", host="*")

    def _contents(self, uid: str, server: ServerSpec, here: list[Settled]) -> Object:
        front = proxy.container(server, uid)
        subnets = IPv4Network(server.capacity.network_pool).subnets(new_prefix=27)
        config = proxy.base_config(server.proxy)
        networks = [_network(names.PROXY_NETWORK, str(next(subnets)), dict(front.labels))]
        volumes = [{"name": name, "labels": dict(front.labels)} for name in _PROXY_VOLUMES]
        containers: list[Object] = []
        for one in here:
            labels = _owner(one.desired)
            networks.append(_network(one.desired.network, str(next(subnets)), labels))
            volumes += [{"name": name, "labels": labels} for name in one.desired.volumes]
            containers += _containers(one.desired)
            config = proxy.with_route(config, one.desired.route, server.proxy)
        attached = [one.desired.network for one in here]
        containers.append({"name": front.name, "body": front.body(), "networks": attached})
        images = sorted({front.image, *(image for one in here for image in one.desired.images)})
        file = {
            "volume": names.PROXY_CONFIG_VOLUME,
            "path": "caddy/autosave.json",
            "content": proxy.render(config).decode(),
        }
        return {
            "images": images, "networks": networks, "volumes": volumes, "files": [file], "containers": containers,
        }  # fmt: skip

    # ---- the statuses

    def _statuses(self, settled: list[Settled]) -> list[tuple[Settled, InstanceStatus]]:
        pool = SshHostPool()
        try:
            with ThreadPoolExecutor(4) as threads:
                images = sorted({image for one in settled for image in one.desired.images})
                found = threads.map(lambda name: self._facts(pool, name, images), self._servers)
                facts = dict(zip(self._servers, found, strict=True))
        finally:
            pool.close()
        return [(one, self._status(one, facts[one.server])) for one in settled]

    def _facts(self, pool: SshHostPool, name: str, images: list[str]) -> HostFacts:
        spec = self._servers[name][1]
        address = HostAddress(name, spec.address, spec.port, spec.user, self._key, None, tuple(spec.host_keys))
        return Inventory(pool.get(address), lambda event: None).facts(images)

    def _status(self, one: Settled, facts: HostFacts) -> InstanceStatus:
        now, server = time.time(), self._servers[one.server][1]
        mine = replace(facts, containers=tuple(c for c in facts.containers if _concerns(c.labels, one)))
        done = rfc3339(now)
        shots = [
            OneShotRecord(name=shot.role, hash=shot.hash, finished_at=done)
            for shot in (one.desired.bootstrap, one.desired.migrate)
            if shot is not None
        ]
        shots.append(OneShotRecord(name="verify", hash=one.desired.serving_hash, finished_at=done))
        view = View(
            desired=one.desired,
            facts=mine,
            record=InstanceStatus(server=one.server, one_shots=shots),
            server=ServerView(one.server, server, True),
            now=now,
            credential_keys=frozenset(KEYS),
            memory=Memory(probes={container.id: Probe(True, now) for container in mine.containers}),
        )
        made = plan(view)
        assert made.converged, f"{one.desired.tenant.name} is not in sync: {made.current}"
        quotas = self._class.quotas
        situation = Situation(
            generation=1,
            now=now,
            server=one.server,
            url=desired.url(one.spec, server),
            view=view,
            plan=made,
            quota=QuotaStatus(max_users=quotas.max_users, max_storage=quotas.max_storage),
        )
        return compute(view.record, situation)


_PROXY_VOLUMES = (names.PROXY_CONFIG_VOLUME, names.PROXY_DATA_VOLUME)


def _concerns(labels: Any, one: Settled) -> bool:
    return labels.get(names.INSTANCE_UID) in (None, one.uid)


def _network(name: str, subnet: str, labels: Object) -> Object:
    return {"Name": name, "IPAM": {"Config": [{"Subnet": subnet}]}, "Labels": labels}


def _owner(made: Desired) -> Object:
    keys = (names.MANAGED_BY, names.INSTANCE_UID, names.NAMESPACE, names.INSTANCE, names.ORG)
    return {key: made.labels[key] for key in keys}


def _containers(made: Desired) -> list[Object]:
    shots = [shot for shot in (made.migrate, made.bootstrap) if shot is not None]
    found: list[Object] = [{"name": spec.name, "body": spec.body()} for spec in (*made.infrastructure, *made.apps)]
    return found + [{"name": shot.name, "body": shot.body(), "exited": 0} for shot in shots]


async def in_turns[T](work: Iterator[Awaitable[T]]) -> list[T]:
    """All of it, WRITERS at a time, in order."""
    made: dict[int, T] = {}
    numbered = enumerate(work)

    async def turn() -> None:
        for number, each in numbered:
            made[number] = await each

    await asyncio.gather(*(turn() for _ in range(WRITERS)))
    return [made[number] for number in sorted(made)]
