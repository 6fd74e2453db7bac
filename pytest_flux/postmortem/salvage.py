"""What can still be read of a damaged `content.sqlite`, row by row, into a new one."""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from pytest_flux.postmortem.unpack import remove_database
from pytest_flux.protocol.blobref import DIGEST_SIZES, decode_blobref, hasher
from pytest_flux.protocol.errors import FluxError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_flux.broker.content.backing import SqliteBacking

_BATCH = 256
_LEAP = 64
"""After a row that cannot be read, so many are tried one by one."""

SALVAGED_MAX = 256 << 20
"""Larger blobs, in bytes, are not looked at: they would not fit into memory several times."""

_DAMAGED_MAX = 20000
"""With more places than this that cannot be read, it is not worth while to go on."""

_MIN_ROW = 24
"""Bytes that a row takes at least: there are not more rows than fit into the file."""


def salvage(path: str, name: str) -> list[str]:
    """Replace the database ``path`` by one with all that is whole in it. What was saved and lost, a line each.

    Raises FluxError EINVAL if there is nothing.
    """
    from pytest_flux.broker.content.backing import SqliteBacking

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
        from pytest_flux.broker.content.rows import check_schema, decode_checkpoint, decode_object

        self._check(check_schema, name)
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

    def _check(self, check_schema: Callable[[Callable[[str], list[Any]], str], None], name: str) -> None:
        try:
            check_schema(lambda statement: self._db.execute(statement).fetchall(), name)
        except sqlite3.Error as error:
            raise FluxError(errno.EINVAL, f"{name}: nothing can be recovered ({error})") from None

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
        """The number before the next row that can be read, in a place that is not; 0 if there is none."""
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
        """Whether there is a row after ``after``; None where it is damaged."""
        try:
            return self._select(table, "1", after).fetchone() is not None
        except sqlite3.Error:
            return None
