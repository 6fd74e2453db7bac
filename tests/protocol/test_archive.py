"""Tar headers: ours against those of `tarfile`, in pieces of any size, and damaged."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.protocol.archive import END, FILE, OTHER, SYMLINK, Member, TarDecoder, encode_member, padding
from pytest_flux.protocol.errors import ProtocolError

RECORDED = Path(__file__).parent.parent / "conformance" / "data" / "flux-0.88.0" / "dump.tar"

names = st.lists(st.text("aé/.", min_size=1, max_size=80).map(lambda text: text.strip("/.") or "n"), min_size=1).map(
    "/".join
)
files = st.tuples(names, st.binary(max_size=1200), st.integers(0, 8**11 - 1))


def decode(data: bytes, step: int = 1 << 20) -> list[tuple[Member, bytes]]:
    decoder = TarDecoder()
    found: list[tuple[Member, bytes]] = []
    for start in range(0, len(data), step):
        for event in decoder.receive(data[start : start + step]):
            if isinstance(event, Member):
                found.append((event, b""))
            else:
                found[-1] = found[-1][0], found[-1][1] + event
    decoder.close()
    return found


def encode(members: list[tuple[str, bytes, int]]) -> bytes:
    parts = []
    for name, data, mtime in members:
        parts += [encode_member(Member(name, FILE, len(data), mtime, 5, 6, "")), data, padding(len(data))]
    return b"".join(parts) + END


@given(st.lists(files, max_size=5), st.integers(1, 700))
@settings(max_examples=60, deadline=None)
def test_round_trip_and_tarfile(members: list[tuple[str, bytes, int]], step: int) -> None:
    data = encode(members)
    assert [(m.name, content, m.mtime, m.uid, m.gid) for m, content in decode(data, step)] == [
        (name, content, mtime, 5, 6) for name, content, mtime in members
    ]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [(m.name, m.size, m.mtime) for m in archive] == [(n, len(c), t) for n, c, t in members]


@given(names, names)
@settings(max_examples=30, deadline=None)
def test_links(name: str, target: str) -> None:
    data = encode_member(Member(name, SYMLINK, 0, 0, 0, 0, target)) + END
    assert [(m.kind, m.name, m.target) for m, _ in decode(data)] == [(SYMLINK, name, target)]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert [(m.issym(), m.name, m.linkname) for m in archive] == [(True, name, target)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_forms_of_others(form: int) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name in ("a", f"{'d' * 120}/{'n' * 90}"):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 3, 77
            archive.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * (90 if form == tarfile.USTAR_FORMAT else 150)
        archive.addfile(link)
        directory = tarfile.TarInfo("dir")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
    found = decode(file.getvalue(), 7)
    assert [(m.name, m.kind, m.mtime, data) for m, data in found[:2]] == [
        ("a", FILE, 77, b"abc"),
        (f"{'d' * 120}/{'n' * 90}", FILE, 77, b"abc"),
    ]
    assert (found[2][0].kind, found[2][0].target) == (SYMLINK, link.linkname)
    assert found[3][0].kind == OTHER


def test_the_recorded_archive_byte_by_byte() -> None:
    whole = decode(RECORDED.read_bytes())
    assert decode(RECORDED.read_bytes(), 1) == whole
    with tarfile.open(RECORDED) as archive:
        assert [(m.name, m.size, m.mtime) for m in archive] == [(m.name, m.size, m.mtime) for m, _ in whole]


def test_headers_are_those_of_libarchive() -> None:
    """Each header of the recorded archive comes out again, byte by byte."""
    data, start = RECORDED.read_bytes(), 0
    for member, content in decode(data):
        header = encode_member(member)
        assert data[start : start + len(header)] == header
        start += len(header) + len(content) + len(padding(len(content)))


@pytest.mark.parametrize("length", [1, 511, 513, 5000, 40000])
def test_truncated(length: int) -> None:
    with pytest.raises(ProtocolError, match="truncated"):
        decode(RECORDED.read_bytes()[:length])


@given(st.binary(min_size=512, max_size=2048))
@settings(max_examples=100, deadline=None)
def test_garbage(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(b"x" + data)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_flipped_bits(data: st.DataObject) -> None:
    damaged = bytearray(encode([("a/b", b"x" * 300, 1), ("é" * 120, b"", 2)]))
    for position in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decode(bytes(damaged), 100)
    except ProtocolError:
        pass


def _extended(data: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + padding(len(data))


@pytest.mark.parametrize(
    "records",
    [
        b"5 a=b\n",
        b"999 path=x\n",
        b"x path=x\n",
        b"11 path=abcd",
        b"9 path\nab",
        b"-1 path=x\n",
        b"12 size=-1\n",
        b"13 size=1e99\n",
    ],
)
def test_damaged_extended_headers(records: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(_extended(records) + encode([("a", b"1", 0)]))


def test_a_huge_extended_header_is_refused_before_it_comes() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    with pytest.raises(ProtocolError, match="extended header of 8589934592 bytes"):
        decode(info.tobuf(tarfile.GNU_FORMAT))
