"""Flux's `content.sqlite`: blobs and checkpoints on disk, in the schema of flux-core's content-sqlite module.

It belongs to no room: the broker keeps its content here, and what an instance left is read without a broker.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from contextlib import contextmanager

import lz4.block  # type: ignore[import-untyped]

from pytest_flux.protocol.blobref import DIGEST_SIZES, hasher
from pytest_flux.protocol.content_rows import BLOB_MAX, NOT_COMPRESSED, check_schema, decode_checkpoint, decode_object
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.json_value import compact_ascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

MAX_CHECKPOINTS = 5
"""How many checkpoints are kept."""

_CHECKPOINTS_READ = 1000
_COMPRESSED_FROM = 256
# KiB of pages in memory, at most. Hashes are spread over the index: with less, each new one costs a page read.
_CACHE = 32768
_HASHES = {size: hasher(name) for name, size in DIGEST_SIZES.items()}
# Another broker on the same statedir is a mistake, but one that is just closing is worth a short wait.
_LOCK_TIMEOUT = 2.0

# Hashes are bound as text although they are bytes (sqlite3_bind_text), and SQLite keeps text and blobs apart.
_STORE = (
    "INSERT INTO objects (hash, size, object, epoch) VALUES (CAST(? AS TEXT), ?, ?, ?) "
    "ON CONFLICT (hash) DO UPDATE SET epoch = excluded.epoch"
)
_LOAD = "SELECT object, size FROM objects WHERE hash = CAST(? AS TEXT)"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS objects (hash BLOB PRIMARY KEY, size INT, object BLOB, epoch INT DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS checkpt_v2 (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, value TEXT)",
)
_PRUNE = "DELETE FROM checkpt_v2 WHERE id NOT IN (SELECT id FROM checkpt_v2 ORDER BY id DESC LIMIT ?)"
_MARK = "UPDATE objects SET epoch = MAX(epoch, ?1) WHERE hash = CAST(?2 AS TEXT) AND epoch < ?1"


class SqliteBacking:
    """The open file. Every method raises FluxError with the errno that flux-core gives for what SQLite says.

    ``volatile`` is for a statedir that is removed with the broker: nothing is done to survive a crash. flux-core then
    uses no journal; ours is in memory, because a full disk would leave a torn database otherwise. Blobs larger than
    ``blob_max`` bytes are not read: LZ4 expands a hundred bytes to 25 thousand.

    ``loaded`` and ``stored`` count blobs.
    """

    def __init__(
        self,
        path: str,
        *,
        volatile: bool,
        max_checkpoints: int = MAX_CHECKPOINTS,
        blob_max: int = BLOB_MAX,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.blob_max = blob_max
        self.journal_mode, self.synchronous = ("MEMORY", "OFF") if volatile else ("WAL", "NORMAL")
        options = options or {}
        self.journal_mode = options.get("journal_mode", self.journal_mode)
        self.synchronous = options.get("synchronous", self.synchronous)
        self.loaded = self.stored = 0
        self._max_checkpoints = int(options.get("max-checkpoints", max_checkpoints))
        try:
            self._db = sqlite3.connect(path, timeout=_LOCK_TIMEOUT, isolation_level=None)
        except sqlite3.Error as error:
            raise _translated(error) from None
        try:
            self._prepare()
            found = self._query("SELECT MAX(id) FROM checkpt_v2")
        except FluxError:
            self._db.close()
            raise
        self.epoch: int = found[0][0] or 0
        self._renewable = 0

    def _prepare(self) -> None:
        self._query("PRAGMA locking_mode=EXCLUSIVE")
        self._query(f"PRAGMA journal_mode={self.journal_mode}")
        self._query(f"PRAGMA synchronous={self.synchronous}")
        self._query(f"PRAGMA cache_size=-{_CACHE}")
        check_schema(self._query, self.path)
        if [tuple(row) for row in self._query("PRAGMA quick_check(1)")] != [("ok",)]:
            raise FluxError(errno.EINVAL, f"{self.path} is damaged")
        for statement in _SCHEMA:
            self._query(statement)
        if "epoch" not in [row[1] for row in self._query("PRAGMA table_info(objects)")]:
            self._query("ALTER TABLE objects ADD COLUMN epoch INT DEFAULT 0")
        if self._query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND tbl_name = 'checkpt'"):
            # Older versions had a single checkpoint, by name, instead of a list.
            for row in self._query("SELECT value FROM checkpt WHERE key = 'kvs-primary' LIMIT 1"):
                self._query("INSERT INTO checkpt_v2 (value) VALUES (?)", row)
            self._query("DROP TABLE checkpt")

    def _query(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _translated(error) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def load(self, digest: bytes) -> bytes:
        """A blob. ENOENT if there is none, EINVAL if the row is not as flux-core writes it."""
        rows = self._query(_LOAD, (digest,))
        if not rows:
            raise FluxError(errno.ENOENT)
        self.loaded += 1
        data, size = rows[0]
        blob = decode_object(size, data, self.blob_max)
        if _HASHES[len(digest)](blob) != digest:
            # Its name is the hash of its bytes, so this is not the blob.
            raise FluxError(errno.ENOENT)
        return blob

    def store(self, blobs: Iterable[tuple[bytes, bytes]]) -> None:
        """Store blobs, pairs of digest and bytes: all of them or none."""
        rows = [self._row(digest, blob) for digest, blob in blobs]
        with self._transaction():
            try:
                self._db.executemany(_STORE, rows)
            except sqlite3.Error as error:
                raise _translated(error) from None
        self.stored += len(rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit or roll back. If the disk is full, SQLite may have rolled back already."""
        self._query("BEGIN")
        try:
            yield
            self._query("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.rollback()
            raise

    def _row(self, digest: bytes, blob: bytes) -> tuple[bytes, int, bytes, int]:
        if len(blob) < _COMPRESSED_FROM:
            return digest, NOT_COMPRESSED, blob, self.epoch
        return digest, len(blob), lz4.block.compress(blob, store_size=False), self.epoch

    def validate(self, digest: bytes) -> None:
        """ENOENT unless there is such a blob and it is intact."""
        try:
            self.load(digest)
        except FluxError as error:
            raise FluxError(errno.ENOENT if error.errnum == errno.EINVAL else error.errnum) from None

    def checkpoints(self) -> list[Any]:
        """All checkpoints, newest first, as the JSON values that were put; None for a row that is not JSON."""
        rows = self._query("SELECT value FROM checkpt_v2 ORDER BY id DESC LIMIT ?", (_CHECKPOINTS_READ,))
        return [decode_checkpoint(text) for (text,) in rows]

    def put_checkpoint(self, value: object) -> None:
        """Add a checkpoint and drop the oldest. When this returns, it and everything stored before are on disk."""
        durable = self.synchronous != "OFF"
        if durable:
            self._query("PRAGMA synchronous=FULL")
        try:
            self._insert_checkpoint(compact_ascii(value))
        finally:
            if durable:
                self._query(f"PRAGMA synchronous={self.synchronous}")

    def renew_checkpoint(self, value: object) -> None:
        """Add a checkpoint that survives this process, but perhaps not the machine.

        It replaces the previous one of this kind; otherwise it would soon push out all others.
        """
        text = compact_ascii(value)
        if self._renewable == self.epoch > 0:
            self._query("UPDATE checkpt_v2 SET value = ? WHERE id = ?", (text, self.epoch))
            return
        self._insert_checkpoint(text)
        self._renewable = self.epoch

    def _insert_checkpoint(self, text: str) -> None:
        with self._transaction():
            self._query("INSERT INTO checkpt_v2 (value) VALUES (?)", (text,))
            self._query(_PRUNE, (self._max_checkpoints,))
        self.epoch = self._query("SELECT MAX(id) FROM checkpt_v2")[0][0]

    def mark(self, epoch: int, digests: list[bytes]) -> int:
        """Raise the epoch of blobs that are still needed; returns how many had a lower one."""
        before = self._db.total_changes
        with self._transaction():
            for digest in digests:
                self._query(_MARK, (epoch, digest))
        return self._db.total_changes - before

    def sweep(self, epoch: int, first: int, last: int, limit: int) -> tuple[int, int]:
        """Delete at most ``limit`` blobs of a lower epoch among the rows after ``first`` up to ``last``.

        Returns how many were deleted, and the last row that was looked at.
        """
        query = "SELECT rowid FROM objects WHERE epoch < ? AND rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"
        rows = self._query(query, (epoch, first, last, limit))
        with self._transaction():
            for row in rows:
                self._query("DELETE FROM objects WHERE rowid = ?", tuple(row))
        return len(rows), rows[-1][0] if len(rows) == limit else last

    def count(self, below_epoch: int | None = None) -> int:
        """The number of blobs, or of those with an epoch below the given one."""
        if below_epoch is None:
            return int(self._query("SELECT COUNT(*) FROM objects")[0][0])
        return int(self._query("SELECT COUNT(*) FROM objects WHERE epoch < ?", (below_epoch,))[0][0])

    def last_row(self) -> int:
        """The highest row number among the blobs."""
        return int(self._query("SELECT MAX(rowid) FROM objects")[0][0] or 0)

    def numbered_checkpoints(self) -> list[dict[str, Any]]:
        """Checkpoints with their row numbers, newest first: ``{id, value}``."""
        rows = self._query("SELECT id, value FROM checkpt_v2 ORDER BY id DESC")
        return [{"id": row[0], "value": json.loads(row[1])} for row in rows]

    def sizes(self) -> tuple[int, int]:
        """Bytes of the file, and bytes free in its file system."""
        space = os.statvfs(self.path)
        return os.stat(self.path).st_size, space.f_bsize * space.f_bavail


def remove_database(path: str) -> None:
    """Remove a database with all that belongs to it, if it is there."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:
            continue


def _translated(error: sqlite3.Error) -> FluxError:
    text = str(error)
    for words, errnum in (
        ("disk I/O", errno.EIO),
        ("readonly", errno.EPERM),
        ("unable to open", errno.EPERM),
        ("too big", errno.EFBIG),
        ("full", errno.ENOSPC),
        ("locked", errno.EBUSY),
    ):
        if words in text:
            return FluxError(errnum, text)
    return FluxError(errno.EINVAL, text)
