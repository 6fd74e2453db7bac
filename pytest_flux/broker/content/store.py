"""Blobs in memory, in front of those on disk. New blobs are written in the background, many in one transaction."""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

from pytest_flux.broker.boot.recovery import is_recovery, place
from pytest_flux.protocol.blobref import DIGEST_SIZES, hasher
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.severity import LOG_ERR

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.modules import Arguments
    from pytest_flux.content_sqlite import SqliteBacking
    from pytest_flux.reactor.reactor import Reactor
    from pytest_flux.reactor.timers import Timer

_FLUSH_DELAY = 1.0
# Bytes to write from which on that is done in the next rounds, and at once.
_DIRTY_BYTES = 8 << 20
_MOST_DIRTY_BYTES = 64 << 20
# Bytes of one transaction. On a nearly full disk, blobs that fit must not be rolled back with those that do not.
_BATCH_BYTES = 1 << 20
_CLEAN_BYTES = 16 << 20
_MAX_BLOB = (1 << 31) - 1
_SEEN_MAX = 256 << 20
# Replaced versions that can still be loaded.
_SUPERSEDED = 64


class Source(Protocol):
    """Something that can be encoded as a blob."""

    def encode(self) -> bytes:
        """The bytes of the blob."""


class BlobCache:
    """The most recently used blobs that are also stored elsewhere, up to a number of bytes."""

    def __init__(self, capacity: int = _CLEAN_BYTES) -> None:
        self._capacity = capacity
        self._blobs: OrderedDict[bytes, bytes] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._blobs)

    def get(self, digest: bytes) -> bytes | None:
        """A blob, if it is here."""
        blob = self._blobs.get(digest)
        if blob is not None:
            self._blobs.move_to_end(digest)
        return blob

    def add(self, digest: bytes, blob: bytes) -> None:
        """Keep a blob as long as there is room."""
        if digest not in self._blobs:
            self._blobs[digest] = blob
            self.size += len(blob)
            while self.size > self._capacity:
                self.size -= len(self._blobs.popitem(last=False)[1])

    def clear(self) -> None:
        """Drop all."""
        self._blobs.clear()
        self.size = 0


