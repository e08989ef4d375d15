"""/instances over the embedded control plane and the mirror."""

import uuid
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.api.conftest import Accounts, signed_in
from tests.kits.mirrored import Objects, until
from tests.kits.resources import condition, instance, plan, release, server

pytestmark = pytest.mark.services

BODY = {
    "org_code": "ACME_1",
    "org_name": "Acme Ltd",
    "release": "erp-1",
    "plan": "starter",
    "admin_email": "admin@acme.example",
    "server": "host-1",
}
NOON = "2026-11-22T12:00:00Z"
STATUS: dict[str, Any] = {
    "phase": "Deploying",
    "step": "1/10",
    "steps": [
        {
            "name": "preflight",
            "state": "Succeeded",
            "startedAt": "2026-11-22T10:00:00Z",
            "finishedAt": "2026-11-22T10:00:01Z",
        },
        {"name": "images", "state": "Running", "startedAt": NOON, "message": "pulling"},
    ],
    "plan": {"hash": "abc", "actions": [{"step": "images", "action": "pull erp:1", "reason": "absent"}]},
    "conditions": [condition("Ready", "False", "Progressing"), condition("InSync", "False", "Differs")],
}


def catalog(objects: Objects) -> str:
    """What an instance refers to; returns the uid of the server."""
    objects.create(release())
    objects.create(release("erp-2", version="2.0"))
    objects.create(release("bad", yanked=True))
    objects.create(plan())
    objects.create(plan("professional"))
    uid: str = objects.create(server())["metadata"]["uid"]
    return uid


async def mirrored(client: httpx.AsyncClient, uid: str, **wanted: Any) -> dict[str, Any]:
    """The instance once the mirror shows it so."""

    async def found() -> dict[str, Any] | None:
        answer = await client.get(f"/api/v1/instances/{uid}")
        body: dict[str, Any] = answer.json()
        return body if answer.status_code == 200 and all(body[k] == v for k, v in wanted.items()) else None

    made: dict[str, Any] = await until(found)
    return made


async def made(client: httpx.AsyncClient, **body: Any) -> str:
    answer = await client.post("/api/v1/instances", json={**BODY, **body})
    assert answer.status_code == 202, answer.text
    uid: str = answer.json()["instance_id"]
    await mirrored(client, uid)
    return uid


