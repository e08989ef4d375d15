"""One-shots that write and read the files of a Backup: constant commands, with every value in the environment.

A file is written under another name, checked, and renamed; it counts when its checksum is in the Backup's status. The
files of one Backup are a directory of the tenant's volume for backups, which the application's removal leaves alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dotmac_crds.backup import BackupFile
from dotmac_operator.core import database, names, restore
from dotmac_operator.core.container import NO_NETWORK, ContainerSpec, Limit
from dotmac_operator.core.digest import digest
from dotmac_operator.core.facts import ContainerFact
from dotmac_operator.core.restore import Dump

DATABASE_FILE = "database.dump"
TIMEOUT = 6 * 3600
"""Seconds that one of them may take: terabytes are not for one host, and what hangs must end."""
NO_SPACE = "No space left on device"
"""What every program says when the disk is full."""
ERASER = Limit("0.5", "128Mi", 64)

_BACKUPS, _VOLUMES = "/dotmac/backups", "/dotmac/volumes"
_READ = ("DAC_OVERRIDE",)
"""Root without any capability cannot read the files of an application's user."""
_WRITE = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID")

# What is left of a run that was killed goes first. `sync` before anything is told: what is in a status is on the disk.
DUMP_COMMAND = (
    "sh",
    "-c",
    """set -eu
umask 077
mkdir -p "$BACKUP_DIRECTORY/$BACKUP_PATH"
cd "$BACKUP_DIRECTORY/$BACKUP_PATH"
trap 'code=$?; [ "$code" = 0 ] || rm -f ./*.part; exit "$code"' EXIT
rm -f ./database.dump.part
pg_dump --format=custom --file=database.dump.part
pg_restore --list database.dump.part > /dev/null
sum=$(sha256sum database.dump.part | cut -d ' ' -f 1)
size=$(wc -c < database.dump.part)
mv database.dump.part database.dump
sync
printf 'dotmac-file sha256=%s size=%s name=database.dump\\n' "$sum" "$size"
""",
)

# GNU tar ends with 1 when a file has changed while it was read, which those of an application that serves may; with 2
# when something is really wrong. Others end with 1 for anything.
ARCHIVE_COMMAND = (
    "sh",
    "-c",
    """set -eu
umask 077
mkdir -p "/dotmac/backups/$BACKUP_PATH"
cd "/dotmac/backups/$BACKUP_PATH"
trap 'code=$?; [ "$code" = 0 ] || rm -f ./*.part; exit "$code"' EXIT
told=""
for volume in $BACKUP_VOLUMES; do
    part="$volume.tar.gz.part"
    rm -f "$part"
    code=0
    tar -czf "$part" --numeric-owner --exclude='./.dotmac-restore-*' -C "/dotmac/volumes/$volume" . || code=$?
    [ "$code" = 0 ] || { [ "$code" = 1 ] && tar --version 2> /dev/null | grep -q 'GNU tar'; } || exit "$code"
    tar -tzf "$part" > /dev/null
    sum=$(sha256sum "$part" | cut -d ' ' -f 1)
    size=$(wc -c < "$part")
    mv "$part" "$volume.tar.gz"
    told="${told}dotmac-file sha256=$sum size=$size name=$volume.tar.gz
"
done
sync
printf '%s' "$told"
""",
)

ERASE_COMMAND = (
    "sh",
    "-c",
    """set -eu
rm -rf -- "/dotmac/backups/$BACKUP_PATH"
sync
""",
)

# Everything is verified before anything is unpacked, and unpacked beside what the application goes on using.
PREPARE_COMMAND = (
    "sh",
    "-c",
    """set -eu
umask 077
cd /dotmac/backups
if ! told=$(printf '%s\\n' "$RESTORE_SUMS" | sha256sum -c 2>&1); then
    echo "not as recorded, or gone:" >&2
    printf '%s\\n' "$told" | grep -v ': OK$' >&2 || true
    exit 65
fi
clean() {
    for volume in $RESTORE_VOLUMES; do rm -rf -- "/dotmac/volumes/$volume/$RESTORE_NEW"; done
}
trap 'code=$?; [ "$code" = 0 ] || clean; exit "$code"' EXIT
for volume in $RESTORE_VOLUMES; do
    cd "/dotmac/volumes/$volume"
    rm -rf -- "$RESTORE_NEW"
    mkdir "$RESTORE_NEW"
    tar -xzf "/dotmac/backups/$BACKUP_PATH/$volume.tar.gz" --numeric-owner -p -C "$RESTORE_NEW"
done
sync
""",
)

