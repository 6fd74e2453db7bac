"""A tree of the key-value store from its leaves, as `flux restore` builds it: directories are stored last."""

from __future__ import annotations

from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import MAX_STRING_SIZE
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.kvs_walk import MAX_DEPTH
from pytest_flux.protocol.treeobj import TreeObject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Store = Callable[[bytes], str]
    Tree = dict[str, "Tree | bytes"]

_OVERHEAD = 250
MEMORY_MAX = 1 << 30
"""Bytes that names and references may take, roughly counted. Values are not kept."""


class TreeBuilder:
    """``store`` keeps a blob and returns its blobref. Later entries take the place of earlier ones."""

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
        if len(names) > MAX_DEPTH:
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
        tree.clear()
        return ref
