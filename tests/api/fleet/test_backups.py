"""Backups and restores of an instance: what is asked for, what is refused, and how it is followed."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.api.conftest import Accounts, signed_in
from tests.api.fleet.test_instances import catalog, made
from tests.api.fleet.test_stream import Stream, streaming
from tests.kits.controlplane import ControlPlane
from tests.kits.fakes import QUICK
from tests.kits.mirrored import Objects, projecting, rows, until, until_equal
from tests.kits.operated import Operated
from tests.kits.resources import backup, condition, instance, plan, release, restore, server
from tests.kits.tenant import SERVER

from dotmac_api.mirror.models import BackupRow, TransitionRow
from dotmac_api.mirror.projection import project
from dotmac_api.mirror.store import MirrorStore, Version

pytestmark = pytest.mark.services

START, END = "2026-11-22T10:00:00Z", "2026-11-22T10:00:07Z"
DUMP = {"name": "acme/db.dump", "sha256": "a" * 64, "size": 1000, "kind": "Database"}
FILES = {"name": "acme/files.tar.gz", "sha256": "b" * 64, "size": 234, "kind": "Volume", "volume": "uploads"}


def complete(uid: str, org_code: str = "acme_1") -> dict[str, Any]:
    """The status of a Backup that the operator has made of this Instance."""
    return {
        "phase": "Completed",
        "observedGeneration": 1,
        "instanceUid": uid,
        "server": "host-1",
        "volume": f"dotmac-{org_code}-backups",
        "release": "erp-1",
        "releaseVersion": "1.0",
        "files": [DUMP, FILES],
        "size": 1234,
        "startedAt": START,
        "finishedAt": END,
        "conditions": [condition("Ready", "True", "Completed", END)],
    }


async def shown(client: httpx.AsyncClient, path: str, **wanted: Any) -> dict[str, Any]:
    """What GET answers, once it is so."""

    async def found() -> dict[str, Any] | None:
        answer = await client.get(f"/api/v1/instances/{path}")
        body: dict[str, Any] = answer.json()
        return body if answer.status_code == 200 and all(body[k] == v for k, v in wanted.items()) else None

    made: dict[str, Any] = await until(found)
    return made


async def post(client: httpx.AsyncClient, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
    """The answer of a POST that is accepted, once the mirror has it."""
    answer = await client.post(f"/api/v1/instances/{path}", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    told: dict[str, Any] = answer.json()
    noun = "restores" if "restore_id" in told else "backups"
    await shown(client, f"{told['instance_id']}/{noun}/{told.get('restore_id') or told['backup_id']}")
    return told


async def refused(client: httpx.AsyncClient, method: str, path: str, status: int, code: str, **more: Any) -> Any:
    answer = await client.request(method, f"/api/v1/instances/{path}", **more)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return answer.json()


async def backed_up(client: httpx.AsyncClient, objects: Objects, uid: str) -> dict[str, Any]:
    """A Backup that is complete."""
    told = await post(client, f"{uid}/backups")
    objects.merge("Backup", told["name"], {"status": complete(uid)}, status=True)
    return await shown(client, f"{uid}/backups/{told['backup_id']}", status="completed")


async def test_a_backup_is_asked_for_and_followed_to_its_end(
    ready: httpx.AsyncClient, objects: Objects, accounts: Accounts, app: FastAPI
) -> None:
    catalog(objects)
    uid = await made(ready)
    answer = await ready.post(f"/api/v1/instances/{uid}/backups", json={"type": "db_only"})
    told = answer.json()
    assert (answer.status_code, told["type"], told["status"], told["mirroredAt"]) == (202, "db_only", "pending", None)
    assert answer.headers["etag"] == f'"{told["resource_version"]}"'
    [live] = objects.list("Backup")
    assert live["spec"] == {"instanceRef": {"name": "acme-1"}, "type": "Database"}
    assert live["metadata"]["annotations"]["platform.dotmac.io/requested-by"] == told["requested_by"]
    path = f"{uid}/backups/{told['backup_id']}"
    first = await shown(ready, path, status="pending")
    assert (first["instance_id"], first["instance"], first["files"]) == (uid, "acme-1", [])

    running = {"phase": "Running", "startedAt": START, "message": "dumping"}
    objects.merge("Backup", told["name"], {"status": running}, status=True)
    assert (await shown(ready, path, status="running"))["message"] == "dumping"
    objects.merge("Backup", told["name"], {"status": complete(uid) | {"message": None}}, status=True)
    done = await shown(ready, path, status="completed")
    assert (done["size_bytes"], done["server"], done["release_version"]) == (1234, "host-1", "1.0")
    assert (done["started_at"], done["finished_at"], done["phase"]) == (START, END, "Completed")
    assert [(f["kind"], f["volume"], f["size_bytes"]) for f in done["files"]] == [
        ("database", None, 1000),
        ("volume", "uploads", 234),
    ]
    assert done["conditions"][0]["reason"] == "Completed" and done["observedGeneration"] == 1

    history = await ready.get(f"/api/v1/instances/{uid}/events", params={"order_dir": "asc", "limit": 100})
    told_of = [
        (e["event"], e["name"], e["subject"], e["at"]) for e in history.json()["items"] if "backup" in e["event"]
    ]
    name = told["name"]
    assert told_of == [
        ("backup.created", name, "acme-1", done["created_at"]),
        ("backup.started", name, "acme-1", START),
        ("backup.completed", name, "acme-1", END),
    ]
    only = await ready.get(f"/api/v1/instances/{uid}/events", params={"event": "backup.completed"})
    assert [e["uid"] for e in only.json()["items"]] == [told["backup_id"]]
    audited = (await ready.get("/api/v1/audit-events", params={"entity_id": told["backup_id"]})).json()["items"]
    assert [(e["entity_type"], e["action"]) for e in audited] == [
        ("backups", "POST /api/v1/instances/{instance_id}/backups")
    ]


async def test_lists_filter_order_and_page(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready)
    await made(ready, org_code="OTHER")
    for name, type_, size in (("one", "Full", 3), ("two", "Database", 1), ("three", "Full", None)):
        objects.create(backup(name, "acme-1", type=type_))
        if size is not None:
            objects.merge("Backup", name, {"status": complete(uid) | {"size": size}}, status=True)
    objects.create(backup("theirs", "other"))

    async def names(**query: str | int) -> list[str]:
        answer = await ready.get(f"/api/v1/instances/{uid}/backups", params={"order_by": "name", **query})
        assert answer.status_code == 200, answer.text
        return [item["name"] for item in answer.json()["items"]]

    async def all_there() -> bool:
        return await names() == ["two", "three", "one"] and await names(status="completed") == ["two", "one"]

    await until(all_there)
    assert await names(type="full", order_dir="asc") == ["one", "three"]
    assert await names(status="pending", type="db_only") == []
    assert await names(order_by="size_bytes", order_dir="asc", status="completed") == ["two", "one"]
    page = (await ready.get(f"/api/v1/instances/{uid}/backups", params={"limit": 1, "offset": 2})).json()
    assert (len(page["items"]), page["count"], page["limit"], page["offset"]) == (1, 3, 1, 2)
    for wrong, field in (("order_by=org_code", "order_by"), ("type=pre_deploy", "type"), ("status=ok", "status")):
        answer = await ready.get(f"/api/v1/instances/{uid}/backups?{wrong}")
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (422, f"query.{field}")


async def test_a_backup_is_restored_once_it_is_complete_and_one_at_a_time(
    ready: httpx.AsyncClient, objects: Objects
) -> None:
    catalog(objects)
    uid, other = await made(ready), await made(ready, org_code="OTHER")
    early = await post(ready, f"{uid}/backups")
    pending = await refused(ready, "POST", f"{uid}/backups/{early['backup_id']}/restore", 409, "not_completed")
    assert "pending" in pending["message"]
    done = await backed_up(ready, objects, uid)
    path = f"{uid}/backups/{done['backup_id']}"
    await refused(ready, "POST", f"{other}/backups/{done['backup_id']}/restore", 404, "not_found")
    stale = {"If-Match": '"1"'}
    await refused(ready, "POST", f"{path}/restore", 412, "precondition_failed", headers=stale)

    told = await post(ready, f"{path}/restore")
    assert (told["status"], told["backup_id"], told["backup"]) == ("pending", done["backup_id"], done["name"])
    [live] = objects.list("Restore")
    assert live["spec"] == {"instanceRef": {"name": "acme-1"}, "backupRef": {"name": done["name"]}}
    where = f"{uid}/restores/{told['restore_id']}"
    assert (await shown(ready, where))["backup_id"] == done["backup_id"]
    await refused(ready, "POST", f"{path}/restore", 409, "restore_running")
    await refused(ready, "DELETE", path, 409, "restore_running")
    running = {"phase": "Running", "step": "Replacing", "startedAt": START}
    objects.merge("Restore", told["name"], {"status": running}, status=True)
    assert (await shown(ready, where, status="running"))["step"] == "Replacing"
    ended = {"phase": "Failed", "step": None, "finishedAt": END, "message": "the checksum of db.dump differs"}
    objects.merge("Restore", told["name"], {"status": ended}, status=True)
    failed = await shown(ready, where, status="failed")
    assert failed["message"] == ended["message"] and failed["finished_at"] == END and failed["step"] is None

    again = await post(ready, f"{path}/restore")
    await refused(ready, "POST", f"{path}/restore", 409, "restore_running")
    assert (await ready.delete(f"/api/v1/instances/{uid}/restores/{again['restore_id']}")).status_code == 202
    await until(lambda: _gone(ready, f"{uid}/restores/{again['restore_id']}"))
    again = await post(ready, f"{path}/restore")
    listed = (await ready.get(f"/api/v1/instances/{uid}/restores", params={"order_by": "name"})).json()
    assert {r["restore_id"] for r in listed["items"]} == {told["restore_id"], again["restore_id"]}
    only = (await ready.get(f"/api/v1/instances/{uid}/restores", params={"status": "failed"})).json()
    assert [r["restore_id"] for r in only["items"]] == [told["restore_id"]]
    assert (await ready.get(f"/api/v1/instances/{other}/restores")).json()["count"] == 0
    await refused(ready, "GET", f"{other}/restores/{told['restore_id']}", 404, "not_found")
    history = await ready.get(f"/api/v1/instances/{uid}/events", params={"event": "restore.failed"})
    assert [(e["uid"], e["message"]) for e in history.json()["items"]] == [(told["restore_id"], ended["message"])]


async def test_only_an_administrator_deletes_a_backup(
    ready: httpx.AsyncClient, app: FastAPI, accounts: Accounts, objects: Objects
) -> None:
    catalog(objects)
    uid = await made(ready)
    done = await backed_up(ready, objects, uid)
    path = f"{uid}/backups/{done['backup_id']}"
    objects.merge("Backup", done["name"], {"metadata": {"finalizers": ["platform.dotmac.io/teardown"]}})
    async with signed_in(app, await accounts.make("operator")) as operator:
        for deleted in (path, f"{uid}/restores/{uuid.uuid4()}"):
            await refused(operator, "DELETE", deleted, 403, "forbidden")
        assert (await operator.get(f"/api/v1/instances/{path}")).status_code == 200
        assert (await post(operator, f"{uid}/backups"))["status"] == "pending"
    for role in ("support", "auditor"):
        async with signed_in(app, await accounts.make(role)) as reader:
            assert (await reader.get(f"/api/v1/instances/{uid}/backups")).json()["count"] == 2
            await refused(reader, "POST", f"{uid}/backups", 403, "forbidden")
            await refused(reader, "POST", f"{path}/restore", 403, "forbidden")
    await refused(ready, "DELETE", path, 412, "precondition_failed", headers={"If-Match": '"1"'})

    live = objects.cluster.client.get(objects.path("Backup", done["name"])).json()["metadata"]["resourceVersion"]
    answer = await ready.delete(f"/api/v1/instances/{path}", headers={"If-Match": f'"{live}"'})
    assert (answer.status_code, answer.json()["name"]) == (202, done["name"])
    going = await until(lambda: _going(ready, path))
    assert going["status"] == "completed", "its files are there until the operator has removed them"
    await refused(ready, "POST", f"{path}/restore", 409, "being_deleted")
    objects.merge("Backup", done["name"], {"metadata": {"finalizers": None}})
    await until(lambda: _gone(ready, path))
    history = (await ready.get(f"/api/v1/instances/{uid}/events", params={"event": "backup.deleted"})).json()
    assert [e["name"] for e in history["items"]] == [done["name"]]


async def _going(client: httpx.AsyncClient, path: str) -> dict[str, Any] | None:
    body: dict[str, Any] = (await client.get(f"/api/v1/instances/{path}")).json()
    return body if body["deletion_requested_at"] else None


async def test_what_cannot_be_backed_up_is_refused(ready: httpx.AsyncClient, objects: Objects) -> None:
    catalog(objects)
    uid = await made(ready)
    for body, field in (
        ({"type": "pre_deploy"}, "body.type"),
        ({"type": "Full"}, "body.type"),
        ({"type": None}, "body.type"),
        ({"name": "mine"}, "body.name"),
        ([], "body"),
    ):
        answer = await ready.post(f"/api/v1/instances/{uid}/backups", json=body)
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (422, field), body
    await refused(ready, "POST", f"{uid}/backups", 412, "precondition_failed", headers={"If-Match": '"1"'})
    await refused(ready, "POST", f"{uuid.uuid4()}/backups", 404, "not_found")
    assert objects.list("Backup") == []

    key = {"Idempotency-Key": "once"}
    twice = [await ready.post(f"/api/v1/instances/{uid}/backups", headers=key) for _ in range(2)]
    assert twice[0].json() == twice[1].json() and len(objects.list("Backup")) == 1
    assert objects.list("Backup")[0]["spec"]["type"] == "Full"

    objects.merge("Instance", "acme-1", {"metadata": {"finalizers": ["platform.dotmac.io/teardown"]}})
    objects.delete("Instance", "acme-1")

    async def leaving() -> bool:
        return bool((await ready.get(f"/api/v1/instances/{uid}")).json()["deletion_requested_at"])

    await until(leaving)
    await refused(ready, "POST", f"{uid}/backups", 409, "being_deleted")


async def test_another_tenants_instance_of_the_same_name_has_none_of_them(
    ready: httpx.AsyncClient, objects: Objects
) -> None:
    catalog(objects)
    old = await made(ready)
    done = await backed_up(ready, objects, old)
    await post(ready, f"{old}/backups/{done['backup_id']}/restore")
    pending = await post(ready, f"{old}/backups")
    objects.delete("Instance", "acme-1")
    # Times of creation are whole seconds.
    await asyncio.sleep(1.05)
    other = await made(ready, name="acme-1", org_code="OTHER")
    for noun in ("backups", "restores"):
        assert (await ready.get(f"/api/v1/instances/{other}/{noun}")).json()["count"] == 0
    await refused(ready, "POST", f"{other}/backups/{done['backup_id']}/restore", 404, "not_found")
    # The operator has come to the one that waited only now, and made it of this one.
    objects.merge("Backup", pending["name"], {"status": complete(other, "other")}, status=True)
    await shown(ready, f"{other}/backups/{pending['backup_id']}", instance_id=other)

    objects.delete("Instance", "acme-1")
    again = await made(ready)
    # Its data and its backups were kept on the host.
    assert (await shown(ready, f"{again}/backups/{done['backup_id']}", instance_id=again))["status"] == "completed"
    assert (await ready.get(f"/api/v1/instances/{again}/backups")).json()["count"] == 1


async def test_the_stream_of_an_instance_tells_of_its_backups_and_restores(
    ready: httpx.AsyncClient, served: str, accounts: Accounts, objects: Objects
) -> None:
    catalog(objects)
    uid = await made(ready)
    await made(ready, org_code="OTHER")
    mine = await accounts.make("admin", organisations=["ACME_1"])
    async with (
        streaming(served, mine, f"/instances/{uid}/stream") as one,
        streaming(served, mine) as all_of_mine,
    ):
        await one.next()
        await all_of_mine.until_open()
        streams = (one, all_of_mine)
        objects.create(backup("theirs", "other"))
        objects.create(backup("mine", "acme-1"))
        assert [await _told(stream) for stream in streams] == [("backup", "mine")] * 2
        objects.create(restore("back", "acme-1", "mine"))
        assert [await _told(stream) for stream in streams] == [("restore", "back")] * 2
        objects.delete("Backup", "mine")
        assert [await _told(stream) for stream in streams] == [("backup.deleted", "mine")] * 2
        last = (await post(ready, f"{uid}/backups"))["name"]
        event = await one.next()
        assert event["data"]["name"] == last
    # A new stream does not tell again what was before it; one that resumes tells what it has missed, of all of them.
    await post(ready, f"{uid}/backups")
    objects.merge("Instance", "acme-1", {"spec": {"orgName": "Later"}})
    await shown(ready, uid, org_name="Later")
    path = f"/instances/{uid}/stream"
    async with (
        streaming(served, mine, path) as new,
        streaming(served, mine, path, **{"Last-Event-ID": event["id"]}) as old,
    ):
        assert await _told(new) == ("instance", "acme-1")
        assert [(await _told(old))[0] for _ in range(2)] == ["backup", "instance"]
        objects.create(restore("back-again", "acme-1", "mine"))
        assert [await _told(stream) for stream in (new, old)] == [("restore", "back-again")] * 2


async def _told(stream: Stream) -> tuple[str, str]:
    event = await stream.next()
    return event["event"], event["data"]["name"]


async def test_whatever_is_mirrored_first_the_rows_find_each_other(
    engine: AsyncEngine, cluster: ControlPlane, objects: Objects
) -> None:
    owner = objects.create(instance())
    done = objects.create(backup())
    use = objects.create(restore())
    kinds = {"Instance": owner, "Backup": done, "Restore": use}
    for order in (
        ("Restore", "Backup", "Instance"),
        ("Instance", "Restore", "Backup"),
        ("Backup", "Instance", "Restore"),
    ):
        async with engine.begin() as connection:
            for model in ("restores", "backups", "instances"):
                await connection.exec_driver_sql(f"DELETE FROM {model}")  # noqa: S608 - fixed names
            for kind in order:
                version = Version(project({**kinds[kind], "kind": kind}))
                await MirrorStore(connection).record(kind, [version])
        [one], [other] = await rows(engine, "Backup"), await rows(engine, "Restore")
        assert str(one["instance_id"]) == str(other["instance_id"]) == owner["metadata"]["uid"], order
        assert (one["org_code"], other["org_code"]) == ("ACME", "ACME"), order
        assert str(other["backup_id"]) == done["metadata"]["uid"], order
    # And by a projector, from lists.
    async with projecting(engine, cluster):
        await until_equal(engine, objects)


async def test_history_names_the_organisation_so_that_webhooks_know_whom_to_tell(
    engine: AsyncEngine, cluster: ControlPlane, objects: Objects
) -> None:
    uid = objects.create(instance())["metadata"]["uid"]
    async with projecting(engine, cluster):
        await until_equal(engine, objects)
        objects.create(backup())
        objects.merge("Backup", "acme-monday", {"status": complete(uid, "acme")}, status=True)
        await until_equal(engine, objects)
    async with engine.connect() as connection:
        told = await connection.execute(
            select(TransitionRow.event, TransitionRow.org_code, TransitionRow.after, TransitionRow.at)
            .where(TransitionRow.event.startswith("backup"))
            .order_by(TransitionRow.id)
        )
        created, completed = told.all()
        row = (await connection.execute(select(BackupRow.started_at, BackupRow.finished_at))).one()
    assert tuple(created)[:3] == ("backup.created", "ACME", "pending")
    assert tuple(completed)[:3] == ("backup.completed", "ACME", "completed")
    assert completed.at == row.finished_at == datetime(2026, 11, 22, 10, 0, 7, tzinfo=UTC) and row.started_at


async def worked(client: httpx.AsyncClient, operated: Operated, path: str, **wanted: Any) -> dict[str, Any]:
    """What GET answers, once the operator has worked and the mirror shows it so."""

    async def found() -> dict[str, Any] | None:
        await asyncio.to_thread(operated.settle)
        body: dict[str, Any] = (await client.get(f"/api/v1/instances/{path}")).json()
        assert body.get("status") not in ("failed", "error"), body
        return body if all(body.get(k) == v for k, v in wanted.items()) else None

    made: dict[str, Any] = await until(found, seconds=30)
    return made


async def test_the_operator_makes_a_backup_and_restores_it(ready: httpx.AsyncClient, objects: Objects) -> None:
    """Everything is asked for and read by REST; the operator's passes work on what Kubernetes got of it."""
    for obj in (server("host-1", **SERVER), release("erp-1", **QUICK), plan("starter")):
        objects.create(obj)
    operated = Operated(objects)
    uid = await made(ready, org_code="ACME")
    await worked(ready, operated, uid, status="running")
    engine = operated.world.engine
    engine.rows, engine.data["dotmac-acme-files"] = "order 1", "invoice.pdf"

    told = await post(ready, f"{uid}/backups", {"type": "full"})
    where = f"{uid}/backups/{told['backup_id']}"
    done = await worked(ready, operated, where, status="completed")
    assert [(file["kind"], file["volume"]) for file in done["files"]] == [("database", None), ("volume", "files")]
    assert done["size_bytes"] == sum(file["size_bytes"] for file in done["files"]) > 0
    assert (done["server"], done["release"], done["instance_id"]) == ("host-1", "erp-1", uid)

    engine.rows, engine.data["dotmac-acme-files"] = "order 2", ""
    back = await post(ready, f"{where}/restore")
    await worked(ready, operated, f"{uid}/restores/{back['restore_id']}", status="completed")
    assert (engine.rows, engine.data["dotmac-acme-files"]) == ("order 1", "invoice.pdf")
    await worked(ready, operated, uid, status="running")

    assert engine.saved
    assert (await ready.delete(f"/api/v1/instances/{where}")).status_code == 202

    async def removed() -> bool:
        await asyncio.to_thread(operated.settle)
        return await _gone(ready, where)

    await until(removed, seconds=30)
    assert not engine.saved, "its files are removed, too"


async def _gone(client: httpx.AsyncClient, path: str) -> bool:
    return (await client.get(f"/api/v1/instances/{path}")).status_code == 404
