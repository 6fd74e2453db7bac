"""A copy of the `content.sqlite` of an instance that has ended, repaired if necessary. The original is only read.

A database that SQLite refuses is salvaged row by row into a new one: each row that can be read and whose blob has the
hash that the row says is kept. Rows are read by their numbers, because the index of the hashes may be damaged.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
from typing import TYPE_CHECKING, Any

from pytest_flux.content_sqlite import SqliteBacking, remove_database
from pytest_flux.postmortem.extents import data_extents
from pytest_flux.protocol.blobref import DIGEST_SIZES, decode_blobref, hasher
from pytest_flux.protocol.content_rows import check_schema, decode_checkpoint, decode_object
from pytest_flux.protocol.errors import FluxError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE = "content.sqlite"

# The files that SQLite leaves when its process is killed. It makes -shm anew.
_COMPANIONS = ("", "-wal", "-journal")
# Where SQLite locks its files (os_unix.c): a shared lock is one on any of these bytes.
_LOCK_START, _LOCK_SIZE = 0x40000002, 510
_PIECE = 1 << 20

SALVAGED_MAX = 256 << 20
"""The largest blob that is salvaged, in bytes: it must fit into memory several times."""

_DAMAGED_MAX = 20000
"""After this many unreadable places, salvaging stops."""

_MIN_ROW = 24
"""The smallest size of a row, in bytes, which bounds the number of rows in a file."""

_BATCH = 256
_LEAP = 64
"""How many rows are tried one by one after an unreadable one."""


def copy_state(statedir: str, target: str) -> list[str]:
    """Copy the database in ``statedir`` into the directory ``target``, and repair the copy if necessary.

    Returns a line for each repair. Raises FluxError EBUSY if an instance uses the database, EINVAL if nothing of it
    can be read; OSError.
    """
    source, copy = f"{statedir}/{DATABASE}", f"{target}/{DATABASE}"
    _require_file(source)
    with open(source, "rb") as file:
        _lock(file.fileno(), source)
        for suffix in _COMPANIONS:
            if os.path.exists(source + suffix):
                _require_file(source + suffix)
                _copy(source + suffix, copy + suffix)
    return repair_copy(copy, source)


def _require_file(path: str) -> None:
    """Refuse pipes, which would block us, and devices, which have no end."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise FluxError(errno.EINVAL, f"{path} is no file")


def _lock(descriptor: int, path: str) -> None:
    """Keep SQLite from writing until the file is closed. This process must not open and close it elsewhere."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, _LOCK_SIZE, _LOCK_START)
    except OSError as error:
        # Some file systems have no locks; then we cannot know.
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise FluxError(errno.EBUSY, f"{path} is in use by an instance that is running") from None


def _copy(source: str, target: str) -> None:
    """Copy a file without its holes: it may claim to be larger than the disk."""
    with open(source, "rb") as original, open(target, "wb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        size = os.fstat(original.fileno()).st_size
        for start, end in data_extents(original.fileno(), size):
            original.seek(start)
            copy.seek(start)
            while start < end and (piece := original.read(min(_PIECE, end - start))):
                start += len(piece)
                # Most of a database may be free pages.
                if piece.strip(b"\0"):
                    copy.write(piece)
                else:
                    copy.seek(len(piece), os.SEEK_CUR)
        copy.truncate(size)


def repair_copy(path: str, name: str) -> list[str]:
    """Make the database ``path``, which is our copy, usable. ``name`` is its name in messages.

    Returns a line for each repair; none if the database is sound. Raises FluxError EINVAL if nothing can be read.
    """
    try:
        SqliteBacking(path, volatile=True).close()
    except FluxError as error:
        return [f"{name}: {error.text}", *_salvage(path, name)]
    return []


def _salvage(path: str, name: str) -> list[str]:
    """Replace the database ``path`` by a new one with all its intact rows. Returns lines on what was saved and lost.

    Raises FluxError EINVAL if there is nothing.
    """
    temporary = f"{path}.salvage"
    remove_database(temporary)
    target = SqliteBacking(temporary, volatile=True, max_checkpoints=1 << 20)
    try:
        reader = _Reader(path)
        try:
            lines = reader.save(target, name)
        finally:
            reader.close()
    except BaseException:
        target.close()
        remove_database(temporary)
        raise
    target.close()
    remove_database(path)
    os.rename(temporary, path)
    return lines


class _Reader:
    """Reads rows by their numbers: the index, which the hashes are in, may be the part that is torn."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.text_factory = bytes
        self._limit = os.stat(path).st_size // _MIN_ROW + _LEAP
        self._hashers = {size: hasher(name) for name, size in DIGEST_SIZES.items()}
        self.damaged = 0

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    def save(self, target: SqliteBacking, name: str) -> list[str]:
        """See salvage."""
        try:
            check_schema(lambda statement: self._db.execute(statement).fetchall(), name)
        except sqlite3.Error as error:
            raise FluxError(errno.EINVAL, f"{name}: nothing can be recovered ({error})") from None
        batch: list[tuple[bytes, bytes]] = []
        blobs = checkpoints = 0
        for _, digest, size, data in self._rows("objects", "CAST(hash AS BLOB), size, object"):
            try:
                blob = decode_object(size, data, SALVAGED_MAX)
                if self._hashers[len(digest)](blob) != digest:
                    raise FluxError(errno.EINVAL)
            except (FluxError, KeyError, TypeError):
                self.damaged += 1
                continue
            batch.append((digest, blob))
            blobs += 1
            if len(batch) == _BATCH:
                target.store(batch)
                batch = []
        target.store(batch)
        for _, text in self._rows("checkpt_v2", "value"):
            value = decode_checkpoint(text)
            try:
                decode_blobref(value["rootref"])
            except (ProtocolError, KeyError, TypeError):
                continue
            target.put_checkpoint(value)
            checkpoints += 1
        if not blobs or not checkpoints:
            raise FluxError(
                errno.EINVAL, f"{name}: nothing can be recovered ({blobs} blobs, {checkpoints} checkpoints)"
            )
        lost = f", {self.damaged} damaged" if self.damaged else ""
        return [f"{name}: recovered {blobs} blobs{lost}, {checkpoints} checkpoints"]

    def _rows(self, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
        last = 0
        while self.damaged < _DAMAGED_MAX:
            try:
                for row in self._select(table, columns, last):
                    # In a damaged tree there may be circles.
                    if row[0] <= last:
                        raise sqlite3.DatabaseError
                    last = row[0]
                    yield row
                return
            except sqlite3.Error:
                last = self._past(table, last)
                if not last:
                    return
                self.damaged += 1

    def _select(self, table: str, columns: str, after: int) -> sqlite3.Cursor:
        query = f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid"
        return self._db.execute(query, (after,))

    def _past(self, table: str, last: int) -> int:
        """The number before the next readable row, after an unreadable one; 0 if there is none."""
        bad, step = last, 1
        while bad < self._limit:
            number = bad + step
            found = self._can_read(table, number)
            if found is None:
                bad = number
                step = step * 2 if bad - last > _LEAP else 1
                continue
            if not found:
                return 0
            # Rows before this one may be whole, too.
            while number - bad > 1:
                middle = (number + bad) // 2
                if self._can_read(table, middle) is None:
                    bad = middle
                else:
                    number = middle
            return number
        return 0

    def _can_read(self, table: str, after: int) -> bool | None:
        """Whether there is a row after ``after``; None if that place is damaged."""
        try:
            return self._select(table, "1", after).fetchone() is not None
        except sqlite3.Error:
            return None
