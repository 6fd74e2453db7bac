"""The directories of the key-value store: decoded ones in memory, in front of the content store."""

from __future__ import annotations

import errno
from collections import OrderedDict
from typing import TYPE_CHECKING

from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import decode_blobref, encode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.treeobj import DIR, VAL, VALREF, TreeObject

if TYPE_CHECKING:
    from pytest_flux.broker.content.store import ContentStore

ENOTRECOVERABLE = getattr(errno, "ENOTRECOVERABLE", 131)

# Counted in entries: each version of a directory that changes is another one.
_CAPACITY = 1 << 17


class Tree:
    """Blobs and directories by their blobrefs. Errors are those of the content store."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._directories: OrderedDict[str, TreeObject] = OrderedDict()
        self._entries = 0
        self.faults = 0

    def load(self, ref: str) -> bytes:
        """A blob. FluxError ENOENT where it is missing, EINVAL where ``ref`` is no blobref."""
        try:
            digest = decode_blobref(ref)
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        return self._content.load(digest)

    def store(self, data: bytes) -> str:
        """Keep a blob."""
        return encode_blobref(self._content.hash_name, self._content.store(data))

    def directory(self, ref: str, *, is_root: bool = False) -> TreeObject:
        """The directory that a reference leads to.

        FluxError ENOTRECOVERABLE where that is something else, EINVAL if it was to be the root.
        """
        found = self._directories.get(ref)
        if found is not None:
            self._directories.move_to_end(ref)
            return found
        self.faults += 1
        data = self.load(ref)
        try:
            found = treeobj.load_treeobj(data)
        except ProtocolError:
            found = None
        if found is None or found.type != DIR:
            raise FluxError(errno.EINVAL if is_root else ENOTRECOVERABLE)
        self._remember(ref, found)
        return found

    def store_directory(self, directory: TreeObject) -> str:
        """Keep a directory; its blobref. ProtocolError where a name is no text."""
        ref = self.store(directory.encode())
        self._remember(ref, directory)
        return ref

    def value(self, entry: TreeObject) -> bytes:
        """The bytes of a val or valref."""
        if entry.type == VAL:
            return entry.value()
        return b"".join([self.load(ref) for ref in entry.data])

    def resolved(self, entry: TreeObject) -> TreeObject:
        """The val that a valref stands for, anything else as it is."""
        return treeobj.val(self.value(entry)) if entry.type == VALREF else entry

    def _remember(self, ref: str, directory: TreeObject) -> None:
        if ref in self._directories:
            self._directories.move_to_end(ref)
            return
        self._directories[ref] = directory
        self._entries += len(directory.data) + 1
        while self._entries > _CAPACITY and len(self._directories) > 1:
            self._entries -= len(self._directories.popitem(last=False)[1].data) + 1
