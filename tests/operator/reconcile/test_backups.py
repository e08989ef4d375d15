"""A tenant's data is copied while it is served: recorded only when it is whole, and taken away with its object."""

import pytest
from tests.kits.backups import BACKUP as KEY
from tests.kits.backups import STORE, asked, backed_up, kill_at_write, leftovers, served
from tests.kits.fakes import Crash, World, crashed_at_each_call, deployed, unreachable, upgrade


def test_a_full_backup_has_the_database_and_each_volume() -> None:
    world = backed_up()
    status = world.status(KEY, "Backup")
    directory = f"monday-{world.cluster.get('Backup', KEY)['metadata']['uid']}"
    assert [(f["kind"], f["name"], f.get("volume")) for f in status["files"]] == [
        ("Database", f"{directory}/database.dump", None),
        ("Volume", f"{directory}/files.tar.gz", "files"),
    ]
    assert status["size"] == sum(file["size"] for file in status["files"]) > 0
    assert (status["server"], status["volume"], status["release"]) == ("host-1", STORE, "erp-1")
    assert (status["releaseVersion"], status["instanceUid"]) == ("1.0", "uid-acme-4")
    assert status["startedAt"] <= status["finishedAt"]
    assert world.condition("Ready", KEY, "Backup")[:2] == ("True", "BackedUp")
    assert world.condition("Reconciling", KEY, "Backup")[0] == "False"
    assert world.engine.saved[f"{STORE}/{directory}/files.tar.gz"] == "invoice.pdf"
    assert leftovers(world) == []
    assert world.counts.jobs == [("Backup", "succeeded", status["size"])]
    assert ("Backup tenants/monday", "Normal", "BackedUp") in [event[:3] for event in world.cluster.events]


def test_the_instance_tells_its_last_backup() -> None:
    world = backed_up()
    last, files = world.status()["lastBackup"], world.status(KEY, "Backup")["files"]
    assert (last["file"], last["sha256"], last["size"]) == (files[0]["name"], files[0]["sha256"], files[0]["size"])
    assert world.condition("BackupHealthy")[:2] == ("True", "BackedUp")
    assert world.condition("Ready")[0] == "True"


def test_a_backup_of_the_database_alone() -> None:
    world = served()
    asked(world, type_="Database")
    world.settle()
    assert [file["kind"] for file in world.status(KEY, "Backup")["files"]] == ["Database"]


def test_a_release_without_volumes_has_only_a_database() -> None:
    world = deployed()
    world.cluster.get("Release", "erp-1")  # the sample has one volume; this one has none
    upgrade(world, volumes=[])
    world.settle()
    asked(world)
    world.settle()
    assert [file["kind"] for file in world.status(KEY, "Backup")["files"]] == ["Database"]


def test_the_tenant_is_served_all_the_time_and_a_second_pass_does_nothing() -> None:
    world = served()
    seen: set[int] = set()
    world.engine.hook = lambda _: seen.add(world.engine.served("acme.erp.example"))
    asked(world)
    world.settle()
    assert seen == {200}
    calls, writes = len(world.engine.mutations), len(world.cluster.writes)
    world.restart()
    world.settle()
    assert (len(world.engine.mutations), len(world.cluster.writes)) == (calls, writes)


def test_no_secret_leaves_the_environment() -> None:
    world = served()
    bodies: list[str] = []
    world.engine.hook = lambda _: bodies.extend(
        repr({key: value for key, value in box.body.items() if key != "Env"})
        for box in world.engine.containers_.values()
    )
    asked(world)
    world.engine.ends["dump"] = [(1, f"cannot connect with {_password(world)}")]
    world.settle()
    told = repr((world.cluster.statuses, world.cluster.events, bodies))
    assert _password(world) not in told
    assert "cannot connect with ***" in world.status(KEY, "Backup")["message"]


def _password(world: World) -> str:
    return world.cluster.secrets["tenants/acme-credentials"]["database-password"]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_each_call_it_ends_the_same(when: str) -> None:
    start = served()
    asked(start)
    straight = start.copy()
    straight.settle()
    ways = 0
    for where, world in crashed_at_each_call(start, straight, when):
        assert world.status(KEY, "Backup")["phase"] == "Completed", where
        assert world.status(KEY, "Backup")["files"] == straight.status(KEY, "Backup")["files"], where
        assert world.engine.saved == straight.engine.saved, where
        assert leftovers(world) == [], where
        assert world.engine.shape() == straight.engine.shape(), where
        ways += 1
    assert ways >= 6


def test_killed_at_each_write_it_ends_the_same() -> None:
    start = served()
    asked(start)
    straight = start.copy()
    straight.settle()
    writes = len(straight.cluster.writes) - len(start.cluster.writes)
    for number in range(writes):
        world = start.copy()
        kill_at_write(world, number)
        assert world.status(KEY, "Backup")["phase"] == "Completed", number
        assert world.engine.saved == straight.engine.saved, number
        assert leftovers(world) == [], number


def test_a_full_disk_is_told_with_the_remedy_and_leaves_nothing() -> None:
    world = served()
    asked(world)
    world.engine.ends["archive"] = [
        (2, "tar: files.tar.gz.part: Wrote only 4096 of 10240 bytes\nNo space left on device")
    ]
    world.settle()
    status = world.status(KEY, "Backup")
    assert status["phase"] == "Failed"
    assert world.condition("Stalled", KEY, "Backup")[:2] == ("True", "DiskFull")
    assert "free space on the host" in status["message"]
    assert "files" not in status
    assert world.engine.saved == {}, "the database's dump is no backup by itself"
    assert leftovers(world) == []
    assert world.condition("BackupHealthy")[:2] == ("False", "BackupFailed")
    assert "lastBackup" not in world.status()
    assert world.counts.jobs == [("Backup", "failed", 0)]


