"""Whole trees of the key-value store: :func:`walk` reads one, :class:`TreeBuilder` makes one.

Walking follows flux-core (src/common/libkvs/kvs_treewalk.c) and is breadth first: entries that are kept in a
directory come with it; directories and values that are blobs wait in one queue. Building is what `flux restore`
does: entries come in any order, and directories are stored last.
"""

from __future__ import annotations

import errno
from collections import deque

from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import MAX_STRING_SIZE
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.limits import MAX_TREE_DEPTH
from pytest_flux.protocol.treeobj import DIR, DIRREF, VALREF, TreeObject, load_treeobj
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Load = Callable[[str], bytes]
    Visit = Callable[[tuple[str, ...]], None]
    Store = Callable[[bytes], str]
    Tree = dict[str, "Tree | bytes"]

VALUE_MAX = 512 << 20
"""The largest value, in bytes. Values that flux-core restores when an instance starts are smaller."""

MEMORY_MAX = 1 << 30
"""Bytes that names and references may take, roughly counted. Values are not kept in memory."""

_QUEUE_MAX = 1 << 18
_OVERHEAD = 250


class Found(NamedTuple):
    """One entry: ``path`` has the names from the root to it.

    If the value is in blobs, ``blobs`` has each, or the error of loading it. ``problem`` is set for a damaged
    directory, ``errnum`` for one that could not be loaded.
    """

    path: tuple[str, ...]
    entry: TreeObject
    blobs: tuple[bytes | FluxError, ...] = ()
    problem: str = ""
    errnum: int = 0


def walk(load: Load, root: str, *, load_values: Load | None = None, visit: Visit | None = None) -> Iterator[Found]:
    """All entries, directories included. ``load`` raises FluxError for a blob that it does not have.

    ``load_values`` is used for blobs of values. ``visit`` is called as each entry is met, before its blobs are
    loaded. Raises FluxError or ProtocolError if the root itself is bad.
    """
    visit = visit or (lambda _: None)
    directory = load_treeobj(load(root))
    if directory.type != DIR:
        raise ProtocolError("the root is not a directory", root)
    queue: deque[tuple[tuple[str, ...], TreeObject]] = deque()
    yield from _look(directory, (), queue, visit)
    while queue:
        # If there is too much to remember, go depth first.
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
    if len(path) > MAX_TREE_DEPTH:
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
    """The blobs of a value, up to VALUE_MAX: a hostile value may repeat a few blobs without end."""
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


class TreeBuilder:
    """Builds a tree. ``store`` keeps a blob and returns its blobref. A later entry replaces an earlier one."""

    def __init__(self, store: Store, memory_max: int = MEMORY_MAX) -> None:
        self._store = store
        self._root: Tree = {}
        self._left = memory_max
        self.keys = 0
        self.blobs = 0

    def add_value(self, path: str, data: bytes) -> None:
        """A value; ``path`` is its key, with slashes. Raises ProtocolError, as do the others."""
        if len(data) < MAX_STRING_SIZE:
            self._insert(path, treeobj.val(data).encode())
        else:
            ref = self._store(data)
            self.blobs += 1
            # As its encoding would be: there are many of these.
            self._insert(path, b'{"data":["%b"],"type":"valref","ver":1}' % ref.encode())

    def add_symlink(self, path: str, target: str) -> None:
        """A link to another key, perhaps ``NAMESPACE::KEY``."""
        namespace, colons, key = target.partition("::")
        entry = treeobj.symlink(key, namespace) if colons else treeobj.symlink(target)
        self._insert(path, entry.encode())

    def _insert(self, path: str, encoded: bytes) -> None:
        *above, name = self._names(path)
        directory = self._root
        for step in above:
            found = directory.get(step)
            if found is None:
                found = directory[step] = {}
                self._count(len(step), path)
            elif not isinstance(found, dict):
                raise ProtocolError(f"{step} in {path} is not a directory")
            directory = found
        self._count(len(name) + len(encoded), path)
        directory[name] = encoded
        self.keys += 1

    def _count(self, size: int, path: str) -> None:
        self._left -= size + _OVERHEAD
        if self._left < 0:
            raise ProtocolError("there are too many keys to hold their names in memory", f"at {path[:200]}")

    @staticmethod
    def _names(path: str) -> list[str]:
        names = [name for name in path.split("/") if name and name != "."]
        if not names or ".." in names:
            raise ProtocolError("not a key", ascii(path)[:200])
        if len(names) > MAX_TREE_DEPTH:
            raise ProtocolError("directories are nested too deeply", ascii(path)[:200])
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ProtocolError("a key is not UTF-8", ascii(path)[:200]) from None
        return names

    def finish(self) -> str:
        """Store the directories; the blobref of the root."""
        return self._finish(self._root)

    def _finish(self, tree: Tree) -> str:
        def entries() -> Iterator[tuple[str, TreeObject]]:
            for name, entry in tree.items():
                if isinstance(entry, dict):
                    yield name, treeobj.dirref(self._finish(entry))
                else:
                    # Only its encoding matters from here on.
                    yield name, TreeObject("", None, entry)

        ref = self._store(treeobj.directory(dict(entries())).encode())
        self.blobs += 1
        tree.clear()
        return ref