# Renames within one file system, so nothing is copied and no space is needed. Each may be the last one of this run: the
# next run goes on from the names that it finds. The old files go once the new ones are in everywhere.
EXCHANGE_COMMAND = (
    "sh",
    "-c",
    """set -eu
for volume in $RESTORE_VOLUMES; do
    cd "/dotmac/volumes/$volume"
    if [ -d "$RESTORE_NEW" ] && [ ! -d "$RESTORE_OLD" ]; then
        mkdir -p "$RESTORE_OLD.part"
        for entry in ./* ./.[!.]* ./..?*; do
            [ -e "$entry" ] || [ -L "$entry" ] || continue
            case "$entry" in "./$RESTORE_NEW" | "./$RESTORE_OLD.part") continue ;; esac
            mv -- "$entry" "$RESTORE_OLD.part/"
        done
        mv -- "$RESTORE_OLD.part" "$RESTORE_OLD"
    fi
    if [ -d "$RESTORE_NEW" ]; then
        for entry in "$RESTORE_NEW"/* "$RESTORE_NEW"/.[!.]* "$RESTORE_NEW"/..?*; do
            [ -e "$entry" ] || [ -L "$entry" ] || continue
            mv -- "$entry" ./
        done
        rmdir -- "$RESTORE_NEW"
    fi
done
sync
for volume in $RESTORE_VOLUMES; do rm -rf -- "/dotmac/volumes/$volume/$RESTORE_OLD"; done
""",
)

TIDY_COMMAND = (
    "sh",
    "-c",
    """set -eu
for volume in $RESTORE_VOLUMES; do rm -rf -- "/dotmac/volumes/$volume/$RESTORE_NEW"; done
""",
)


@dataclass(frozen=True)
class Job:
    """A Backup or a Restore, and where its files are."""

    kind: str
    namespace: str
    name: str
    uid: str
    volume: str
    """The tenant's volume for backups."""
    directory: str
    """The Backup's directory in it."""

    @property
    def base(self) -> str:
        """What the names of all of the tenant's Docker objects begin with."""
        return self.volume.removesuffix("-backups")

    @property
    def role(self) -> str:
        return names.BACKUP if self.kind == "Backup" else names.RESTORE

    @property
    def labels(self) -> Mapping[str, str]:
        return {
            names.MANAGED_BY: names.OPERATOR,
            names.NAMESPACE: self.namespace,
            names.JOB: f"{self.kind}/{self.name}",
            names.JOB_UID: self.uid,
        }

    def owns(self, container: ContainerFact) -> bool:
        return container.labels.get(names.JOB_UID) == self.uid

    def hash(self, task: str) -> str:
        return digest([self.uid, task])


def directory(name: str, uid: str) -> str:
    """The directory of a Backup: its name for people, its uid so that a namesake has another one."""
    return f"{name[:100]}-{uid}"


def volume_file(volume: str) -> str:
    return f"{volume}.tar.gz"


def dump(job: Job, server: ContainerSpec) -> ContainerSpec:
    """Dumps the database of `server`, which must run, whose image and user it takes."""
    where = next(iter(server.mounts))
    return replace(
        server,
        base_name=f"{job.base}-{job.role}",
        role=job.role,
        aliases=(),
        command=DUMP_COMMAND,
        args=(),
        env={
            **database.client(server),
            "BACKUP_DIRECTORY": where,
            "BACKUP_PATH": job.directory,
        },
        mounts={where: job.volume},
        check=None,
        restart=False,
        labels=job.labels,
        fixed_hash=job.hash("dump"),
    )


