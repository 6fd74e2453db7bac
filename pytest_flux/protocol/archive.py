"""Tar archives as `flux dump` writes them (ustar and pax headers, POSIX.1-2017 pax): bytes in, members out.

Member names are KVS keys with slashes. They are never paths of any file system.
"""

from __future__ import annotations

from pytest_flux.protocol.errors import ProtocolError
from pytest_flux.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FILE, SYMLINK, OTHER = "file", "symlink", "other"

BLOCK = 512
END = bytes(2 * BLOCK)
"""The end of an archive, after the last member."""

_NAME, _PREFIX = 100, 155
_MODE = 0o644
_OCTAL_MAX = 8**11 - 1
_OWNER_MAX = 8**6 - 1
_EXTENSION_MAX = 1 << 20
"""The longest extended header, in bytes. Names are a few hundred bytes."""

_CODES = {FILE: b"0", SYMLINK: b"2"}
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
    """Decodes an archive that comes in pieces of any size. It keeps one header at most, of up to a megabyte."""

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

        Exhaust the iterator before the next call.
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
        """Do not expect the rest of the data of the current member."""
        self._data = 0

    def close(self) -> None:
        """End the input. Raises ProtocolError if the archive is not complete."""
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
        # POSIX (pax, "ustar Interchange Format"): a link has no data, whatever its size field says.
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


def encode_member(member: Member) -> bytes:
    """The header that comes before the data, after a pax header if ustar's fields are too small."""
    name, target = _bytes(member.name), _bytes(member.target)
    split = _split(name)
    records = {}
    if split is None or not name.isascii():
        records["path"] = name
        split = name[:_NAME], b""
    if len(target) > _NAME or not target.isascii():
        records["linkpath"] = target
    if member.size > _OCTAL_MAX:
        records["size"] = str(member.size).encode()
    before = _encode_extension(records) if records else b""
    return before + _header(
        split[0],
        split[1],
        _CODES[member.kind],
        min(member.size, _OCTAL_MAX),
        member.mtime,
        (member.uid, member.gid),
        target[:_NAME],
    )


def padding(size: int) -> bytes:
    """The padding after ``size`` bytes of data."""
    return bytes(-size % BLOCK)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Name and prefix of a ustar header; None if the name does not fit."""
    if len(name) <= _NAME:
        return name, b""
    slash = name.find(b"/", len(name) - _NAME - 1)
    if slash <= 0 or slash > _PREFIX or slash == len(name) - 1:
        return None
    return name[slash + 1 :], name[:slash]


def _header(
    name: bytes, prefix: bytes, code: bytes, size: int, mtime: int, owner: tuple[int, int], target: bytes
) -> bytes:
    # The number fields end as libarchive ends them: with a blank and a NUL if there is room.
    uid, gid = (number if number <= _OWNER_MAX else 0 for number in owner)
    fields = (
        name.ljust(_NAME, b"\0"),
        b"%06o \0%06o \0%06o \0%011o %011o " % (_MODE, uid, gid, size, max(mtime, 0)),
        b" " * 8,
        code,
        target.ljust(_NAME, b"\0"),
        b"ustar\x0000" + bytes(64),
        b"000000 \x00000000 \0",
        prefix.ljust(_PREFIX, b"\0"),
        bytes(12),
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _encode_extension(records: dict[str, bytes]) -> bytes:
    data = b"".join(_record(name.encode(), value) for name, value in records.items())
    header = _header(b"PaxHeader/member", b"", b"x", len(data), 0, (0, 0), b"")
    return header + data + padding(len(data))


def _record(name: bytes, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (name, value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d%b" % (length, rest)
