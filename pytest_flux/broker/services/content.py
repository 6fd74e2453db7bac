"""`content`, `content-backing` and `content-sqlite`: blobs by their hash (RFC 10).

Rank 0 has the store; the others ask upwards and cache. `content-backing`, in flux-core also known by the name of its
module, `content-sqlite`, is the file itself, without the cache in front of it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.content.store import BlobCache
from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.blobref import DIGEST_SIZES, decode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.message import NODEID_ANY, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.content.store import ContentStore
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router


# One request must not keep the broker from everything else for long (as flux-core: about 100 ms).
_MARK_LIMIT = 16384
_DELETE_LIMIT = 8192
_WINDOW_LIMIT = 1 << 19


class ContentService(Service):
    """On rank 0. Checkpoints pass through here, too, so that they follow the blobs that they refer to."""

    name = "content"

    def __init__(self, router: Router, log: BrokerLog, store: ContentStore) -> None:
        super().__init__(router, log)
        self._store = store

    @method("load")
    def load(self, request: Request) -> bytes | None:
        """Digest, as bytes → blob. ENOENT; EPROTO for a digest of the wrong size."""
        return self._store.load(request.message.payload or b"") or None

    @method("store")
    def store(self, request: Request) -> bytes:
        """Blob → digest, as bytes. ENOSPC, or another reason why blobs cannot be written."""
        self._store.check()
        return self._store.store(request.message.payload or b"")

    @method("flush")
    def flush(self, request: Request) -> Answer:
        """→ empty, when every blob is in the backing store."""
        self._store.flush()
        return None

    @method("dropcache")
    def dropcache(self, request: Request) -> Answer:
        """→ empty, when memory holds only blobs that are not on disk yet."""
        self._store.clean.clear()
        return None

    @method("checkpoint-get")
    def checkpoint_get(self, request: Request) -> Answer:
        """→ ``{value: [checkpoint]}``, newest first. ENOENT if there is none."""
        if not self._store.is_backed:
            raise FluxError(errno.ENOSYS, "checkpoint get unavailable, no backing store")
        found = self._store.checkpoints()
        if not found:
            raise FluxError(errno.ENOENT)
        return {"value": found}

    @method("checkpoint-put")
    def checkpoint_put(self, request: Request) -> Answer:
        """``{value: checkpoint}`` → empty, when it and all blobs are on disk."""
        if not self._store.is_backed:
            raise FluxError(errno.ENOSYS, "checkpoint put unavailable, no backing store")
        self._store.put_checkpoint(request.field("value", dict))
        return None

    @method("mmap-add")
    def mmap_add(self, request: Request) -> Answer:
        """``{path, chunksize, tag}`` → empty, when the blobs of the file are stored.

        flux-core maps the file and reads it when somebody asks for a blob; here the file is copied.
        """
        path, chunk_size = request.field("path", str), request.field("chunksize", int)
        from pytest_flux.postmortem.extents import data_chunks

        try:
            with open(path, "rb") as file:
                for _, data in data_chunks(file.fileno(), os.fstat(file.fileno()).st_size, chunk_size):
                    self._store.store(data)
        except OSError as error:
            raise FluxError(error.errno or errno.EIO, f"{path}: {error.strerror}") from None
        return None

    @method("mmap-remove")
    def mmap_remove(self, request: Request) -> Answer:
        """``{tag}`` → empty. Nothing is mapped."""
        request.field("tag", str)
        return None

    @method("register-backing")
    def register_backing(self, request: Request) -> Answer:
        """``{name}``: refused. Blobs are stored in memory or, with the module content-sqlite, in its file."""
        request.field("name", str)
        if self._store.is_backed:
            raise FluxError(errno.EBUSY, "content backing store is already active")
        raise FluxError(errno.ENOTSUP, "an embedded broker has no backing store but content-sqlite")

    @method("unregister-backing")
    def unregister_backing(self, request: Request) -> Answer:
        """Refused: the module content-sqlite can be removed instead."""
        if not self._store.is_backed:
            raise FluxError(errno.EINVAL, "content backing store is not active")
        raise FluxError(errno.EBUSY, "the content backing store of an embedded broker is built in")

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ numbers of blobs in memory."""
        store = self._store
        count = len(store.clean) + len(store.dirty)
        return _stats(count, len(store.dirty), store.clean.size + store.dirty_bytes)