def archive(job: Job, server: ContainerSpec, volumes: Sequence[str]) -> ContainerSpec:
    """Archives these volumes, by their names in the Release. Read-only, without a network, with the database's image,
    which is on the host because its server runs."""
    paths = {f"{_VOLUMES}/{volume}": f"{job.base}-{volume}" for volume in volumes}
    return replace(
        _tool(job, server, "archive"),
        command=ARCHIVE_COMMAND,
        env={"BACKUP_PATH": job.directory, "BACKUP_VOLUMES": " ".join(volumes)},
        mounts={_BACKUPS: job.volume, **paths},
        read_only=frozenset(paths),
        capabilities=_READ,
    )


def erase(job: Job, image: str) -> ContainerSpec:
    """Removes the Backup's directory, with any image that has a shell."""
    return ContainerSpec(
        base_name=f"{job.base}-{job.role}",
        role=job.role,
        image=image,
        network=NO_NETWORK,
        aliases=(),
        limit=ERASER,
        command=ERASE_COMMAND,
        args=(),
        env={"BACKUP_PATH": job.directory},
        mounts={_BACKUPS: job.volume},
        capabilities=_READ,
        restart=False,
        user="0:0",
        labels=job.labels,
        fixed_hash=job.hash("erase"),
    )


def prepare(job: Job, server: ContainerSpec, files: Sequence[BackupFile]) -> ContainerSpec:
    """Verifies every file and unpacks those of volumes beside the data."""
    volumes = volumes_of(files)
    return replace(
        _tool(job, server, "prepare"),
        command=PREPARE_COMMAND,
        env={
            "BACKUP_PATH": job.directory,
            "RESTORE_SUMS": "\n".join(f"{file.sha256}  {file.name}" for file in files),
            **_between(job, volumes),
        },
        mounts={_BACKUPS: job.volume, **{f"{_VOLUMES}/{volume}": f"{job.base}-{volume}" for volume in volumes}},
        read_only=frozenset({_BACKUPS}),
        capabilities=_WRITE,
    )


def database_back(job: Job, server: ContainerSpec, file: BackupFile) -> ContainerSpec:
    """Restores the database; another run finds what the one before has done."""
    made = restore.container(server, Dump(file.name, file.sha256), job.uid)
    return replace(made, base_name=f"{job.base}-{job.role}", labels=job.labels, fixed_hash=job.hash("database"))


def displaced(job: Job, file: BackupFile) -> str:
    """Name under which the database is kept that the Restore displaces."""
    return restore.displaced(Dump(file.name, file.sha256), job.uid)


def exchange(job: Job, server: ContainerSpec, files: Sequence[BackupFile]) -> ContainerSpec:
    """Puts what was unpacked in the place of what was there. Nothing may use the volumes."""
    return _on_volumes(job, server, files, "exchange", EXCHANGE_COMMAND)


def tidy(job: Job, server: ContainerSpec, files: Sequence[BackupFile]) -> ContainerSpec:
    """Removes what was unpacked and is not needed."""
    return _on_volumes(job, server, files, "tidy", TIDY_COMMAND)


def volumes_of(files: Sequence[BackupFile]) -> tuple[str, ...]:
    """The volumes that have a file, by their names in the Release."""
    return tuple(file.volume for file in files if file.volume is not None)


def _on_volumes(
    job: Job, server: ContainerSpec, files: Sequence[BackupFile], task: str, command: tuple[str, ...]
) -> ContainerSpec:
    volumes = volumes_of(files)
    return replace(
        _tool(job, server, task),
        command=command,
        env=_between(job, volumes),
        mounts={f"{_VOLUMES}/{volume}": f"{job.base}-{volume}" for volume in volumes},
        capabilities=_WRITE,
    )


def _between(job: Job, volumes: Sequence[str]) -> dict[str, str]:
    beside = f".dotmac-restore-{names.short(job.hash('beside'))}"
    return {"RESTORE_VOLUMES": " ".join(volumes), "RESTORE_NEW": f"{beside}.new", "RESTORE_OLD": f"{beside}.old"}


def _tool(job: Job, server: ContainerSpec, task: str) -> ContainerSpec:
    """A container with the database's image that neither reaches the database nor has its password."""
    return replace(
        erase(job, server.image), limit=server.limit, pinned=server.pinned, fixed_hash=job.hash(task), stop_grace=10
    )
