"""What jobs need of the KVS. One round's worth of changes is one commit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pytest_flux.protocol.errors import FluxError

if TYPE_CHECKING:
    from pytest_flux.broker.kvs import Kvs

PUT, APPEND, UNLINK = "put", "append", "unlink"
Operation = tuple[str, str, bytes]
"""What to do (PUT, APPEND or UNLINK), key, value."""

Done = Callable[[int], None]
"""Called with 0, or with an errno."""

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class Store(Protocol):
    """The primary namespace of a KVS."""

    def commit(self, operations: list[Operation], done: Done, *, preserve: bool = False) -> None:
        """Do all operations at once, in order; ``done`` is called once they can be seen by everybody.

        With ``preserve``, a broker that is killed from then on finds them again when it is started anew.
        """

    def lookup(self, key: str) -> bytes | None:
        """The value of a key, or None if there is none."""

    def list(self, key: str) -> list[str]:
        """The names in a directory, sorted; none if there is no such directory."""

    @property
    def is_volatile(self) -> bool:
        """Whether nothing is found again by a broker that is started anew."""

    def extent(self) -> tuple[int, int]:
        """The number of blobs that there are, and the size of all, in bytes."""


class KvsClient:
    """The instance's own KVS, on rank 0."""

    def __init__(self, kvs: Kvs) -> None:
        self._kvs = kvs

    def commit(self, operations: list[Operation], done: Done, *, preserve: bool = False) -> None:
        """See Store."""
        from pytest_flux.broker.kvs.transaction import APPEND as APPEND_FLAG
        from pytest_flux.broker.kvs.transaction import Op
        from pytest_flux.protocol import treeobj

        ops = []
        for kind, key, value in operations:
            if kind == UNLINK:
                ops.append(Op(key, None))
            else:
                ops.append(Op(key, treeobj.val(value), APPEND_FLAG if kind == APPEND else 0))

        def committed(error: FluxError | None) -> None:
            if preserve and error is None:
                try:
                    self._kvs.preserve()
                except FluxError as failure:
                    error = failure
            done(0 if error is None else error.errnum)

        self._kvs.commit(ops, done=committed)

    def lookup(self, key: str) -> bytes | None:
        """See Store."""
        try:
            return self._kvs.lookup(key)
        except FluxError:
            return None

    def list(self, key: str) -> list[str]:
        """See Store."""
        try:
            return sorted(self._kvs.list(key))
        except FluxError:
            return []

    @property
    def is_volatile(self) -> bool:
        """See Store."""
        return self._kvs.content.volatile

    def extent(self) -> tuple[int, int]:
        """See Store."""
        return self._kvs.content.extent()


def encode_value(value: object) -> bytes:
    """A JSON value as Flux stores it: compact, without NUL or newline."""
    return _encode(value).encode("utf-8", "surrogatepass")
