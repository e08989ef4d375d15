"""States, tags, maintenance windows, trials and approvals of an instance."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.api.conftest import Account, Accounts, signed_in
from tests.api.fleet.test_instances import BODY, catalog, made, mirrored
from tests.kits.mirrored import Objects, until
from tests.kits.resources import condition, instance, plan

pytestmark = pytest.mark.services

PREFIX = "platform.dotmac.io/"


def spec_of(objects: Objects, name: str = "acme-1") -> dict[str, Any]:
    found: dict[str, Any] = objects.cluster.client.get(objects.path("Instance", name)).json()["spec"]
    return found


def notes_of(objects: Objects, name: str = "acme-1") -> dict[str, str]:
    found: dict[str, Any] = objects.cluster.client.get(objects.path("Instance", name)).json()["metadata"]
    return found.get("annotations") or {}


async def written(client: httpx.AsyncClient, method: str, path: str, body: Any = None, status: int = 202) -> Any:
    """The answer of a write, once the mirror shows it."""
    answer = await client.request(method, f"/api/v1/instances/{path}", json=body)
    assert answer.status_code == status, (path, answer.text)
    if status == 202:
        await mirrored(client, path.split("/")[0], resource_version=answer.json()["resource_version"])
    return answer.json()


async def test_states(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready)
    for action, state in (("suspend", "Suspended"), ("suspend", "Suspended"), ("archive", "Archived")):
        shown = await written(ready, "POST", f"{uid}/{action}")
        assert shown["state"] == state == spec_of(objects)["state"]
    refused = await written(ready, "POST", f"{uid}/suspend", status=409)
    assert refused["code"] == "archived" and "reactivate" in refused["message"]
    assert (await written(ready, "POST", f"{uid}/reactivate"))["state"] == "Running" == spec_of(objects)["state"]
    await written(ready, "PATCH", uid, {"state": "Archived"}, status=422)

    since = "2026-11-22T10:00:00Z"
    status = {"phase": "Suspended", "conditions": [condition("Suspended", "True", "Suspended", since)]}
    objects.merge("Instance", "acme-1", {"spec": {"state": "Suspended"}})
    objects.merge("Instance", "acme-1", {"status": status}, status=True)
    shown = await mirrored(ready, uid, status="suspended")
    assert (shown["suspended_at"], shown["archived_at"]) == (since, None)
    listed = (await ready.get("/api/v1/instances", params={"status": "suspended"})).json()
    assert listed["count"] == 1
    status = {"phase": "Archived", "conditions": [condition("Suspended", "True", "Archived", since)]}
    objects.merge("Instance", "acme-1", {"status": status}, status=True)
    shown = await mirrored(ready, uid, status="archived")
    assert (shown["suspended_at"], shown["archived_at"]) == (None, since)


async def test_trials_end_when_they_are_told_to(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready, trial_expires_at="2027-01-01T01:00:00.5+01:00")
    assert spec_of(objects)["trial"] == {"expiresAt": "2027-01-01T00:00:00+00:00"}
    objects.merge("Instance", "acme-1", {"status": {"phase": "Running"}}, status=True)
    shown = await mirrored(ready, uid, status="trial")
    assert shown["trial_expires_at"] == "2027-01-01T00:00:00Z"
    await written(ready, "PATCH", uid, {"trial_expires_at": None})
    assert "trial" not in spec_of(objects)
    await mirrored(ready, uid, status="running", trial_expires_at=None)


async def test_how_changes_are_put_in_place(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready)
    body = {"update_strategy": "Recreate", "pre_backup": False, "health_timeout": 90, "final_backup": True}
    shown = await written(ready, "PATCH", uid, body)
    assert {k: shown[k] for k in body} == body
    assert spec_of(objects)["update"] == {"strategy": "Recreate", "preBackup": False, "healthTimeout": 90}
    await written(ready, "PATCH", uid, dict.fromkeys(body))
    assert not spec_of(objects).get("update") and spec_of(objects)["deletion"]["finalBackup"] is False


async def test_tags(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready, tags={"team": "blue", "note": ""})
    shown = await written(ready, "PUT", f"{uid}/tags/cost.centre-1", {"value": "Ünit 7"})
    assert shown["tags"] == {"cost.centre-1": "Ünit 7", "note": "", "team": "blue"}
    assert notes_of(objects)[f"tag.{PREFIX}team"] == "blue"
    # The longest there may be, as Kubernetes bounds the names of annotations, too.
    await written(ready, "PUT", f"{uid}/tags/{'k' * 60}", {"value": "v" * 200})
    await written(ready, "DELETE", f"{uid}/tags/team")
    assert f"tag.{PREFIX}team" not in notes_of(objects)
    for method, key, body, status in [
        ("DELETE", "team", None, 404),
        ("PUT", "k" * 61, {"value": "x"}, 422),
        ("PUT", "-k", {"value": "x"}, 422),
        ("PUT", "a%2Fb", {"value": "x"}, 404),
        ("PUT", "k", {"value": "v" * 201}, 422),
        ("PUT", "k", {"value": "two\nlines"}, 422),
        ("PUT", "k", {"value": 1}, 422),
    ]:
        await written(ready, method, f"{uid}/tags/{key}", body, status)
    objects.apply(instance("theirs") | {"metadata": {"name": "theirs", "namespace": "default"}}, "kubectl")
    theirs = objects.merge("Instance", "theirs", {"metadata": {"annotations": {f"tag.{PREFIX}own": "1"}}})
    await mirrored(ready, theirs["metadata"]["uid"], tags={"own": "1"})
    kept = await written(ready, "DELETE", f"{theirs['metadata']['uid']}/tags/own", status=409)
    assert kept["code"] == "field_conflict"


async def test_maintenance_windows(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    objects.create(plan("nightly", defaults={"maintenanceWindows": [{"start": "01:00", "duration": 60}]}))
    uid = await made(ready, plan="nightly")
    path = f"/api/v1/instances/{uid}/maintenance-windows"

    async def inherited() -> Any:
        return (await ready.get(path)).json()["items"]

    [of_plan] = await until(inherited)
    assert of_plan["inherited"] and len(of_plan["days"]) == 7
    first = {"days": ["Sun", "Sat"], "start": "22:30", "duration": 120, "timezone": "Africa/Lagos"}
    shown = await written(ready, "POST", f"{uid}/maintenance-windows", first)
    assert shown["maintenance_windows"][0]["days"] == ["Sat", "Sun"]
    await written(ready, "POST", f"{uid}/maintenance-windows", {"start": "03:00", "duration": 30})
    again = await written(ready, "POST", f"{uid}/maintenance-windows", first | {"days": ["Sat", "Sun"]}, status=409)
    assert again["code"] == "already_exists"
    items = (await ready.get(path)).json()["items"]
    assert [(w["start"], w["inherited"]) for w in items] == [("22:30", False), ("03:00", False)]
    for wrong, field in [
        ({"start": "3:00", "duration": 30}, "body.start"),
        ({"start": "03:00", "duration": 0}, "body.duration"),
        ({"start": "03:00", "duration": 30, "timezone": "Mars/Olympus"}, "body.timezone"),
        ({"start": "03:00", "duration": 30, "days": ["Mon", "Mon"]}, "body.days"),
        ({"start": "03:00", "duration": 30, "days": []}, "body.days"),
    ]:
        refused = await written(ready, "POST", f"{uid}/maintenance-windows", wrong, status=422)
        assert refused["details"][0]["field"] == field
    for item in items:
        await written(ready, "DELETE", f"{uid}/maintenance-windows/{item['id']}")
    await written(ready, "DELETE", f"{uid}/maintenance-windows/{items[0]['id']}", status=404)
    assert not spec_of(objects).get("maintenanceWindows")
    assert (await ready.get(path)).json()["items"] == [of_plan]


async def test_windows_of_others_are_kept_also_by_force(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    theirs = {"start": "01:00", "duration": 60}
    uid = objects.apply(instance("theirs", maintenanceWindows=[theirs]), "kubectl")["metadata"]["uid"]
    await mirrored(ready, uid)
    path = f"{uid}/maintenance-windows"
    refused = await written(ready, "POST", path, {"start": "05:00", "duration": 30}, status=409)
    assert refused["details"][0]["field"] == "body.maintenance_windows"
    await written(ready, "POST", f"{path}?force=true", {"start": "05:00", "duration": 30})
    assert [w["start"] for w in spec_of(objects, "theirs")["maintenanceWindows"]] == ["01:00", "05:00"]


async def test_a_clone_has_the_configuration_and_says_what_it_lacks(
    ready: httpx.AsyncClient, app: FastAPI, accounts: Accounts, objects: Objects
) -> None:
    catalog(objects)
    body = {
        "features": {"beta": True},
        "modules": ["core", "gl"],
        "tags": {"team": "blue"},
        "settings": {"vatRate": "7.5"},
        "currency": "EUR",
        "env": [{"name": "A", "value": " x "}, {"name": "B", "secret": {"name": "s", "key": "k"}}],
        "domains": [{"host": "acme.example"}],
        "maintenance_windows": [{"start": "01:00", "duration": 60}],
        "trial_expires_at": "2027-01-01T00:00:00Z",
        "update_strategy": "Recreate",
    }
    uid = await made(ready, **body)
    answer = await ready.post(f"/api/v1/instances/{uid}/clone", json={"org_code": "COPY", "org_name": "Copy Ltd"})
    assert answer.status_code == 202, answer.text
    assert {"data", "domains", "credentials"} <= set(answer.json()["not_copied"])
    source, copy = spec_of(objects), spec_of(objects, "copy")
    for name in ("releaseRef", "classRef", "serverRef", "settings", "env", "features", "modules", "update"):
        assert copy[name] == source[name], name
    assert copy["maintenanceWindows"] == source["maintenanceWindows"]
    assert (copy["orgCode"], copy["orgName"]) == ("COPY", "Copy Ltd")
    assert not copy.get("domains") and "trial" not in copy
    assert notes_of(objects, "copy")[f"tag.{PREFIX}team"] == "blue"

    old = {"If-Match": '"1"'}
    stale = await ready.post(f"/api/v1/instances/{uid}/clone", json={"org_code": "LATE"}, headers=old)
    assert stale.status_code == 412
    again = await ready.post(f"/api/v1/instances/{uid}/clone", json={"org_code": "COPY"})
    assert (again.status_code, again.json()["code"]) == (409, "already_exists")
    wrong = await ready.post(f"/api/v1/instances/{uid}/clone", json={"org_code": "X1", "data": True})
    assert (wrong.status_code, wrong.json()["details"][0]["field"]) == (422, "body.data")
    async with signed_in(app, await accounts.make("operator", organisations=["ACME_1"])) as limited:
        foreign = await limited.post(f"/api/v1/instances/{uid}/clone", json={"org_code": "OTHER"})
        assert (foreign.status_code, foreign.json()["details"][0]["field"]) == (403, "body.org_code")


async def test_no_window_is_any_time_and_a_forced_change_forces_no_later_one(
    ready: httpx.AsyncClient, objects: Objects
) -> None:
    catalog(objects)
    objects.create(plan("nightly", defaults={"maintenanceWindows": [{"start": "01:00", "duration": 60}]}))
    uid = await made(ready, plan="nightly", maintenance_windows=[])
    assert (await ready.get(f"/api/v1/instances/{uid}/maintenance-windows")).json()["items"] == []
    await written(ready, "POST", f"{uid}/deploy", {"release": "erp-2", "force_window": True})
    assert notes_of(objects)[f"{PREFIX}force-window"] == "true" and spec_of(objects)["releaseRef"]["name"] == "erp-2"
    await written(ready, "PUT", f"{uid}/tags/a", {"value": "b"})
    assert f"{PREFIX}force-window" in notes_of(objects)
    await written(ready, "PUT", f"{uid}/flags/a", {"enabled": True})
    assert f"{PREFIX}force-window" not in notes_of(objects)


async def waiting(objects: Objects, plan_hash: str = "ab12", at: str | None = None) -> None:
    """Lets the Instance look as the operator leaves it while it waits for an approval."""
    meta = objects.cluster.client.get(objects.path("Instance", "acme-1")).json()["metadata"]
    at = at or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = {
        "observedGeneration": meta["generation"],
        "lastHandledReconcileAt": (meta.get("annotations") or {}).get(f"{PREFIX}reconcile-requested-at"),
        "plan": {"hash": plan_hash, "actions": [{"step": "start", "action": "replace web", "reason": "image"}]},
        "conditions": [condition("ApprovalNeeded", "True", "WaitsForApproval", at)],
    }
    objects.merge("Instance", "acme-1", {"status": status}, status=True)


async def in_sync(objects: Objects) -> None:
    await waiting(objects)
    done = {"plan": {"hash": "00", "actions": []}, "conditions": [condition("ApprovalNeeded", "False", "InSync")]}
    objects.merge("Instance", "acme-1", {"status": done}, status=True)


@pytest.fixture
async def two(app: FastAPI, accounts: Accounts) -> tuple[Account, Account]:
    return await accounts.make("operator"), await accounts.make("operator")


async def test_a_change_is_approved_by_somebody_else(
    ready: httpx.AsyncClient, app: FastAPI, two: tuple[Account, Account], objects: Objects
) -> None:
    catalog(objects)
    uid = await made(ready, approval="Required")
    path = f"{uid}/approvals/ab12/approve"
    async with signed_in(app, two[0]) as asker, signed_in(app, two[1]) as other:
        await written(asker, "PUT", f"{uid}/version", {"release": "erp-2"})
        early = await written(other, "POST", path, status=409)
        assert early["code"] == "nothing_to_approve"
        await waiting(objects)
        own = await written(asker, "POST", path, status=403)
        assert own["code"] == "own_change"
        # To note something else in between changes nothing about who asked.
        await written(other, "PUT", f"{uid}/tags/seen", {"value": "yes"})
        await written(asker, "POST", path, status=403)
        stale = await written(other, "POST", f"{uid}/approvals/ab13/approve", status=409)
        assert stale["code"] == "plan_changed"
        await mirrored(other, uid, observedGeneration=spec_generation(objects))
        before = (await other.get(f"/api/v1/instances/{uid}/plan")).json()
        assert (before["approval_needed"], before["approved_by"]) == (True, None)
        await written(other, "POST", path)
        assert notes_of(objects)[f"{PREFIX}approve"] == "ab12"
        after = (await other.get(f"/api/v1/instances/{uid}/plan")).json()
        assert after["approval_needed"] is False and two[1].username in after["approved_by"]


def spec_generation(objects: Objects) -> int:
    return int(objects.cluster.client.get(objects.path("Instance", "acme-1")).json()["metadata"]["generation"])


async def test_all_who_asked_since_it_was_in_sync_need_a_further_person(
    ready: httpx.AsyncClient, app: FastAPI, two: tuple[Account, Account], objects: Objects
) -> None:
    catalog(objects)
    uid = await made(ready, approval="Required")
    await in_sync(objects)
    path = f"{uid}/approvals/ab12/approve"
    async with signed_in(app, two[0]) as one, signed_in(app, two[1]) as other:
        await written(one, "PUT", f"{uid}/version", {"release": "erp-2"})
        await waiting(objects)
        await written(other, "PUT", f"{uid}/plan", {"plan": "professional"})
        # The operator has not looked at the second change yet: this hash is of the first.
        changed = await written(ready, "POST", path, status=409)
        assert changed["code"] == "plan_changed"
        await waiting(objects)
        for client in (one, other):
            assert (await written(client, "POST", path, status=403))["code"] == "own_change"
        await written(ready, "POST", path)
        await in_sync(objects)
        await written(one, "POST", f"{uid}/restart")
        await waiting(objects, "cd34")
        assert notes_of(objects)[f"{PREFIX}change-requested-by"] == str(two[0].person_id)
        await written(other, "POST", f"{uid}/approvals/cd34/approve")


async def test_what_waited_a_week_is_asked_for_again(
    ready: httpx.AsyncClient, app: FastAPI, two: tuple[Account, Account], objects: Objects
) -> None:
    catalog(objects)
    uid = await made(ready)
    old = datetime.now(UTC) - timedelta(days=8)
    note = {f"{PREFIX}change-requested-at": old.isoformat()}
    objects.merge("Instance", "acme-1", {"metadata": {"annotations": note}})
    await waiting(objects, at=old.strftime("%Y-%m-%dT%H:%M:%SZ"))
    path = f"{uid}/approvals/ab12/approve"
    async with signed_in(app, two[0]) as one, signed_in(app, two[1]) as other:
        assert (await written(other, "POST", path, status=409))["code"] == "approval_expired"
        await written(one, "POST", f"{uid}/deploy?force=true")
        await waiting(objects, at=old.strftime("%Y-%m-%dT%H:%M:%SZ"))
        await written(other, "POST", path)


async def test_only_an_administrator_does_without_approvals(
    ready: httpx.AsyncClient, app: FastAPI, two: tuple[Account, Account], objects: Objects
) -> None:
    catalog(objects)
    uid = await made(ready)
    async with signed_in(app, two[0]) as operator:
        shown = await written(operator, "PUT", f"{uid}/tags/requires_approval", {"value": "true"})
        assert shown["approval"] == "Required" == spec_of(objects)["approval"]
        for method, path, body in [
            ("DELETE", f"{uid}/tags/requires_approval", None),
            ("PUT", f"{uid}/tags/requires_approval", {"value": "false"}),
            ("PATCH", uid, {"approval": "None"}),
            ("PATCH", uid, {"approval": None}),
            ("POST", f"{uid}/reconfigure", {"approval": "None"}),
        ]:
            await written(operator, method, path, body, status=403)
        assert spec_of(objects)["approval"] == "Required"
    await written(ready, "DELETE", f"{uid}/tags/requires_approval")
    assert spec_of(objects)["approval"] == "None"


async def test_the_platform_decides_what_is_left_open(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    bare = {k: v for k, v in BODY.items() if k != "server"}
    assert (await ready.put("/api/v1/settings/platform/base_domain", json={"value": "erp.example"})).status_code == 200
    answer = await ready.post("/api/v1/instances", json=BODY)
    assert answer.status_code == 202, answer.text
    assert spec_of(objects)["domains"] == [{"host": "acme-1.erp.example"}]
    objects.merge("Server", "host-1", {"spec": {"baseDomain": "own.example"}})
    answer = await ready.post("/api/v1/instances", json=BODY | {"org_code": "OWN"})
    assert answer.status_code == 202 and not spec_of(objects, "own").get("domains")

    answer = await ready.post("/api/v1/instances", json=bare | {"org_code": "ANY"})
    assert answer.status_code == 202 and "placement" in spec_of(objects, "any")
    value = {"value": "explicit"}
    assert (await ready.put("/api/v1/settings/platform/default_server_strategy", json=value)).status_code == 200
    refused = await ready.post("/api/v1/instances", json=bare | {"org_code": "NONE"})
    assert (refused.status_code, refused.json()["details"][0]["field"]) == (422, "body.server")
    chosen = await ready.post("/api/v1/instances", json=bare | {"org_code": "CHOSEN", "placement": {}})
    assert chosen.status_code == 202


async def test_concurrent_changes_lose_nobody_who_asked(
    ready: httpx.AsyncClient, app: FastAPI, two: tuple[Account, Account], objects: Objects
) -> None:
    catalog(objects)
    uid = await made(ready, approval="Required")
    await waiting(objects)
    async with signed_in(app, two[0]) as one, signed_in(app, two[1]) as other:
        changes = [
            client.put(f"/api/v1/instances/{uid}/flags/{name}", json={"enabled": True})
            for name, client in (("a", one), ("b", other), ("c", one), ("d", other))
        ]
        answers = await asyncio.gather(*changes)
    assert {answer.status_code for answer in answers} <= {202, 409}
    asked = notes_of(objects)[f"{PREFIX}change-requested-by"].split(",")
    assert set(asked) >= {str(two[n % 2].person_id) for n, answer in enumerate(answers) if answer.status_code == 202}
