"""/servers over the embedded control plane and the mirror."""

import uuid

import httpx
import pytest
from tests.kits.mirrored import Objects, until
from tests.kits.resources import KEY, condition, instance, server

pytestmark = pytest.mark.services

BODY = {
    "name": "host-9",
    "hostname": "192.0.2.9",
    "credentials_secret": "ssh",
    "host_keys": [KEY],
    "ssh_user": "deploy",
}


async def test_a_server_is_created_changed_tested_and_deleted(ready: httpx.AsyncClient, objects: Objects) -> None:
    made = await ready.post("/api/v1/servers", json=BODY)
    assert made.status_code == 202, made.text
    body = made.json()
    assert (body["hostname"], body["ssh_user"], body["status"], body["mirroredAt"]) == (
        "192.0.2.9",
        "deploy",
        "unknown",
        None,
    )
    assert made.headers["etag"] == f'"{body["resource_version"]}"'
    path = f"/api/v1/servers/{body['server_id']}"

    stored = objects.list("Server")[0]
    assert stored["metadata"]["annotations"]["platform.dotmac.io/requested-by"].startswith("user")
    assert {m["manager"] for m in stored["metadata"]["managedFields"]} == {"dotmac-api"}

    async def mirrored() -> bool:
        return (await ready.get(path)).status_code == 200

    await until(mirrored)
    changed = await ready.patch(path, json={"base_domain": "erp.example.org", "capacity": {"max_instances": 5}})
    assert changed.status_code == 202, changed.text
    spec = objects.list("Server")[0]["spec"]
    assert (spec["baseDomain"], spec["capacity"]["maxInstances"], spec["user"]) == ("erp.example.org", 5, "deploy")

    tested = await ready.post(f"{path}/test")
    assert tested.status_code == 202
    assert tested.json()["reconcile_requested_at"] and tested.json()["base_domain"] == "erp.example.org"

    back = await ready.patch(path, json={"base_domain": None})
    assert back.json()["base_domain"] is None and "baseDomain" not in objects.list("Server")[0]["spec"]

    gone = await ready.delete(path)
    assert gone.status_code == 202, gone.text

    async def missing() -> bool:
        return (await ready.get(path)).status_code == 404

    await until(missing)


async def test_refusals_name_the_field(ready: httpx.AsyncClient) -> None:
    unknown = await ready.post("/api/v1/servers", json={**BODY, "ssh_key_path": "/root/key"})
    assert (unknown.status_code, unknown.json()["details"][0]["field"]) == (422, "body.ssh_key_path")

    unpinned = await ready.post("/api/v1/servers", json={k: v for k, v in BODY.items() if k != "host_keys"})
    assert unpinned.status_code == 422
    assert "ssh-keyscan" in unpinned.json()["message"]

    ports = {**BODY, "proxy": {"http_port": 443, "https_port": 443}}
    same = await ready.post("/api/v1/servers", json=ports)
    assert (same.status_code, same.json()["details"][0]["field"]) == (422, "body.proxy.https_port"), same.text

    assert (await ready.post("/api/v1/servers", json=BODY)).status_code == 202
    again = await ready.post("/api/v1/servers", json={**BODY, "hostname": "192.0.2.77"})
    assert (again.status_code, again.json()["code"], again.json()["details"][0]["field"]) == (
        409,
        "already_exists",
        "body.name",
    )
    nowhere = await ready.patch(f"/api/v1/servers/{uuid.uuid4()}", json={"schedulable": False})
    assert nowhere.status_code == 404


async def test_lists_filter_order_and_page(ready: httpx.AsyncClient, objects: Objects) -> None:
    for number in range(4):
        objects.create(server(f"host-{number}", address=f"192.0.2.{number}"))
    objects.merge("Server", "host-2", {"status": {"conditions": [condition("Reachable", "True")]}}, status=True)

    async def count(**query: str | int) -> int:
        answer = await ready.get("/api/v1/servers", params=query)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["count"])

    async def connected() -> bool:
        return await count(status="connected") == 1

    await until(connected)
    assert await count() == 4
    assert await count(search="192.0.2.3") == 1
    assert await count(search="%") == 0
    page = (
        await ready.get("/api/v1/servers", params={"order_by": "name", "order_dir": "asc", "limit": 2, "offset": 1})
    ).json()
    assert [item["name"] for item in page["items"]] == ["host-1", "host-2"]
    assert (page["limit"], page["offset"], page["count"]) == (2, 1, 4)
    wrong = await ready.get("/api/v1/servers", params={"order_by": "spec"})
    assert wrong.status_code == 422 and "hostname" in wrong.json()["message"]


async def test_instances_of_a_server(ready: httpx.AsyncClient, objects: Objects) -> None:
    uid = objects.create(server())["metadata"]["uid"]
    objects.create(server("host-2"))
    objects.create(instance("acme"))
    objects.create(instance("beta", serverRef={"name": "host-2"}))

    async def names() -> list[str]:
        answer = await ready.get(f"/api/v1/servers/{uid}/instances")
        return [item["name"] for item in answer.json()["items"]] if answer.status_code == 200 else []

    assert await until(names) == ["acme"]
    assert (await ready.get(f"/api/v1/servers/{uuid.uuid4()}/instances")).status_code == 404
