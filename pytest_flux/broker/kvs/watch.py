"""Watch one key (flux-core's modules/kvs-watch/kvs-watch.c): what a watcher gets, and when that ends."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pytest_flux.broker.kvs import lookup
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.kvs_key import normalize_key
from pytest_flux.protocol.treeobj import DIR, DIRREF, VAL, VALREF, TreeObject

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.kvs.lookup import Credentials, Lookup

_MODIFIERS = lookup.WATCH_FULL | lookup.WATCH_UNIQ | lookup.WATCH_APPEND | lookup.WATCH_INITIAL_SENTINEL


def check_flags(flags: int, *, is_streaming: bool) -> None:
    """FluxError, in Flux's words, if flags of a watch contradict each other or the request."""
    watch, stream = flags & lookup.WATCH, flags & lookup.STREAM
    if watch and not is_streaming:
        raise FluxError(errno.EPROTO, "KVS watch request rejected without streaming RPC flag")
    if stream and not is_streaming:
        raise FluxError(errno.EPROTO, "KVS stream request rejected without streaming RPC flag")
    if watch and stream:
        raise FluxError(errno.EINVAL, "Cannot KVS watch and stream at the same time")
    if not watch and flags & _MODIFIERS:
        raise FluxError(errno.EINVAL, "Must set KVS watch flag with other watch flags")
    if not flags & lookup.WATCH_APPEND and flags & lookup.WATCH_INITIAL_SENTINEL:
        raise FluxError(errno.EINVAL, "Must set KVS watch append flag with initial sentinel flag")


class Watch:
    """One watcher.

    ``tell`` gets each value, and None as the mark after the initial ones. ``end`` gets the error that ends the watch,
    or None if there is no more to come. A value that is told part by part pauses while ``is_open`` returns False,
    until ``resume``. ``first`` is the number of the part to begin with.
    """

    __slots__ = (
        "_end",
        "_flags",
        "_is_open",
        "_previous",
        "_seen",
        "_tell",
        "_told",
        "count",
        "credentials",
        "finished",
        "key",
    )

    def __init__(
        self,
        key: str,
        flags: int,
        credentials: Credentials,
        tell: Callable[[TreeObject | None], None],
        end: Callable[[FluxError | None], None],
        *,
        is_open: Callable[[], bool] = lambda: True,
        first: int = 0,
    ) -> None:
        self.key = normalize_key(key)
        self.credentials = credentials
        self.finished = False
        self._flags = flags
        self._tell = tell
        self._end = end
        self._is_open = is_open
        self._told = first > 0
        self.count = first
        self._seen = -1
        self._previous: TreeObject | None = None

    @property
    def is_full(self) -> bool:
        """Whether every commit is looked at, because it may change the key through a link or a parent."""
        return bool(self._flags & lookup.WATCH_FULL)

    @property
    def waits(self) -> bool:
        """Whether the key may be missing: it need not exist yet."""
        return bool(self._flags & lookup.WAITCREATE) and not self._told

    def look(self, where: Lookup, owner: int, sequence: int) -> None:
        """Look at a root, which is new, or new to this watcher."""
        if sequence <= self._seen:
            return
        self._seen = sequence
        self._check(where, owner, again=False)

    def resume(self, where: Lookup, owner: int) -> None:
        """Go on: ``is_open`` returns True again."""
        if not self.finished:
            self._check(where, owner, again=True)

    def _check(self, where: Lookup, owner: int, *, again: bool) -> None:
        try:
            self.credentials.check(owner)
            self._look(where, again=again)
        except FluxError as error:
            self.fail(error)

    def fail(self, error: FluxError | None) -> None:
        """End the watch."""
        if not self.finished:
            self.finished = True
            self._end(error)

    def _look(self, where: Lookup, *, again: bool) -> None:
        flags = self._flags
        in_pieces = flags & (lookup.WATCH_APPEND | lookup.STREAM)
        found = where.find(self.key, flags | (lookup.TREEOBJ if in_pieces else 0))
        if found is None:
            if not self.waits:
                raise FluxError(errno.ENOENT)
        elif in_pieces:
            self._tell_pieces(where, found, again=again)
        elif flags & (lookup.WATCH_FULL | lookup.WATCH_UNIQ):
            if self._previous is None or found.encode() != self._previous.encode():
                self._previous = found
                self._say(found)
        else:
            self._say(found)
        if in_pieces and not self._is_open():
            return
        if flags & lookup.WATCH_INITIAL_SENTINEL:
            self._flags &= ~lookup.WATCH_INITIAL_SENTINEL
            self._tell(None)
        if self._told and not flags & lookup.WATCH:
            # flux-core answers a request for a stream until ENODATA, and one that waits for a creation once.
            self.fail(FluxError(errno.ENODATA) if flags & lookup.STREAM else None)

    def _say(self, value: TreeObject) -> None:
        self._told = True
        self._tell(value)

    def _tell_pieces(self, where: Lookup, found: TreeObject, *, again: bool) -> None:
        """Tell what was appended since: one answer for each blob."""
        if again and found.type == VAL and self.count:
            return
        if self._told and found.type != VALREF:
            raise FluxError(errno.EINVAL, "value of key watched with WATCH_APPEND overwritten")
        if found.type == VAL:
            self.count = 1
            self._say(found)
        elif found.type == VALREF:
            refs = found.data
            if len(refs) < self.count:
                raise FluxError(errno.EINVAL, "key watched with WATCH_APPEND shortened")
            while self.count < len(refs) and self._is_open() and not self.finished:
                self.count += 1
                self._say(treeobj.val(where.tree.load(refs[self.count - 1])))
        else:
            text = (
                "cannot be watched with WATCH_APPEND" if self._flags & lookup.WATCH_APPEND else "cannot be streamed"
            )
            errnum = errno.EISDIR if found.type in (DIR, DIRREF) else errno.EINVAL
            raise FluxError(errnum, f"{found.type} {text}")


class Watchers:
    """The watchers of a namespace, found by the keys that a commit names."""

    __slots__ = ("_any", "_by_key")

    def __init__(self) -> None:
        self._any: dict[Watch, None] = {}
        self._by_key: dict[str, dict[Watch, None]] = {}

    def add(self, watch: Watch) -> None:
        """Add a watcher."""
        group = self._any if watch.is_full else self._by_key.setdefault(watch.key, {})
        group[watch] = None

    def remove(self, watch: Watch) -> None:
        """Remove a watcher, if it is there."""
        group = self._any if watch.is_full else self._by_key.get(watch.key)
        if group is not None and watch in group:
            del group[watch]
            if not group and not watch.is_full:
                del self._by_key[watch.key]

    def all(self) -> list[Watch]:
        """Every watcher."""
        return [*self._any, *(watch for group in self._by_key.values() for watch in group)]

    def of(self, keys: dict[str, None]) -> list[Watch]:
        """The watchers that a commit to ``keys`` concerns."""
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
