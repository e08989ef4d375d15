"""The log on disk: one row per write, in SQLite's write-ahead mode.

A row is the whole object as it was at one resourceVersion. The current state of an object is its newest row; older rows
are the history that watches resume from, until compaction deletes them. One connection writes, from one thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SCHEMA_VERSION = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS revision (
    rv INTEGER PRIMARY KEY, storage TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    deleted INTEGER NOT NULL, tag TEXT NOT NULL, data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

Row = tuple[int, str, str, str, bool, str, bytes]
"""resourceVersion, storage, namespace, name, deleted, schema tag, JSON."""


class LogUnusable(Exception):
    """The database file cannot be used; the message says what to do."""


@dataclass(slots=True)
class Batch:
    """What one transaction writes: new rows, the rows that compaction frees, and the new compaction point."""

    rows: list[Row] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    compacted: int | None = None


class Log:
    """One SQLite file. `write` is durable when it returns: the commit is synced to disk."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Secrets are in it: the file must never be readable by others, not even for the moment between creation and
        # chmod.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._lock_out_others()
            self._db.executescript(_TABLES)
            self._check_version()
        except sqlite3.OperationalError as error:
            remedy = "another server uses it (dotmac-local status) or the disk is full or read-only"
            raise LogUnusable(f"cannot open {path}: {error}; {remedy}") from error
        except sqlite3.DatabaseError as error:
            raise LogUnusable(f"{path} is damaged: {error}; `dotmac-local down --purge` starts afresh") from error

    def _lock_out_others(self) -> None:
        """Hold the file: two servers that both count resourceVersions would overwrite each other."""
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("COMMIT")

    def _check_version(self) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found not in (0, SCHEMA_VERSION):
            raise LogUnusable(
                f"the state was written by another version (layout {found}, this one reads {SCHEMA_VERSION}); "
                "`dotmac-local down --purge` starts afresh"
            )
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION:d}")

    def compacted(self) -> int:
        """The newest resourceVersion whose history may be gone."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'compacted'").fetchone()
        return int(row[0]) if row else 0

    def rows(self) -> Iterator[Row]:
        """All rows, oldest first."""
        yield from self._db.execute("SELECT rv, storage, namespace, name, deleted, tag, data FROM revision ORDER BY rv")

    def write(self, batch: Batch) -> None:
        """Write one transaction; raises sqlite3.Error and leaves the file as it was when it cannot."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._insert(batch.rows)
            if batch.freed:
                self._db.executemany("DELETE FROM revision WHERE rv = ?", ((rv,) for rv in batch.freed))
            if batch.compacted is not None:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('compacted', ?)", (batch.compacted,))
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._db.rollback()
            raise

    def _insert(self, rows: Iterable[Row]) -> None:
        self._db.executemany("INSERT INTO revision VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        self._db.close()
