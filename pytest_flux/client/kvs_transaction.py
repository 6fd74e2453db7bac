"""Changes to the key-value store that are made together, or not at all."""

from __future__ import annotations

import errno

from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.json_value import compact
from pytest_flux.protocol.treeobj import TreeObject
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_flux.client.connection import Connection
    from pytest_flux.client.rpc import Rpc

_APPEND = 32


class Root(NamedTuple):
    """A root: its blobref, and its place in the sequence of roots of its namespace."""

    ref: str
    sequence: int


class Transaction:
    """Collects operations in their order; each method returns the transaction."""

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
        is_value = entry.type == treeobj.VAL
        return self._add(key, entry.encode() if is_value else _json(entry.json()))

    def append(self, key: str, value: bytes | str) -> Transaction:
        """Add to a value."""
        return self._add(key, treeobj.val(_encode(value)).encode(), _APPEND)

    def mkdir(self, key: str) -> Transaction:
        """Make an empty directory, whatever was there."""
        return self.put_entry(key, treeobj.directory())

    def symlink(self, key: str, target: str, namespace: str | None = None) -> Transaction:
        """Make a key another name for a target."""
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
        """Make the changes; the root that contains them."""
        answer = self.begin(flags).get()
        return Root(answer["rootref"], answer["rootseq"])


def _json(value: object) -> bytes:
    return compact(value).encode("utf-8", "surrogatepass")


def _encode(value: bytes | str) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
