"""The SQLite file under `sqlite.SqliteStore`: blocking calls, made from one thread.

The file is a journal of versions (a put or a deletion of a key at a revision), the leases and one
row of numbers. Every `write` is one transaction, synced before it returns. A write that fails
leaves the file as it was, and whether it did is not guessed but read back: the file is opened
again, its log is checkpointed (which syncs anew), and the sequence number tells.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hsu_core.model.errors import StoreUnavailable
from hsu_core.store.base import Entry, Event
from hsu_core.store.file_lock import FileLock
from hsu_core.store.mvcc import FIRST_REVISION, Commit, Version

SCHEMA_VERSION = 1

POSITION_BITS = 20
"""A row id is revision << 20 | position in its commit: 2^43 revisions of a million changes each."""

CHECKPOINT_PAGES = 1000
"""Log pages (of 4 KiB) after which a commit moves them into the file: short stalls, small log."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY,            -- revision << 20 | position
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    create_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,          -- 0: a deletion
    lease INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS leases (id INTEGER PRIMARY KEY, ttl_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS numbers (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    cluster_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    compacted INTEGER NOT NULL,
    sequence INTEGER NOT NULL          -- counts writes; tells whether the last one is in the file
);
"""


class JournalError(Exception):
    """The write failed and is not in the file; the text says why."""


class JournalUndecided(Exception):
    """The write failed, and the file cannot be read to see whether it is there."""


class JournalUnsettled(JournalError):
    """The write was not tried: it is still not known whether an earlier one is in the file."""


class EarlierWriteFound(JournalError):
    """The write was not tried: an earlier, undecided one turned out to be in the file."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one transaction writes."""

    commits: Sequence[Commit]
    revision: int
    compacted: int
    granted: Mapping[int, float]
    ended: Sequence[int]
    forgotten: Sequence[Version]


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a file holds; `events` by revision."""

    cluster_id: str
    revision: int
    compacted: int
    events: Sequence[Event]
    leases: Mapping[int, float]


class Journal:
    """An open store file, locked against other processes."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises StoreInUse or StoreUnavailable."""
        self.path = path
        self._lock = FileLock(path)
        self._connection: sqlite3.Connection | None = None
        self._sequence = 0
        try:
            self._connection = self._open()
            self._sequence = self._stored_sequence()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise StoreUnavailable(
                f"open the store {path}", str(error), "check the disk and the file; restore it from a backup if damaged"
            ) from error
        except StoreUnavailable:
            self.close()
            raise

    def read(self) -> Contents:
        """Return everything in the file."""
        connection = self._connected()
        cluster_id, revision, compacted = connection.execute(
            "SELECT cluster_id, revision, compacted FROM numbers"
        ).fetchone()
        rows = connection.execute("SELECT id, key, value, create_revision, version, lease FROM history ORDER BY id")
        events = [
            Event(Entry(key, value, create_revision, row >> POSITION_BITS, version, lease), is_delete=version == 0)
            for row, key, value, create_revision, version, lease in rows
        ]
        leases = dict(connection.execute("SELECT id, ttl_s FROM leases"))
        return Contents(cluster_id, revision, compacted, events, leases)

    def write(self, change: Change, *, must_settle: bool = False) -> None:
        """Make a change durable. Raises JournalError (not written) or JournalUndecided.

        After a JournalUndecided the next calls carry `must_settle`, until one raises neither that
        nor JournalUnsettled.
        """
        if must_settle:
            self._settle_earlier()
        elif self._connection is None:
            self.settle()
        is_committing = False
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            self._apply(connection, change)
            is_committing = True
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            is_written = False
            try:
                is_written = self.settle()
            except JournalError as unreadable:
                if is_committing:
                    raise JournalUndecided(f"{error}; then {unreadable}") from error
            if not is_written:
                raise JournalError(str(error)) from error
        self._sequence += 1

    def settle(self) -> bool:
        """Open the file anew after a failure and return whether the write that failed is in it.

        Raises JournalError while the file cannot be opened and synced.
        """
        self._close_connection()
        try:
            self._connection = self._open()
            (is_busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if is_busy:
                raise sqlite3.OperationalError("the log is busy")
            return self._stored_sequence() > self._sequence
        except (sqlite3.Error, OSError, StoreUnavailable) as error:
            self._close_connection()
            raise JournalError(str(error)) from error

    def close(self) -> None:
        """Close the file and give up the lock; a second call does nothing."""
        self._close_connection()
        self._lock.release()

    def _settle_earlier(self) -> None:
        try:
            is_written = self.settle()
        except JournalError as error:
            raise JournalUnsettled(str(error)) from error
        if is_written:
            self._sequence += 1
            raise EarlierWriteFound("an earlier write is in the file")

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise StoreUnavailable(
                    f"open the store {self.path}",
                    f"its schema is {version}, this program knows {SCHEMA_VERSION}",
                    "use the version of the program that wrote it, or a newer one",
                )
            if version < SCHEMA_VERSION:
                connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            connection.execute(
                "INSERT OR IGNORE INTO numbers VALUES (1, ?, ?, ?, 0)",
                (secrets.token_hex(8), FIRST_REVISION, FIRST_REVISION - 1),
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def _apply(self, connection: sqlite3.Connection, change: Change) -> None:
        connection.executemany(
            "INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)",
            (
                (
                    commit.revision << POSITION_BITS | position,
                    event.entry.key,
                    event.entry.value,
                    event.entry.create_revision,
                    event.entry.version,
                    event.entry.lease,
                )
                for commit in change.commits
                for position, event in enumerate(commit.events)
            ),
        )
        connection.executemany("INSERT INTO leases VALUES (?, ?)", change.granted.items())
        connection.executemany("DELETE FROM leases WHERE id = ?", ((lease,) for lease in change.ended))
        connection.executemany(
            "DELETE FROM history WHERE id >= ? AND id < ? AND key = ?",
            ((old.revision << POSITION_BITS, (old.revision + 1) << POSITION_BITS, old.key) for old in change.forgotten),
        )
        connection.execute(
            "UPDATE numbers SET revision = ?, compacted = ?, sequence = ?",
            (change.revision, change.compacted, self._sequence + 1),
        )

    def _stored_sequence(self) -> int:
        (sequence,) = self._connected().execute("SELECT sequence FROM numbers").fetchone()
        return int(sequence)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.OperationalError("the file is closed")
        return self._connection

    def _close_connection(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
