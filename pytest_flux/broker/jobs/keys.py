"""Which jobs there are in a KVS, which may be damaged, or made to do harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flux.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LEVELS = 4
_VISITS_MIN = 10_000
_VISITS_PER_BLOB = 8
_BYTES_MIN = 64 << 20
_BYTES_PER_BYTE = 16


class JobWalk:
    """Walks ``job.*.*.*.*`` (RFC 19), which ``list_names`` reads, for as long as a store of that size can last.

    Directories that contain the same one many times over hold more jobs than could ever be counted. ``blobs`` and
    ``size``, in bytes, are those of the whole store.
    """

    def __init__(self, list_names: Callable[[str], list[str]], blobs: int, size: int) -> None:
        self._list_names = list_names
        self._visits = _VISITS_MIN + _VISITS_PER_BLOB * blobs
        self._bytes = _BYTES_MIN + _BYTES_PER_BYTE * size

    def keys(self) -> Iterator[str]:
        """The keys of jobs. Raises ProtocolError where there are more than can be."""
        return self._keys("job", _LEVELS)

    def _keys(self, key: str, levels: int) -> Iterator[str]:
        for name in self._list_names(key):
            self._visits -= 1
            if self._visits < 0:
                raise ProtocolError("more jobs than can be: the others are left out", key)
            if levels > 1:
                yield from self._keys(f"{key}.{name}", levels - 1)
            else:
                yield f"{key}.{name}"

    def spend(self, *read: bytes | None) -> None:
        """Note what was read of a job. Raises ProtocolError where that is more than can be."""
        self._bytes -= sum(len(data) for data in read if data is not None)
        if self._bytes < 0:
            raise ProtocolError("more data of jobs than can be: the others are left out")
