"""Tree objects (RFC 11, "Implementation"), of which the key-value store is made.

Hashes are those of the canonical encoding, which flux-core gets from jansson: compact, with sorted keys, control
characters escaped with capital digits, and everything else as it is.
"""

from __future__ import annotations

import binascii
import json
import re
from functools import lru_cache
from json.encoder import encode_basestring

from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.protocol.limits import MAX_TREE_DEPTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Json = Any

VERSION = 1
VAL, VALREF, DIR, DIRREF, SYMLINK = "val", "valref", "dir", "dirref", "symlink"

_MEMBERS = frozenset(("ver", "type", "data"))
_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*\\u)([0-9a-f]{4})")
# Bytes of an encoding that is kept.
_KEPT = 4096
_VALREF_TAIL = b'],"type":"valref","ver":1}'


class TreeObject:
    """One tree object, never changed once made.

    ``data`` depends on ``type``: the base64 text of a val, the blobrefs of a valref or dirref, the JSON object of a
    symlink, the entries of a dir by name.
    """

    __slots__ = ("_encoded", "data", "type")

    def __init__(self, type: str, data: Json, encoded: bytes | None = None) -> None:
        self.type = type
        self.data = data
        self._encoded = encoded

    def encode(self) -> bytes:
        """The canonical encoding. Raises ProtocolError for lone surrogates."""
        if self._encoded is not None:
            return self._encoded
        if self.type == DIR:
            # Not kept, because directories are many and large, and the content store has their encoding.
            entries = self.data
            return b'{"data":{%b},"type":"dir","ver":1}' % b",".join(
                [encode_name(name) + entries[name].encode() for name in sorted(entries)]
            )
        if self.type in (VALREF, DIRREF):
            # Blobrefs have nothing in them that JSON would escape.
            data = ('["' + '","'.join(self.data) + '"]').encode()
        else:
            data = _encode_value(self.data)
        self._encoded = b'{"data":%b,"type":"%b","ver":1}' % (data, self.type.encode())
        return self._encoded

    def json(self) -> dict[str, Any]:
        """The object as JSON."""
        data = self.data
        if self.type == DIR:
            data = {name: entry.json() for name, entry in data.items()}
        return {"ver": VERSION, "type": self.type, "data": data}

    @property
    def size(self) -> int:
        """The length of a val's base64 text."""
        return len(self.data)

    def value(self) -> bytes:
        """The bytes of a val. Raises ProtocolError if its data is not base64."""
        return decode_base64(self.data)

    def extended(self, refs: Sequence[str]) -> TreeObject:
        """This valref with more blobs; costs no new encoding of those that it has."""
        added = "".join([f',"{ref}"' for ref in refs]).encode()
        return TreeObject(VALREF, [*self.data, *refs], self.encode()[: -len(_VALREF_TAIL)] + added + _VALREF_TAIL)

    def __repr__(self) -> str:
        return f"<{self.type} {self.data!r}>"


class _Value(TreeObject):
    """A val that is made here from bytes. Most become blobs, so base64 is made only when asked for."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self.type = VAL
        self._value = value
        self._encoded = None

    @property
    def data(self) -> str:
        return binascii.b2a_base64(self._value, newline=False).decode()

    def encode(self) -> bytes:
        # Not kept if it will hardly be needed again. Base64 has nothing in it that JSON would escape.
        if self._encoded is not None:
            return self._encoded
        encoded = b'{"data":"%b","type":"val","ver":1}' % binascii.b2a_base64(self._value, newline=False)
        if len(encoded) <= _KEPT:
            self._encoded = encoded
        return encoded

    @property
    def size(self) -> int:
        return -(-len(self._value) // 3) * 4

    def value(self) -> bytes:
        return self._value


def val(data: bytes) -> TreeObject:
    """A value that is kept in its directory."""
    return _Value(data)


def valref(refs: Sequence[str]) -> TreeObject:
    """A value that is the concatenation of blobs."""
    return TreeObject(VALREF, list(refs))


def dirref(ref: str) -> TreeObject:
    """A directory that is kept as a blob."""
    return TreeObject(DIRREF, [ref])


def directory(entries: dict[str, TreeObject] | None = None) -> TreeObject:
    """A directory."""
    return TreeObject(DIR, {} if entries is None else entries)


def symlink(target: str, namespace: str | None = None) -> TreeObject:
    """Another name for a key, possibly of another namespace."""
    return TreeObject(
        SYMLINK, {"target": target} if namespace is None else {"namespace": namespace, "target": target}
    )


def decode_treeobj(value: object) -> TreeObject:
    """The tree object that a JSON value is (flux-core's treeobj_validate). Raises ProtocolError."""
    return _decode(value, 0)


def _decode(value: object, depth: int) -> TreeObject:
    if not isinstance(value, dict) or value.keys() != _MEMBERS:
        raise ProtocolError("a tree object has the members ver, type and data")
    if type(value["ver"]) is not int or value["ver"] != VERSION:
        raise ProtocolError("unknown version of a tree object", repr(value["ver"])[:80])
    kind, data = value["type"], value["data"]
    if kind == DIR:
        return TreeObject(DIR, _decode_entries(data, depth))
    check = _CHECKS.get(kind) if isinstance(kind, str) else None
    if check is None:
        raise ProtocolError("unknown type of a tree object", repr(kind)[:80])
    return TreeObject(kind, check(data))


def _decode_entries(data: object, depth: int) -> dict[str, TreeObject]:
    if not isinstance(data, dict):
        raise ProtocolError("the data of a dir is an object")
    if depth >= MAX_TREE_DEPTH:
        raise ProtocolError(f"a tree object is nested too deeply, more than {MAX_TREE_DEPTH} levels")
    return {name: _decode(entry, depth + 1) for name, entry in data.items()}


def load_treeobj(data: bytes) -> TreeObject:
    """The tree object that is stored in a blob. Raises ProtocolError."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a stored tree object is not JSON ({error})") from None
    return decode_treeobj(value)


def decode_base64(text: str) -> bytes:
    """Bytes from base64 as flux-core reads it, padded. Raises ProtocolError."""
    import base64

    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ProtocolError("not base64", text[:80]) from None


def _check_text(data: object) -> object:
    if not isinstance(data, str):
        raise ProtocolError("the data of a val is a string")
    return data


def _check_refs(data: object) -> object:
    if not isinstance(data, list) or not data:
        raise ProtocolError("the data of a reference is a list of blobrefs")
    for ref in data:
        decode_blobref(ref)
    return data


def _check_link(data: object) -> object:
    if not isinstance(data, dict) or not isinstance(data.get("target"), str):
        raise ProtocolError("a symlink has a target")
    if not isinstance(data.get("namespace", ""), str):
        raise ProtocolError("the namespace of a symlink is a string")
    return data


_CHECKS = {VAL: _check_text, VALREF: _check_refs, DIRREF: _check_refs, SYMLINK: _check_link}


def _canonical(text: str) -> bytes:
    if "\\u" in text:
        text = _ESCAPE.sub(lambda match: match[1] + match[2].upper(), text)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ProtocolError("text is not Unicode", ascii(text)[:80]) from None


def _encode_value(value: object) -> bytes:
    if isinstance(value, str):
        return _canonical(encode_basestring(value))
    return _canonical(json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False))


@lru_cache(maxsize=1 << 14)
def encode_name(name: str) -> bytes:
    """The name of an entry as it begins its encoding: a JSON string and a colon."""
    return _canonical(encode_basestring(name)) + b":"
