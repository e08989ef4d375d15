"""A deployment followed to its end, and the walk over every route of one instance as a stranger to its organisation."""

import asyncio
import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.api.conftest import Accounts, signed_in
from tests.api.fleet.test_instances import catalog, made, mirrored
from tests.api.fleet.test_stream import streaming
from tests.kits.mirrored import Objects, until
from tests.kits.resources import backup, condition, instance, restore

from dotmac_api.access import guards

pytestmark = pytest.mark.services

STEPS = ("preflight", "secrets", "backup", "images", "infra", "migrate", "start", "bootstrap", "route", "verify")
ALL_GOOD = ("Ready", "InSync", "DatabaseReady", "AppHealthy", "RouteReady")


def at(done: int, running: bool) -> dict[str, Any]:
    """The status as the operator writes it when `done` steps are behind it."""
    moment = "2026-11-22T10:00:00Z"
    steps = [{"name": name, "state": "Succeeded", "startedAt": moment, "finishedAt": moment} for name in STEPS[:done]]
    if running:
        steps.append({"name": STEPS[done], "state": "Running", "startedAt": moment})
    steps += [{"name": name, "state": "Pending"} for name in STEPS[len(steps) :]]
    return {"phase": "Deploying", "step": f"{done}/10", "steps": steps, "observedGeneration": 1}


async def deploying(objects: Objects, token: str) -> None:
    """What the operator reports, step by step, as its passes do."""
    for done in range(len(STEPS)):
        for running in (True, False):
            status = at(done + (not running), running)
            await asyncio.to_thread(objects.merge, "Instance", "acme-1", {"status": status}, status=True)
    end = at(10, False) | {
        "phase": "Running",
        "lastHandledReconcileAt": token,
        "release": {"current": "erp-1", "currentVersion": "1.0"},
        "conditions": [condition(type_, "True") for type_ in ALL_GOOD],
    }
    await asyncio.to_thread(objects.merge, "Instance", "acme-1", {"status": end}, status=True)


async def test_a_deployment_is_followed_to_its_end_by_events_and_by_polling(
    ready: httpx.AsyncClient, accounts: Accounts, served: str, objects: Objects
) -> None:
    catalog(objects)
    uid = await made(ready)
    deployed = (await ready.post(f"/api/v1/instances/{uid}/deploy")).json()
    token = deployed["reconcile_requested_at"]
    await mirrored(ready, uid, reconcile_requested_at=token)
    assert (await ready.get(f"/api/v1/instances/{uid}/steps")).json()["outcome"] == "running"
    seen: dict[str, list[str]] = {name: [] for name in STEPS}
    async with streaming(served, await accounts.make("operator"), f"/instances/{uid}/stream") as stream:
        await stream.next()
        reports = asyncio.create_task(deploying(objects, token))
        while True:
            told = (await stream.next())["data"]
            for step in told["steps"]:
                if seen[step["name"]][-1:] != [step["status"]]:
                    seen[step["name"]].append(step["status"])
            if told["last_handled_reconcile_at"] == token and told["status"] == "running":
                break
        await reports
    # One version may hold several changes; in between, none goes backwards.
    order = ["pending", "running", "success"]
    for name, states in seen.items():
        assert states[-1] == "success" and states == sorted(states, key=order.index), (name, states)
    polled = (await ready.get(f"/api/v1/instances/{uid}/steps")).json()
    assert (polled["outcome"], polled["step"]) == ("succeeded", "10/10")
    assert [(s["name"], s["status"]) for s in polled["steps"]] == [(name, "success") for name in STEPS]
    query: dict[str, str | int] = {"event": "instance.step_changed", "limit": 100}
    history = (await ready.get(f"/api/v1/instances/{uid}/events", params=query)).json()["items"]
    assert {e["subject"] for e in history if e["after"] == "Succeeded"} == set(STEPS)


async def test_a_deployment_that_fails_is_seen_to_have_ended(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready)
    status = at(6, True) | {"phase": "Stalled", "conditions": [condition("Stalled", "True", "MigrateFailed")]}
    status["steps"][6] |= {"state": "Failed", "finishedAt": "2026-11-22T10:00:00Z", "message": "exit code 1"}
    objects.merge("Instance", "acme-1", {"status": status}, status=True)

    async def failed() -> bool:
        return bool((await ready.get(f"/api/v1/instances/{uid}/steps")).json()["outcome"] == "failed")

    await until(failed)


async def test_no_route_of_an_instance_shows_or_changes_another_organisations(
    ready: httpx.AsyncClient, app: FastAPI, accounts: Accounts, objects: Objects
) -> None:
    """Walked from the routes, so that a new one is covered: the instance is looked up before anything else is read."""
    catalog(objects)
    uid = objects.create(instance("theirs"))["metadata"]["uid"]
    await mirrored(ready, uid)
    examples = {
        "instance_id": uid,
        "host": "a.example",
        "key": "abc",
        "name": "gl",
        "hash": "ab",
        "window_id": "0" * 12,
        "backup_id": objects.create(backup(of="theirs"))["metadata"]["uid"],
        "restore_id": objects.create(restore(of="theirs"))["metadata"]["uid"],
    }
    before = [objects.list(kind) for kind in ("Instance", "Backup", "Restore")]
    routes = [(method, path) for method, path in guards(app) if "{instance_id}" in path]
    assert len(routes) > 30
    async with signed_in(app, await accounts.make("admin", organisations=["MINE"])) as stranger:
        for method, path in routes:
            where = re.sub(r"\{(\w+)\}", lambda found: examples[found[1]], path)
            answer = await stranger.request(method, where)
            assert answer.status_code == 404 and answer.json()["code"] == "not_found", (method, path, answer.text)
    assert [objects.list(kind) for kind in ("Instance", "Backup", "Restore")] == before
