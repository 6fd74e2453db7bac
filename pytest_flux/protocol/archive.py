"""Tar archives as `flux dump` writes them (ustar and pax headers, POSIX.1-2017 pax): bytes in, members out.

Member names are KVS keys with slashes. They are never paths of any file system.
"""

from __future__ import annotations

from typing import NamedTuple

from pytest_flux.protocol.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FILE, SYMLINK, OTHER = "file", "symlink", "other"

BLOCK = 512
_NAME = 100
_EXTENSION_MAX = 1 << 20
"""So long an extended header may be. Names are a few hundred bytes."""

_KINDS = {b"0": FILE, b"\0": FILE, b"7": FILE, b"2": SYMLINK}


class Member(NamedTuple):
    """One entry: ``size`` in bytes, ``mtime`` in seconds since 1970. Only a symlink has a ``target``."""

    name: str
    kind: str
    size: int
    mtime: int
    uid: int
    gid: int
    target: str


class TarDecoder:
    """Takes an archive in pieces of any size. Holds one header at most, extended headers of a megabyte included."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._data = 0
        self._padding = 0
        self._extension = b""
        self._said: dict[str, bytes] = {}
        self.ended = False
        self.members = 0

    def receive(self, data: bytes) -> Iterator[Member | bytes]:
        """The members that begin in ``data``, each followed by its data in pieces. Raises ProtocolError.

        What is returned must be taken to its end before more is received.
        """
        view = memoryview(data)
        while view and not self.ended:
            if self._data and not self._extension:
                piece = view[: self._data]
                view = view[len(piece) :]
                self._data -= len(piece)
                yield bytes(piece)
            elif self._data:
                view = self._take(view, self._data)
                if len(self._buffer) == self._data:
                    self._extend(bytes(self._buffer))
            elif self._padding:
                skipped = min(self._padding, len(view))
                view = view[skipped:]
                self._padding -= skipped
            else:
                view = self._take(view, BLOCK)
                if len(self._buffer) == BLOCK:
                    member = self._begin(bytes(self._buffer))
                    self._buffer.clear()
                    if member is not None:
                        self.members += 1
                        yield member

    def skip(self) -> None:
        """What is missing of the data of the member does not come."""
        self._data = 0

    def close(self) -> None:
        """Nothing more comes. Raises ProtocolError where that is too soon."""
        if self._data or self._padding or self._buffer or self._said:
            raise ProtocolError("the archive is truncated", f"after {self.members} members")

    def _take(self, view: memoryview, wanted: int) -> memoryview:
        missing = wanted - len(self._buffer)
        self._buffer += view[:missing]
        return view[missing:]

    def _begin(self, header: bytes) -> Member | None:
        if not header.strip(b"\0"):
            self.ended = True
            return None
        where = f"after {self.members} members"
        if _checksum(header) != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
            raise ProtocolError("a damaged tar header" if self.members else "not a tar archive", where)
        code, size = header[156:157], _number(header[124:136], where)
        if code in b"xgLK":
            if size > _EXTENSION_MAX:
                raise ProtocolError(f"an extended header of {size} bytes", where)
            self._extension, self._data, self._padding = code, size, -size % BLOCK
            if not size:
                self._extend(b"")
            return None
        said, self._said = self._said, {}
        if "size" in said:
            size = _decimal(said["size"], where)
        kind = _KINDS.get(code, OTHER)
        # A link has no data, whatever its size says; so it is in POSIX.
        self._data = 0 if kind == SYMLINK else size
        self._padding = -self._data % BLOCK
        name = said.get("path") or _ustar_name(header)
        if kind == FILE and name.endswith(b"/"):
            kind = OTHER
        target = said.get("linkpath") or header[157:257].partition(b"\0")[0]
        mtime = _seconds(said["mtime"]) if "mtime" in said else _number(header[136:148], where)
        uid, gid = (_number(header[start : start + 8], where) for start in (108, 116))
        return Member(_text(name), kind, self._data, mtime, uid, gid, _text(target) if kind == SYMLINK else "")

    def _extend(self, data: bytes) -> None:
        code, self._extension, self._data = self._extension, b"", 0
        self._buffer.clear()
        where = f"after {self.members} members"
        if code == b"x":
            self._said.update(_records(data, where))
        elif code in b"LK":
            self._said["path" if code == b"L" else "linkpath"] = data.partition(b"\0")[0]


def _ustar_name(header: bytes) -> bytes:
    name, prefix = header[:_NAME].partition(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _number(field: bytes, where: str) -> int:
    """A number field: octal, or, if its first bit is set, binary (GNU, star)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.replace(b"\0", b" ").split()
    if not digits:
        return 0
    try:
        number = int(digits[0], 8)
    except ValueError:
        raise ProtocolError("not a tar header", where) from None
    if number < 0:
        raise ProtocolError("not a tar header", where)
    return number


def _checksum(header: bytes) -> int:
    try:
        return int(header[148:156].replace(b"\0", b" "), 8)
    except ValueError:
        return -1


def _decimal(text: bytes, where: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ProtocolError("a member of no size", where)
    return int(text)


def _seconds(text: bytes) -> int:
    try:
        return int(text.partition(b".")[0])
    except ValueError:
        return 0


def _records(data: bytes, where: str) -> dict[str, bytes]:
    """The records of a pax header, ``LENGTH NAME=VALUE`` and a newline each."""
    found, start = {}, 0
    while start < len(data):
        length, blank, _ = data[start : start + 24].partition(b" ")
        end = start + int(length) if blank and length.isdigit() else 0
        if not start + len(length) + 2 < end <= len(data):
            raise ProtocolError("a damaged extended header", where)
        name, equals, value = data[start + len(length) + 1 : end].partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise ProtocolError("a damaged extended header", where)
        found[name.decode("utf-8", "replace")] = value[:-1]
        start = end
    return found
