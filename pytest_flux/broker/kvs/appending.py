"""Values that grow: logs and output, to which the broker's own services append, often and in small pieces."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING

from pytest_flux.broker.kvs.namespace import PRIMARY
from pytest_flux.broker.kvs.store import KvsStore
from pytest_flux.broker.kvs.transaction import APPEND, Op, Transaction
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from pytest_flux.broker.content.store import ContentStore
    from pytest_flux.broker.kvs.store import Publish
    from pytest_flux.reactor.reactor import Reactor, Timer

# Of the time, so much may go into appending: a value with many parts costs more with each. Where it is little, as
# with logs of events, appending is done at once; a flood of output is gathered into fewer, larger parts.
_SHARE = 0.4
_LONGEST_WAIT = 0.05
# Each version of a value has the names of all its parts, and all versions are kept: the longer it gets, the longer
# what is added to it waits, in the end as long as flux-core's shells always have it wait.
_WAIT_PER_PART = 0.0005
_LONGEST_WAIT_OF_LONG = 1.0
# More than this is not gathered.
_LARGEST_PART = 1 << 20


class AppendingStore(KvsStore):
    """A store that gathers what is appended."""

    def __init__(self, reactor: Reactor, content: ContentStore, publish: Publish) -> None:
        super().__init__(reactor, content, publish)
        self._names = count()
        self._appended: dict[str, dict[str, list[bytes]]] = {}
        self._size = 0
        self._parts: dict[str, int] = {}
        self._append_timer: Timer | None = None
        self._append_after = 0.0

    def append(self, key: str, value: bytes | str, *, namespace: str = PRIMARY) -> None:
        """Add to a value. Cheap, often: what comes in one round becomes one part of the value, and one commit."""
        data = value.encode() if isinstance(value, str) else value
        self._appended.setdefault(namespace, {}).setdefault(key, []).append(data)
        self._size += len(data)
        if self._append_timer is None:
            wait = max(0.0, self._append_after - time.monotonic())
            parts = self._parts.get(namespace, 0)
            if parts > _LONGEST_WAIT / _WAIT_PER_PART:
                wait = max(wait, min(parts * _WAIT_PER_PART, _LONGEST_WAIT_OF_LONG))
            self._append_timer = self._reactor.call_later(wait, self._append_now)
        elif self._size > _LARGEST_PART and self._append_timer.when > time.monotonic():
            self._append_timer.cancel()
            self._append_timer = self._reactor.call_later(0.0, self._append_now)

    def _append_now(self) -> None:
        self._append_timer = None
        started = time.monotonic()
        self.settle()
        spent = time.monotonic() - started
        self._append_after = started + spent + min(spent / _SHARE, _LONGEST_WAIT)

    def submit(self, namespace: str, transaction: Transaction, *, soon: bool = True) -> None:
        """As the base, behind what was appended before."""
        if self._appended:
            self._queue_appended()
        super().submit(namespace, transaction, soon=soon)

    def settle(self) -> None:
        """Do now what is queued, and what was appended."""
        if self._appended:
            self._queue_appended()
        super().settle()

    def _queue_appended(self) -> None:
        appended, self._appended, self._size = self._appended, {}, 0
        for namespace, values in appended.items():
            if namespace != PRIMARY:
                self._parts[namespace] = self._parts.get(namespace, 0) + 1
            ops = [Op(key, treeobj.val(b"".join(parts)), APPEND) for key, parts in values.items()]
            try:
                super().submit(namespace, Transaction(self._next_name(), ops))
            except FluxError:
                # The namespace was removed with all that was in it, and this would have been.
                continue

    def remove_namespace(self, name: str) -> None:
        """As the base; what was not yet appended there is dropped."""
        self.settle()
        self._parts.pop(name, None)
        super().remove_namespace(name)

    def _next_name(self) -> str:
        return f"broker.0.{next(self._names)}"
