"""Headers of the members of tar archives, as libarchive writes them for `flux dump`."""

from __future__ import annotations

from pytest_flux.protocol.archive import BLOCK, FILE, SYMLINK, Member

_MODE = 0o644
_NAME, _PREFIX = 100, 155
_OCTAL_MAX = 8**11 - 1
_OWNER_MAX = 8**6 - 1
_CODES = {FILE: b"0", SYMLINK: b"2"}


def encode_member(member: Member) -> bytes:
    """What comes before the data: the header, and a pax header before it where ustar cannot tell all."""
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
    """What comes after data of so many bytes."""
    return bytes(-size % BLOCK)


END = bytes(2 * BLOCK)
"""What comes after the last member."""


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Name and prefix of a ustar header; None where the name does not fit."""
    if len(name) <= _NAME:
        return name, b""
    slash = name.find(b"/", len(name) - _NAME - 1)
    if slash <= 0 or slash > _PREFIX or slash == len(name) - 1:
        return None
    return name[slash + 1 :], name[:slash]


def _header(
    name: bytes, prefix: bytes, code: bytes, size: int, mtime: int, owner: tuple[int, int], target: bytes
) -> bytes:
    # The number fields end as libarchive ends them, with a blank and a NUL where there is room.
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