def test_a_later_backup_makes_the_instance_well_again() -> None:
    world = served()
    asked(world)
    world.engine.ends["dump"] = [(1, "pg_dump: error")]
    world.settle()
    world.now += 60
    asked(world, "tuesday")
    world.settle()
    assert world.condition("BackupHealthy")[0] == "True"
    assert world.status(KEY, "Backup")["phase"] == "Failed", "what has ended is final"


def test_its_files_go_with_it() -> None:
    world = backed_up()
    asked(world, "tuesday")
    world.now += 60
    world.settle()
    world.delete("Backup", KEY)
    world.settle()
    assert ("Backup", KEY) not in world.cluster.objects
    assert world.engine.saved and all("/tuesday-" in path for path in world.engine.saved)
    assert leftovers(world) == []
    world.delete("Backup", "tenants/tuesday")
    world.settle()
    assert world.engine.saved == {}
    assert "lastBackup" not in world.status()
    assert world.condition("BackupHealthy") == ("", "", "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_deletion_that_is_killed_goes_on(when: str) -> None:
    start = backed_up()
    start.delete("Backup", KEY)
    straight = start.copy()
    straight.settle()
    for where, world in crashed_at_each_call(start, straight, when):
        assert ("Backup", KEY) not in world.cluster.objects, where
        assert world.engine.saved == {}, where
        assert leftovers(world) == [], where


def test_a_host_that_is_gone_keeps_it_until_somebody_lets_go() -> None:
    world = backed_up()
    world.engine.down = unreachable()
    world.touch()
    world.settle()
    world.delete("Backup", KEY)
    world.settle()
    status, _, message = world.condition("DeletionBlocked", KEY, "Backup")
    assert status == "True"
    assert "platform.dotmac.io/orphan=true" in message
    world.annotate("Backup", KEY, orphan="true")
    world.settle()
    assert ("Backup", KEY) not in world.cluster.objects
    assert "Orphaned" in world.cluster.reasons()


def test_it_outlives_its_instance_and_can_be_deleted_then() -> None:
    world = backed_up(deletion={"policy": "Delete"})
    world.delete("Instance", "tenants/acme")
    world.settle()
    assert ("Instance", "tenants/acme") not in world.cluster.objects
    assert sorted(world.engine.volumes_) == [STORE, "dotmac-proxy-config", "dotmac-proxy-data"]
    assert world.status(KEY, "Backup")["phase"] == "Completed"
    world.delete("Backup", KEY)
    world.settle()
    assert ("Backup", KEY) not in world.cluster.objects
    assert world.engine.saved == {}


def test_an_instance_that_does_not_exist_is_waited_for() -> None:
    world = served()
    asked(world, instance="acmee")
    world.settle()
    status = world.status(KEY, "Backup")
    assert status["phase"] == "Pending"
    assert world.condition("Ready", KEY, "Backup")[1] == "InstanceNotFound"
    assert "Instance acmee does not exist in namespace tenants" in status["message"]
    world.delete("Backup", KEY)
    world.settle()
    assert ("Backup", KEY) not in world.cluster.objects


def test_an_instance_that_is_suspended_is_refused() -> None:
    world = served()
    world.edit("Instance", "tenants/acme", state="Suspended")
    world.settle()
    asked(world)
    world.settle()
    assert world.status(KEY, "Backup")["phase"] == "Failed"
    assert world.condition("Stalled", KEY, "Backup")[1] == "InstanceStopped"


def test_it_waits_for_a_paused_instance() -> None:
    world = served()
    world.annotate("Instance", "tenants/acme", paused="true")
    asked(world)
    world.settle()
    assert world.condition("Ready", KEY, "Backup")[:2] == ("Unknown", "Paused")
    assert world.engine.saved == {}
    world.annotate("Instance", "tenants/acme", paused="false")
    world.woken.add(("Backup", KEY))
    world.settle()
    assert world.status(KEY, "Backup")["phase"] == "Completed"


def test_a_change_waits_for_a_backup_that_has_begun() -> None:
    world = served()
    asked(world)
    world.engine.hook = lambda what: begin_a_change(world) if what.startswith("start dotmac-acme-backup") else None
    with pytest.raises(Crash):
        world.settle()
    world.restart()
    world.run("Server", "tenants/host-1")
    for kind, name in (("Release", "erp-2"), ("InstanceClass", "starter"), ("Instance", "tenants/acme")):
        world.run(kind, name)
    status, reason, message = world.condition("Ready")
    assert (status, reason) == ("Unknown", "BackupRunning")
    assert "waits until Backup monday" in message
    world.settle()
    assert world.status(KEY, "Backup")["release"] == "erp-1"
    assert world.status()["release"]["current"] == "erp-2"


def begin_a_change(world: World) -> None:
    """While the dump runs, and the process ends then."""
    world.engine.hook = None
    upgrade(world)
    raise Crash


def test_it_waits_for_a_change_to_end() -> None:
    world = served()
    upgrade(world)
    world.run("Release", "erp-2")
    asked(world)
    world.run("Backup", KEY)
    assert world.condition("Ready", KEY, "Backup")[1] == "InstanceChanging"
    world.settle()
    assert world.status(KEY, "Backup")["phase"] in ("Pending", "Completed")
    world.woken.add(("Backup", KEY))
    world.settle()
    status = world.status(KEY, "Backup")
    assert (status["phase"], status["release"]) == ("Completed", "erp-2")
