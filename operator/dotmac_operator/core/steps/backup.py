"""Step 3: a dump before the Release changes. It gates the upgrade: without it nothing goes on.

The same dump, once more, is the last thing that is made of an Instance that is archived or deleted.
"""

from dataclasses import replace

from dotmac_operator.core import database, names
from dotmac_operator.core.actions import (
    CreateNetwork,
    PullImage,
    RecordBackup,
    RemoveContainer,
    RunContainer,
    StartContainer,
    UnpauseContainer,
)
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.digest import digest
from dotmac_operator.core.steps.base import MET, Step, Verdict, act, blocked, one_shot, owner_labels, skipped, wait
from dotmac_operator.core.subnets import PREFIX, free_subnet
from dotmac_operator.core.view import View

FINAL = "final"
"""Name of the record that the last dump of an Instance is made; it falls when its database runs again."""
TIMEOUT = 3600
"""Seconds. The earlier platform allowed 300, which a database of a few GiB outgrew."""


def check(view: View) -> Verdict:
    migrate = view.desired.migrate
    current = view.record.release.current if view.record.release else None
    if current is None or migrate is None or view.done(names.MIGRATE, migrate.hash):
        return skipped("the database does not change")
    if view.volume(view.database_volume) is None:
        return skipped("there is no database yet")
    if view.of_role(names.RESTORE):
        return _after_restore(view)
    if not view.policy.pre_backup:
        return skipped("update.preBackup is false")
    if _begun(view, migrate):
        return skipped("the dump was made before migrate began")
    if not view.of_role(names.DATABASE) and view.network(view.desired.network) is None:
        return skipped("the database is dumped once it runs")  # back from Archived: step infra brings it up first
    return _dumped(view, file_name(view), current)


def final(view: View, occasion: str) -> Verdict:
    """The dump of an Instance that goes: once for each `occasion`, and none while nothing has run since the last."""
    current = view.record.release.current if view.record.release else None
    file, last = final_name(view, occasion), view.record.last_backup
    if view.done(FINAL, FINAL) or (last is not None and last.file == file):
        return MET
    if current is None:
        return skipped("nothing of it was ever served")
    return _dumped(view, file, current)


def _dumped(view: View, file: str, release: str) -> Verdict:
    spec = dump(view, file)
    if view.container(spec) is None:
        verdict = database_runs(view)
        if verdict is not None:
            return verdict
    verdict = one_shot(view, spec, TIMEOUT, "BackupFailed")
    if verdict.state != "met":
        return verdict
    if view.record.last_backup is None or view.record.last_backup.file != file:
        return act(RecordBackup("the dump has ended", spec.name, file, release))
    return MET


def _begun(view: View, migrate: ContainerSpec) -> bool:
    """Whether migrate works on the database already: a dump from now on would not be one from before. It is an edit in
    the middle of a change that asks for one; the dump of this attempt is there."""
    shot = view.container(migrate)
    dumped = any(c.exit_code == 0 for c in view.of_role(names.BACKUP))
    return shot is not None and shot.state != "created" and dumped and view.record.last_backup is not None


def _after_restore(view: View) -> Verdict:
    """The database was, or is being, set back after a failed change: what had migrated it is to run anew."""
    shots = view.of_role(names.RESTORE)
    if any(c.state in ("running", "restarting", "paused") for c in shots):
        return wait("the database is being set back to a dump")
    gone = (*view.of_role(names.MIGRATE), *shots)
    return act(*(RemoveContainer("the database was set back", c.name, grace=0) for c in gone))


def file_name(view: View) -> str:
    """`<version>-<digest>.dump`: one for each attempt; a retry must not replace what the one before may need."""
    version = view.record.release.current_version if view.record.release else None
    migrate = view.desired.migrate
    release = view.record.release and view.record.release.current
    key = digest([version, migrate.hash if migrate else "", release, view.desired.tenant.generation, view.token])
    return f"{version or 'unknown'}-{names.short(key)}.dump"


def final_name(view: View, occasion: str) -> str:
    """`<version>-final-<digest>.dump`."""
    version = view.record.release.current_version if view.record.release else None
    key = digest([view.desired.tenant.uid, occasion])
    return f"{version or 'unknown'}-{FINAL}-{names.short(key)}.dump"


def name_of(view: View, file: str) -> str:
    """Name of the container that made this file."""
    return f"{view.desired.network}-{names.BACKUP}-{names.short(digest(file))}"


def container(view: View) -> ContainerSpec:
    """The container that dumps before the Release changes."""
    return dump(view, file_name(view))


def dump(view: View, file: str) -> ContainerSpec:
    """A container that dumps into `file`: the database's image, the backups volume, nothing else."""
    server = view.desired.database
    # The program that dumps is the one of the server that runs; an image that is new is not on the host yet.
    running = next((c for c in view.of_role(names.DATABASE) if c.running), None)
    image = running.image_id if running is not None and running != view.container(server) else ""
    directory = next(iter(server.mounts))
    return replace(
        server,
        base_name=server.base_name.removesuffix(names.DATABASE) + names.BACKUP,
        role=names.BACKUP,
        aliases=(),
        command=database.BACKUP_COMMAND,
        args=(),
        env={
            **database.client(server),
            "BACKUP_DIRECTORY": directory,
            "BACKUP_FILE": file,
            "BACKUPS_KEPT": str(database.BACKUPS_KEPT),
        },
        mounts={directory: f"{server.base_name.removesuffix(names.DATABASE)}backups"},
        check=None,
        restart=False,
        pinned=image,
        fixed_hash=digest(file),
    )


def database_runs(view: View) -> Verdict | None:
    """What is needed until there is a database that can be dumped; None when there is."""
    existing = view.of_role(names.DATABASE)
    if any(c.running for c in existing):
        return wait("the database starts", after=2.0) if any(c.health == "starting" for c in existing) else None
    if any(c.state in ("restarting", "removing") for c in existing):
        return wait("the database restarts")
    reason = "the database must run to be dumped"
    if existing:
        database = next((c for c in existing if view.served_once(c)), existing[0])
        paused = database.state == "paused"
        return act((UnpauseContainer if paused else StartContainer)(reason, database.name))
    server = view.pinned(view.desired.database)
    if not server.pinned and server.image not in view.facts.images:
        return act(PullImage(reason, server.image))
    run = RunContainer(reason, server)
    if view.network(view.desired.network) is not None:
        return act(run)
    subnet = free_subnet(view.desired.network_pool, view.facts.networks)
    if subnet is None:
        return blocked("NetworkPoolExhausted", f"no free /{PREFIX} in {view.desired.network_pool}", after=30.0)
    return act(CreateNetwork(reason, view.desired.network, subnet, owner_labels(view)), run)


STEP = Step("backup", check)
