"""Start-up wiring and Kopf settings, nothing else."""

import asyncio
import contextlib
import functools
import logging
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import kopf

from dotmac_crds.base import GROUP
from dotmac_operator import identity, kube, leader
from dotmac_operator.handlers.firstlists import FirstLists
from dotmac_operator.handlers.routing import Routing
from dotmac_operator.handlers.watch import Watch
from dotmac_operator.handlers.workers import Pass, Workers
from dotmac_operator.hosts.pool import SshHostPool, SshSettings
from dotmac_operator.reconcile.backups import BackupReconciler
from dotmac_operator.reconcile.catalog import CatalogReconciler
from dotmac_operator.reconcile.hosts import Hosts
from dotmac_operator.reconcile.instance import InstanceReconciler
from dotmac_operator.reconcile.ports import ClusterError, Meter
from dotmac_operator.reconcile.proof import Prover
from dotmac_operator.reconcile.restores import RestoreReconciler
from dotmac_operator.reconcile.server import ServerReconciler
from dotmac_operator.reconcile.store import Store
from dotmac_operator.reconcile.turns import Turns
from dotmac_operator.serving.diagnostics import Diagnostics
from dotmac_operator.serving.fleet import FleetCollector, Leadership
from dotmac_operator.serving.kubeapi import count_requests
from dotmac_operator.serving.metrics import Metrics
from dotmac_operator.serving.serving import Observed, start_diagnostics, start_health
from dotmac_operator.serving.watching import Seen
from dotmac_operator.settings import Settings

log = logging.getLogger(__name__)

PAGE = 200
"""Objects in one answer to Kopf's first list of a kind."""
IDLE_SECONDS = 0.25
"""Before Kopf's task of one object ends; its next version starts another one."""


class NoDiffs(kopf.DiffBaseStorage):
    """No handler of ours looks at what changed, so Kopf need not copy each object to compare it with its next version:
    a tenth of the processor time of a restart."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is written to users' objects."""


async def run(settings: Settings, ready: asyncio.Event | None = None) -> None:
    """Runs until SIGTERM or SIGINT. `ready` is set once every object was listed.

    Raises:
        leader.LeadershipLost, leases.LeaseForbidden, kube.NoCluster
    """
    pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="pass")
    store = Store()
    metrics, seen = Metrics(), Seen()
    election = leader.elect(settings)
    api = kube.connect(settings.workers + 4)
    count_requests(api, metrics.requested)
    cluster = kube.KubeCluster(api, *([election.token] if election else []))
    passes: dict[str, Pass] = {}
    workers = Workers(passes, pool, settings.resync, metrics)
    routing = Routing(store, workers.wake)
    ssh = SshSettings(breaker_failures=settings.breaker_failures, breaker_seconds=settings.breaker_seconds)
    hosts = Hosts(SshHostPool(ssh, metrics.host_called, election), routing.docker, parallel=4)
    passes.update(_passes(store, cluster, hosts, routing, workers, metrics))
    registry = kopf.OperatorRegistry()
    first = FirstLists()
    Watch(store, routing, workers, first, seen.take).register(registry)
    _login(registry)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    workers.start(loop)
    ends: list[Exception] = []
    if election is not None:
        _follow(election, workers, stop, ends)
        election.start()
    log.info("watching %s", "all namespaces" if settings.all_namespaces else ", ".join(settings.namespaces))
    metrics.workers(settings.workers)
    leads = Leadership(settings.leader_election_name, lambda: election.leading) if election else None
    metrics.registry.register(FleetCollector(metrics, store, hosts, workers, lambda: cluster.writes, leads))
    running = contextlib.ExitStack()
    resting = asyncio.create_task(_rest(stop, workers, hosts, election))
    counting = asyncio.create_task(_count(first, cluster, settings.namespaces))
    try:
        observed = Observed(loop, pool, workers, store, hosts, seen, kube.connect(4))
        start_health(settings, metrics, observed, running)
        # Connections of its own: a log that is followed takes nothing from the passes. They only read, so that they
        # need no fence, and an operator that stands by answers too.
        start_diagnostics(settings, Diagnostics(store, cluster, hosts, SshHostPool(_impatient(ssh))), running)
        others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=_kopf_settings(settings),
            standalone=True,
            clusterwide=settings.all_namespaces,
            namespaces=settings.namespaces,
            stop_flag=stop,
            ready_flag=ready,
            # Else Kopf asks for the name of the user, and the user id of a pod has none.
            identity=cast(Any, str(identity.this_process())),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)  # Kopf's own, set a moment ago, tells nobody until all has ended
        await kopf.run_tasks(tasks, ignored=others)
    finally:
        log.info("stopping")
        counting.cancel()
        running.close()
        stop.set()
        await resting
        pool.shutdown(wait=False, cancel_futures=True)
    if ends:
        raise ends[0]


