"""The key-value store through a handle.

``Kvs(flux)`` is cheap, and any number of them may share a handle. Keys are names separated by dots, values are bytes.
Errors are FluxError, with the store's errno: ENOENT for a missing key, EISDIR and ENOTDIR for one of another kind,
ENOTSUP for an unknown namespace, EPERM for that of another user.
"""

from __future__ import annotations

import errno
import json
import os

from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import blobref_of
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.json_value import compact
from pytest_flux.protocol.kvs_key import join_key
from pytest_flux.protocol.treeobj import DIR, SYMLINK, TreeObject, decode_treeobj
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pytest_flux.client.connection import Connection, Rpc

    Json = Any

READDIR, READLINK, WATCH, WAITCREATE, TREEOBJ = 1, 2, 4, 8, 16
WATCH_FULL, WATCH_UNIQ, WATCH_APPEND, STREAM = 64, 128, 256, 512
"""Flags of a lookup."""

NO_MERGE, SYNC = 1, 4
"""Flags of a commit: do not merge it with others; answer when it is on disk."""

NAMESPACE_VARIABLE = "FLUX_KVS_NAMESPACE"
"""The environment variable with the default namespace."""

PRIMARY = "primary"

_APPEND = 32
_UNKNOWN = 0xFFFFFFFF


class Root(NamedTuple):
    """A root: its blobref, and its place in the sequence of roots of its namespace."""

    ref: str
    sequence: int


class Kvs:
    """One namespace of the store. ``at`` a blobref or a dirref, it is the store as of that root."""

    def __init__(
        self, flux: Connection, namespace: str | None = None, *, at: str | dict[str, Any] | None = None
    ) -> None:
        self.flux = flux
        self.namespace = namespace or os.environ.get(NAMESPACE_VARIABLE) or PRIMARY
        self.at = treeobj.dirref(at).json() if isinstance(at, str) else at

    def __repr__(self) -> str:
        return f"<Kvs {self.namespace}{'' if self.at is None else ', a past root'}>"

    # -- reading

    def lookup(self, key: str, flags: int = 0) -> Rpc:
        """Request a key. The answer is ``{val: tree object}``, or several of them if the flags ask for a stream."""
        if not key:
            raise FluxError(errno.EINVAL)
        request: dict[str, Any] = {"key": key, "flags": flags}
        if self.at is not None:
            return self.flux.rpc("kvs.lookup", {**request, "rootdir": self.at})
        service = "kvs-watch" if flags & (WATCH | WAITCREATE | STREAM) else "kvs"
        request["namespace"] = self.namespace
        return self.flux.rpc(f"{service}.lookup", request, streaming=bool(flags & (WATCH | STREAM)))

    def entry(self, key: str, flags: int = TREEOBJ) -> TreeObject:
        """The tree object at a key: how it is stored."""
        return value_of(self.lookup(key, flags).get())

    def get(self, key: str) -> bytes:
        """The value of a key."""
        return self.entry(key, 0).value()

    def get_text(self, key: str) -> str:
        """The value of a key as text. Bytes that are not UTF-8 become surrogates."""
        return self.get(key).decode("utf-8", "surrogateescape")

    def get_json(self, key: str) -> Json:
        """The value of a key, decoded from JSON. Raises ValueError."""
        return json.loads(self.get(key))

    def ls(self, key: str = ".") -> dict[str, TreeObject]:
        """The entries of a directory, by name."""
        found = self.entry(key, READDIR)
        if found.type != DIR:
            raise ProtocolError("a directory was expected", key)
        return {name: found.data[name] for name in sorted(found.data)}

    def exists(self, key: str) -> bool:
        """Whether a key exists."""
        try:
            self.entry(key)
        except FluxError as error:
            if error.errnum != errno.ENOENT:
                raise
            return False
        return True

    def readlink(self, key: str) -> tuple[str | None, str]:
        """Namespace (if any) and target of a symlink. Raises EINVAL for another kind of entry."""
        found = self.entry(key, READLINK)
        if found.type != SYMLINK:
            raise ProtocolError("a symlink was expected", key)
        return found.data.get("namespace"), found.data["target"]

    def walk(self, key: str = ".") -> Iterator[tuple[str, TreeObject]]:
        """Keys and entries of everything in and below a directory, depth first."""
        for name, entry in self.ls(key).items():
            below = join_key(key, name)
            yield below, entry
            if entry.type in (treeobj.DIR, treeobj.DIRREF):
                yield from self.walk(below)

    def watch(
        self,
        key: str,
        *,
        wait: bool = False,
        append: bool = False,
        full: bool = False,
        uniq: bool = False,
        timeout: float | None = None,
    ) -> Iterator[bytes]:
        """The value, and again whenever it is written; ends with ENOENT when it is removed.

        With ``wait`` the key need not exist yet. ``append`` yields only what was added, ``uniq`` only changed values,
        and ``full`` also changes without a write to the key itself. ``timeout`` bounds each wait, in seconds
        (TimeoutError). Leaving the iteration ends the watching.
        """
        flags = WATCH | wait * WAITCREATE | append * WATCH_APPEND | full * WATCH_FULL | uniq * WATCH_UNIQ
        rpc = self.lookup(key, flags)
        try:
            while True:
                answer = rpc.get(timeout)
                if answer:
                    yield value_of(answer).value()
        finally:
            if not rpc.finished:
                rpc.cancel()
                rpc.abandon()

    def wait_create(self, key: str, timeout: float | None = None) -> bytes:
        """The value of a key, once there is one."""
        return value_of(self.lookup(key, WAITCREATE).get(timeout)).value()

    # -- writing

    def transaction(self) -> Transaction:
        """A transaction: its ``commit`` makes all changes together."""
        return Transaction(self.flux, self.namespace)

    def put(self, key: str, value: bytes | str, *, sync: bool = False) -> Root:
        """Set a value, and wait for the commit."""
        return self.transaction().put(key, value).commit(SYNC if sync else 0)

    def put_json(self, key: str, value: object) -> Root:
        """Set a value to JSON, compact."""
        return self.transaction().put_json(key, value).commit()

    def append(self, key: str, value: bytes | str) -> Root:
        """Add to a value."""
        return self.transaction().append(key, value).commit()

    def unlink(self, key: str) -> Root:
        """Remove a key, with all that is below it."""
        return self.transaction().unlink(key).commit()

    def mkdir(self, key: str) -> Root:
        """Make an empty directory."""
        return self.transaction().mkdir(key).commit()

    def symlink(self, key: str, target: str, namespace: str | None = None) -> Root:
        """Make a symlink to a target."""
        return self.transaction().symlink(key, target, namespace).commit()

    def sync(self) -> Root:
        """Wait until all earlier commits are on disk."""
        return self.transaction().commit(SYNC)

    # -- roots and namespaces

    def root(self) -> Root:
        """The root as it is now."""
        answer = self.getroot()
        return Root(answer["rootref"], answer["rootseq"])

    def getroot(self) -> dict[str, Any]:
        """``{owner, rootseq, rootref, flags, namespace}``."""
        return self.flux.rpc("kvs.getroot", {"namespace": self.namespace, "flags": 0}).get()

    def wait_version(self, sequence: int, timeout: float | None = None) -> Root:
        """Wait until the root has reached a sequence number."""
        request = {"rootseq": sequence, "namespace": self.namespace}
        answer = self.flux.rpc("kvs.wait-version", request).get(timeout)
        return Root(answer["rootref"], answer["rootseq"])

    def create_namespace(self, name: str, *, owner: int = _UNKNOWN, rootref: str | None = None) -> None:
        """Make a namespace, empty unless there is a ``rootref``. EEXIST."""
        if rootref is None:
            hash_name = str(self.flux.rpc("attr.get", {"name": "content.hash"}).get()["value"])
            rootref = blobref_of(hash_name, treeobj.directory().encode())
        # Signed, as flux-core sends it.
        signed = owner - (1 << 32) if owner >= 1 << 31 else owner
        request = {"namespace": name, "rootref": rootref, "owner": signed, "flags": 0}
        self.flux.rpc("kvs.namespace-create", request, nodeid=0).get()

    def remove_namespace(self, name: str) -> None:
        """Remove a namespace, if it exists. ENOTSUP for the primary one."""
        self.flux.rpc("kvs.namespace-remove", {"namespace": name}, nodeid=0).get()

    def namespaces(self) -> list[dict[str, Any]]:
        """``{namespace, owner, flags}`` of each."""
        found: list[dict[str, Any]] = self.flux.rpc("kvs.namespace-list").get()["namespaces"]
        return found


