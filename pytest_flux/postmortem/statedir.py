"""A copy of the `content.sqlite` of an instance that is no more. The original is only read."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE = "content.sqlite"

# What SQLite leaves when its process is killed; the third, -shm, it makes anew.
_COMPANIONS = ("", "-wal", "-journal")
# Where SQLite locks its files (os_unix.c): a shared lock is one on any of these bytes.
_LOCK_START, _LOCK_SIZE = 0x40000002, 510
_PIECE = 1 << 20


def copy_state(statedir: str, target: str) -> list[str]:
    """Copy the database in ``statedir`` into the directory ``target``, and repair the copy if it must be.

    What had to be done, a line each. FluxError EBUSY where an instance is using it, EINVAL where nothing can be
    read of it; OSError.
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
    """A pipe would be waited for, and a device read for ever."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise FluxError(errno.EINVAL, f"{path} is no file")


def _lock(descriptor: int, path: str) -> None:
    """Keep SQLite from writing, until the file is closed. Nobody else must open and close it in this process."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, _LOCK_SIZE, _LOCK_START)
    except OSError as error:
        # Some file systems have no locks; then there is nothing to ask.
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise FluxError(errno.EBUSY, f"{path} is in use by an instance that is running") from None


def _copy(source: str, target: str) -> None:
    """Copy a file without its holes: it may claim to be larger than the disk."""
    with open(source, "rb") as original, open(target, "wb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        size = os.fstat(original.fileno()).st_size
        for start, end in _data(original.fileno(), size):
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


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where in a file there is data, as far as the file system tells."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except (OSError, AttributeError) as error:
            if getattr(error, "errno", None) != errno.ENXIO:
                yield end, size
            return
        yield start, end


def repair_copy(path: str, name: str) -> list[str]:
    """See that the database ``path``, a copy that is ours, can be used; ``name`` is what messages call it.

    What was done, a line each; nothing where the database is sound. FluxError EINVAL where nothing can be read.
    """
    from pytest_flux.broker.content.backing import SqliteBacking

    try:
        SqliteBacking(path, volatile=True).close()
    except FluxError as error:
        from pytest_flux.postmortem.salvage import salvage

        saved = salvage(path, name)
        return [f"{name}: {error.text}", *saved]
    return []
