"""The projector and its faults: whatever is killed, the mirror ends equal to the API and never goes backwards."""

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.kits.controlplane import ControlPlane
from tests.kits.controlplane import start as start_cluster
from tests.kits.mirrored import Objects, differences, projecting, rows, until, until_equal
from tests.kits.postgres import Postgres
from tests.kits.redis import RedisServer
from tests.kits.resources import condition, instance, plan, release, server

from dotmac_api.mirror.models import CursorRow, InstanceRow, ServerRow, TransitionRow
from dotmac_api.mirror.projection import project
from dotmac_api.mirror.readiness import MirrorBehind, mirror_lag
from dotmac_api.mirror.rebuild import RebuildFailed, rebuild
from dotmac_api.mirror.store import MirrorStore, Version
from dotmac_api.settings import Settings

pytestmark = pytest.mark.services
# The command itself, without the import of all endpoints, which takes a second.
MIRROR = """import uvloop
from dotmac_api.mirror.rebuild import run_mirror
from dotmac_api.settings import load_settings
uvloop.run(run_mirror(load_settings()))"""
ROOT = Path(__file__).resolve().parents[3]

GUARD = (
    """CREATE FUNCTION no_step_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.resource_version < OLD.resource_version THEN RAISE EXCEPTION 'went backwards'; END IF; RETURN NEW;
    END $$""",
    "CREATE TRIGGER no_step_back BEFORE UPDATE ON instances FOR EACH ROW EXECUTE FUNCTION no_step_back()",
    "CREATE TRIGGER no_step_back BEFORE UPDATE ON servers FOR EACH ROW EXECUTE FUNCTION no_step_back()",
)