class ContentStore:
    """The blobs of an instance.

    SQLite and LZ4 are imported, and the file is made, when something must be written or is not in memory: short-lived
    instances never need them. ``volatile`` says that the statedir is removed with the broker. ``failure`` says why
    the last attempt to write blobs failed, on a full disk for example; they stay in memory meanwhile. Blobs beyond
    ``blob_max`` bytes are not read from disk.
    """

    def __init__(
        self,
        reactor: Reactor,
        statedir: str,
        hash_name: str,
        *,
        volatile: bool,
        complain: Callable[[str], None],
        blob_max: int = _MAX_BLOB,
    ) -> None:
        self.hash_name = hash_name
        self.digest_size = DIGEST_SIZES[hash_name]
        self.path = os.path.join(statedir, "content.sqlite")
        self.volatile = volatile
        self.clean = BlobCache()
        self.dirty: dict[bytes, bytes] = {}
        self.dirty_bytes = 0
        self._held: dict[bytes, tuple[Source, int]] = {}
        self._superseded: OrderedDict[bytes, Source] = OrderedDict()
        self.failure: FluxError | None = None
        self._hash: Callable[[bytes], bytes] | None = None
        self._reactor = reactor
        self._complain = complain
        self._blob_max = blob_max
        self._backing: SqliteBacking | None = None
        self._timer: Timer | None = None
        self._closed = False
        self._is_backed = True
        self._options: Arguments = {}
        self.blob_limit = _MAX_BLOB

    # -- the modules content and content-sqlite

    @property
    def is_backed(self) -> bool:
        """Whether there is a file behind the memory: not while the module content-sqlite is not loaded."""
        return self._is_backed

    def configure(self, options: Arguments) -> None:
        """Take the arguments of the module content. FluxError EINVAL."""
        numbers = {name: _number(name, value) for name, value in options.items()}
        self.blob_limit = numbers.get("blob-size-limit", _MAX_BLOB)
        self.clean = BlobCache(numbers.get("purge-target-size", _CLEAN_BYTES))

    def forget(self) -> None:
        """Empty the memory; write what is not on disk yet, if there is a file."""
        try:
            self.flush()
        except FluxError:
            self._disarm()
        self.clean.clear()
        self.dirty.clear()
        self._held.clear()
        self._superseded.clear()
        self.dirty_bytes = 0

    def use(self, options: Arguments) -> None:
        """Open the file later with these arguments of the module content-sqlite. FluxError EINVAL."""
        _check_sqlite(options)
        self._options = options

    def attach(self, options: Arguments) -> None:
        """Open the file, as the module content-sqlite is loaded with these arguments. FluxError."""
        self.use(options)
        self._is_backed = True
        try:
            if "truncate" in options:
                self.clean.clear()
                for suffix in ("", "-wal", "-shm", "-journal"):
                    if os.path.exists(self.path + suffix):
                        os.unlink(self.path + suffix)
            elif os.path.exists(self.path) and not os.access(self.path, os.W_OK):
                raise FluxError(errno.EPERM)
            _ = self.backing
        except OSError as error:
            self._is_backed = False
            raise FluxError(error.errno or errno.EIO) from None
        except FluxError:
            self._is_backed = False
            raise
        self._arm(_FLUSH_DELAY)

    def detach(self) -> None:
        """Write everything and close the file: blobs stay in memory from now on."""
        try:
            self.flush()
        except FluxError:
            # It is logged, and the blobs are kept.
            pass
        self._disarm()
        self._is_backed = False
        self.failure = None
        if self._backing is not None:
            self._backing.close()
            self._backing = None

    @property
    def backing(self) -> SqliteBacking:
        """The file, opened at the first use. Raises FluxError."""
        if self._backing is None:
            from pytest_flux.content_sqlite import SqliteBacking

            if not self._is_backed:
                raise FluxError(errno.ENOSYS)
            if self._closed and not self.dirty:
                raise FluxError(errno.ENOSYS, "the content store is closed")
            self._backing = SqliteBacking(
                self.path, volatile=self.volatile, blob_max=self._blob_max, options=self._options
            )
        return self._backing

    @property
    def has_file(self) -> bool:
        """Whether anything was ever written."""
        return self._is_backed and (self._backing is not None or os.path.exists(self.path))

    def extent(self) -> tuple[int, int]:
        """The number of blobs, and the bytes of the file and of the blobs that are not in it yet."""
        count, size = (self.backing.count(), self.backing.sizes()[0]) if self.has_file else (0, 0)
        return count + len(self.dirty), size + self.dirty_bytes

    def hash(self, data: bytes) -> bytes:
        """The digest of a blob."""
        if self._hash is None:
            self._hash = hasher(self.hash_name)
        return self._hash(data)

    def store(self, data: bytes) -> bytes:
        """Store a blob and return its digest. It is on disk after ``flush``, or a moment later."""
        if len(data) > self.blob_limit:
            raise FluxError(errno.EFBIG)
        digest = self.hash(data)
        self._add(digest, data)
        return digest

    def _add(self, digest: bytes, data: bytes) -> None:
        if digest not in self.dirty:
            # Even if it is on disk: storing it again marks it as used, which protects it from garbage collection.
            self.dirty[digest] = data
            self.dirty_bytes += len(data)
            if self._timer is None:
                self._arm(0.0 if self.dirty_bytes > _DIRTY_BYTES else _FLUSH_DELAY)
            elif self.dirty_bytes > _DIRTY_BYTES and self.failure is None:
                self._arm(0.0)

    # -- blobs that need not be written

    def hold(self, digest: bytes, source: Source) -> None:
        """Keep a blob that ``source`` can encode, as long as that is not needed. To be called once for each use.

        A large directory of the KVS gets a new version with each commit. Most versions are replaced before the next
        flush: then it is never encoded, compressed and written. It can still be loaded for a while.
        """
        self._superseded.pop(digest, None)
        if digest not in self.dirty:
            self._held[digest] = source, self._held.get(digest, (source, 0))[1] + 1
            if self._timer is None:
                self._arm(_FLUSH_DELAY)

    def supersede(self, digest: bytes) -> None:
        """One use of a blob has ended. After the last one it will not be written, unless it is kept before."""
        held = self._held.pop(digest, None)
        if held is None:
            return
        source, uses = held
        if uses > 1:
            self._held[digest] = source, uses - 1
            return
        self._superseded[digest] = source
        if len(self._superseded) > _SUPERSEDED:
            self._superseded.popitem(last=False)

    @property
    def has_held(self) -> bool:
        """Whether there are blobs that might not be written."""
        return bool(self._held or self._superseded)

    def keep(self, digest: bytes) -> None:
        """Write a blob after all, if it is held."""
        source = self._held.pop(digest, (None,))[0] or self._superseded.pop(digest, None)
        if source is not None:
            self._add(digest, source.encode())

    def keep_held(self) -> None:
        """Write every blob that is held and in use."""
        for digest in list(self._held):
            self.keep(digest)

    # -- reading and writing

    def load(self, digest: bytes) -> bytes:
        """A blob. FluxError ENOENT if there is none, EPROTO if the digest has the wrong size."""
        if len(digest) != self.digest_size:
            raise FluxError(errno.EPROTO)
        blob = self.dirty.get(digest)
        if blob is None:
            blob = self.clean.get(digest)
        if blob is None:
            source = self._held.get(digest, (None,))[0] or self._superseded.get(digest)
            if source is not None:
                return source.encode()
            if not self.has_file:
                raise FluxError(errno.ENOENT)
            blob = self.backing.load(digest)
            self.clean.add(digest, blob)
        return blob

    def flush(self) -> None:
        """Write the blobs that are not on disk yet. After a FluxError they are kept and tried again."""
        self.keep_held()
        self._disarm()
        if not self._is_backed:
            raise FluxError(errno.ENOSYS)
        while self.dirty:
            self._write_batch()
        self.failure = None

    def _flush_in_background(self) -> None:
        """Write some blobs now, and the others in the next rounds, so that others get their turn in between."""
        self._timer = None
        self.keep_held()
        try:
            if self.dirty:
                self._write_batch()
            while self.dirty_bytes > _MOST_DIRTY_BYTES:
                self._write_batch()
        except FluxError:
            # It is logged, and the blobs are kept for the next time.
            return
        if self.dirty:
            self._arm(0.0)

    def _write_batch(self) -> None:
        batch: list[tuple[bytes, bytes]] = []
        size = 0
        for digest, blob in self.dirty.items():
            batch.append((digest, blob))
            size += len(blob)
            if size > _BATCH_BYTES:
                break
        try:
            self.backing.store(batch)
        except FluxError as error:
            if self.failure is None or self.failure.errnum != error.errnum:
                self._complain(f"content store: {error.text or error.strerror}")
            self.failure = error
            self._arm(_FLUSH_DELAY)
            raise
        self.failure = None
        for digest, blob in batch:
            del self.dirty[digest]
            self.dirty_bytes -= len(blob)
            self.clean.add(digest, blob)

    def _arm(self, delay: float) -> None:
        """Flush after ``delay`` seconds."""
        self._disarm()
        if not self._closed and self._is_backed:
            self._timer = self._reactor.call_later(delay, self._flush_in_background)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self) -> None:
        """Raise FluxError if new blobs would stay in memory because they cannot be written."""
        if self.failure is not None:
            raise FluxError(self.failure.errnum, self.failure.text)

    def checkpoints(self) -> list[Any]:
        """The checkpoints, newest first."""
        return self.backing.checkpoints() if self.has_file else []

    def put_checkpoint(self, value: object) -> None:
        """Write all blobs and a checkpoint, and sync them to disk."""
        self.flush()
        self.backing.put_checkpoint(value)

    def renew_checkpoint(self, value: object) -> None:
        """The same without sync: it survives the process, not the machine. Replaces the last one of this kind."""
        self.flush()
        self.backing.renew_checkpoint(value)

    def close(self) -> None:
        """Write the remaining blobs, unless the file is about to be removed, and close it."""
        if self._closed:
            return
        self._closed = True
        self._disarm()
        try:
            if not self.volatile and self._is_backed:
                self.flush()
        except FluxError as error:
            self._complain(f"content store: {len(self.dirty)} blobs are lost: {error.text or error.strerror}")
        if self._backing is not None:
            self._backing.close()
            self._backing = None


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise FluxError(errno.EINVAL, f"error parsing {name}")
    return int(value)


