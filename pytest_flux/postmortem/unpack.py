"""An archive becomes a `content.sqlite`, as flux-core's `content.restore` has it: blobs, and one checkpoint."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

from pytest_flux.postmortem.archive import Restored, restore_archive
from pytest_flux.protocol.blobref import encode_blobref, hasher

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.content.backing import SqliteBacking

_BATCH = 8 << 20
SIZE_LIMIT = 100 << 20
"""Larger values are not restored when an instance starts; so it is in flux-core."""


class _Sink:
    """Collects blobs and writes many in one transaction."""

    def __init__(self, backing: SqliteBacking, hash_name: str) -> None:
        self._backing = backing
        self._name = hash_name
        self._hash = hasher(hash_name)
        self._blobs: dict[bytes, bytes] = {}
        self._size = 0

    def store(self, blob: bytes) -> str:
        """Keep a blob; its blobref."""
        digest = self._hash(blob)
        if digest not in self._blobs:
            self._blobs[digest] = blob
            self._size += len(blob)
            if self._size > _BATCH:
                self.flush()
        return encode_blobref(self._name, digest)

    def flush(self) -> None:
        """Write what was collected."""
        self._backing.store(self._blobs.items())
        self._blobs, self._size = {}, 0


def unpack(
    file: IO[bytes],
    path: str,
    *,
    hash_name: str = "sha1",
    size_limit: int = SIZE_LIMIT,
    partial: bool = False,
    complain: Callable[[str], None] = lambda _: None,
) -> Restored:
    """Make the database ``path`` of an archive; what was there is replaced, once all went well.

    ``complain`` gets a line for each value that is left out. Raises ProtocolError where the archive is damaged
    (with ``partial``: where nothing at all can be read of it), FluxError, OSError.
    """
    from pytest_flux.broker.content.backing import SqliteBacking
    from pytest_flux.postmortem.archive import too_large
    from pytest_flux.protocol.errors import ProtocolError

    temporary = f"{path}.restore"
    remove_database(temporary)
    backing = SqliteBacking(temporary, volatile=True)
    try:
        sink = _Sink(backing, hash_name)

        def look(item: object, builder: object) -> None:
            complaint = too_large(item, size_limit)  # type: ignore[arg-type]
            if complaint:
                complain(complaint)

        restored = restore_archive(file, sink.store, size_limit=size_limit, partial=partial, progress=look)
        if restored.problem and not restored.keys:
            raise ProtocolError(restored.problem)
        sink.flush()
        backing.put_checkpoint(
            {"version": 1, "rootref": restored.rootref, "sequence": 0, "timestamp": restored.timestamp}
        )
    except BaseException:
        backing.close()
        remove_database(temporary)
        raise
    backing.close()
    remove_database(path)
    os.rename(temporary, path)
    return restored


def remove_database(path: str) -> None:
    """Remove a database with all that belongs to it, if it is there."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:
            continue
