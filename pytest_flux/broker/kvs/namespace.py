"""One namespace: a root that changes, and who waits for it to."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import ROLE_OWNER, ROLE_USER

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.kvs.transaction import Transaction
    from pytest_flux.broker.kvs.watch import Watch

PRIMARY = "primary"
"""The namespace that always exists."""


class Credentials:
    """Who asks: a user, and whether it is the owner of the instance."""

    __slots__ = ("rolemask", "userid")

    def __init__(self, userid: int, rolemask: int) -> None:
        self.userid = userid
        self.rolemask = rolemask

    def check(self, owner: int) -> None:
        """FluxError EPERM unless this is the instance owner, or a guest in a namespace of its own."""
        if not self.rolemask & ROLE_OWNER and not (self.rolemask & ROLE_USER and self.userid == owner):
            raise FluxError(errno.EPERM)


class Namespace:
    """Root and sequence number, and, in order, the transactions that will change them."""

    __slots__ = ("flags", "name", "owner", "queue", "ref", "sequence", "waiters", "watchers")

    def __init__(self, name: str, owner: int, ref: str, sequence: int = 0, flags: int = 0) -> None:
        self.name = name
        self.owner = owner
        self.ref = ref
        self.sequence = sequence
        self.flags = flags
        self.queue: list[Transaction] = []
        self.waiters: list[Waiter] = []
        self.watchers = Watchers()

    def take_mergeable(self) -> list[Transaction]:
        """The first transaction of the queue, with those right behind it that may become one root with it."""
        queue, count = self.queue, 1
        while count < len(queue) and queue[0].merges_with(queue[count]):
            count += 1
        self.queue = queue[count:]
        return queue[:count]

    def wake(self) -> None:
        """Tell those who waited for the version that is now."""
        if self.waiters:
            ready = [waiter for waiter in self.waiters if waiter.sequence <= self.sequence]
            self.waiters = [waiter for waiter in self.waiters if waiter.sequence > self.sequence]
            for waiter in ready:
                waiter.done(None)


class Waiter:
    """Someone who waits for a sequence number; ``done`` gets None, or an error."""

    __slots__ = ("done", "sequence")

    def __init__(self, sequence: int, done: Callable[[FluxError | None], None]) -> None:
        self.sequence = sequence
        self.done = done


class Watchers:
    """The watchers of a namespace, found by the keys that a commit names."""

    __slots__ = ("_any", "_by_key")

    def __init__(self) -> None:
        self._any: dict[Watch, None] = {}
        self._by_key: dict[str, dict[Watch, None]] = {}

    def add(self, watch: Watch) -> None:
        """Have ``watch`` told."""
        group = self._any if watch.is_full else self._by_key.setdefault(watch.key, {})
        group[watch] = None

    def remove(self, watch: Watch) -> None:
        """No longer."""
        group = self._any if watch.is_full else self._by_key.get(watch.key)
        if group is not None and watch in group:
            del group[watch]
            if not group and not watch.is_full:
                del self._by_key[watch.key]

    def all(self) -> list[Watch]:
        """Every one of them."""
        return [*self._any, *(watch for group in self._by_key.values() for watch in group)]

    def of(self, keys: dict[str, None]) -> list[Watch]:
        """Those that a commit to ``keys`` concerns."""
        found = list(self._any)
        if self._by_key:
            if len(keys) <= len(self._by_key):
                groups = [self._by_key[key] for key in keys if key in self._by_key]
            else:
                groups = [group for key, group in self._by_key.items() if key in keys]
            found += [watch for group in groups for watch in group]
        return found

    def __len__(self) -> int:
        return len(self._any) + sum(map(len, self._by_key.values()))
