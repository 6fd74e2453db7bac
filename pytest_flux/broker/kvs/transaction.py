"""Changes to a tree: operations on copies of the directories that they touch, one new root at the end.

A directory is opened when it is first touched, and hashed once, however many operations there are. The rules are
those of RFC 11 and of flux-core's modules/kvs/kvstxn.c.
"""

from __future__ import annotations

import errno
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_flux.broker.kvs.directory import Directory, changed
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import MAX_STRING_SIZE
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.kvs_key import ROOT, normalize_key
from pytest_flux.protocol.treeobj import DIR, DIRREF, SYMLINK, VAL, TreeObject, decode_treeobj

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flux.broker.kvs.tree import Tree

NO_MERGE, COMPACT, SYNC = 1, 2, 4
"""Flags of a commit."""

APPEND = 32
"""The flag of an operation."""

_MAX_LINKS = 10


class Op(NamedTuple):
    """One operation: puts ``entry`` at ``key``. None removes the key; APPEND adds a val to the present value."""

    key: str
    entry: TreeObject | None
    flags: int = 0


def decode_op(value: object) -> Op:
    """The operation in a commit request: ``{key, flags, dirent}``.

    FluxError EPROTO for another shape, EINVAL if the dirent is not a tree object.
    """
    if not isinstance(value, dict) or value.keys() != {"key", "flags", "dirent"}:
        raise FluxError(errno.EPROTO)
    key, flags, dirent = value["key"], value["flags"], value["dirent"]
    if not isinstance(key, str) or type(flags) is not int or "\0" in key:
        raise FluxError(errno.EPROTO)
    if dirent is None:
        return Op(key, None, flags)
    try:
        return Op(key, decode_treeobj(dirent), flags)
    except ProtocolError as error:
        raise FluxError(errno.EINVAL, str(error)) from None


class Transaction:
    """Operations that happen together. ``done`` gets the error, or None with blobref and sequence of the new root."""

    __slots__ = ("done", "flags", "name", "ops")

    def __init__(
        self,
        name: str,
        ops: list[Op],
        flags: int = 0,
        done: Callable[[FluxError | None, str, int], None] | None = None,
    ) -> None:
        self.name = name
        self.ops = ops
        self.flags = flags
        self.done = done

    def merges_with(self, other: Transaction) -> bool:
        """Whether both may become one new root (RFC 11: FLUX_KVS_NO_MERGE and FLUX_KVS_SYNC forbid it)."""
        return self.flags == other.flags and not self.flags & (NO_MERGE | SYNC)


class _Draft:
    """A directory that is being changed: what it was, under which blobref, and what changes, None for what goes."""

    __slots__ = ("before", "changes", "ref")

    def __init__(self, before: TreeObject, ref: str = "") -> None:
        self.before = before
        self.ref = ref
        self.changes: dict[str, Entry | None] = {}

    def get(self, name: str) -> Entry | None:
        """The entry of that name as it is now."""
        return self.changes[name] if name in self.changes else self.before.data.get(name)


class _Growing:
    """A valref to which blobs are being appended: it is encoded once, not once a blob."""

    __slots__ = ("before", "refs")

    def __init__(self, before: TreeObject) -> None:
        self.before = before
        self.refs: list[str] = []


Entry = TreeObject | _Draft | _Growing
_EMPTY = treeobj.directory()


