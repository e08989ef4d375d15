"""The official Python client, in all the ways it offers: typed, dynamic, asyncio, watch, informer, leader election."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.informer import SharedInformer
from tests.kits.controlplane import ControlPlane
from tests.local import widgets
from tests.local.widgets import GROUP, widget

# Processes of their own, and seconds each: left out by deploy/test --fast.
pytestmark = pytest.mark.e2e

WIDGETS = (GROUP, "v1", "default", "widgets")


@pytest.fixture(scope="module")
def api(control_plane: ControlPlane) -> Iterator[client.ApiClient]:
    widgets.install(control_plane)
    config.load_kube_config(str(control_plane.kubeconfig))
    with config.new_client_from_config(str(control_plane.kubeconfig)) as made:
        yield made


def test_custom_objects(api: client.ApiClient) -> None:
    custom = client.CustomObjectsApi(api)
    custom.create_namespaced_custom_object(*WIDGETS, widget("typed"))
    custom.patch_namespaced_custom_object(*WIDGETS, "typed", {"spec": {"size": 4}})
    custom.patch_namespaced_custom_object_status(*WIDGETS, "typed", {"status": {"phase": "Ready"}})
    found = custom.get_namespaced_custom_object(*WIDGETS, "typed")
    assert found["spec"] == {"size": 4, "color": "red", "replicas": 1} and found["status"]["phase"] == "Ready"
    assert found["metadata"]["generation"] == 2
    with pytest.raises(ApiException) as refused:
        custom.patch_namespaced_custom_object(*WIDGETS, "typed", {"spec": {"size": 1000}})
    assert refused.value.status == 422
    custom.delete_namespaced_custom_object(*WIDGETS, "typed")


def test_core_kinds(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_secret(
        "default", client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"a": "b"})
    )
    assert core.read_namespaced_secret("s", "default").data == {"a": "Yg=="}
    with pytest.raises(ApiException) as missing:
        core.read_namespaced_secret("none", "default")
    assert missing.value.status == 404 and missing.value.reason == "Not Found"
    assert {ns.metadata.name for ns in core.list_namespace().items} >= {"default", "kube-system"}


def test_watch_sees_changes_until_stopped(api: client.ApiClient) -> None:
    custom = client.CustomObjectsApi(api)
    started = custom.list_namespaced_custom_object(*WIDGETS)["metadata"]["resourceVersion"]
    custom.create_namespaced_custom_object(*WIDGETS, widget("watched"))
    custom.delete_namespaced_custom_object(*WIDGETS, "watched")
    seen, follow = [], watch.Watch()
    for event in follow.stream(
        custom.list_namespaced_custom_object, *WIDGETS, resource_version=started, timeout_seconds=10
    ):
        seen.append(event["type"])
        if len(seen) == 2:
            follow.stop()
    assert seen == ["ADDED", "DELETED"]


def test_dynamic_client(api: client.ApiClient) -> None:
    resource = dynamic.DynamicClient(api).resources.get(api_version=f"{GROUP}/v1", kind="Widget")
    resource.create(body=widget("dyn"), namespace="default")
    resource.server_side_apply(
        body={**widget("dyn"), "spec": {"size": 5}}, namespace="default", field_manager="me", force_conflicts=True
    )
    found = resource.get(name="dyn", namespace="default")
    assert found.spec.size == 5 and {entry.manager for entry in found.metadata.managedFields} >= {"me"}
    resource.status.patch(
        name="dyn", namespace="default", body={"status": {"phase": "x"}}, content_type="application/merge-patch+json"
    )
    assert resource.get(name="dyn", namespace="default").status.phase == "x"
    assert [
        item.metadata.name for item in resource.get(namespace="default", field_selector="metadata.name=dyn").items
    ] == ["dyn"]
    for event in resource.watch(namespace="default", timeout=5, resource_version="0"):
        assert event["type"] == "ADDED"
        break
    resource.delete(name="dyn", namespace="default")


async def test_asyncio_client(control_plane: ControlPlane, api: client.ApiClient) -> None:
    from kubernetes import aio

    made = await aio.config.new_client_from_config(str(control_plane.kubeconfig))
    async with made:
        custom = aio.client.CustomObjectsApi(made)
        await custom.create_namespaced_custom_object(*WIDGETS, widget("aio"))
        async with aio.watch.Watch() as follow:
            async for event in follow.stream(custom.list_namespaced_custom_object, *WIDGETS, timeout_seconds=5):
                assert event["type"] == "ADDED"
                break
        await custom.delete_namespaced_custom_object(*WIDGETS, "aio")


@pytest.mark.parametrize("lock", ["LeaseLock", "ConfigMapLock"])
def test_leader_election_has_one_leader_and_a_successor(control_plane: ControlPlane, lock: str) -> None:
    script = str(Path(__file__).with_name("election.py"))
    candidates = []
    for name in ("one", "two"):
        argv = [sys.executable, script, lock, name, str(control_plane.kubeconfig)]
        candidates.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
    try:
        pipes = [candidate.stdout for candidate in candidates if candidate.stdout]
        (first, *others), _, _ = select.select(pipes, [], [], 20)
        assert not others
        waiting = next(pipe for pipe in pipes if pipe is not first)
        assert not select.select([waiting], [], [], 3)[0], "two lead at once"
        candidates[pipes.index(first)].kill()
        assert select.select([waiting], [], [], 20)[0], "nobody took over"
    finally:
        for candidate in candidates:
            candidate.kill()
            candidate.wait()


def test_informer_follows(api: client.ApiClient) -> None:
    core = client.CoreV1Api(api)
    seen: list[str] = []
    # Watches of a second: a stop that comes while one is being opened is only noticed at its end.
    follower = SharedInformer(core.list_namespaced_config_map, namespace="default", resync_period=1)
    follower.add_event_handler("ADDED", lambda obj: seen.append(obj.metadata.name))
    follower.start()
    try:
        core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="informed")))
        deadline = time.monotonic() + 10
        while "informed" not in seen:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        follower.stop()