class ContentBackingService(Service):
    """On rank 0 only."""

    name = "content-backing"

    def __init__(self, router: Router, log: BrokerLog, store: ContentStore) -> None:
        super().__init__(router, log)
        self._store = store

    @method("load")
    def load(self, request: Request) -> bytes | None:
        """Digest → blob, as it is on disk."""
        digest = self._digest(request)
        self._settle()
        return self._store.backing.load(digest) or None

    @method("store")
    def store(self, request: Request) -> bytes:
        """Blob → digest, written at once."""
        blob = request.message.payload or b""
        digest = self._store.hash(blob)
        self._store.backing.store([(digest, blob)])
        return digest

    @method("validate")
    def validate(self, request: Request) -> Answer:
        """Digest → empty, or ENOENT."""
        digest = self._digest(request)
        self._settle()
        self._store.backing.validate(digest)
        return None

    @method("checkpoint-get")
    def checkpoint_get(self, request: Request) -> Answer:
        """→ ``{value: [checkpoint]}``, newest first. ENOENT if there is none."""
        found = self._store.checkpoints()
        if not found:
            raise FluxError(errno.ENOENT)
        return {"value": found}

    @method("checkpoint-put")
    def checkpoint_put(self, request: Request) -> Answer:
        """``{value: checkpoint}`` → empty."""
        self._store.backing.put_checkpoint(request.field("value", dict))
        return None

    @method("mark")
    def mark(self, request: Request) -> Answer:
        """``{epoch, hashes: [blobref]}`` → ``{marked}``: these are needed (flux-gc)."""
        epoch, hashes = request.field("epoch", int), request.field("hashes", list)
        if len(hashes) > _MARK_LIMIT:
            text = f"mark request of {len(hashes)} hashes exceeds limit of {_MARK_LIMIT}"
            raise FluxError(errno.EINVAL, text)
        digests = [decode_blobref(ref) for ref in hashes]
        if any(len(digest) != self._store.digest_size for digest in digests):
            raise ProtocolError("a blobref is of another hash", request.topic)
        return {"marked": self._store.backing.mark(epoch, digests)}

    @method("sweep")
    def sweep(self, request: Request) -> Answer:
        """``{epoch, cursor, high_water, delete_cap, window}`` → ``{deleted, cursor}`` (flux-gc)."""
        names = ("epoch", "cursor", "high_water", "delete_cap", "window")
        epoch, cursor, high_water, delete_cap, window = (request.field(name, int) for name in names)
        if cursor < 0 or high_water < 0 or delete_cap <= 0 or window <= 0:
            raise FluxError(errno.EINVAL)
        last = min(cursor + min(window, _WINDOW_LIMIT), high_water)
        deleted, cursor = self._store.backing.sweep(epoch, cursor, last, min(delete_cap, _DELETE_LIMIT))
        return {"deleted": deleted, "cursor": cursor}

    @method("gc-info")
    def gc_info(self, request: Request) -> Answer:
        """``{epoch, get_count?: bool}`` → ``{current_epoch, high_water, candidates?}``."""
        epoch, backing = request.field("epoch", int), self._store.backing
        answer: dict[str, Any] = {"current_epoch": backing.epoch, "high_water": backing.last_row()}
        if request.field("get_count", bool, default=False):
            answer["candidates"] = backing.count(epoch)
        return answer

    def _digest(self, request: Request) -> bytes:
        digest = request.message.payload or b""
        if len(digest) != self._store.digest_size:
            raise FluxError(errno.EPROTO)
        return digest

    def _settle(self) -> None:
        # In flux-core a blob gets here an instant after it was stored; here, without this, a second later.
        self._store.flush()


class ContentSqliteService(Service):
    """Describes the file."""

    name = "content-sqlite"

    def __init__(self, router: Router, log: BrokerLog, store: ContentStore) -> None:
        super().__init__(router, log)
        self._store = store

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ counts, sizes, configuration and checkpoints. Times are not taken: zeros."""
        backing = self._store.backing
        size, free = backing.sizes()
        untimed = {"min": 0.0, "max": 0.0, "mean": 0.0, "stddev": 0.0}
        return {
            "object_count": backing.count(),
            "current_epoch": backing.epoch,
            "dbfile_size": size,
            "dbfile_free": free,
            "load_time": {"count": backing.loaded, **untimed},
            "store_time": {"count": backing.stored, **untimed},
            "config": {"journal_mode": backing.journal_mode, "synchronous": backing.synchronous},
            "checkpoints": backing.numbered_checkpoints(),
        }


class RemoteContentService(Service):
    """On the other ranks."""

    name = "content"

    def __init__(self, router: Router, log: BrokerLog, attributes: Attributes) -> None:
        super().__init__(router, log)
        self._digest_size = DIGEST_SIZES[attributes.get("content.hash") or "sha1"]
        self._cache = BlobCache()

    @method("load")
    def load(self, request: Request) -> bytes | _Later | None:
        """As on rank 0; blobs that were loaded before are answered from the cache."""
        digest = request.message.payload or b""
        if len(digest) != self._digest_size:
            raise FluxError(errno.EPROTO)
        blob = self._cache.get(digest)
        if blob is not None:
            return blob or None

        def answer(response: Message) -> None:
            if not response.errnum:
                self._cache.add(digest, response.payload or b"")
            _relay(request, response)

        return self._ask(request, answer)

    @method("store")
    def store(self, request: Request) -> _Later:
        """As on rank 0, which has the blob when this is answered."""
        return self._ask(request, lambda response: _relay(request, response))

    @method("flush")
    def flush(self, request: Request) -> Answer:
        """→ empty: everything kept here is also upstream."""
        return None

    @method("dropcache")
    def dropcache(self, request: Request) -> Answer:
        """→ empty, when the cache is empty."""
        self._cache.clear()
        return None

    @method("register-backing")
    def register_backing(self, request: Request) -> Answer:
        """Refused."""
        raise FluxError(errno.EINVAL, "content backing store can only be registered on rank 0")

    @method("checkpoint-get")
    def checkpoint_get(self, request: Request) -> _Later:
        """As on rank 0."""
        return self._ask(request, lambda response: _relay(request, response))

    @method("checkpoint-put")
    def checkpoint_put(self, request: Request) -> _Later:
        """As on rank 0."""
        return self._ask(request, lambda response: _relay(request, response))

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ numbers of blobs in memory."""
        return _stats(len(self._cache), 0, self._cache.size)

    def _ask(self, request: Request, callback: Callable[[Message], None]) -> _Later:
        self.router.rpc(request.topic, request.message.payload, callback, nodeid=NODEID_ANY, upstream=True)
        return LATER


def _relay(request: Request, response: Message) -> None:
    if response.errnum:
        request.error(response.errnum, response.text())
    else:
        request.respond(response.payload)


def _stats(count: int, dirty: int, size: int) -> dict[str, Any]:
    return {
        "count": count,
        "valid": count,
        "dirty": dirty,
        "size": size,
        "flush-batch-count": 0,
        "mmap": {"tags": {}, "blobs": 0},
    }
