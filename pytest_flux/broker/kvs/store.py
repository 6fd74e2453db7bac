"""The store itself: namespaces, transactions in their order, and what follows from each."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from typing import TYPE_CHECKING

from pytest_flux.broker.kvs.checkpoint import choose_checkpoint
from pytest_flux.broker.kvs.lookup import Lookup
from pytest_flux.broker.kvs.namespace import PRIMARY, Credentials, Namespace
from pytest_flux.broker.kvs.statistics import Statistics
from pytest_flux.broker.kvs.transaction import SYNC, Change, Transaction
from pytest_flux.broker.kvs.tree import Tree
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.kvs_key import normalize_key
from pytest_flux.protocol.message import ROLE_OWNER, encode_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.content.store import ContentStore
    from pytest_flux.broker.kvs.watch import Watch
    from pytest_flux.reactor.reactor import Reactor

    Publish = Callable[[str, bytes], None]


_DELAY = 0.01
"""Seconds that is not done, for which nobody waits."""


class KvsStore:
    """All namespaces. ``publish`` sends a private event.

    Transactions are queued, and done at the end of the reactor's round, those of one namespace merged into one new
    root where they allow it: hashing and answering is per round, not per request.
    """

    def __init__(self, reactor: Reactor, content: ContentStore, publish: Publish) -> None:
        self.content = content
        self.tree = Tree(content)
        self.owner = os.getuid()
        self.credentials = Credentials(self.owner, ROLE_OWNER)
        self.counts = Statistics()
        self._reactor = reactor
        self._publish = publish
        self._namespaces: dict[str, Namespace] = {}
        self._scheduled = False
        self._is_delayed = False
        self._changes: deque[tuple[Namespace, str, int, dict[str, None]]] = deque()
        self._checkpointed: tuple[str, int] | None = None
        self._complain: Callable[[str], None] = lambda _: None

    # -- namespaces

    def _all(self) -> dict[str, Namespace]:
        """The namespaces; the first call reads the checkpoint."""
        if not self._namespaces:
            ref, sequence = self._last_checkpoint()
            self._namespaces[PRIMARY] = Namespace(PRIMARY, self.owner, ref, sequence)
        return self._namespaces

    def _last_checkpoint(self) -> tuple[str, int]:
        empty = self.tree.store_directory(treeobj.directory())
        found = choose_checkpoint(self.content.checkpoints(), self.tree, self._complain)
        if found is None:
            return empty, 0
        self._checkpointed = found
        return found

    @property
    def is_loaded(self) -> bool:
        """Whether anybody has used the store."""
        return bool(self._namespaces)

    def namespaces(self) -> list[Namespace]:
        """All of them."""
        return list(self._all().values())

    def namespace(self, name: str, credentials: Credentials | None = None) -> Namespace:
        """One of them. FluxError ENOTSUP where it does not exist, EPERM where it is somebody else's."""
        found = self._all().get(name)
        if found is None:
            raise FluxError(errno.ENOTSUP)
        if credentials is not None:
            credentials.check(found.owner)
        return found

    def create_namespace(
        self, name: str, *, owner: int | None = None, rootref: str | None = None, flags: int = 0
    ) -> None:
        """Make a namespace, empty unless there is a ``rootref``. FluxError EEXIST."""
        if name in self._all():
            raise FluxError(errno.EEXIST)
        ref = self.tree.store_directory(treeobj.directory()) if rootref is None else rootref
        created = Namespace(name, self.owner if owner is None else owner, ref, flags=flags)
        self._namespaces[name] = created
        self._event(created, "created", rootseq=0, rootref=ref, owner=created.owner)

    def remove_namespace(self, name: str) -> None:
        """Remove a namespace and fail who waits in it; one that is not there is removed. ENOTSUP for "primary"."""
        if name == PRIMARY:
            raise FluxError(errno.ENOTSUP)
        self.settle()
        removed = self._all().pop(name, None)
        if removed is None:
            return
        self._event(removed, "removed")
        for waiter in removed.waiters:
            waiter.done(FluxError(errno.ENOTSUP))
        for watch in removed.watchers.all():
            watch.fail(FluxError(errno.ENOTSUP))

    def _event(self, namespace: Namespace, what: str, **members: object) -> None:
        payload = encode_json({"namespace": namespace.name, **members})
        self._publish(f"kvs.namespace-{namespace.name}-{what}", payload)

    # -- reading

    def lookup_in(self, root: str, credentials: Credentials) -> Lookup:
        """Look below the directory with blobref ``root``; links lead to other namespaces as they are now."""
        return Lookup(self.tree, root, lambda name: self.namespace(name, credentials).ref)

    # -- writing

    def submit(self, namespace: str, transaction: Transaction, *, soon: bool = True) -> None:
        """Queue a transaction. FluxError ENOTSUP where there is no such namespace.

        Nobody who reads sees what was before it, so one for whose end nobody waits need not be done ``soon``: it may
        become one new root with what follows.
        """
        self.namespace(namespace).queue.append(transaction)
        if soon and not self._scheduled:
            self._scheduled = True
            self._reactor.call_soon(self._end_round)
        elif not soon and not self._scheduled and not self._is_delayed:
            self._is_delayed = True
            self._reactor.call_later(_DELAY, self._end_delay)

    def _end_delay(self) -> None:
        self._is_delayed = False
        self.do_queued()

    def _end_round(self) -> None:
        self._scheduled = False
        self.do_queued()

    def settle(self) -> None:
        """Do now whatever has been asked for."""
        self.do_queued()

    def do_queued(self) -> None:
        """Do now what is queued."""
        for namespace in list(self._namespaces.values()):
            # Taken before they are done: what is told of one may lead to the next, and to this being called again.
            while namespace.queue:
                self._do(namespace, namespace.take_mergeable())

    def _do(self, namespace: Namespace, transactions: list[Transaction]) -> None:
        """One new root from these, or, if any is in error, from each by itself."""
        try:
            ref = self._changed(namespace, transactions)
        except FluxError as error:
            if len(transactions) > 1:
                for transaction in transactions:
                    self._do(namespace, [transaction])
                return
            self._event(namespace, "error", names=[transactions[0].name], errnum=error.errnum)
            if transactions[0].done is not None:
                transactions[0].done(error, "", 0)
            return
        self._advance(namespace, ref, transactions)

    def _changed(self, namespace: Namespace, transactions: list[Transaction]) -> str:
        is_sync = bool(transactions[0].flags & SYNC)
        if is_sync and namespace.name != PRIMARY:
            raise FluxError(errno.EINVAL)
        root = self.tree.directory(namespace.ref)
        ref = namespace.ref
        for transaction in transactions:
            self.counts.add(len(transaction.ops))
        if any(transaction.ops for transaction in transactions):
            change = Change(self.tree, root, namespace.name)
            for transaction in transactions:
                for op in transaction.ops:
                    change.apply(op)
            ref = change.finish()
        if is_sync:
            self._put_checkpoint(ref, namespace.sequence + 1)
        return ref

    def _advance(self, namespace: Namespace, ref: str, transactions: list[Transaction]) -> None:
        namespace.ref = ref
        namespace.sequence = sequence = namespace.sequence + 1
        keys = {normalize_key(op.key): None for transaction in transactions for op in transaction.ops}
        self._event(
            namespace,
            "setroot",
            rootseq=sequence,
            rootref=ref,
            names=[transaction.name for transaction in transactions],
            keys=keys,
            owner=namespace.owner,
        )
        for transaction in transactions:
            if transaction.done is not None:
                transaction.done(None, ref, sequence)
        namespace.wake()
        self._changes.append((namespace, ref, sequence, keys))
        if len(self._changes) == 1:
            self._notify()

    def _notify(self) -> None:
        """Tell watchers of the changes in their order: what they do about one may lead to another."""
        while self._changes:
            namespace, ref, sequence, keys = self._changes[0]
            try:
                for watch in namespace.watchers.of(keys):
                    if not watch.finished:
                        self.show(namespace, watch, ref, sequence)
            finally:
                self._changes.popleft()

    def show(self, namespace: Namespace, watch: Watch, ref: str, sequence: int) -> None:
        """Have a watcher look at a root."""
        watch.look(self.lookup_in(ref, watch.credentials), namespace.owner, sequence)

    # -- checkpoints

    def _put_checkpoint(self, ref: str, sequence: int) -> None:
        self.content.put_checkpoint(_checkpoint(ref, sequence))
        self._checkpointed = ref, sequence

    def preserve(self) -> None:
        """Have the primary namespace survive the broker, however that ends, unless its statedir goes with it."""
        if not self.content.volatile:
            primary = self._all()[PRIMARY]
            self.content.renew_checkpoint(_checkpoint(primary.ref, primary.sequence))

    def checkpoint(self) -> None:
        """Have the primary namespace survive us, as it is now. Nothing to do where nobody has changed it."""
        self.settle()
        if self.is_loaded:
            primary = self._namespaces[PRIMARY]
            if self._checkpointed != (primary.ref, primary.sequence):
                self._put_checkpoint(primary.ref, primary.sequence)


def _checkpoint(ref: str, sequence: int) -> dict[str, object]:
    return {"version": 1, "rootref": ref, "sequence": sequence, "timestamp": time.time()}
