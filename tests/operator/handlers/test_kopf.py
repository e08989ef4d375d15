"""The watch with a real Kopf on the embedded control plane: every object is seen, and Kopf leaves no trace on it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import kopf
import pytest
from kubernetes.config import kube_config
from tests.kits.controlplane import ControlPlane, control_plane  # noqa: F401 - a fixture
from tests.kits.tenant import INSTANCE, RELEASE, SERVER

from dotmac_crds.base import API_VERSION, FINALIZER
from dotmac_crds.kinds import KINDS
from dotmac_operator import kube, main
from dotmac_operator.handlers.firstlists import FirstLists
from dotmac_operator.handlers.routing import Routing
from dotmac_operator.handlers.watch import Watch
from dotmac_operator.handlers.workers import Workers
from dotmac_operator.reconcile.ports import DONE, Outcome
from dotmac_operator.reconcile.store import Store
from dotmac_operator.settings import Settings

PATH = f"/apis/{API_VERSION}/namespaces/default/instances/acme"


async def until(what: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def kopf_workers() -> list[str]:
    """Names of Kopf's tasks for single objects."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("worker for ")]


def test_kopf_has_a_finalizer_of_its_own() -> None:
    """Regression: Kopf took our finalizer off, because it saw no handler of its own that needed one."""
    assert main._kopf_settings(Settings()).persistence.finalizer != FINALIZER


@pytest.mark.slow
async def test_a_watched_object_is_seen_and_left_as_it_is(
    control_plane: ControlPlane,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The client library reads KUBECONFIG once, when it is imported.
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(control_plane.kubeconfig))
    monkeypatch.setattr(main, "PAGE", 2)
    control_plane.apply_crds()
    for kind, name, spec in (
        ("Release", "erp-1", RELEASE),
        ("InstanceClass", "starter", {}),
        ("Server", "host-1", SERVER),
        ("Instance", "acme", INSTANCE),
        ("Instance", "second", INSTANCE),
        ("Instance", "third", INSTANCE),
    ):
        meta = {"name": name, "finalizers": [FINALIZER]}
        control_plane.create({"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "spec": spec})
    seen: list[tuple[str, str]] = []
    store = Store()

    def pass_of(kind: str) -> Callable[[str], Outcome]:
        def run(key: str) -> Outcome:
            # The store is full before the first pass: no Release is missed at a start.
            assert store.release("erp-1") is not None
            seen.append((kind, key))
            return DONE

        return run

    settings = Settings(namespaces=["default"])
    registry = kopf.OperatorRegistry()
    main._login(registry)
    stop = asyncio.Event()
    with ThreadPoolExecutor(4) as pool:
        workers = Workers({kind.name: pass_of(kind.name) for kind in KINDS}, pool, 600.0)
        workers.start(asyncio.get_running_loop())
        first = FirstLists()
        Watch(store, Routing(store, workers.wake), workers, first).register(registry)
        cluster = kube.KubeCluster(kube.connect())
        first.expect(cluster.count(settings.namespaces))
        running = asyncio.create_task(
            kopf.operator(
                registry=registry,
                settings=main._kopf_settings(settings),
                standalone=True,
                namespaces=settings.namespaces,
                stop_flag=stop,
            )
        )
        instances = {("Instance", f"default/{name}") for name in ("acme", "second", "third")}
        wanted = instances | {("Server", "default/host-1"), ("Release", "erp-1")}
        await until(lambda: wanted <= set(seen))
        # Each holds the last raw version of its object: five seconds of them are the whole fleet at a start.
        await until(lambda: not kopf_workers(), 3.0)
        before = seen.count(("Instance", "default/acme"))
        patch = {"spec": {"orgName": "Edited"}}
        headers = {"Content-Type": "application/merge-patch+json"}
        assert control_plane.client.patch(PATH, json=patch, headers=headers).status_code == 200
        await until(lambda: seen.count(("Instance", "default/acme")) > before)
        stored = control_plane.client.get(PATH).json()
        assert stored["metadata"]["finalizers"] == [FINALIZER]
        assert "annotations" not in stored["metadata"]
        stop.set()
        await asyncio.wait_for(running, 20)
        await workers.stop()
