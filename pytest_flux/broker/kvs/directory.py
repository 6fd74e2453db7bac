"""Directories of any size, of which a change costs what has changed.

A directory is one blob: the JSON text of all its entries in the order of their names (RFC 11, "dir"; flux-core gets
the order from jansson's JSON_SORT_KEYS), named by its hash. So a change of one entry among 100,000 means a new text
of some megabytes. flux-core writes it anew for each commit, and so did we: sorting, encoding and hashing took half a
second.

The reference of the new root is part of the answer of a commit, so it cannot be postponed. But most of the work can
be shared between two versions:

* The entries are kept as a sorted list of chunks, which never change. A new version copies the list and the chunks
  that the change touches, and shares the others with the version before, their encoded text included.
* The hash of the text is computed from front to back. The state of the hash function is kept every few chunks, and a
  new version goes on from the last state before the first change. Names that ascend, as those of jobs and of most
  programs do, change the end only.
* The text is put together only when somebody needs it as a whole: when it is written to disk, or loaded as a blob
  (see ContentStore.hold). A version that is replaced before that is never put together.

What must stay true: the text and its hash are byte for byte those that TreeObject.encode makes of the same entries.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.treeobj import DIR, VALREF, TreeObject, encode_name

if TYPE_CHECKING:
    from collections.abc import Iterator

_SMALL = 256
"""Entries of a directory up to which it is encoded anew for each version: that costs less than sharing."""

_CHUNK = 128
"""Entries of a chunk, at most. The cost of a change is that of encoding a chunk and of copying the list of all."""

_STRIDE = 32
"""Chunks between two states of the hash function that are kept."""

_LARGE = 32
"""Chunks of a directory from which on a version that is replaced at once is not written."""

_HEAD, _TAIL = b'{"data":{', b'},"type":"dir","ver":1}'


class _Chunk:
    """Some entries with neighbouring names."""

    __slots__ = ("_encoded", "_weight", "entries", "first")

    def __init__(self, entries: dict[str, TreeObject]) -> None:
        self.entries = entries
        self.first = next(iter(entries))
        self._encoded: bytes | None = None
        self._weight = 0

    @property
    def encoded(self) -> bytes:
        """The entries as JSON, with commas between them."""
        if self._encoded is None:
            self._encoded = b",".join([encode_name(name) + entry.encode() for name, entry in self.entries.items()])
        return self._encoded

    @property
    def weight(self) -> int:
        """The number of entries and of the blobs that they refer to."""
        if not self._weight:
            self._weight = len(self.entries)
            for entry in self.entries.values():
                if entry.type == VALREF:
                    self._weight += len(entry.data)
        return self._weight


def _chunks(entries: dict[str, TreeObject]) -> list[_Chunk]:
    """Sorted chunks of ``entries``, which need not be sorted."""
    names = sorted(entries)
    if len(names) <= _CHUNK:
        return [_Chunk({name: entries[name] for name in names})] if names else []
    # Half full: the next entries find room.
    size = _CHUNK // 2
    return [
        _Chunk({name: entries[name] for name in names[start : start + size]}) for start in range(0, len(names), size)
    ]


class Entries(Mapping[str, TreeObject]):
    """The entries of a directory by name, in the order of the names. Never changed."""

    __slots__ = ("_firsts", "_size", "chunks")

    def __init__(self, chunks: list[_Chunk]) -> None:
        self.chunks = chunks
        self._firsts = [chunk.first for chunk in chunks]
        self._size = sum([len(chunk.entries) for chunk in chunks])

    def __getitem__(self, name: str) -> TreeObject:
        if not self.chunks:
            raise KeyError(name)
        return self.chunks[self.place(name)].entries[name]

    def get(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as Mapping has it
        """The entry, if there is one of that name."""
        return self.chunks[self.place(name)].entries.get(name, default) if self.chunks else default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks:
            yield from chunk.entries

    def __len__(self) -> int:
        return self._size

    def place(self, name: str) -> int:
        """The index of the chunk in which ``name`` is, or would be."""
        return max(0, bisect_right(self._firsts, name) - 1)


def directory_of(entries: dict[str, TreeObject]) -> TreeObject:
    """A directory with these entries, which may be kept."""
    return Directory.of(entries) if len(entries) > _SMALL else TreeObject(DIR, entries)


def changed(directory: TreeObject, changes: dict[str, TreeObject | None]) -> TreeObject:
    """A directory with some entries set, and those removed that are None."""
    if isinstance(directory, Directory):
        return directory.changed(changes)
    entries: dict[str, TreeObject] = dict(directory.data)
    for name, entry in changes.items():
        if entry is None:
            entries.pop(name, None)
        else:
            entries[name] = entry
    return directory_of(entries)


def weight(directory: TreeObject) -> int:
    """The number of entries and of the blobs that they refer to, plus one."""
    if isinstance(directory, Directory):
        entries: Entries = directory.data
        return 1 + sum([chunk.weight for chunk in entries.chunks])
    size = 1 + len(directory.data)
    for entry in directory.data.values():
        if entry.type == VALREF:
            size += len(entry.data)
    return size


class Directory(TreeObject):
    """A directory with many entries. ``data`` are its :class:`Entries`."""

    __slots__ = ("_states",)

    def __init__(self, entries: Entries, states: list[tuple[int, Any]] | None = None) -> None:
        super().__init__(DIR, entries)
        # Pairs of a number of chunks and the state of the hash function after them.
        self._states: list[tuple[int, Any]] = [] if states is None else states

    @classmethod
    def of(cls, entries: Mapping[str, TreeObject]) -> Directory:
        """A directory with these entries."""
        return cls(entries if isinstance(entries, Entries) else Entries(_chunks(dict(entries))))

    @property
    def is_large(self) -> bool:
        """Whether it is worth while not to write every version."""
        return len(self.data.chunks) > _LARGE

    def changed(self, changes: dict[str, TreeObject | None]) -> Directory:
        """This directory with some entries set, and those removed that are None."""
        entries: Entries = self.data
        if not entries.chunks:
            added = {name: entry for name, entry in changes.items() if entry is not None}
            return Directory(Entries(_chunks(added)))
        by_chunk: dict[int, dict[str, TreeObject | None]] = {}
        for name, entry in changes.items():
            by_chunk.setdefault(entries.place(name), {})[name] = entry
        chunks: list[_Chunk] = []
        end = 0
        for index in sorted(by_chunk):
            chunks += entries.chunks[end:index]
            chunks += _changed(entries.chunks[index], by_chunk[index])
            end = index + 1
        chunks += entries.chunks[end:]
        first = min(by_chunk, default=0)
        return Directory(Entries(chunks), [state for state in self._states if state[0] <= first])

    def encode(self) -> bytes:
        """The canonical encoding."""
        return _HEAD + b",".join([chunk.encoded for chunk in self.data.chunks]) + _TAIL

    def json(self) -> dict[str, Any]:
        """The object as JSON."""
        return {"ver": 1, "type": DIR, "data": {name: entry.json() for name, entry in self.data.items()}}

    def digest(self, hash_name: str) -> bytes:
        """The hash of the encoding."""
        chunks = self.data.chunks
        if self._states:
            index, state = self._states[-1]
            state = state.copy()
        else:
            index, state = 0, hashlib.new(hash_name, _HEAD, usedforsecurity=False)
        while index < len(chunks):
            end = min(index + _STRIDE, len(chunks))
            if index:
                state.update(b",")
            state.update(b",".join([chunk.encoded for chunk in chunks[index:end]]))
            index = end
            if end < len(chunks):
                self._states.append((end, state.copy()))
        state.update(_TAIL)
        return bytes(state.digest())


def _changed(chunk: _Chunk, changes: dict[str, TreeObject | None]) -> list[_Chunk]:
    entries = dict(chunk.entries)
    is_sorted = True
    for name, entry in changes.items():
        if entry is None:
            entries.pop(name, None)
        else:
            is_sorted = is_sorted and name in entries
            entries[name] = entry
    if is_sorted:
        return [_Chunk(entries)] if entries else []
    return _chunks(entries)