class Change:
    """Operations on the root with blobref ``ref``. None is visible before ``finish``."""

    def __init__(self, tree: Tree, ref: str, namespace: str) -> None:
        self._tree = tree
        self._namespace = namespace
        self._root = _Draft(tree.directory(ref), ref)
        self._replaced: list[str] = []

    def apply(self, op: Op, links: int = 0) -> None:
        """Do one operation. FluxError as flux-core: EINVAL for the root, EISDIR or EOPNOTSUPP for a bad append."""
        key = normalize_key(op.key)
        if key == ROOT:
            raise FluxError(errno.EINVAL)
        *parents, name = key.split(".")
        draft = self._root
        for index, parent in enumerate(parents):
            entry = draft.get(parent)
            if isinstance(entry, TreeObject) and entry.type == SYMLINK:
                target = self._follow(entry, links)
                rest = ".".join([*parents[index + 1 :], name])
                self.apply(Op(f"{target}.{rest}", op.entry, op.flags), links + 1)
                return
            below = self._open(draft, parent, entry)
            if below is None:
                if op.entry is None:
                    return
                below = self._enter(draft, parent, _Draft(_EMPTY))
            draft = below
        self._put(draft, name, op)

    def _follow(self, link: TreeObject, links: int) -> str:
        if link.data.get("namespace", self._namespace) != self._namespace:
            raise FluxError(errno.EINVAL)
        if links == _MAX_LINKS:
            # flux-core loops for ever on a link that leads to itself.
            raise FluxError(errno.ELOOP)
        target: str = link.data["target"]
        return target

    def _open(self, draft: _Draft, name: str, entry: Entry | None) -> _Draft | None:
        """The directory ``entry`` as a draft; None if it is something else or missing."""
        if isinstance(entry, _Draft):
            return entry
        if not isinstance(entry, TreeObject) or entry.type not in (DIR, DIRREF):
            return None
        if entry.type == DIR:
            return self._enter(draft, name, _inline(entry))
        if len(entry.data) != 1:
            raise FluxError(errno.EINVAL)
        ref: str = entry.data[0]
        return self._enter(draft, name, _Draft(self._tree.directory(ref), ref))

    @staticmethod
    def _enter(draft: _Draft, name: str, below: _Draft) -> _Draft:
        draft.changes[name] = below
        return below

    def _put(self, draft: _Draft, name: str, op: Op) -> None:
        if op.entry is None:
            draft.changes[name] = None
            return
        if op.flags & APPEND and op.entry.type != VAL:
            raise FluxError(errno.EPROTO)
        before = draft.get(name) if op.flags & APPEND else None
        if before is None:
            self._keep_references(op.entry)
        draft.changes[name] = op.entry if before is None else self._appended(before, op.entry)

    def _keep_references(self, entry: TreeObject) -> None:
        if entry.type == DIRREF:
            for ref in entry.data:
                self._tree.keep(ref)
        elif entry.type == DIR:
            for below in entry.data.values():
                self._keep_references(below)

    def _appended(self, before: Entry, addition: TreeObject) -> _Growing:
        if isinstance(before, _Draft) or (isinstance(before, TreeObject) and before.type in (DIR, DIRREF)):
            raise FluxError(errno.EISDIR)
        if isinstance(before, TreeObject):
            if before.type == SYMLINK:
                raise FluxError(errno.EOPNOTSUPP)
            if before.type == VAL:
                before = treeobj.valref([self._stored(before)])
            before = _Growing(before)
        before.refs.append(self._stored(addition))
        return before

    def _stored(self, value: TreeObject) -> str:
        try:
            return self._tree.store(value.value())
        except ProtocolError:
            raise FluxError(errno.EPROTO) from None

    def finish(self) -> str:
        """Store everything and return the blobref of the new root. FluxError EPROTO if a value is not base64."""
        try:
            ref = self._store(self._root)
        except ProtocolError as error:
            raise FluxError(errno.EPROTO, str(error)) from None
        except RecursionError:
            raise FluxError(errno.EINVAL, "directories are nested too deeply") from None
        for replaced in self._replaced:
            self._tree.replace(replaced)
        return ref

    def _store(self, draft: _Draft) -> str:
        changes = {name: None if entry is None else self._finished(entry) for name, entry in draft.changes.items()}
        ref = self._tree.store_directory(changed(draft.before, changes))
        if isinstance(draft.before, Directory) and draft.ref not in ("", ref):
            self._replaced.append(draft.ref)
        return ref

    def _finished(self, entry: Entry) -> TreeObject:
        """An entry in its stored form."""
        if isinstance(entry, _Draft):
            return treeobj.dirref(self._store(entry))
        if isinstance(entry, _Growing):
            return entry.before.extended(entry.refs)
        if entry.type == DIR:
            return treeobj.dirref(self._store(_inline(entry)))
        if entry.type == VAL and entry.size > MAX_STRING_SIZE:
            return treeobj.valref([self._stored(entry)])
        return entry


def _inline(entry: TreeObject) -> _Draft:
    """A directory that came with its entries, none of which is in its stored form."""
    draft = _Draft(_EMPTY)
    draft.changes.update(entry.data)
    return draft


class Statistics:
    """Count, extremes, mean and standard deviation of sizes of transactions, by Welford's method.

    For ``kvs.stats-get``, in the form of flux-core's modules.
    """

    def __init__(self) -> None:
        self._count = 0
        self._least = self._most = 0
        self._mean = self._squares = 0.0

    def add(self, value: int) -> None:
        """Count one more."""
        self._least = min(self._least, value) if self._count else value
        self._most = max(self._most, value) if self._count else value
        self._count += 1
        distance = value - self._mean
        self._mean += distance / self._count
        self._squares += distance * (value - self._mean)

    def json(self) -> dict[str, Any]:
        """``{count, min, mean, stddev, max}``."""
        deviation = math.sqrt(self._squares / (self._count - 1)) if self._count > 1 else 0.0
        return {
            "count": self._count,
            "min": self._least,
            "mean": self._mean,
            "stddev": deviation,
            "max": self._most,
        }