async def _count(first: FirstLists, cluster: kube.KubeCluster, namespaces: list[str]) -> None:
    """Tells the barrier how much there is, as soon as the API answers."""
    while True:
        try:
            first.expect(await asyncio.to_thread(cluster.count, namespaces))
            return
        except ClusterError as error:
            log.warning("the objects cannot be counted yet: %s", error)
            await asyncio.sleep(2.0)


async def _rest(stop: asyncio.Event, workers: Workers, hosts: Hosts, election: leader.Election | None) -> None:
    """Stops to act and gives the Lease back at once, while Kopf takes seconds to end its watches."""
    await stop.wait()
    await workers.stop()
    hosts.close()  # ends calls that are under way, so that their threads can end
    if election is not None:
        await asyncio.to_thread(election.stop)


def _follow(election: leader.Election, workers: Workers, stop: asyncio.Event, ends: list[Exception]) -> None:
    """Passes run while this process leads. When it has lost the Lease for good it ends, and its successor is a new
    process: nothing that was begun under one leader goes on under the next."""
    loop = asyncio.get_running_loop()

    def end(error: Exception) -> None:
        ends.append(error)
        loop.call_soon_threadsafe(stop.set)

    workers.lead(False)
    election.on_change.append(lambda leading: loop.call_soon_threadsafe(workers.lead, leading))
    election.on_end.append(end)


def _impatient(ssh: SshSettings) -> SshSettings:
    """For people who wait for an answer: one attempt, and soon another."""
    return replace(ssh, attempts=1, breaker_failures=1, breaker_seconds=5.0)


def _passes(
    store: Store, cluster: kube.KubeCluster, hosts: Hosts, routing: Routing, workers: Workers, meter: Meter
) -> Mapping[str, Pass]:
    turns = Turns()
    wake_server = functools.partial(workers.wake, "Server")
    instances = InstanceReconciler(store, cluster, hosts, wake_server, meter=meter, turns=turns)
    backups = BackupReconciler(instances.services, turns, workers.wake)
    restores = RestoreReconciler(instances.services, turns, workers.wake, instances.forget)
    prover = Prover(instances, functools.partial(workers.wake, urgent=True))
    servers = ServerReconciler(store, cluster, hosts, routing.server_ready, prover, meter=meter)
    catalog = CatalogReconciler(store, cluster)
    return {
        "Instance": instances.reconcile,
        "Server": servers.reconcile,
        "Release": catalog.release,
        "InstanceClass": catalog.instance_class,
        "Backup": backups.reconcile,
        "Restore": restores.reconcile,
    }


def _kopf_settings(settings: Settings) -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    # Not ours: Kopf takes its own finalizer off objects that have no daemon and no deletion handler.
    made.persistence.finalizer = f"{GROUP}/kopf"
    made.persistence.diffbase_storage = NoDiffs()
    made.posting.enabled = False  # Events are ours, on transitions only
    # Without cluster-wide rights Kopf cannot watch CRDs and namespaces, and does not need to.
    made.scanning.disabled = not settings.all_namespaces
    # A list comes in pages, and Kopf's task of an object, which holds its last raw version, ends soon after it: of a
    # big fleet only the parsed objects stay, half the size of the raw ones.
    made.watching.chunk_size = PAGE
    made.queueing.idle_timeout = IDLE_SECONDS
    made.watching.server_timeout = 300
    made.watching.connect_timeout = 10
    made.networking.request_timeout = 30
    return made


def _login(registry: kopf.OperatorRegistry) -> None:
    @kopf.on.login(registry=registry)
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        """The same way in as the client of `kube.connect`."""
        with contextlib.suppress(kopf.LoginError):
            found = kopf.login_with_service_account(**kwargs)
            if found is not None:
                # Kopf takes the cluster's DNS name, which needs DNS to be up before anything is seen.
                return replace(found, server=kube.service_url() or found.server)
        return kopf.login_via_client(**kwargs)
