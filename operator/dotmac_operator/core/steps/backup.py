"""Step 3: a dump before the Release changes. It gates the upgrade: without it nothing goes on."""

from dataclasses import replace

from dotmac_operator.core import database, names
from dotmac_operator.core.actions import RecordBackup, RunContainer, StartContainer
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.digest import digest
from dotmac_operator.core.steps.base import MET, Step, Verdict, act, one_shot, skipped, wait
from dotmac_operator.core.view import View

TIMEOUT = 3600
"""Seconds. The earlier platform allowed 300, which a database of a few GiB outgrew."""


def check(view: View) -> Verdict:
    migrate = view.desired.migrate
    current = view.record.release.current if view.record.release else None
    if current is None or migrate is None or view.done(names.MIGRATE, migrate.hash):
        return skipped("the database does not change")
    if view.volume(view.database_volume) is None:
        return skipped("there is no database yet")
    spec = container(view)
    running = next((c for c in view.of_role(names.DATABASE) if c.running), None)
    if running is None and view.container(spec) is None:
        return _start_database(view)
    verdict = one_shot(view, spec, TIMEOUT, "BackupFailed")
    if verdict.state != "met":
        return verdict
    if view.record.last_backup is None or view.record.last_backup.file != file_name(view):
        return act(RecordBackup("the dump has ended", spec.name, file_name(view), current))
    return MET


def file_name(view: View) -> str:
    """`<version>-<digest>.dump`: one for each pair of versions, so that a retry replaces its own file."""
    version = view.record.release.current_version if view.record.release else None
    migrate = view.desired.migrate
    key = digest([version, migrate.hash if migrate else "", view.record.release and view.record.release.current])
    return f"{version or 'unknown'}-{names.short(key)}.dump"


def container(view: View) -> ContainerSpec:
    """The container that dumps: the database's image, the backups volume, nothing else."""
    server = view.desired.database
    file = file_name(view)
    directory = next(iter(server.mounts))
    return replace(
        server,
        base_name=server.base_name.removesuffix(names.DATABASE) + names.BACKUP,
        role=names.BACKUP,
        aliases=(),
        command=database.BACKUP_COMMAND,
        args=(),
        env={
            "PGHOST": names.DATABASE,
            "PGUSER": database.USER,
            "PGDATABASE": database.NAME,
            "PGPASSWORD": server.env["POSTGRES_PASSWORD"],
            "BACKUP_DIRECTORY": directory,
            "BACKUP_FILE": file,
            "BACKUPS_KEPT": str(database.BACKUPS_KEPT),
        },
        mounts={directory: f"{server.base_name.removesuffix(names.DATABASE)}backups"},
        check=None,
        restart=False,
        fixed_hash=digest(file),
    )


def _start_database(view: View) -> Verdict:
    existing = view.of_role(names.DATABASE)
    if any(c.state in ("restarting", "removing") for c in existing):
        return wait("the database restarts")
    if existing:
        return act(StartContainer("the database must run to be dumped", existing[0].name))
    return act(RunContainer("the database must run to be dumped", view.desired.database))


STEP = Step("backup", check)