async def test_create_and_read(ready: httpx.AsyncClient, objects: Objects) -> None:
    server_id = catalog(objects)

    async def known() -> bool:
        return (await ready.get(f"/api/v1/servers/{server_id}")).status_code == 200

    await until(known)
    body = {k: v for k, v in BODY.items() if k != "server"} | {
        "server_id": server_id,
        "domains": [{"host": "acme.example"}, {"host": "erp.acme.example", "tls": "Internal"}],
        "env": [{"name": "LANG", "value": " C "}, {"name": "TOKEN", "secret": {"name": "s", "key": "t"}}],
        "features": {"beta": True},
        "modules": ["core", "gl"],
        "settings": {"vatRate": "7.5"},
        "currency": "EUR",
        "deletion_protected": True,
    }
    answer = await ready.post("/api/v1/instances", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["name"] == "acme-1" and answer.json()["mirroredAt"] is None
    spec = objects.list("Instance")[0]["spec"]
    assert spec["serverRef"] == {"name": "host-1"} and spec["env"][0]["value"] == " C "
    assert spec["env"][1]["secretKeyRef"] == {"name": "s", "key": "t"} and spec["settings"]["values"] == {
        "vatRate": "7.5"
    }

    shown = await mirrored(ready, answer.json()["instance_id"], server_id=server_id)
    assert shown["status"] == "provisioned" and shown["observedGeneration"] == -1 and shown["generation"] == 1
    assert shown["mirroredAt"] and shown["currency"] == "EUR" and shown["domain"] == "acme.example"
    assert shown["deletion_protected"] is True and shown["modules"] == ["core", "gl"]


async def test_create_refuses_what_cannot_work(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    wrong = [
        ({"release": "none"}, "body.release"),
        ({"release": "bad"}, "body.release"),
        ({"plan": "none"}, "body.plan"),
        ({"server": "none"}, "body.server"),
        ({"org_code": "-x"}, "body.org_code"),
        ({"org_name": "two\nlines"}, "body.org_name"),
        ({"deploy_path": "/srv"}, "body.deploy_path"),
        ({"placement": {}}, "body"),
        ({"tags": {"a" * 61: "x"}}, "body.tags." + "a" * 61 + ".[key]"),
        ({"tags": {"a": "x" * 201}}, "body.tags.a"),
        ({"trial_expires_at": "2027-01-01T00:00:00"}, "body.trial_expires_at"),
        ({"maintenance_windows": [{"start": "25:00", "duration": 60}]}, "body.maintenance_windows.0.start"),
        ({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "body.env"),
        ({"modules": ["gl", "gl"]}, "body.modules"),
        ({"env": [{"name": "A", "value": "nul\x00"}]}, "body.env.0.value"),
        ({"domains": [{"host": "Not A Host"}]}, "body.domains.0.host"),
    ]
    for change, field in wrong:
        answer = await ready.post("/api/v1/instances", json={**BODY, **change})
        assert answer.status_code == 422, (change, answer.text)
        assert answer.json()["details"][0]["field"] == field, (change, answer.text)
    by_id = {k: v for k, v in BODY.items() if k != "server"} | {"server_id": str(uuid.uuid4())}
    answer = await ready.post("/api/v1/instances", json=by_id)
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (422, "body.server_id")
    assert objects.list("Instance") == []


async def test_changes_keep_what_was_set_before(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready, features={"a": True, "b": True}, env=[{"name": "X", "value": "1"}])
    path = f"/api/v1/instances/{uid}"

    def spec() -> dict[str, Any]:
        found: dict[str, Any] = objects.list("Instance")[0]["spec"]
        return found

    steps: list[tuple[str, str, Any]] = [
        ("PATCH", "", {"org_name": "Acme Inc", "admin_username": "root1"}),
        ("PUT", "/flags/c", {"enabled": False}),
        ("PUT", "/modules/gl", None),
        ("POST", "/domains", {"host": "a.example"}),
        ("POST", "/domains", {"host": "b.example", "tls": "Off"}),
        ("PUT", "/version", {"release": "erp-2"}),
        ("PUT", "/plan", {"plan": "professional"}),
        ("POST", "/restart", None),
        ("POST", "/deploy", None),
        ("DELETE", "/flags/a", None),
        ("DELETE", "/domains/a.example", None),
    ]
    for method, where, body in steps:
        answer = await ready.request(method, path + where, json=body)
        assert answer.status_code == 202, (where, answer.text)
        # A path parameter may name what only the row knows of.
        await mirrored(ready, uid, resource_version=answer.json()["resource_version"])
    assert spec()["features"] == {"b": True, "c": False} and spec()["modules"] == ["gl"]
    assert spec()["domains"] == [{"host": "b.example", "tls": "Off"}]
    assert spec()["releaseRef"]["name"] == "erp-2" and spec()["classRef"]["name"] == "professional"
    assert [e["name"] for e in spec()["env"]] == ["X"]
    assert spec()["orgName"] == "Acme Inc" and spec()["admin"] == {"email": "admin@acme.example", "username": "root1"}
    annotations = objects.list("Instance")[0]["metadata"]["annotations"]
    assert annotations["platform.dotmac.io/reconcile-requested-at"]
    assert annotations["platform.dotmac.io/restart-requested-at"]

    for method, where, body, status in [
        ("DELETE", "/flags/none", None, 404),
        ("DELETE", "/modules/none", None, 404),
        ("DELETE", "/domains/none.example", None, 404),
        ("POST", "/domains", {"host": "b.example"}, 409),
        ("PUT", "/version", {"release": "none"}, 422),
        ("POST", "/deploy", {"release": "bad"}, 422),
        ("PUT", "/flags/c", {"enabled": "sometimes"}, 422),
        ("PATCH", "", {"org_code": "OTHER"}, 422),
        ("PATCH", "", {"release": None}, 422),
    ]:
        answer = await ready.request(method, path + where, json=body)
        assert answer.status_code == status, (where, answer.text)
        assert answer.json()["message"]

    emptied = await ready.post(f"{path}/reconfigure", json={"features": {}, "env": None, "admin_username": None})
    assert emptied.status_code == 202, emptied.text
    assert spec().get("features", {}) == {} and spec().get("env", []) == []
    assert spec()["admin"]["username"] == "admin", "back to its default"
    gone = await ready.delete(path)
    assert gone.status_code == 202 and objects.list("Instance") == []


async def test_if_match_guards_a_change(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready)
    path = f"/api/v1/instances/{uid}"
    old = (await ready.get(path)).headers["etag"]
    first = await ready.patch(path, json={"org_name": "One"}, headers={"If-Match": old})
    assert first.status_code == 202, first.text
    second = await ready.patch(path, json={"org_name": "Two"}, headers={"If-Match": old})
    assert (second.status_code, second.json()["code"]) == (412, "precondition_failed")
    third = await ready.patch(path, json={"org_name": "Three"}, headers={"If-Match": first.headers["etag"]})
    assert third.status_code == 202 and objects.list("Instance")[0]["spec"]["orgName"] == "Three"


async def test_what_others_manage_is_refused_by_name_and_never_ignored(
    ready: httpx.AsyncClient, objects: Objects
) -> None:
    catalog(objects)
    manifest = instance("acme", features={"theirs": True}, modules=["core"], domains=[{"host": "a.example"}])
    uid = objects.apply(manifest, "kubectl")["metadata"]["uid"]
    await mirrored(ready, uid)
    path = f"/api/v1/instances/{uid}"
    # Nobody owns this annotation, so a deploy works on what GitOps manages.
    assert (await ready.post(f"{path}/deploy")).status_code == 202

    refused = await ready.put(f"{path}/version", json={"release": "erp-2"})
    assert (refused.status_code, refused.json()["code"]) == (409, "field_conflict"), refused.text
    detail = refused.json()["details"][0]
    assert detail["field"] == "body.release" and "kubectl" in detail["message"] and "force=true" in detail["message"]

    for where in ("/flags/theirs", "/modules/core", "/domains/a.example"):
        kept = await ready.delete(path + where)
        assert kept.status_code == 409 and "kubectl" in kept.json()["details"][0]["message"], kept.text
    assert (await ready.patch(path, json={"features": {}})).status_code == 409

    forced = await ready.put(f"{path}/version", json={"release": "erp-2"}, params={"force": "true"})
    assert forced.status_code == 202 and objects.list("Instance")[0]["spec"]["releaseRef"]["name"] == "erp-2"
    mine = await ready.put(f"{path}/flags/mine", json={"enabled": True})
    assert mine.status_code == 202
    assert objects.list("Instance")[0]["spec"]["features"] == {"theirs": True, "mine": True}


async def test_a_deployment_can_be_read(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready)
    path = f"/api/v1/instances/{uid}"
    objects.merge("Instance", "acme-1", {"status": STATUS}, status=True)
    shown = await mirrored(ready, uid, step="1/10")
    assert shown["status"] == "deploying" and shown["phase"] == "Deploying"
    steps = (await ready.get(f"{path}/steps")).json()
    assert [s["status"] for s in steps["steps"]] == ["success", "running"] and steps["steps"][1]["message"] == "pulling"
    assert (await ready.get(f"{path}/plan")).json()["actions"][0]["reason"] == "absent"
    assert (await ready.get(f"{path}/drift")).json()["in_sync"] is False

    served = {
        "phase": "Running",
        "step": "2/10",
        "url": "https://acme.example",
        "release": {"current": "erp-1", "currentVersion": "1.0"},
        "components": [{"role": "web", "container": "c", "image": "erp:1", "imageId": "sha256:1", "health": "healthy"}],
        "steps": [
            {**STATUS["steps"][0]},
            {**STATUS["steps"][1], "state": "Succeeded", "finishedAt": "2026-11-22T10:01:00Z"},
        ],
        "drift": {"what": "web was stopped", "repairedAt": "2026-11-22T11:00:00Z"},
        "conditions": [
            condition(type_, "True", "Good", "2026-11-22T10:01:00Z")
            for type_ in ("Ready", "InSync", "DatabaseReady", "AppHealthy", "RouteReady")
        ],
    }
    objects.merge("Instance", "acme-1", {"status": served}, status=True)
    shown = await mirrored(ready, uid, status="running")
    assert (shown["app_url"], shown["deployed_version"]) == ("https://acme.example", "1.0")
    health = (await ready.get(f"{path}/health")).json()
    assert health["healthy"] is True and health["components"][0]["health"] == "healthy"
    drift = (await ready.get(f"{path}/drift")).json()
    assert drift["in_sync"] is True and drift["last_repaired"] == "web was stopped"

    history = (await ready.get(f"{path}/events", params={"order_dir": "asc", "limit": 100})).json()["items"]
    told = [(e["event"], e["subject"], e["before"], e["after"]) for e in history]
    assert told[0] == ("instance.created", "", None, "provisioned")
    for line in [
        ("instance.status_changed", "", "provisioned", "deploying"),
        ("instance.status_changed", "", "deploying", "running"),
        ("instance.step_changed", "images", None, "Running"),
        ("instance.step_changed", "images", "Running", "Succeeded"),
        ("instance.condition_changed", "Ready", "False", "True"),
        ("instance.release_changed", "", None, "erp-1"),
        ("instance.drift_repaired", "", None, None),
    ]:
        assert told.count(line) == 1, (line, told)
    only = (await ready.get(f"{path}/events", params={"event": "instance.step_changed"})).json()
    assert {e["event"] for e in only["items"]} == {"instance.step_changed"} and only["count"] == 3


async def test_lists_filter_and_page(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    for name in ("ant", "bee", "cat"):
        objects.create(instance(name, settings={"sectorType": "NGO"} if name == "cat" else {}))

    async def names(**query: str | int) -> list[str]:
        answer = await ready.get("/api/v1/instances", params={"order_by": "name", "order_dir": "asc", **query})
        assert answer.status_code == 200, answer.text
        return [item["name"] for item in answer.json()["items"]]

    async def all_three() -> bool:
        return len(await names()) == 3

    await until(all_three)
    assert await names(org_code="BEE") == ["bee"] and await names(sector_type="NGO") == ["cat"]
    assert await names(search="EE l") == ["bee"] and await names(status="running") == []
    assert await names(offset=1, limit=1) == ["bee"]
    for wrong in ({"limit": 0}, {"limit": 101}, {"offset": -1}, {"status": "odd"}, {"order_by": "x; drop"}):
        assert (await ready.get("/api/v1/instances", params=wrong)).status_code == 422


async def test_other_organisations_do_not_exist(
    ready: httpx.AsyncClient, app: FastAPI, accounts: Accounts, objects: Objects
) -> None:
    server_id = catalog(objects)
    other_server = objects.create(server("host-2"))["metadata"]["uid"]
    mine = objects.create(instance("mine"))["metadata"]["uid"]
    theirs = objects.create(instance("theirs", serverRef={"name": "host-2"}))["metadata"]["uid"]
    await mirrored(ready, mine, server_id=server_id)
    await mirrored(ready, theirs, server_id=other_server)
    account = await accounts.make("admin", organisations=["MINE"])
    async with signed_in(app, account) as client:
        listed = (await client.get("/api/v1/instances")).json()
        assert [i["name"] for i in listed["items"]] == ["mine"] and listed["count"] == 1
        assert (await client.get(f"/api/v1/instances/{mine}")).status_code == 200
        paths = ("", "/steps", "/plan", "/events", "/drift", "/health", "/domains", "/stream")
        for path in paths:
            assert (await client.get(f"/api/v1/instances/{theirs}{path}")).status_code == 404, path
        writes: list[tuple[str, str, Any]] = [
            ("PATCH", "", {"org_name": "x"}),
            ("DELETE", "", None),
            ("POST", "/deploy", None),
            ("POST", "/restart", None),
            ("POST", "/reconfigure", {"org_name": "x"}),
            ("PUT", "/version", {"release": "erp-2"}),
            ("PUT", "/plan", {"plan": "professional"}),
            ("PUT", "/flags/a", {"enabled": True}),
            ("PUT", "/modules/a", None),
            ("POST", "/domains", {"host": "x.example"}),
        ]
        for method, path, body in writes:
            answer = await client.request(method, f"/api/v1/instances/{theirs}{path}", json=body)
            assert answer.status_code == 404, (path, answer.text)
        foreign = await client.post("/api/v1/instances", json={**BODY, "org_code": "THEIRS2"})
        assert (foreign.status_code, foreign.json()["details"][0]["field"]) == (403, "body.org_code")
        assert [s["name"] for s in (await client.get("/api/v1/servers")).json()["items"]] == ["host-1"]
        assert (await client.get(f"/api/v1/servers/{other_server}")).status_code == 404
        assert (await client.patch(f"/api/v1/servers/{server_id}", json={"schedulable": False})).status_code == 403
        assert (await client.patch(f"/api/v1/servers/{other_server}", json={"schedulable": False})).status_code == 404
        deployed = await client.post(f"/api/v1/instances/{mine}/deploy")
        assert deployed.status_code == 202, deployed.text
    names = {i["metadata"]["name"]: i for i in objects.list("Instance")}
    assert "platform.dotmac.io/requested-by" not in (names["theirs"]["metadata"].get("annotations") or {})


async def test_who_is_limited_reaches_no_secret_and_no_server_of_others(
    ready: httpx.AsyncClient, app: FastAPI, accounts: Accounts, objects: Objects
) -> None:
    """Secrets of all tenants and the servers' SSH keys are in one namespace; an environment would show them."""
    server_id = catalog(objects)
    objects.create(server("host-2"))
    allowed = {"name": "mine-mail", "key": "password"}
    mine = objects.create(instance("mine", env=[{"name": "MAIL", "secretKeyRef": allowed}]))["metadata"]["uid"]
    await mirrored(ready, mine, server_id=server_id)
    path, ssh = f"/api/v1/instances/{mine}", {"name": "ssh", "key": "ssh-privatekey"}
    kept, stolen = {"name": "MAIL", "secret": allowed}, {"name": "X", "secret": ssh}
    new = {**BODY, "org_code": "MINE2"}
    async with signed_in(app, await accounts.make("admin", organisations=["MINE", "MINE2"])) as limited:
        tries = [
            ("PATCH", path, {"env": [kept, stolen]}, "body.env.1.secret"),
            ("POST", f"{path}/reconfigure", {"env": [{"name": "MAIL", "secret": ssh}]}, "body.env.0.secret"),
            ("POST", "/api/v1/instances", {**new, "env": [stolen]}, "body.env.0.secret"),
            ("POST", "/api/v1/instances", {**new, "server": "host-2"}, "body.server"),
            ("POST", "/api/v1/instances", {**new, "server": "host-3"}, "body.server"),
        ]
        for method, where, body, field in tries:
            answer = await limited.request(method, where, json=body)
            assert (answer.status_code, answer.json()["details"][0]["field"]) == (422, field), answer.text
        same = await limited.patch(
            path, json={"env": [kept, {"name": "PLAIN", "value": "1"}]}, params={"force": "true"}
        )
        assert same.status_code == 202, same.text
        cloned = await limited.post(f"{path}/clone", json={"org_code": "MINE2"})
        assert cloned.status_code == 202, cloned.text
    assert (await ready.patch(path, json={"env": [kept, stolen]}, params={"force": "true"})).status_code == 202


async def test_permissions(ready: httpx.AsyncClient, app: FastAPI, accounts: Accounts, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready)
    async with signed_in(app, await accounts.make("auditor")) as auditor:
        assert (await auditor.get(f"/api/v1/instances/{uid}")).status_code == 200
        assert (await auditor.post(f"/api/v1/instances/{uid}/deploy")).status_code == 403
    async with signed_in(app, await accounts.make("support")) as support:
        assert (await support.post(f"/api/v1/instances/{uid}/restart")).status_code == 202
        assert (await support.patch(f"/api/v1/instances/{uid}", json={"org_name": "x"})).status_code == 403
    async with signed_in(app, await accounts.make("operator")) as operator:
        assert (await operator.delete(f"/api/v1/instances/{uid}")).status_code == 403
    async with signed_in(app, await accounts.make()) as nobody:
        assert (await nobody.get("/api/v1/instances")).status_code == 403


async def test_the_catalog(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)

    async def found() -> list[dict[str, Any]]:
        releases: list[dict[str, Any]] = (await ready.get("/api/v1/releases", params={"yanked": False})).json()["items"]
        return releases if len(releases) == 2 else []

    releases = await until(found)
    assert {(r["name"], r["version"]) for r in releases} == {("erp-1", "1.0"), ("erp-2", "2.0")}
    one = await ready.get(f"/api/v1/releases/{releases[0]['release_id']}")
    assert one.json()["roles"] == ["web"] and one.headers["etag"]
    plans = (await ready.get("/api/v1/plans", params={"order_by": "name", "order_dir": "asc"})).json()["items"]
    assert [(p["name"], p["max_users"], p["max_storage"]) for p in plans][1] == ("starter", 10, "5Gi")
    assert (await ready.get(f"/api/v1/plans/{plans[0]['plan_id']}")).status_code == 200
    for path in ("releases", "plans"):
        assert (await ready.get(f"/api/v1/{path}/{uuid.uuid4()}")).status_code == 404