@pytest.fixture
async def guarded(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """The database refuses every step back by itself: it would show as a mirror that never becomes equal."""
    async with engine.begin() as connection:
        for statement in GUARD:
            await connection.execute(text(statement))
    yield engine
    async with engine.begin() as connection:
        await connection.execute(text("DROP FUNCTION no_step_back CASCADE"))


def fleet(objects: Objects, count: int = 6) -> None:
    objects.create(server())
    objects.create(release())
    objects.create(plan())
    for number in range(count):
        objects.create(instance(f"t{number}"))


async def change(objects: Objects, seed: int, count: int, pause: float = 0.01) -> None:
    """Creates, changes (spec, status, labels), deletes and makes again, at random."""
    rng = random.Random(seed)
    for number in range(count):
        name = f"t{rng.randrange(8)}"
        known = {obj["metadata"]["name"] for obj in await asyncio.to_thread(objects.list, "Instance")}
        if name not in known:
            await asyncio.to_thread(objects.create, instance(name))
        elif rng.random() < 0.15:
            await asyncio.to_thread(objects.delete, "Instance", name)
        elif rng.random() < 0.5:
            await asyncio.to_thread(objects.merge, "Instance", name, {"spec": {"orgName": f"name {number}"}})
        else:
            conditions = [condition("Ready", rng.choice(["True", "False", "Unknown"]), f"R{number}")]
            patch = {"status": {"phase": rng.choice(["Running", "Deploying"]), "conditions": conditions}}
            await asyncio.to_thread(lambda n=name, p=patch: objects.merge("Instance", n, p, status=True))
        await asyncio.sleep(pause)


async def test_it_follows_every_kind_and_every_change(
    engine: AsyncEngine, cluster: ControlPlane, objects: Objects
) -> None:
    objects.create(instance())
    async with projecting(engine, cluster):
        await until_equal(engine, objects)
        assert (await rows(engine, "Instance"))[0]["server_id"] is None, "its Server does not exist yet"
        objects.create(server())
        objects.create(release())
        objects.create(plan())
        objects.merge("Instance", "acme", {"spec": {"orgName": "Acme Inc"}, "metadata": {"labels": {"a": "b"}}})
        await until_equal(engine, objects)
        objects.delete("Release", "erp-1")
        objects.delete("Instance", "acme")
        objects.delete("Server", "host-1")
        await until_equal(engine, objects)
        async with engine.connect() as connection:
            gone = (await connection.execute(select(InstanceRow.name, InstanceRow.deleted_at))).all()
            assert len(gone) == 1 and gone[0].deleted_at is not None, "a tombstone stays"


async def test_what_was_there_before_the_first_list_is_not_news(
    engine: AsyncEngine, cluster: ControlPlane, objects: Objects
) -> None:
    fleet(objects)
    async with projecting(engine, cluster):
        await until_equal(engine, objects)
        objects.create(instance("new"))
        await until_equal(engine, objects)
    async with engine.connect() as connection:
        told = (await connection.execute(select(TransitionRow.event, TransitionRow.name))).all()
    assert [tuple(row) for row in told] == [
        ("instance.created", "new"),
        ("instance.status_changed", "new"),
    ]


async def test_older_versions_are_dropped(engine: AsyncEngine, objects: Objects) -> None:
    first = objects.create(instance())
    second = objects.merge("Instance", "acme", {"spec": {"orgName": "Second"}})
    async with engine.begin() as connection:
        store = MirrorStore(connection)
        versions = [Version(project({**obj, "kind": "Instance"})) for obj in (second, first)]
        assert await store.record("Instance", versions) == 1
    async with engine.begin() as connection:
        assert await MirrorStore(connection).record("Instance", versions[1:]) == 1
        gone = Version({**versions[0].row, "resource_version": versions[0].row["resource_version"] + 1}, gone=True)
        assert await MirrorStore(connection).record("Instance", [gone, versions[0]]) == 1
    async with engine.connect() as connection:
        row = (await connection.execute(select(InstanceRow.org_name, InstanceRow.deleted_at))).one()
    assert row.org_name == "Second" and row.deleted_at is not None, "the dead do not rise"


async def test_it_lists_again_when_its_version_is_too_old(
    guarded: AsyncEngine, tmp_path: Path, settings: Settings
) -> None:
    cluster = start_cluster(tmp_path / "short", "--history", "20")
    try:
        cluster.apply_crds()
        objects = Objects(cluster)
        fleet(objects)
        async with projecting(guarded, cluster):
            await until_equal(guarded, objects)
        objects.delete("Instance", "t0")
        objects.create(instance("t0", orgName="made anew"))
        objects.delete("Instance", "t1")
        for number in range(60):
            objects.merge("Instance", "t2", {"spec": {"orgName": f"name {number}"}})
        async with projecting(guarded, cluster):
            await until_equal(guarded, objects)
        async with guarded.connect() as connection:
            told = await connection.execute(select(TransitionRow.event, TransitionRow.name).order_by(TransitionRow.id))
            events = [tuple(row) for row in told]
        # What happened in the gap is told too, once each.
        assert events.count(("instance.deleted", "t1")) == events.count(("instance.created", "t0")) == 1
    finally:
        cluster.stop()


async def test_kubernetes_and_the_database_restart_amid_changes(
    guarded: AsyncEngine, cluster: ControlPlane, objects: Objects, postgres_server: Postgres
) -> None:
    fleet(objects)
    async with projecting(guarded, cluster):
        await until_equal(guarded, objects)
        work = asyncio.create_task(change(objects, 1, 30))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(postgres_server.stop)
        await work
        await asyncio.to_thread(postgres_server.start)
        await until_equal(guarded, objects)
        await asyncio.to_thread(cluster.kill)
        await asyncio.to_thread(cluster.restart)
        await change(objects, 2, 20)
        await until_equal(guarded, objects)


@asynccontextmanager
async def process(settings: Settings, cluster: ControlPlane) -> AsyncIterator[asyncio.subprocess.Process]:
    """`dotmac-api mirror` as a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("api", "crds")),
        "DOTMAC_API_DATABASE_URL": settings.database_url.get_secret_value(),
        "DOTMAC_API_REDIS_URL": settings.redis_url.get_secret_value(),
        "DOTMAC_API_JWT_KEYS": settings.jwt_keys.get_secret_value(),
        "DOTMAC_API_API_KEY_PEPPER": settings.api_key_pepper.get_secret_value(),
        "DOTMAC_API_KUBECONFIG": str(cluster.kubeconfig),
    }
    running = await asyncio.create_subprocess_exec(sys.executable, "-c", MIRROR, env=environment)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.wait()


async def test_projectors_are_killed_amid_changes(
    guarded: AsyncEngine, settings: Settings, cluster: ControlPlane, objects: Objects
) -> None:
    """kill -9 at moments of chance: nothing is lost, and nothing is told twice."""
    fleet(objects)
    rng = random.Random(7)
    work = asyncio.create_task(change(objects, 3, 10_000, pause=0.02))
    for _ in range(2):
        async with process(settings, cluster) as running:
            await until(lambda: leads(guarded), seconds=40)
            await asyncio.sleep(0.5 + rng.random())
            running.send_signal(signal.SIGKILL)
            await running.wait()
    async with projecting(guarded, cluster):
        await until(lambda: much_told(guarded), seconds=60)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await until_equal(guarded, objects)
    await nothing_told_twice(guarded)


async def much_told(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        return bool(await connection.scalar(select(func.count() > 20).select_from(TransitionRow)))


async def nothing_told_twice(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        twice = select(TransitionRow.uid).group_by(
            TransitionRow.uid, TransitionRow.event, TransitionRow.subject, TransitionRow.resource_version
        )
        assert (await connection.execute(twice.having(func.count() > 1))).all() == []


async def end_leader(engine: AsyncEngine) -> None:
    """The database ends the leader's session, as it does when the leader's machine is gone."""
    query = "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
    async with engine.begin() as connection:
        await connection.execute(
            text(f"{query} WHERE locktype = 'advisory' AND granted AND datname = current_database()")
        )


async def leads(engine: AsyncEngine) -> bool:
    """Whether somebody holds the lock."""
    async with engine.connect() as connection:
        query = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        held = f"{query} WHERE locktype = 'advisory' AND granted AND datname = current_database()"
        return bool(await connection.scalar(text(held)))


async def test_the_next_one_takes_over(engine: AsyncEngine, cluster: ControlPlane, objects: Objects) -> None:
    async with projecting(engine, cluster) as first:
        await until(lambda: first.leading)
        async with projecting(engine, cluster) as second:
            await asyncio.sleep(0.5)
            assert not second.leading
            await end_leader(engine)
            await until(lambda: first.leading != second.leading)
            objects.create(instance())
            await until_equal(engine, objects)
            assert first.leading != second.leading


async def test_two_at_once_amid_changes_tell_everything_once(
    guarded: AsyncEngine, cluster: ControlPlane, objects: Objects
) -> None:
    fleet(objects)
    async with projecting(guarded, cluster) as one, projecting(guarded, cluster) as other:
        work = asyncio.create_task(change(objects, 11, 10_000, pause=0.02))
        for _ in range(3):
            await until(lambda: one.leading != other.leading)
            await asyncio.sleep(0.5)
            await end_leader(guarded)
        await until(lambda: much_told(guarded), seconds=60)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await until_equal(guarded, objects)
    await nothing_told_twice(guarded)


async def test_a_rebuild_mends_everything_without_a_gap(
    engine: AsyncEngine, settings: Settings, cluster: ControlPlane, objects: Objects
) -> None:
    fleet(objects)
    here = settings.model_copy(update={"kubeconfig": cluster.kubeconfig})
    seconds, count = await rebuild(here, 20)
    assert count == 9 and not await differences(engine, objects)
    async with engine.begin() as connection:
        await connection.execute(delete(ServerRow))
        await connection.execute(update(InstanceRow).where(InstanceRow.name == "t1").values(org_name="wrong"))
        await connection.execute(update(InstanceRow).where(InstanceRow.name == "t2").values(name="ghost"))
        await connection.execute(update(InstanceRow).values(resource_version=10**9))
    assert await differences(engine, objects)
    async with projecting(engine, cluster) as leader:
        await until(lambda: leader.leading)
        await rebuild(here, 20)
        assert not await differences(engine, objects)
        assert len(await rows(engine, "Instance")) == 6


async def test_a_rebuild_says_why_it_is_not_done(settings: Settings, tmp_path: Path) -> None:
    nowhere = tmp_path / "kubeconfig"
    with pytest.raises(RebuildFailed, match="no usable kubeconfig"):
        await rebuild(settings.model_copy(update={"kubeconfig": nowhere}), 1.5)


async def test_a_replaced_kubernetes_is_noticed(
    engine: AsyncEngine, settings: Settings, cluster: ControlPlane, objects: Objects
) -> None:
    fleet(objects)
    async with engine.begin() as connection:
        store = MirrorStore(connection)
        await store.record("Instance", [Version(project({**o, "kind": "Instance"})) for o in objects.list("Instance")])
    async with projecting(engine, cluster):
        await until_equal(engine, objects)
    async with engine.begin() as connection:
        await connection.execute(update(CursorRow).values(resource_version=10**12))
    async with projecting(engine, cluster):

        async def noticed() -> bool:
            async with engine.connect() as connection:
                problems = (await connection.scalars(select(CursorRow.problem))).all()
            return all(problem and "rebuild-mirror" in problem for problem in problems)

        await until(noticed)
        await rebuild(settings.model_copy(update={"kubeconfig": cluster.kubeconfig}), 20)
        await until_equal(engine, objects)


async def test_the_mirror_and_reads_outlive_redis(
    ready: httpx.AsyncClient, engine: AsyncEngine, objects: Objects, redis: RedisServer
) -> None:
    objects.create(server())
    redis.stop()
    try:
        objects.create(instance("aa"))
        await until_equal(engine, objects)
        assert (await ready.get("/api/v1/instances")).json()["count"] == 1
    finally:
        redis.start()
    objects.create(instance("bb"))
    await until_equal(engine, objects)
    assert (await ready.get("/api/v1/instances")).json()["count"] == 2


async def test_readiness_tells_the_lag(ready: httpx.AsyncClient, engine: AsyncEngine, cluster: ControlPlane) -> None:
    checks = (await ready.get("/health/ready")).json()["checks"]
    assert checks["mirror"]["lag_seconds"] < 15 and checks["kubernetes"]["ready"]
    async with engine.connect() as connection:
        with pytest.raises(MirrorBehind, match="no projector writes it"):
            await mirror_lag(connection, 0.0)  # type: ignore[arg-type]


async def test_what_postgresql_cannot_hold_does_not_stop_the_mirror(
    engine: AsyncEngine, cluster: ControlPlane, objects: Objects
) -> None:
    objects.create(instance("evil", env=[{"name": "A", "value": "a\x00b"}]))
    objects.create(instance("good"))
    async with projecting(engine, cluster):
        await until_equal(engine, objects)
    evil = next(row for row in await rows(engine, "Instance") if row["name"] == "evil")
    assert evil["spec"]["env"][0]["value"] == "a\ufffdb"
