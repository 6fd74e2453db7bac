"""Find an entry by its key and follow links (flux-core's kvs/lookup.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from pytest_flux.broker.kvs.tree import ENOTRECOVERABLE, Tree
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.kvs_key import ROOT, normalize_key
from pytest_flux.protocol.message import ROLE_OWNER, ROLE_USER
from pytest_flux.protocol.treeobj import DIR, DIRREF, SYMLINK, VAL, VALREF, TreeObject

if TYPE_CHECKING:
    from collections.abc import Callable

READDIR = 1
READLINK = 2
WATCH = 4
WAITCREATE = 8
TREEOBJ = 16
WATCH_FULL = 64
WATCH_UNIQ = 128
WATCH_APPEND = 256
STREAM = 512
WATCH_INITIAL_SENTINEL = 1024
"""Flags of a lookup."""

_MAX_LINKS = 10


class Credentials:
    """Who asks: a user, and whether it is the owner of the instance."""

    __slots__ = ("rolemask", "userid")

    def __init__(self, userid: int, rolemask: int) -> None:
        self.userid = userid
        self.rolemask = rolemask

    def check(self, owner: int) -> None:
        """FluxError EPERM unless this is the instance owner, or a guest who owns the namespace."""
        if not self.rolemask & ROLE_OWNER and not (self.rolemask & ROLE_USER and self.userid == owner):
            raise FluxError(errno.EPERM)


class Lookup(NamedTuple):
    """Where to look. ``root_of`` returns the root of another namespace that a link leads to, or raises FluxError."""

    tree: Tree
    root: str
    root_of: Callable[[str], str]

    def find(self, key: str, flags: int = 0) -> TreeObject | None:
        """The entry at ``key``, of the kind that ``flags`` ask for; None if there is none.

        FluxError EISDIR, ENOTDIR or EINVAL if it is of another kind; ELOOP, ENOTSUP; ENOENT for a missing blob.
        """
        key = normalize_key(key)
        if key == ROOT:
            return self._find_root(flags)
        entry = self._walk(self.root, key, flags & (READLINK | TREEOBJ), 0)
        if entry is None or flags & TREEOBJ:
            return entry
        if entry.type in (DIR, DIRREF):
            return self._read_directory(entry, flags)
        if entry.type == SYMLINK:
            if flags & READDIR:
                raise FluxError(errno.ENOTDIR)
            return entry
        if flags & READLINK:
            raise FluxError(errno.EINVAL)
        if flags & READDIR:
            raise FluxError(errno.ENOTDIR)
        return self.tree.resolved(entry)

    def _find_root(self, flags: int) -> TreeObject:
        if flags & TREEOBJ:
            return treeobj.dirref(self.root)
        if not flags & READDIR:
            raise FluxError(errno.EISDIR)
        return self.tree.directory(self.root, is_root=True)

    def _read_directory(self, entry: TreeObject, flags: int) -> TreeObject:
        if flags & READLINK:
            raise FluxError(errno.EINVAL)
        if not flags & READDIR:
            raise FluxError(errno.EISDIR)
        return entry if entry.type == DIR else self.tree.directory(_only_ref(entry))

    def _walk(self, root: str, path: str, keep_link: int, links: int) -> TreeObject | None:
        """The entry that ``path`` leads to from ``root``. A link at its end is followed unless ``keep_link``."""
        entry = treeobj.dirref(root)
        names = path.split(".")
        for index, name in enumerate(names):
            if entry.type in (VAL, VALREF):
                return None
            if entry.type == DIRREF:
                found = self.tree.directory(_only_ref(entry), is_root=index == 0 and links == 0).data.get(name)
            elif entry.type == DIR:
                found = entry.data.get(name)
            else:
                raise FluxError(ENOTRECOVERABLE)
            is_last = index == len(names) - 1
            if found is not None and found.type == SYMLINK and not (is_last and keep_link):
                if links == _MAX_LINKS:
                    raise FluxError(errno.ELOOP)
                found = self._follow(found, root, links + 1)
            if found is None:
                return None
            entry = found
        return entry

    def _follow(self, link: TreeObject, root: str, links: int) -> TreeObject | None:
        namespace, target = link.data.get("namespace"), link.data["target"]
        if namespace is not None:
            root = self.root_of(namespace)
        if target == ROOT:
            return treeobj.dirref(root)
        return self._walk(root, target, 0, links)


def _only_ref(entry: TreeObject) -> str:
    if len(entry.data) != 1:
        raise FluxError(ENOTRECOVERABLE)
    ref: str = entry.data[0]
    return ref
