"""Archives of `flux dump`, written from a content store and read into one.

Values pass through one by one; names stay in memory.
"""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, NamedTuple

from pytest_flux.postmortem.compression import PIECE, Pieces
from pytest_flux.protocol.archive import END, FILE, SYMLINK, Member, TarDecoder, encode_member, padding
from pytest_flux.protocol.blobref import encode_blobref, hasher
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.kvs_tree import TreeBuilder
from pytest_flux.protocol.treeobj import SYMLINK as LINK
from pytest_flux.protocol.treeobj import VAL, VALREF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_flux.content_sqlite import SqliteBacking
    from pytest_flux.protocol.kvs_tree import Found

    Store = Callable[[bytes], str]

SIZE_MAX = (1 << 31) - 1
"""The largest value that a content store takes, in bytes."""

SIZE_LIMIT = 100 << 20
"""Larger values are not restored when an instance starts, as in flux-core."""

_SKIPPED_MAX = 100
_BATCH = 8 << 20


class Item(NamedTuple):
    """A member and its data, which is None if it is over the size limit."""

    member: Member
    data: bytes | None


def read_archive(file: IO[bytes], size_limit: int = SIZE_MAX) -> Iterator[Item]:
    """The files and symlinks of an archive. Raises ProtocolError if it is damaged or truncated."""
    decoder = TarDecoder()
    current: Member | None = None
    pieces: list[bytes] = []
    missing = 0
    source = Pieces(file)
    for received in source:
        for event in decoder.receive(received):
            if isinstance(event, Member):
                current, pieces, missing = event, [], event.size
            else:
                missing -= len(event)
                if current is not None and current.kind == FILE and current.size <= size_limit:
                    pieces.append(event)
            if current is not None and not missing:
                if current.kind in (FILE, SYMLINK):
                    yield Item(current, b"".join(pieces) if current.size <= size_limit else None)
                current, pieces = None, []
        if decoder.ended:
            return
        if missing > PIECE and current is not None and current.size > size_limit and source.skip(missing):
            decoder.skip()
            missing = 0
            yield Item(current, None)
            current = None
    decoder.close()


class Restored(NamedTuple):
    """The result of restoring an archive. ``timestamp`` is that of its newest member.

    ``problem`` says why only a part of it was read, ``skipped`` which members were skipped, and why.
    """

    rootref: str
    timestamp: float
    keys: int
    blobs: int
    problem: str
    skipped: tuple[str, ...]


def restore_archive(
    file: IO[bytes],
    store: Store,
    *,
    size_limit: int = SIZE_MAX,
    partial: bool = False,
    progress: Callable[[Item, TreeBuilder], None] | None = None,
) -> Restored:
    """Put the contents of an archive into a content store. ``store`` keeps a blob and returns its blobref.

    Values larger than ``size_limit`` are skipped. With ``partial`` a damaged archive is read as far as possible;
    without it, it raises ProtocolError.
    """
    builder = TreeBuilder(store)
    timestamp = 0.0
    skipped: list[str] = []
    problem = ""
    items = read_archive(file, size_limit)
    try:
        for item in items:
            member = item.member
            timestamp = max(timestamp, float(min(member.mtime, 1 << 40)))
            try:
                _add(builder, item)
            except ProtocolError as error:
                if not partial or len(skipped) >= _SKIPPED_MAX:
                    raise
                skipped.append(str(error))
            if progress is not None:
                progress(item, builder)
    except ProtocolError as error:
        if not partial:
            raise
        problem = str(error)
    return Restored(builder.finish(), timestamp, builder.keys, builder.blobs, problem, tuple(skipped))


def _add(builder: TreeBuilder, item: Item) -> None:
    member = item.member
    if member.kind == SYMLINK:
        builder.add_symlink(member.name, member.target)
    elif item.data is not None:
        builder.add_value(member.name, item.data)


def too_large(item: Item, limit: int) -> str:
    """The message that a member is skipped, in flux-core's words; empty if it is not."""
    member = item.member
    if member.kind != FILE or item.data is not None:
        return ""
    return f"{member.name} size {member.size} exceeds {limit} limit, skipping"


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
        """Write the collected blobs."""
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
    """Make the database ``path`` from an archive: blobs and one checkpoint, as flux-core's ``content.restore`` does.

    A database that was there is replaced, once all went well. ``complain`` gets a line for each value that is left
    out. Raises ProtocolError if the archive is damaged (with ``partial``: if nothing of it can be read), FluxError,
    OSError.
    """
    from pytest_flux.content_sqlite import SqliteBacking, remove_database

    temporary = f"{path}.restore"
    remove_database(temporary)
    backing = SqliteBacking(temporary, volatile=True)
    try:
        sink = _Sink(backing, hash_name)

        def look(item: Item, _: TreeBuilder) -> None:
            if complaint := too_large(item, size_limit):
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


class ArchiveWriter:
    """Writes the entries that a walk finds. ``timestamp`` is that of values in blobs."""

    def __init__(self, file: IO[bytes], timestamp: float) -> None:
        self._file = file
        self._timestamp = int(timestamp)
        self._owner = os.getuid(), os.getgid()
        self.keys = 0

    def add(self, found: Found) -> bool:
        """Write an entry, unless it is a directory. Returns whether it was written.

        Raises FluxError for a value with a missing blob. The text has the blob's number.
        """
        name = "/".join(found.path)
        entry = found.entry
        if entry.type == VALREF:
            data = b"".join(_blobs(found))
            self._write(Member(name, FILE, len(data), self._timestamp, *self._owner, ""), data)
        elif entry.type == VAL:
            data = entry.value()
            self._write(Member(name, FILE, len(data), 0, 0, 0, ""), data)
        elif entry.type == LINK:
            target, namespace = entry.data["target"], entry.data.get("namespace")
            full = target if namespace is None else f"{namespace}::{target}"
            self._write(Member(name, SYMLINK, 0, 0, 0, 0, full), b"")
        else:
            return False
        self.keys += 1
        return True

    def _write(self, member: Member, data: bytes) -> None:
        self._file.write(encode_member(member))
        self._file.write(data)
        self._file.write(padding(len(data)))

    def close(self) -> None:
        """Write the end."""
        self._file.write(END)


def write_archive(path: str, load: Callable[[str], bytes], root: str, timestamp: float) -> list[str]:
    """Write all entries below a root to a new archive, compressed by its name. Returns a line for each lost entry.

    Raises FluxError or ProtocolError if the root itself is lost, OSError.
    """
    from pytest_flux.postmortem.compression import create
    from pytest_flux.protocol.kvs_tree import walk

    lost: list[str] = []
    with create(path) as file:
        writer = ArchiveWriter(file, timestamp)
        for found in walk(load, root):
            if found.problem:
                lost.append(f"{'.'.join(found.path)}: {found.problem}")
                continue
            try:
                writer.add(found)
            except FluxError as error:
                lost.append(error.text or str(error))
        writer.close()
    return lost


def _blobs(found: Found) -> Iterator[bytes]:
    for index, blob in enumerate(found.blobs):
        if isinstance(blob, FluxError):
            reason = os.strerror(blob.errnum)
            raise FluxError(blob.errnum, f"{'/'.join(found.path)}: missing blobref {index}: {reason}")
        yield blob
