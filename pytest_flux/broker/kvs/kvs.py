"""The key-value store of an instance (RFC 11), as the services of rank 0 use it: without messages.

The path of a commit
--------------------

A namespace is a root: the reference of a directory, from which everything else can be reached. Directories and values
are blobs of the content store and never change, so a change means new blobs for every directory from the changed key
up to the root, and one new root. Readers hold a root and are never disturbed.

A service of a busy instance commits hundreds of times a second, mostly to neighbouring keys (the event logs of jobs).
Hashing each directory for each commit would be most of the work. Three ways were open: let each commit wait for a
timer, as flux-core batches (that delays everybody); keep changes beside the tree and search both (every reader pays);
or collect what arrives in one round of the reactor. We do the third:

1. ``commit`` and ``append`` only queue. ``submit`` keeps the order of each namespace.
2. At the end of the round ``settle`` takes the queue. Neighbouring transactions that allow it become one new root
   (RFC 11, NO_MERGE and SYNC do not). If one of them is in error, each is done alone, so that only the bad one fails.
3. ``Change`` opens a directory when it is first touched, and hashes it once at the end (see directory.py).
4. The new root is published (``kvs.namespace-NAME-setroot``), the commits are answered, those who wait for a version
   are woken, and watchers look at the new root, in this order.

What must stay true: whoever reads settles first, so nobody ever sees a root older than an answered or queued commit
of its own; roots of a namespace follow each other in the order of submission; callbacks may commit again, which only
queues. A commit that nobody waits for (``soon=False``) may lie for a moment, because every reader settles it.

Durability is a matter of checkpoints: a root that is written to the content store's file. SYNC writes one before it
answers; otherwise the close does, and ``kvs.checkpoint-period``, if it is configured.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.kvs.appending import Appending
from pytest_flux.broker.kvs.lookup import READDIR, WAITCREATE, WATCH, WATCH_APPEND, Credentials, Lookup
from pytest_flux.broker.kvs.namespace import PRIMARY, Namespace, choose_checkpoint, encode_checkpoint
from pytest_flux.broker.kvs.transaction import APPEND, SYNC, Change, Op, Statistics, Transaction
from pytest_flux.broker.kvs.tree import Tree
from pytest_flux.broker.kvs.watch import Watch
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.duration import parse_duration
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.json_value import compact
from pytest_flux.protocol.kvs_key import normalize_key
from pytest_flux.protocol.message import ROLE_OWNER, encode_json
from pytest_flux.protocol.severity import LOG_ERR
from pytest_flux.protocol.treeobj import TreeObject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flux.broker.content.store import ContentStore
    from pytest_flux.broker.log import BrokerLog
    from pytest_flux.broker.router import Router
    from pytest_flux.reactor.reactor import Reactor

    Publish = Callable[[str, bytes], None]
    Json = Any


_DELAY = 0.01
"""Seconds that a commit may wait if nobody waits for it."""


class Kvs:
    """All namespaces. ``publish`` sends a private event, ``complain`` logs an error.

    Errors are FluxError: ENOENT, EISDIR, ENOTDIR, ENOTSUP and so on, as in flux-core.
    """

    def __init__(
        self, reactor: Reactor, content: ContentStore, publish: Publish, complain: Callable[[str], None]
    ) -> None:
        self.content = content
        self.tree = Tree(content)
        self.owner = os.getuid()
        self.credentials = Credentials(self.owner, ROLE_OWNER)
        self.counts = Statistics()
        self._reactor = reactor
        self._publish = publish
        self._complain = complain
        self._names = count()
        self._namespaces: dict[str, Namespace] = {}
        self._expected: dict[str, Callable[[], None]] = {}
        self._unborn: dict[str, list[Watch]] = {}
        self._appending = Appending(reactor, self.settle)
        self._is_scheduled = False
        self._is_delayed = False
        self._changes: deque[tuple[Namespace, str, int, dict[str, None]]] = deque()
        self._checkpointed: tuple[str, int] | None = None

    # -- namespaces

    def _all(self) -> dict[str, Namespace]:
        """The namespaces; the first call reads the checkpoint."""
        if not self._namespaces:
            ref, sequence = self._last_checkpoint()
            self._namespaces[PRIMARY] = Namespace(PRIMARY, self.owner, ref, sequence)
        return self._namespaces

    def namespaces(self) -> builtins.list[Namespace]:
        """All of them; those that are expected are created now."""
        for name in builtins.list(self._expected):
            self.namespace(name)
        return builtins.list(self._all().values())

    def namespace(self, name: str, credentials: Credentials | None = None) -> Namespace:
        """One of them, created now if it is expected.

        FluxError ENOTSUP if it does not exist, EPERM if it belongs to somebody else.
        """
        make = self._expected.pop(name, None)
        if make is not None:
            make()
        found = self._all().get(name)
        if found is None:
            raise FluxError(errno.ENOTSUP)
        if credentials is not None:
            credentials.check(found.owner)
        return found

    def expect_namespace(self, name: str, make: Callable[[], None] | None) -> None:
        """Let ``make`` create a namespace when it is first asked for; None forgets that."""
        if make is None:
            self._expected.pop(name, None)
        else:
            self._expected[name] = make

    def create_namespace(
        self, name: str, *, owner: int | None = None, rootref: str | None = None, flags: int = 0
    ) -> None:
        """Make a namespace, empty unless there is a ``rootref``; watchers that wait for it look. FluxError EEXIST."""
        if name in self._all():
            raise FluxError(errno.EEXIST)
        if rootref is None:
            ref = self.tree.store_directory(treeobj.directory())
        else:
            ref = rootref
            self.tree.keep(ref)
        created = Namespace(name, self.owner if owner is None else owner, ref, flags=flags)
        self._namespaces[name] = created
        self._event(created, "created", rootseq=0, rootref=ref, owner=created.owner)
        for watch in self._unborn.pop(name, []):
            self.add_watch(name, watch)

    def remove_namespace(self, name: str) -> None:
        """Remove a namespace and fail whoever waits in it.

        A namespace that does not exist counts as removed. FluxError ENOTSUP for "primary".
        """
        self.settle()
        self._appending.forget(name)
        if name == PRIMARY:
            raise FluxError(errno.ENOTSUP)
        removed = self._all().pop(name, None)
        if removed is None:
            return
        self._event(removed, "removed")
        for waiter in builtins.list(removed.waiters):
            self._reactor.call(waiter.done, FluxError(errno.ENOTSUP))
        for watch in removed.watchers.all():
            self._reactor.call(watch.fail, FluxError(errno.ENOTSUP))

    def _event(self, namespace: Namespace, what: str, **members: object) -> None:
        payload = encode_json({"namespace": namespace.name, **members})
        self._publish(f"kvs.namespace-{namespace.name}-{what}", payload)

    # -- writing

    def commit(
        self,
        ops: Sequence[Op],
        *,
        namespace: str = PRIMARY,
        flags: int = 0,
        done: Callable[[FluxError | None], None] | None = None,
        soon: bool = True,
    ) -> None:
        """Do ``ops`` together, at the end of this round of the reactor; then call ``done`` with None or the error.

        See ``submit`` about ``soon``. FluxError ENOTSUP if there is no such namespace.
        """

        def tell(error: FluxError | None, ref: str, sequence: int) -> None:
            if done is not None:
                done(error)

        self.submit(namespace, Transaction(self._next_name(), builtins.list(ops), flags, tell), soon=soon)

    def put(self, key: str, value: bytes | str, *, namespace: str = PRIMARY) -> None:
        """Set one value."""
        self.commit([put_op(key, value)], namespace=namespace)

    def put_json(self, key: str, value: object, *, namespace: str = PRIMARY) -> None:
        """Set one value, as compact JSON."""
        self.put(key, compact(value), namespace=namespace)

    def unlink(self, key: str, *, namespace: str = PRIMARY) -> None:
        """Remove a key and everything below it."""
        self.commit([Op(key, None)], namespace=namespace)

    def append(self, key: str, value: bytes | str, *, namespace: str = PRIMARY) -> None:
        """Add to a value, cheaply: see :class:`Appending`."""
        self._appending.add(namespace, key, value.encode() if isinstance(value, str) else value)

    def graft(self, namespace: str, key: str, done: Callable[[FluxError | None], None] | None = None) -> None:
        """Make the present root of ``namespace`` a directory of the primary namespace."""
        self.settle()
        self.commit([Op(key, treeobj.dirref(self.namespace(namespace).ref))], done=done)

    def _next_name(self) -> str:
        return f"broker.0.{next(self._names)}"

    def submit(self, namespace: str, transaction: Transaction, *, soon: bool = True) -> None:
        """Queue a transaction behind what was appended before. FluxError ENOTSUP if there is no such namespace.

        Every reader settles first. So a transaction that nobody waits for need not be done ``soon``: it may become
        one new root with what follows.
        """
        self._queue_appended()
        self._queue(namespace, transaction, soon=soon)

    def _queue(self, namespace: str, transaction: Transaction, *, soon: bool = True) -> None:
        self.namespace(namespace).queue.append(transaction)
        if soon and not self._is_scheduled:
            self._is_scheduled = True
            self._reactor.call_soon(self._end_round)
        elif not soon and not self._is_scheduled and not self._is_delayed:
            self._is_delayed = True
            self._reactor.put_off(_DELAY, self._end_delay)

    def _queue_appended(self) -> None:
        for namespace, values in self._appending.take():
            ops = [Op(key, treeobj.val(value), APPEND) for key, value in values]
            try:
                self._queue(namespace, Transaction(self._next_name(), ops))
            except FluxError:
                # The namespace was removed with all that was in it, and this would have been.
                continue

    def _end_delay(self) -> None:
        self._is_delayed = False
        self._do_queued()

    def _end_round(self) -> None:
        self._is_scheduled = False
        self._do_queued()

    def settle(self) -> None:
        """Do now everything that was queued or appended."""
        self._queue_appended()
        self._do_queued()

    def _do_queued(self) -> None:
        for namespace in builtins.list(self._namespaces.values()):
            # Taken before they are done: the callbacks of one may lead to the next, and to this being called again.
            while namespace.queue:
                self._do(namespace, namespace.take_mergeable())

    def _do(self, namespace: Namespace, transactions: builtins.list[Transaction]) -> None:
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
                self._reactor.call(transactions[0].done, error, "", 0)
            return
        self._advance(namespace, ref, transactions)

    def _changed(self, namespace: Namespace, transactions: builtins.list[Transaction]) -> str:
        is_sync = bool(transactions[0].flags & SYNC)
        if is_sync and namespace.name != PRIMARY:
            raise FluxError(errno.EINVAL)
        ref = namespace.ref
        for transaction in transactions:
            self.counts.add(len(transaction.ops))
        if any(transaction.ops for transaction in transactions):
            change = Change(self.tree, ref, namespace.name)
            for transaction in transactions:
                for op in transaction.ops:
                    change.apply(op)
            ref = change.finish()
        if is_sync:
            self._put_checkpoint(ref, namespace.sequence + 1)
        return ref

    def _advance(self, namespace: Namespace, ref: str, transactions: builtins.list[Transaction]) -> None:
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
                self._reactor.call(transaction.done, None, ref, sequence)
        for waiter in namespace.take_ready():
            self._reactor.call(waiter.done, None)
        self._changes.append((namespace, ref, sequence, keys))
        if len(self._changes) == 1:
            self._notify()

    # -- reading

    def lookup_in(self, root: str, credentials: Credentials) -> Lookup:
        """Look below the directory with blobref ``root``; links lead to other namespaces as they are now."""
        return Lookup(self.tree, root, lambda name: self.namespace(name, credentials).ref)

    def entry(self, key: str, flags: int = 0, *, namespace: str = PRIMARY) -> TreeObject | None:
        """The entry at ``key``, for flags of a lookup, after all that was written; None if there is none."""
        self.settle()
        return self.lookup_in(self.namespace(namespace).ref, self.credentials).find(key, flags)

    def lookup(self, key: str, namespace: str = PRIMARY) -> bytes:
        """A value. FluxError ENOENT if there is none."""
        found = self.entry(key, namespace=namespace)
        if found is None:
            raise FluxError(errno.ENOENT)
        return found.value()

    def lookup_json(self, key: str, namespace: str = PRIMARY) -> Json:
        """A value that is JSON. FluxError ENOENT, ValueError."""
        try:
            return json.loads(self.lookup(key, namespace))
        except RecursionError:
            raise ValueError(f"{key}: nested too deeply") from None

    def list(self, key: str, namespace: str = PRIMARY) -> dict[str, TreeObject]:
        """The entries of a directory; none if there is no directory."""
        found = self.entry(key, READDIR, namespace=namespace)
        return {} if found is None else dict(found.data)

    # -- watching

    def watch(
        self,
        key: str,
        tell: Callable[[bytes], None],
        end: Callable[[FluxError | None], None],
        *,
        namespace: str = PRIMARY,
        flags: int = WATCH | WATCH_APPEND | WAITCREATE,
    ) -> Watch:
        """Call ``tell`` with the value and everything appended to it, until ``end`` gets the reason for the end.

        By default neither key nor namespace need exist. ``unwatch`` ends it silently.
        """

        def told(value: TreeObject | None) -> None:
            if value is not None:
                tell(value.value())

        watch = Watch(key, flags, self.credentials, told, end)
        self.add_watch(namespace, watch)
        return watch

    def add_watch(self, namespace: str, watch: Watch) -> None:
        """Begin with a watcher; it may be over before this returns."""
        self.settle()
        try:
            found = self.namespace(namespace, watch.credentials)
        except FluxError as error:
            if watch.waits and namespace not in self._all():
                self._unborn.setdefault(namespace, []).append(watch)
            else:
                watch.fail(error)
            return
        found.watchers.add(watch)
        self._show(found, watch, found.ref, found.sequence)

    def resume_watch(self, namespace: str, watch: Watch) -> None:
        """Go on with a watcher that had to wait. If the namespace is gone, so is what was left for it."""
        found = self._namespaces.get(namespace)
        if found is not None:
            watch.resume(self.lookup_in(found.ref, watch.credentials), found.owner)
            if watch.finished:
                found.watchers.remove(watch)

    def unwatch(self, namespace: str, watch: Watch) -> None:
        """Forget a watcher."""
        watch.finished = True
        found = self._namespaces.get(namespace)
        if found is not None:
            found.watchers.remove(watch)
        if watch in self._unborn.get(namespace, ()):
            self._unborn[namespace].remove(watch)

    def _notify(self) -> None:
        """Show the changes to watchers, in order: what they do about one may lead to another."""
        while self._changes:
            namespace, ref, sequence, keys = self._changes[0]
            try:
                for watch in namespace.watchers.of(keys):
                    if not watch.finished and not self._reactor.call(self._show, namespace, watch, ref, sequence):
                        self._reactor.call(watch.fail, FluxError(errno.EIO))
                        namespace.watchers.remove(watch)
            finally:
                self._changes.popleft()

    def _show(self, namespace: Namespace, watch: Watch, ref: str, sequence: int) -> None:
        """Let a watcher look at a root; forget one that has seen enough."""
        watch.look(self.lookup_in(ref, watch.credentials), namespace.owner, sequence)
        if watch.finished:
            namespace.watchers.remove(watch)

    # -- checkpoints

    def _last_checkpoint(self) -> tuple[str, int]:
        empty = self.tree.store_directory(treeobj.directory())
        found = choose_checkpoint(self.content.checkpoints(), self.tree, self._complain)
        if found is None:
            return empty, 0
        self._checkpointed = found
        return found

    def _put_checkpoint(self, ref: str, sequence: int) -> None:
        self.content.put_checkpoint(encode_checkpoint(ref, sequence, self._reactor.clock.time()))
        self._checkpointed = ref, sequence

    def preserve(self) -> None:
        """Make the primary namespace survive the process, however it ends; nothing to do for a temporary statedir."""
        if not self.content.volatile and self.content.is_backed:
            primary = self._all()[PRIMARY]
            value = encode_checkpoint(primary.ref, primary.sequence, self._reactor.clock.time())
            self.content.renew_checkpoint(value)

    def checkpoint(self) -> None:
        """Write a checkpoint of the primary namespace if it has changed since the last one."""
        self.settle()
        if self._namespaces:
            primary = self._namespaces[PRIMARY]
            if self._checkpointed != (primary.ref, primary.sequence):
                self._put_checkpoint(primary.ref, primary.sequence)

    def _try_checkpoint(self) -> bool:
        try:
            self.checkpoint()
        except FluxError as error:
            self._complain(f"KVS checkpoint: {error.text or error.strerror}")
            return False
        return True

    def checkpoint_every(self, seconds: float) -> None:
        """Write a checkpoint every ``seconds``: a crash loses no more than that."""
        self._reactor.clock.call_every(seconds, self._try_checkpoint)

    # -- the module

    def begin(self, rootref: str | None) -> None:
        """Open the primary namespace now, at ``rootref`` instead of the last checkpoint. FluxError."""
        if rootref is None:
            self._all()
            return
        try:
            decode_blobref(rootref)
        except ProtocolError:
            raise FluxError(errno.EINVAL) from None
        self._namespaces[PRIMARY] = Namespace(PRIMARY, self.owner, rootref, self._last_checkpoint()[1])

    def end(self) -> None:
        """Write a checkpoint if there is a file for it, and forget all namespaces: the module is removed."""
        self.settle()
        if self.content.is_backed:
            self._try_checkpoint()
        gone = FluxError(errno.ENOSYS)
        for namespace in self._namespaces.values():
            for waiter in namespace.waiters:
                waiter.done(gone)
            for watch in namespace.watchers.all():
                watch.fail(gone)
        for unborn in self._unborn.values():
            for watch in unborn:
                watch.fail(gone)
        self._namespaces.clear()
        self._unborn.clear()
        self._checkpointed = None

    def close(self) -> bool:
        """Bring everything to disk, unless the statedir is temporary. Returns whether nothing was lost."""
        return self.content.volatile or not self.content.is_backed or self._try_checkpoint()


def put_op(key: str, value: bytes | str) -> Op:
    """The operation that sets a value."""
    return Op(key, treeobj.val(value.encode() if isinstance(value, str) else value))


def open_kvs(reactor: Reactor, content: ContentStore, router: Router, log: BrokerLog, config: dict[str, Any]) -> Kvs:
    """The store of an instance, on its rank 0.

    A ``kvs.checkpoint-period`` that is not a duration (RFC 23) is logged and ignored.
    """

    def complain(text: str) -> None:
        log.write(LOG_ERR, text, "kvs")

    def publish(topic: str, payload: bytes) -> None:
        router.publish(topic, payload, private=True)

    kvs = Kvs(reactor, content, publish, complain)
    table = config.get("kvs", {})
    period = table.get("checkpoint-period") if isinstance(table, dict) else None
    if period is not None:
        try:
            seconds = parse_duration(period) if isinstance(period, str) else -1.0
        except ValueError:
            seconds = -1.0
        if seconds > 0:
            kvs.checkpoint_every(seconds)
        else:
            complain(f"invalid checkpoint-period config: {period}")
    return kvs