def _check_sqlite(options: Arguments) -> None:
    for name, known in (
        ("journal_mode", ("DELETE", "TRUNCATE", "PERSIST", "MEMORY", "WAL", "OFF")),
        ("synchronous", ("EXTRA", "FULL", "NORMAL", "OFF")),
    ):
        if options.get(name, known[0]) not in known:
            raise FluxError(errno.EINVAL, f"invalid {name} specified")
    if _number("max-checkpoints", options.get("max-checkpoints", "1")) < 1:
        raise FluxError(errno.EINVAL, "invalid max-checkpoints specified")


def open_store(reactor: Reactor, attributes: Attributes, log: BrokerLog) -> ContentStore:
    """The store of an instance, on its rank 0. FluxError EINVAL for an unknown ``content.hash``."""
    hash_name = attributes.get("content.hash") or "sha1"
    if hash_name not in DIGEST_SIZES:
        raise FluxError(errno.EINVAL, f"unknown hash type {hash_name}")
    directory, volatile = place(attributes)
    return ContentStore(
        reactor,
        directory,
        hash_name,
        volatile=volatile,
        # A state that is only inspected may come from a stranger.
        blob_max=_SEEN_MAX if is_recovery(attributes) else _MAX_BLOB,
        complain=lambda text: log.write(LOG_ERR, text, "content"),
    )
