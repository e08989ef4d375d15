"""A container that sets a tenant's database back to one of its dumps.

Who runs it stops the application first: what is written while it runs goes to the displaced database.
"""

from dataclasses import dataclass, replace

from dotmac_operator.core import database, names
from dotmac_operator.core.container import ContainerSpec
from dotmac_operator.core.digest import digest

CHECKSUM, REFUSED = 65, 75
"""Exit codes: the file is not the recorded one; the server has refused the exchange."""
EXCHANGING = "dotmac-restore: exchanging"
"""Said once the dump is read in: without it, a run that has failed has exchanged nothing."""
TIMEOUT = 7200
"""Seconds. Reading a dump in takes longer than writing it: indexes are built anew."""


@dataclass(frozen=True)
class Dump:
    """A file in the volume for backups, made by step backup."""

    file: str
    sha256: str
    """64 hex digits; verified before anything is changed."""


def container(server: ContainerSpec, dump: Dump, key: str) -> ContainerSpec:
    """The container that restores `dump` into the database of `server`, which must run.

    `key` says which restore this is: the same one is done once, and another one of the same dump is done again. The
    database that was there before is kept as `displaced(key, dump)` until the next restore.
    """
    hash_ = _digest(dump, key)
    base = server.base_name.removesuffix(names.DATABASE)
    directory = next(iter(server.mounts))
    return replace(
        server,
        base_name=base + names.RESTORE,
        role=names.RESTORE,
        aliases=(),
        command=database.RESTORE_COMMAND,
        args=(),
        env={
            **database.client(server, "postgres"),
            "BACKUP_DIRECTORY": directory,
            "BACKUP_FILE": dump.file,
            "BACKUP_SHA256": dump.sha256,
            "RESTORE_DATABASE": database.NAME,
            "RESTORE_DISPLACED": displaced(dump, key),
        },
        mounts={directory: f"{base}backups"},
        check=None,
        restart=False,
        fixed_hash=hash_,
    )


def displaced(dump: Dump, key: str) -> str:
    """Name under which the database is kept that a restore displaces."""
    return f"{database.NAME}_before_{names.short(_digest(dump, key))}"


def _digest(dump: Dump, key: str) -> str:
    return digest([dump.file, dump.sha256, key])
