"""The key-value store: flux-core's ``libkvs``."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

from pytest_flux.bindings.constants import (
    FLUX_KVS_APPEND,
    FLUX_KVS_READDIR,
    FLUX_KVS_READLINK,
    FLUX_KVS_STREAM,
    FLUX_KVS_TREEOBJ,
    FLUX_KVS_TXN_COMPACT,
    FLUX_KVS_WAITCREATE,
    FLUX_KVS_WATCH,
    FLUX_KVS_WATCH_APPEND,
    FLUX_KVS_WATCH_FULL,
    FLUX_KVS_WATCH_INITIAL_SENTINEL,
    FLUX_KVS_WATCH_UNIQ,
    FLUX_NODEID_ANY,
)
from pytest_flux.bindings.ffi import NULL, chars, ctype, fail, ffi, put, text
from pytest_flux.bindings.future import Future
from pytest_flux.bindings.handle import Handle
from pytest_flux.bindings.library import function
from pytest_flux.bindings.rpc import NORESPONSE, STREAMING, call_json, get_attribute, response_json, response_member
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import blobref_of
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.treeobj import DIR, DIRREF, SYMLINK, VAL, TreeObject, decode_treeobj

_WATCH_FLAGS = FLUX_KVS_WATCH_FULL | FLUX_KVS_WATCH_UNIQ | FLUX_KVS_WATCH_APPEND | FLUX_KVS_WATCH_INITIAL_SENTINEL
_WATCH_SERVICE = FLUX_KVS_WATCH | FLUX_KVS_WAITCREATE | FLUX_KVS_STREAM
_READS = (0, FLUX_KVS_TREEOBJ, FLUX_KVS_READDIR, FLUX_KVS_READDIR | FLUX_KVS_TREEOBJ, FLUX_KVS_READLINK)


def _namespace(ns: Any) -> str:
    return text(ns) or os.environ.get("FLUX_KVS_NAMESPACE") or "primary"


def _are_valid(flags: int) -> bool:
    if flags & _WATCH_FLAGS and not flags & FLUX_KVS_WATCH:
        return False
    return flags & ~(_WATCH_FLAGS | _WATCH_SERVICE) in _READS


# -- lookups


class _Lookup:
    """What a lookup was asked for."""

    def __init__(self, handle: Handle, key: str, flags: int, root: bytes | None = None) -> None:
        self.handle = handle
        self.key = key
        self.flags = flags
        self.root = root


@function("flux_t *, char *, int, char * -> flux_future_t *")
def flux_kvs_lookup(h: Handle, ns: Any, flags: int, key: Any) -> Any:
    """Look a key up: flux_kvs_lookup(3)."""
    name = text(key)
    if not name or not _are_valid(flags):
        return fail(errno.EINVAL, NULL)
    service = "kvs-watch" if flags & _WATCH_SERVICE else "kvs"
    rpc_flags = STREAMING if flags & (FLUX_KVS_WATCH | FLUX_KVS_STREAM) else 0
    payload = {"key": name, "namespace": _namespace(ns), "flags": flags}
    future = call_json(h, f"{service}.lookup", payload, FLUX_NODEID_ANY, rpc_flags)
    if future is not NULL:
        future.remember("lookup", _Lookup(h, name, flags))
    return future


@function("flux_t *, int, char *, char * -> flux_future_t *")
def flux_kvs_lookupat(h: Handle, flags: int, key: Any, treeobj: Any) -> Any:
    """Look a key up below a root of the past: flux_kvs_lookup(3)."""
    name, root = text(key), text(treeobj)
    if not name or root is None or flags & _WATCH_SERVICE or not _are_valid(flags):
        return fail(errno.EINVAL, NULL)
    try:
        rootdir = json.loads(root)
    except ValueError:
        return fail(errno.EINVAL, NULL)
    future = call_json(h, "kvs.lookup", {"key": name, "flags": flags, "rootdir": rootdir})
    if future is not NULL:
        future.remember("lookup", _Lookup(h, name, flags, chars(root)))
    return future


def _found(future: Future) -> TreeObject | None:
    """The tree object in the response to a lookup; None, with errno set, if there is none."""
    lookup = future.recall("lookup")
    if lookup is None:
        return fail(errno.EINVAL, None)  # type: ignore[no-any-return]
    if lookup.flags & FLUX_KVS_WATCH_INITIAL_SENTINEL:
        message = future.get()
        if message is not None and not message.payload:
            return fail(0, None)  # type: ignore[no-any-return]
    value = response_member(future, "val")
    if value is None:
        return None
    try:
        return decode_treeobj(value)
    except ProtocolError:
        return fail(errno.EPROTO, None)  # type: ignore[no-any-return]


def _value(found: TreeObject) -> bytes | None:
    """The value of a tree object; None, with errno set, if it is a directory or so."""
    if found.type in (DIR, DIRREF):
        return fail(errno.EISDIR, None)  # type: ignore[no-any-return]
    if found.type != VAL:
        return fail(errno.EINVAL, None)  # type: ignore[no-any-return]
    try:
        return found.value()
    except ProtocolError:
        return fail(errno.EINVAL, None)  # type: ignore[no-any-return]


@function("flux_future_t *, char ** -> int")
def flux_kvs_lookup_get(f: Future, value: Any) -> int:
    """The value of a key as string; NULL if it is empty: flux_kvs_lookup(3)."""
    return flux_kvs_lookup_get_raw(f, value, NULL)


@function("flux_future_t *, void **, size_t * -> int")
def flux_kvs_lookup_get_raw(f: Future, data: Any, size: Any) -> int:
    """The value of a key as bytes: flux_kvs_lookup(3)."""
    ffi.errno = 0
    found = _found(f)
    if found is None:
        if ffi.errno:
            return -1
        content: bytes | None = b""
    else:
        content = _value(found)
        if content is None:
            return -1
    put(data, content or NULL)
    put(size, len(content or b""))
    return 0


@function("flux_future_t *, char ** -> int")
def flux_kvs_lookup_get_treeobj(f: Future, treeobj: Any) -> int:
    """How a key is stored: flux_kvs_lookup(3)."""
    found = _found(f)
    if found is None:
        return -1
    treeobj[0] = found.encode()
    return 0


@function("flux_future_t *, flux_kvsdir_t ** -> int")
def flux_kvs_lookup_get_dir(f: Future, dir: Any) -> int:
    """The directory at a key: flux_kvs_lookup(3)."""
    found = _found(f)
    if found is None:
        return -1
    if found.type != DIR:
        return int(fail(errno.EINVAL))
    lookup = f.recall("lookup")
    dir[0] = Directory(lookup.handle, lookup.root, lookup.key, found)
    return 0


@function("flux_future_t *, char **, char ** -> int")
def flux_kvs_lookup_get_symlink(f: Future, ns: Any, target: Any) -> int:
    """The namespace and the target of a symlink: flux_kvs_lookup(3)."""
    found = _found(f)
    if found is None:
        return -1
    if found.type != SYMLINK:
        return int(fail(errno.EINVAL))
    namespace = found.data.get("namespace")
    put(ns, NULL if namespace is None else chars(namespace))
    put(target, chars(found.data["target"]))
    return 0


@function("flux_future_t * -> char *")
def flux_kvs_lookup_get_key(f: Future) -> Any:
    """The key that was looked up: flux_kvs_lookup(3)."""
    lookup = f.recall("lookup")
    return fail(errno.EINVAL, NULL) if lookup is None else chars(lookup.key)


@function("flux_future_t * -> int")
def flux_kvs_lookup_cancel(f: Future) -> int:
    """End a watch: flux_kvs_lookup(3)."""
    lookup, handle = f.recall("lookup"), f.get_flux()
    if lookup is None or handle is None or f.rpc is None or not lookup.flags & _WATCH_SERVICE:
        return int(fail(errno.EINVAL))
    payload = {"matchtag": f.rpc.matchtag}
    future = call_json(handle, "kvs-watch.cancel", payload, FLUX_NODEID_ANY, NORESPONSE)
    if future is NULL:
        return -1
    future.destroy()
    return 0


# -- directories


class Directory:
    """A ``flux_kvsdir_t``: a directory as it was when it was looked up."""

    ctype = ctype("flux_kvsdir_t *")

    def __init__(self, handle: Any, root: bytes | None, key: str, found: TreeObject) -> None:
        self.handle = handle
        self.root = root
        self.key = key
        self.entries: dict[str, TreeObject] = found.data
        self.found = found

    def kind(self, name: Any) -> str | None:
        """The type of an entry; None if there is none."""
        entry = self.entries.get(text(name) or "")
        return None if entry is None else entry.type


class Iterator:
    """A ``flux_kvsitr_t``: the names of a directory, sorted."""

    ctype = ctype("flux_kvsitr_t *")

    def __init__(self, directory: Directory) -> None:
        self.names = sorted(directory.entries)
        self.position = 0


@function("flux_t *, char *, char *, char * -> flux_kvsdir_t *")
def flux_kvsdir_create(handle: Any, rootref: Any, key: Any, json_str: Any) -> Any:
    """Make a directory from its tree object: flux_kvs_lookup(3)."""
    name, encoded = text(key), text(json_str)
    if name is None or encoded is None:
        return fail(errno.EINVAL, NULL)
    try:
        found = decode_treeobj(json.loads(encoded))
    except ValueError:
        return fail(errno.EINVAL, NULL)
    if found.type != DIR:
        return fail(errno.EINVAL, NULL)
    return Directory(handle, None if rootref is NULL else bytes(rootref), name, found)


@function("flux_kvsdir_t * -> void")
def flux_kvsdir_destroy(dir: Any) -> None:
    """Drop a reference: flux_kvs_lookup(3). Python keeps count."""


@function("flux_kvsdir_t * -> void")
def flux_kvsdir_incref(dir: Any) -> None:
    """Take a reference: flux_kvs_lookup(3). Python keeps count."""


@function("flux_kvsdir_t * -> flux_kvsdir_t *")
def flux_kvsdir_copy(dir: Directory) -> Directory:
    """Copy a directory: flux_kvs_lookup(3)."""
    return Directory(dir.handle, dir.root, dir.key, dir.found)


@function("flux_kvsdir_t * -> int")
def flux_kvsdir_get_size(dir: Directory) -> int:
    """The number of entries: flux_kvs_lookup(3)."""
    return len(dir.entries)


@function("flux_kvsdir_t *, char * -> bool")
def flux_kvsdir_exists(dir: Directory, name: Any) -> bool:
    """Whether there is an entry: flux_kvs_lookup(3)."""
    return dir.kind(name) is not None


@function("flux_kvsdir_t *, char * -> bool")
def flux_kvsdir_isdir(dir: Directory, name: Any) -> bool:
    """Whether an entry is a directory: flux_kvs_lookup(3)."""
    return dir.kind(name) in (DIR, DIRREF)


@function("flux_kvsdir_t *, char * -> bool")
def flux_kvsdir_issymlink(dir: Directory, name: Any) -> bool:
    """Whether an entry is a symlink: flux_kvs_lookup(3)."""
    return dir.kind(name) == SYMLINK


@function("flux_kvsdir_t * -> char *")
def flux_kvsdir_key(dir: Directory) -> bytes:
    """The key of a directory: flux_kvs_lookup(3)."""
    return chars(dir.key)


@function("flux_kvsdir_t * -> void *")
def flux_kvsdir_handle(dir: Directory) -> Any:
    """The handle that a directory was looked up with: flux_kvs_lookup(3)."""
    return dir.handle


@function("flux_kvsdir_t * -> char *")
def flux_kvsdir_rootref(dir: Directory) -> Any:
    """The root that a directory was looked up below: flux_kvs_lookup(3)."""
    return NULL if dir.root is None else dir.root


@function("flux_kvsdir_t *, char * -> char *")
def flux_kvsdir_key_at(dir: Directory, key: Any) -> bytes:
    """The whole key of an entry: flux_kvs_lookup(3)."""
    name = text(key) or ""
    if dir.key == ".":
        return chars(name)
    return chars(f"{dir.key}{name}" if dir.key.endswith(".") else f"{dir.key}.{name}")


@function("flux_kvsdir_t * -> flux_kvsitr_t *")
def flux_kvsitr_create(dir: Any) -> Any:
    """Go through the names of a directory: flux_kvs_lookup(3)."""
    return fail(errno.EINVAL, NULL) if dir is NULL else Iterator(dir)


@function("flux_kvsitr_t * -> void")
def flux_kvsitr_destroy(itr: Any) -> None:
    """Be done with the names of a directory: flux_kvs_lookup(3)."""


@function("flux_kvsitr_t * -> char *")
def flux_kvsitr_next(itr: Any) -> Any:
    """The next name: flux_kvs_lookup(3)."""
    if itr is NULL or itr.position == len(itr.names):
        return NULL
    itr.position += 1
    return chars(itr.names[itr.position - 1])


@function("flux_kvsitr_t * -> void")
def flux_kvsitr_rewind(itr: Iterator) -> None:
    """Begin again: flux_kvs_lookup(3)."""
    itr.position = 0


# -- transactions


class Transaction:
    """A ``flux_kvs_txn_t``."""

    ctype = ctype("flux_kvs_txn_t *")

    def __init__(self) -> None:
        self.ops: list[dict[str, Any]] = []

    def add(self, key: Any, flags: int, dirent: TreeObject | None, allowed: int = 0) -> int:
        """Add an operation: 0, or -1 with errno set."""
        name = text(key)
        if not name or flags & ~allowed:
            return int(fail(errno.EINVAL))
        self.ops.append({"key": name, "flags": flags, "dirent": None if dirent is None else dirent.json()})
        return 0

    def compact(self) -> int:
        """Merge appends to one key: 0, or -1 with errno set if a key is appended to and then overwritten."""
        compacted: list[dict[str, Any]] = []
        appended: dict[str, dict[str, Any]] = {}
        for op in self.ops:
            earlier = appended.get(op["key"])
            if op["flags"] & FLUX_KVS_APPEND and earlier is not None:
                both = decode_treeobj(earlier["dirent"]).value() + decode_treeobj(op["dirent"]).value()
                earlier["dirent"] = treeobj.val(both).json()
                continue
            if earlier is not None:
                return int(fail(errno.EINVAL))
            op = dict(op)
            if op["flags"] & FLUX_KVS_APPEND:
                appended[op["key"]] = op
            compacted.append(op)
        self.ops = compacted
        return 0


@function("-> flux_kvs_txn_t *")
def flux_kvs_txn_create() -> Transaction:
    """Begin a transaction: flux_kvs_txn_create(3)."""
    return Transaction()


@function("flux_kvs_txn_t * -> void")
def flux_kvs_txn_destroy(txn: Any) -> None:
    """Drop a transaction: flux_kvs_txn_create(3)."""


@function("flux_kvs_txn_t *, int, char *, char * -> int")
def flux_kvs_txn_put(txn: Transaction, flags: int, key: Any, value: Any) -> int:
    """Set a key to a string: flux_kvs_txn_create(3)."""
    string = b"" if value is NULL else bytes(value).partition(b"\0")[0]
    return txn.add(key, flags, treeobj.val(string), FLUX_KVS_APPEND)


@function("flux_kvs_txn_t *, int, char *, void *, size_t -> int")
def flux_kvs_txn_put_raw(txn: Transaction, flags: int, key: Any, data: Any, size: int) -> int:
    """Set a key to bytes: flux_kvs_txn_create(3)."""
    return txn.add(key, flags, treeobj.val(b"" if data is NULL else bytes(data[:size])), FLUX_KVS_APPEND)


@function("flux_kvs_txn_t *, int, char *, char * -> int")
def flux_kvs_txn_put_treeobj(txn: Transaction, flags: int, key: Any, treeobj: Any) -> int:
    """Set a key to a tree object: flux_kvs_txn_create(3)."""
    try:
        return txn.add(key, flags, decode_treeobj(json.loads(text(treeobj) or "")))
    except ValueError:
        return int(fail(errno.EPROTO))


@function("flux_kvs_txn_t *, int, char * -> int")
def flux_kvs_txn_mkdir(txn: Transaction, flags: int, key: Any) -> int:
    """Make an empty directory: flux_kvs_txn_create(3)."""
    return txn.add(key, flags, treeobj.directory())


@function("flux_kvs_txn_t *, int, char * -> int")
def flux_kvs_txn_unlink(txn: Transaction, flags: int, key: Any) -> int:
    """Remove a key: flux_kvs_txn_create(3)."""
    return txn.add(key, flags, None)


@function("flux_kvs_txn_t *, int, char *, char *, char * -> int")
def flux_kvs_txn_symlink(txn: Transaction, flags: int, key: Any, ns: Any, target: Any) -> int:
    """Make a key another name for a key: flux_kvs_txn_create(3)."""
    goal = text(target)
    return int(fail(errno.EINVAL)) if goal is None else txn.add(key, flags, treeobj.symlink(goal, text(ns)))


@function("flux_kvs_txn_t * -> int")
def flux_kvs_txn_clear(txn: Transaction) -> int:
    """Forget all operations: flux_kvs_txn_create(3)."""
    txn.ops = []
    return 0


@function("flux_kvs_txn_t * -> bool")
def flux_kvs_txn_is_empty(txn: Transaction) -> bool:
    """Whether there are no operations: flux_kvs_txn_create(3)."""
    return not txn.ops


# -- commits


@function("flux_t *, char *, int, flux_kvs_txn_t * -> flux_future_t *")
def flux_kvs_commit(h: Handle, ns: Any, flags: int, txn: Any) -> Any:
    """Make the changes of a transaction: flux_kvs_commit(3)."""
    if txn is NULL:
        return fail(errno.EINVAL, NULL)
    if flags & FLUX_KVS_TXN_COMPACT:
        if txn.compact() < 0:
            return NULL
        flags &= ~FLUX_KVS_TXN_COMPACT
    return call_json(h, "kvs.commit", {"namespace": _namespace(ns), "flags": flags, "ops": txn.ops})


def _give(future: Future, member: str, target: Any) -> int:
    value = response_member(future, member)
    if value is None:
        return -1
    target[0] = chars(value) if isinstance(value, str) else value
    return 0


def _give_root(future: Future, target: Any) -> int:
    ref = response_member(future, "rootref")
    if ref is None:
        return -1
    target[0] = treeobj.dirref(ref).encode()
    return 0


@function("flux_future_t *, char ** -> int")
def flux_kvs_commit_get_rootref(f: Future, rootref: Any) -> int:
    """The blobref of the root after a commit: flux_kvs_commit(3)."""
    return _give(f, "rootref", rootref)


@function("flux_future_t *, int * -> int")
def flux_kvs_commit_get_sequence(f: Future, rootseq: Any) -> int:
    """The number of the root after a commit: flux_kvs_commit(3)."""
    return _give(f, "rootseq", rootseq)


@function("flux_future_t *, char ** -> int")
def flux_kvs_commit_get_treeobj(f: Future, treeobj: Any) -> int:
    """The root after a commit: flux_kvs_commit(3)."""
    return _give_root(f, treeobj)


# -- roots and namespaces


@function("flux_t *, char *, int -> flux_future_t *")
def flux_kvs_getroot(h: Handle, ns: Any, flags: int) -> Any:
    """Ask for the root: flux_kvs_getroot(3)."""
    if flags:
        return fail(errno.EINVAL, NULL)
    return call_json(h, "kvs.getroot", {"namespace": _namespace(ns), "flags": flags})


@function("flux_future_t *, char ** -> int")
def flux_kvs_getroot_get_blobref(f: Future, blobref: Any) -> int:
    """The blobref of the root: flux_kvs_getroot(3)."""
    return _give(f, "rootref", blobref)


@function("flux_future_t *, char ** -> int")
def flux_kvs_getroot_get_treeobj(f: Future, treeobj: Any) -> int:
    """The root as tree object: flux_kvs_getroot(3)."""
    return _give_root(f, treeobj)


@function("flux_future_t *, int * -> int")
def flux_kvs_getroot_get_sequence(f: Future, seq: Any) -> int:
    """The number of the root: flux_kvs_getroot(3)."""
    return _give(f, "rootseq", seq)


@function("flux_future_t *, uint32_t * -> int")
def flux_kvs_getroot_get_owner(f: Future, owner: Any) -> int:
    """The owner of the namespace: flux_kvs_getroot(3)."""
    value = response_member(f, "owner")
    if value is None:
        return -1
    owner[0] = value & 0xFFFFFFFF
    return 0


@function("flux_t *, char *, char *, uint32_t, int -> flux_future_t *")
def flux_kvs_namespace_create_with(h: Handle, ns: Any, rootref: Any, owner: int, flags: int) -> Any:
    """Make a namespace that begins with a root: flux_kvs_namespace_create(3)."""
    name, ref = text(ns), text(rootref)
    if name is None or ref is None or flags:
        return fail(errno.EINVAL, NULL)
    # flux-core sends the user id as a signed number.
    signed = owner - (1 << 32) if owner >= 1 << 31 else owner
    payload = {"namespace": name, "rootref": ref, "owner": signed, "flags": flags}
    return call_json(h, "kvs.namespace-create", payload, 0)


@function("flux_t *, char *, uint32_t, int -> flux_future_t *")
def flux_kvs_namespace_create(h: Handle, ns: Any, owner: int, flags: int) -> Any:
    """Make an empty namespace: flux_kvs_namespace_create(3)."""
    hash_name = get_attribute(h, "content.hash")
    if hash_name is None:
        return NULL
    ref = blobref_of(hash_name, treeobj.directory().encode())
    return flux_kvs_namespace_create_with(h, ns, chars(ref), owner, flags)


@function("flux_t *, char * -> flux_future_t *")
def flux_kvs_namespace_remove(h: Handle, ns: Any) -> Any:
    """Remove a namespace: flux_kvs_namespace_create(3)."""
    name = text(ns)
    if name is None:
        return fail(errno.EINVAL, NULL)
    return call_json(h, "kvs.namespace-remove", {"namespace": name}, 0)


@function("flux_t *, char *, int * -> int")
def flux_kvs_get_version(h: Handle, ns: Any, versionp: Any) -> int:
    """The number of the root, now: flux_kvs_getroot(3)."""
    future = call_json(h, "kvs.getroot", {"namespace": _namespace(ns), "flags": 0})
    if future is NULL:
        return -1
    result = _give(future, "rootseq", versionp)
    future.destroy()
    return result


@function("flux_t *, char *, int -> int")
def flux_kvs_wait_version(h: Handle, ns: Any, version: int) -> int:
    """Wait until the root has a number: flux_kvs_getroot(3)."""
    future = call_json(h, "kvs.wait-version", {"namespace": _namespace(ns), "rootseq": version})
    if future is NULL:
        return -1
    answer = response_json(future)
    future.destroy()
    return -1 if answer is None else 0
