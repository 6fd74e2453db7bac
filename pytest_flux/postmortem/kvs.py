"""The key-value store of a dump."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

from pytest_flux.protocol.blobref import decode_blobref, encode_blobref, hasher
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.treeobj import DIR, DIRREF, SYMLINK, directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_flux.content_sqlite import SqliteBacking
    from pytest_flux.protocol.treeobj import TreeObject


class _Blobs:
    """The part of a content store that a tree of directories uses."""

    def __init__(self, backing: SqliteBacking) -> None:
        self.load = backing.load
        self.hash_name = "sha1"


def store_empty_directory(backing: SqliteBacking) -> str:
    """Store an empty root directory. Returns its blobref."""
    digest, blob = hasher("sha1"), directory().encode()
    backing.store([(digest(blob), blob)])
    return encode_blobref("sha1", digest(blob))


class DumpKvs:
    """The store of a dump. Keys are as elsewhere in Flux, ``a.b.c``. Links are followed.

    Errors are FluxError: ENOENT for a key that is missing or whose data is lost, EISDIR, ENOTDIR; ENOTSUP for a link
    to another namespace, because dumps have only the primary one.
    """

    def __init__(self, backing: SqliteBacking) -> None:
        from pytest_flux.broker.kvs.tree import Tree

        self._backing = backing
        self.tree = Tree(_Blobs(backing))  # type: ignore[arg-type]
        self.root = ""

    def get(self, key: str) -> bytes:
        """A value."""
        return self._found(key, 0).value()

    def get_json(self, key: str) -> Any:  # noqa: ANN401 - JSON
        """A value, decoded from JSON. Raises ValueError."""
        try:
            return json.loads(self.get(key))
        except RecursionError:
            raise ValueError(f"{key}: nested too deeply") from None

    def get_treeobj(self, key: str) -> dict[str, Any]:
        """How a value is stored (RFC 11)."""
        from pytest_flux.broker.kvs.lookup import TREEOBJ

        return self._found(key, TREEOBJ).json()

    def readlink(self, key: str) -> str:
        """The target of a link, ``NAMESPACE::KEY`` if that is elsewhere. Raises EINVAL for another kind of entry."""
        from pytest_flux.broker.kvs.lookup import READLINK

        data = self._found(key, READLINK).data
        return str(data["target"]) if data.get("namespace") is None else f"{data['namespace']}::{data['target']}"

    def list(self, key: str = ".") -> list[str]:
        """The names in a directory, sorted."""
        from pytest_flux.broker.kvs.lookup import READDIR

        return sorted(self._found(key, READDIR).data)

    def keys(self) -> Iterator[str]:
        """All keys that have a value or are links, in the order in which they would be dumped."""
        from pytest_flux.protocol.kvs_tree import walk

        for found in walk(self.load, self.root, load_values=lambda _: b""):
            if found.entry.type not in (DIR, DIRREF):
                yield ".".join(found.path)

    def __contains__(self, key: str) -> bool:
        from pytest_flux.broker.kvs.lookup import TREEOBJ

        try:
            return self._find(key, TREEOBJ) is not None
        except FluxError:
            return False

    def extent(self) -> tuple[int, int]:
        """The number of blobs, and the size of the file that they are in."""
        return self._backing.count(), self._backing.sizes()[0]

    def load(self, ref: str) -> bytes:
        """A blob by its blobref. Raises FluxError ENOENT, or EINVAL for a malformed blobref."""
        try:
            return self._backing.load(decode_blobref(ref))
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None

    def _found(self, key: str, flags: int) -> TreeObject:
        found = self._find(key, flags)
        if found is None or (found.type == SYMLINK and not flags):
            raise FluxError(errno.ENOENT, f"{key}: there is no such key")
        return found

    def _find(self, key: str, flags: int) -> TreeObject | None:
        from pytest_flux.broker.kvs.lookup import Lookup

        def elsewhere(namespace: str) -> str:
            raise FluxError(errno.ENOTSUP, f"{key}: it is in the namespace {namespace}, which was not kept")

        return Lookup(self.tree, self.root, elsewhere).find(key, flags)
