"""The directories of the key-value store: a cache of decoded ones in front of the content store."""

from __future__ import annotations

import errno
from collections import OrderedDict
from typing import TYPE_CHECKING

from pytest_flux.broker.kvs.directory import Directory, directory_of, weight
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import decode_blobref, encode_blobref
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.treeobj import DIR, DIRREF, VAL, VALREF, TreeObject

if TYPE_CHECKING:
    from pytest_flux.broker.content.store import ContentStore

ENOTRECOVERABLE = getattr(errno, "ENOTRECOVERABLE", 131)

# Counted in entries and in the blobs that they refer to: each version of a directory is cached for itself, and with
# it each version of the values in it that grow.
_CAPACITY = 1 << 17
# Bytes of a value. With base64 a message can hold no more (libflux has the same limit).
_LARGEST_VALUE = 192 << 20


class Tree:
    """Blobs and directories by their blobrefs. Methods raise the errors of the content store."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._directories: OrderedDict[str, tuple[TreeObject, int]] = OrderedDict()
        self._size = 0
        self.faults = 0

    def load(self, ref: str) -> bytes:
        """A blob. FluxError ENOENT if it is missing, EINVAL if ``ref`` is not a blobref."""
        try:
            digest = decode_blobref(ref)
        except ProtocolError as error:
            raise FluxError(errno.EINVAL, str(error)) from None
        return self._content.load(digest)

    def store(self, data: bytes) -> str:
        """Store a blob and return its blobref."""
        return encode_blobref(self._content.hash_name, self._content.store(data))

    def directory(self, ref: str, *, is_root: bool = False) -> TreeObject:
        """The directory that a reference leads to.

        FluxError ENOTRECOVERABLE if that is something else, EINVAL if it should be the root.
        """
        found = self._directories.get(ref)
        if found is not None:
            self._directories.move_to_end(ref)
            return found[0]
        self.faults += 1
        data = self.load(ref)
        try:
            loaded = treeobj.load_treeobj(data)
        except ProtocolError:
            loaded = None
        if loaded is None or loaded.type != DIR:
            raise FluxError(errno.EINVAL if is_root else ENOTRECOVERABLE)
        directory = directory_of(loaded.data)
        self._remember(ref, directory)
        return directory

    def store_directory(self, directory: TreeObject) -> str:
        """Store a directory and return its blobref. ProtocolError if a name is not Unicode."""
        if isinstance(directory, Directory) and directory.is_large:
            digest = directory.digest(self._content.hash_name)
            self._content.hold(digest, directory)
            ref = encode_blobref(self._content.hash_name, digest)
        else:
            ref = self.store(directory.encode())
        self._remember(ref, directory)
        return ref

    def replace(self, ref: str) -> None:
        """A new version of the directory ``ref`` has taken its place where it was."""
        self._content.supersede(decode_blobref(ref))

    def keep(self, ref: str) -> None:
        """Another place refers to ``ref``: keep it and everything below, even if this place gets a new version."""
        pending, seen = [ref], set[str]()
        while pending and self._content.has_held:
            ref = pending.pop()
            if ref in seen:
                continue
            seen.add(ref)
            try:
                directory = self.directory(ref)
            except FluxError:
                # Nobody can read it anyway.
                continue
            self._content.keep(decode_blobref(ref))
            for entry in directory.data.values():
                if entry.type == DIRREF:
                    pending += entry.data

    def value(self, entry: TreeObject) -> bytes:
        """The bytes of a val or valref. FluxError EFBIG if they are more than a message can hold."""
        if entry.type == VAL:
            return entry.value()
        blobs, room = [], _LARGEST_VALUE
        for ref in entry.data:
            blobs.append(self.load(ref))
            room -= len(blobs[-1])
            if room < 0:
                raise FluxError(errno.EFBIG)
        return b"".join(blobs)

    def resolved(self, entry: TreeObject) -> TreeObject:
        """The val that a valref stands for; anything else as it is."""
        return treeobj.val(self.value(entry)) if entry.type == VALREF else entry

    def _remember(self, ref: str, directory: TreeObject) -> None:
        if ref in self._directories:
            self._directories.move_to_end(ref)
            return
        size = weight(directory)
        self._directories[ref] = directory, size
        self._size += size
        while self._size > _CAPACITY and len(self._directories) > 1:
            self._size -= self._directories.popitem(last=False)[1][1]
