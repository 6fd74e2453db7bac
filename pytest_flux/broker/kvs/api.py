"""The store as the services of rank 0 use it, without messages."""

from __future__ import annotations

import builtins
import json
from typing import TYPE_CHECKING, Any

from pytest_flux.broker.kvs.appending import AppendingStore
from pytest_flux.broker.kvs.lookup import READDIR, WAITCREATE, WATCH, WATCH_APPEND
from pytest_flux.broker.kvs.namespace import PRIMARY, Credentials, Namespace
from pytest_flux.broker.kvs.transaction import Op, Transaction
from pytest_flux.broker.kvs.watch import Watch
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.json_value import compact
from pytest_flux.protocol.treeobj import TreeObject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flux.broker.content.store import ContentStore
    from pytest_flux.broker.kvs.store import Publish
    from pytest_flux.reactor.reactor import Reactor

    Json = Any


class Kvs(AppendingStore):
    """See the base for namespaces. Errors are FluxError: ENOENT, EISDIR, ENOTDIR, ENOTSUP and so on."""

    def __init__(
        self, reactor: Reactor, content: ContentStore, publish: Publish, complain: Callable[[str], None]
    ) -> None:
        super().__init__(reactor, content, publish)
        self._complain = complain
        self._unborn: dict[str, list[Watch]] = {}
        self._expected: dict[str, Callable[[], None]] = {}

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

        Without ``soon`` it may take a while, but for those who read, who see it at once.

        Raises FluxError ENOTSUP where there is no such namespace.
        """

        def tell(error: FluxError | None, ref: str, sequence: int) -> None:
            if done is not None:
                done(error)

        self.submit(namespace, Transaction(self._next_name(), list(ops), flags, tell), soon=soon)

    def put(self, key: str, value: bytes | str, *, namespace: str = PRIMARY) -> None:
        """Set one value."""
        self.commit([put_op(key, value)], namespace=namespace)

    def put_json(self, key: str, value: object, *, namespace: str = PRIMARY) -> None:
        """Set one value, as compact JSON."""
        self.put(key, compact(value), namespace=namespace)

    def unlink(self, key: str, *, namespace: str = PRIMARY) -> None:
        """Remove a key, with all that is below it."""
        self.commit([Op(key, None)], namespace=namespace)

    def graft(self, namespace: str, key: str, done: Callable[[FluxError | None], None] | None = None) -> None:
        """Have a directory of the primary namespace be what the root of ``namespace`` is now."""
        self.settle()
        self.commit([Op(key, treeobj.dirref(self.namespace(namespace).ref))], done=done)

    # -- reading

    def entry(self, key: str, flags: int = 0, *, namespace: str = PRIMARY) -> TreeObject | None:
        """What is at ``key``, for flags of a lookup; None where there is nothing. All that was written is there."""
        self.settle()
        return self.lookup_in(self.namespace(namespace).ref, self.credentials).find(key, flags)

    def lookup(self, key: str, namespace: str = PRIMARY) -> bytes:
        """A value. FluxError ENOENT where there is none."""
        found = self.entry(key, namespace=namespace)
        if found is None:
            import errno

            raise FluxError(errno.ENOENT)
        return found.value()

    def lookup_json(self, key: str, namespace: str = PRIMARY) -> Json:
        """A value that is JSON. FluxError ENOENT, ValueError."""
        try:
            return json.loads(self.lookup(key, namespace))
        except RecursionError:
            raise ValueError(f"{key}: nested too deeply") from None

    def list(self, key: str, namespace: str = PRIMARY) -> dict[str, TreeObject]:
        """The entries of a directory, none where there is no directory."""
        found = self.entry(key, READDIR, namespace=namespace)
        return {} if found is None else dict(found.data)

    def checkpoint_every(self, seconds: float) -> None:
        """Have what is committed survive a crash, but for that of the last ``seconds``."""

        def again() -> None:
            try:
                self.checkpoint()
            except FluxError as error:
                self._complain(f"KVS checkpoint: {error.text or error.strerror}")
            self._reactor.call_later(seconds, again)

        self._reactor.call_later(seconds, again)

    def close(self) -> bool:
        """Have all that was answered be on disk, where the statedir stays; without that there is nothing to do.

        Whether that went well.
        """
        if self.content.volatile:
            return True
        try:
            self.checkpoint()
        except FluxError as error:
            self._complain(f"KVS checkpoint: {error.text or error.strerror}")
            return False
        return True

    # -- namespaces

    def expect_namespace(self, name: str, make: Callable[[], None] | None) -> None:
        """Have ``make`` create a namespace when it is first asked for; None forgets that."""
        if make is None:
            self._expected.pop(name, None)
        else:
            self._expected[name] = make

    def namespace(self, name: str, credentials: Credentials | None = None) -> Namespace:
        """As the base; one that is expected is created now."""
        make = self._expected.pop(name, None)
        if make is not None:
            make()
        return super().namespace(name, credentials)

    def namespaces(self) -> builtins.list[Namespace]:
        """As the base; those that are expected are created now."""
        for name in list(self._expected):
            self.namespace(name)
        return super().namespaces()

    # -- following

    def watch(
        self,
        key: str,
        tell: Callable[[bytes], None],
        end: Callable[[FluxError | None], None],
        *,
        namespace: str = PRIMARY,
        flags: int = WATCH | WATCH_APPEND | WAITCREATE,
    ) -> Watch:
        """Have ``tell`` get the value, and what is appended to it, until ``end`` says why that is over.

        By default neither key nor namespace need exist. ``unwatch`` ends it without a word.
        """

        def told(value: TreeObject | None) -> None:
            if value is not None:
                tell(value.value())

        watch = Watch(key, flags, self.credentials, told, end)
        self.add_watch(namespace, watch)
        return watch

    def add_watch(self, namespace: str, watch: Watch) -> None:
        """Begin to tell a watcher; it may be over before this returns."""
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
        self.show(found, watch, found.ref, found.sequence)
        if watch.finished:
            found.watchers.remove(watch)

    def resume_watch(self, namespace: str, watch: Watch) -> None:
        """Go on telling a watcher that had to wait. If the namespace is gone, so is what it had to be told."""
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

    def show(self, namespace: Namespace, watch: Watch, ref: str, sequence: int) -> None:
        """As the base; who has seen enough is forgotten."""
        super().show(namespace, watch, ref, sequence)
        if watch.finished:
            namespace.watchers.remove(watch)

    def create_namespace(
        self, name: str, *, owner: int | None = None, rootref: str | None = None, flags: int = 0
    ) -> None:
        """As the base; who has waited for the namespace looks at it."""
        super().create_namespace(name, owner=owner, rootref=rootref, flags=flags)
        for watch in self._unborn.pop(name, []):
            self.add_watch(name, watch)


def put_op(key: str, value: bytes | str) -> Op:
    """The operation that sets a value."""
    return Op(key, treeobj.val(value.encode() if isinstance(value, str) else value))
