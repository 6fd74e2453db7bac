"""Following one key (flux-core's kvs-watch.c): what is told of it, and when that ends."""

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

    from pytest_flux.broker.kvs.lookup import Lookup
    from pytest_flux.broker.kvs.namespace import Credentials

_MODIFIERS = lookup.WATCH_FULL | lookup.WATCH_UNIQ | lookup.WATCH_APPEND | lookup.WATCH_INITIAL_SENTINEL


def check_flags(flags: int, *, is_streaming: bool) -> None:
    """FluxError, with Flux's words, where flags of a watch contradict each other or the request."""
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

    ``tell`` gets each value, None for the mark after the initial ones; ``end`` gets the error that is the last word,
    or None when there is simply no more to come. Of what is told part by part, the rest waits where it is while
    ``is_open`` says no, until the store is asked to resume; ``first`` is the number of the part to begin with.
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
        """Whether every commit is looked at, for what reaches the key another way."""
        return bool(self._flags & lookup.WATCH_FULL)

    @property
    def waits(self) -> bool:
        """Whether it is no error that there is nothing yet."""
        return bool(self._flags & lookup.WAITCREATE) and not self._told

    def look(self, where: Lookup, owner: int, sequence: int) -> None:
        """The root is new, or this watcher is: tell what there is to tell."""
        if sequence <= self._seen:
            return
        self._seen = sequence
        self._check(where, owner, again=False)

    def resume(self, where: Lookup, owner: int) -> None:
        """Go on telling: ``is_open`` says yes again."""
        if not self.finished:
            self._check(where, owner, again=True)

    def _check(self, where: Lookup, owner: int, *, again: bool) -> None:
        try:
            self.credentials.check(owner)
            self._look(where, again=again)
        except FluxError as error:
            self.fail(error)

    def fail(self, error: FluxError | None) -> None:
        """That was all."""
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
            # flux-core answers a request for a stream until ENODATA, and one for a creation once.
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
