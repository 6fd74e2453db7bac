"""Every entry below a root of the key-value store, in the order in which flux-core walks (libkvs/kvs_treewalk.c).

That is breadth first: what is kept in a directory is met with it, directories and values that are blobs wait in one
queue.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import NamedTuple

from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.treeobj import DIR, DIRREF, VALREF, TreeObject, load_treeobj

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Load = Callable[[str], bytes]
    Visit = Callable[[tuple[str, ...]], None]

MAX_DEPTH = 200
"""Directories within each other; deeper ones can only be damage, or malice."""

VALUE_MAX = 512 << 20
"""Bytes of a value, at most. What flux-core restores when an instance starts is smaller."""

_QUEUE_MAX = 1 << 18


class Found(NamedTuple):
    """One entry: names from the root, and what is there.

    For a value that is blobs, ``blobs`` are those or why each could not be loaded. ``problem`` says what is wrong
    with a directory, ``errnum`` is not 0 if it could not be loaded.
    """

    path: tuple[str, ...]
    entry: TreeObject
    blobs: tuple[bytes | FluxError, ...] = ()
    problem: str = ""
    errnum: int = 0


def walk(load: Load, root: str, *, load_values: Load | None = None, visit: Visit | None = None) -> Iterator[Found]:
    """All entries, directories included. ``load`` raises FluxError for a blob that it does not have.

    ``load_values`` is used for blobs of values. ``visit`` is called as each entry is met, before its blobs are
    loaded. Raises FluxError, ProtocolError where the root itself is bad.
    """
    visit = visit or (lambda _: None)
    directory = load_treeobj(load(root))
    if directory.type != DIR:
        raise ProtocolError("the root is not a directory", root)
    queue: deque[tuple[tuple[str, ...], TreeObject]] = deque()
    yield from _look(directory, (), queue, visit)
    while queue:
        # Where there is too much to remember it all, deep before wide.
        path, entry = queue.popleft() if len(queue) < _QUEUE_MAX else queue.pop()
        if entry.type == VALREF:
            yield Found(path, entry, _blobs(load_values or load, entry))
            continue
        found = _open(load, path, entry)
        if isinstance(found, Found):
            yield found
        else:
            yield from _look(found, path, queue, visit)


def _look(
    directory: TreeObject,
    above: tuple[str, ...],
    queue: deque[tuple[tuple[str, ...], TreeObject]],
    visit: Visit,
) -> Iterator[Found]:
    for name, entry in directory.data.items():
        path = (*above, name)
        visit(path)
        if entry.type == VALREF:
            queue.append((path, entry))
        elif entry.type == DIRREF:
            yield Found(path, entry)
            queue.append((path, entry))
        else:
            yield Found(path, entry)
            if entry.type == DIR:
                yield from _look(entry, path, queue, visit)


def _open(load: Load, path: tuple[str, ...], entry: TreeObject) -> TreeObject | Found:
    if len(entry.data) != 1:
        return Found(path, entry, problem="dirref blobref count is not 1")
    if len(path) > MAX_DEPTH:
        return Found(path, entry, problem="directories are nested too deeply")
    blob = _try(load, entry.data[0])
    if isinstance(blob, FluxError):
        return Found(path, entry, problem="could not load content", errnum=blob.errnum)
    try:
        directory = load_treeobj(blob)
    except ProtocolError:
        return Found(path, entry, problem="could not decode tree object")
    if directory.type != DIR:
        return Found(path, entry, problem="dirref references non-directory")
    return directory


def _blobs(load: Load, entry: TreeObject) -> tuple[bytes | FluxError, ...]:
    """The blobs of a value. Where few are repeated without end, those that are too much are not loaded."""
    found: list[bytes | FluxError] = []
    room = VALUE_MAX
    for ref in entry.data:
        blob = _try(load, ref) if room >= 0 else FluxError(errno.EFBIG, "the value is too large")
        found.append(blob)
        room -= 0 if isinstance(blob, FluxError) else len(blob)
    return tuple(found)


def _try(load: Load, ref: str) -> bytes | FluxError:
    try:
        return load(ref)
    except FluxError as error:
        return error