class Transaction:
    """Changes that are made together, or not at all. Each method adds one, and returns the transaction."""

    def __init__(self, flux: Connection, namespace: str) -> None:
        self._flux = flux
        self._namespace = namespace
        self._ops: list[bytes] = []

    def __len__(self) -> int:
        return len(self._ops)

    def put(self, key: str, value: bytes | str) -> Transaction:
        """Set a value."""
        return self.put_entry(key, treeobj.val(_encode(value)))

    def put_json(self, key: str, value: object) -> Transaction:
        """Set a value to JSON, compact."""
        return self.put(key, compact(value))

    def put_entry(self, key: str, entry: TreeObject) -> Transaction:
        """Put a tree object as it is."""
        # The encoding of a val needs no JSON encoder, which takes its time with large values.
        return self._add(key, entry.encode() if entry.type == treeobj.VAL else _json(entry.json()))

    def append(self, key: str, value: bytes | str) -> Transaction:
        """Add to a value."""
        return self._add(key, treeobj.val(_encode(value)).encode(), _APPEND)

    def mkdir(self, key: str) -> Transaction:
        """Make an empty directory; it replaces an existing entry."""
        return self.put_entry(key, treeobj.directory())

    def symlink(self, key: str, target: str, namespace: str | None = None) -> Transaction:
        """Make a symlink to a target."""
        return self.put_entry(key, treeobj.symlink(target, namespace))

    def unlink(self, key: str) -> Transaction:
        """Remove a key, with all that is below it."""
        return self._add(key, b"null")

    def _add(self, key: str, dirent: bytes, flags: int = 0) -> Transaction:
        if not key:
            raise FluxError(errno.EINVAL)
        self._ops.append(b'{"key":%b,"flags":%d,"dirent":%b}' % (_json(key), flags, dirent))
        return self

    def begin(self, flags: int = 0) -> Rpc:
        """Send the changes without waiting; the answer is ``{rootref, rootseq}``."""
        head = b'{"namespace":%b,"flags":%d,"ops":[' % (_json(self._namespace), flags)
        return self._flux.rpc("kvs.commit", b"".join([head, b",".join(self._ops), b"]}\0"]))

    def commit(self, flags: int = 0) -> Root:
        """Make the changes. Returns the root that contains them."""
        answer = self.begin(flags).get()
        return Root(answer["rootref"], answer["rootseq"])


def value_of(answer: dict[str, Any]) -> TreeObject:
    """The tree object in the answer to a lookup. Raises ProtocolError."""
    return decode_treeobj(answer.get("val"))


def _json(value: object) -> bytes:
    return compact(value).encode("utf-8", "surrogatepass")


def _encode(value: bytes | str) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
