"""`content`: blobs by their hash. Rank 0 has the store, the others ask upwards and remember (RFC 10)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.content.store import BlobCache
from pytest_flux.broker.service import ALL, LATER, Answer, Request, Service, _Later, method
from pytest_flux.protocol.blobref import DIGEST_SIZES
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import NODEID_ANY, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.attributes import Attributes
    from pytest_flux.broker.content.store import ContentStore
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router


class ContentService(Service):
    """On rank 0. Checkpoints pass through here too, so that they follow what they speak of."""

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
        """Blob → digest, as bytes. ENOSPC, or whatever keeps blobs from being written."""
        self._store.check()
        return self._store.store(request.message.payload or b"")

    @method("flush")
    def flush(self, request: Request) -> Answer:
        """→ empty, when no blob is left that is not in the backing store."""
        self._store.flush()
        return None

    @method("dropcache")
    def dropcache(self, request: Request) -> Answer:
        """→ empty, when memory holds only what is nowhere else."""
        self._store.clean.clear()
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
        """``{value: checkpoint}`` → empty, when it and all blobs are on disk."""
        self._store.put_checkpoint(request.field("value", dict))
        return None

    @method("register-backing")
    def register_backing(self, request: Request) -> Answer:
        """Refused: the backing store is built in."""
        request.field("name", str)
        raise FluxError(errno.EBUSY, "content backing store is already active")

    @method("unregister-backing")
    def unregister_backing(self, request: Request) -> Answer:
        """Refused, for the same reason."""
        raise FluxError(errno.EBUSY, "the content backing store of an embedded broker is built in")

    @method("stats-get", roles=ALL)
    def stats_get(self, request: Request) -> Answer:
        """→ numbers of blobs in memory."""
        store = self._store
        count = len(store.clean) + len(store.dirty)
        return _stats(count, len(store.dirty), store.clean.size + store.dirty_bytes)


class RemoteContentService(Service):
    """On the other ranks."""

    name = "content"

    def __init__(self, router: Router, log: BrokerLog, attributes: Attributes) -> None:
        super().__init__(router, log)
        self._digest_size = DIGEST_SIZES[attributes.get("content.hash") or "sha1"]
        self._cache = BlobCache()

    @method("load")
    def load(self, request: Request) -> bytes | _Later | None:
        """As on rank 0; what was loaded once is answered from here."""
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
        """→ empty: nothing is kept here that is not upstream."""
        return None

    @method("dropcache")
    def dropcache(self, request: Request) -> Answer:
        """→ empty, when nothing is remembered."""
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
