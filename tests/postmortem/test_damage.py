"""Archives and databases that are damaged, or malicious: an error or a partial result, and no harm."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pytest_flux
from pytest_flux.postmortem.archive import restore_archive
from pytest_flux.protocol.errors import FluxError, ProtocolError
from pytest_flux.protocol.kvs_tree import TreeBuilder
from tests.postmortem.damage import archive_of, look_at, peak
from tests.postmortem.test_commands import shell

RECORDED = Path(__file__).parent.parent / "conformance" / "data" / "flux-0.88.0"
ROUNDS = 60

Damage = Callable[[bytearray, random.Random], bytes]


def truncate(data: bytearray, dice: random.Random) -> bytes:
    return bytes(data[: dice.randrange(len(data))])


def flip(data: bytearray, dice: random.Random) -> bytes:
    for _ in range(dice.choice((1, 8, 200))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)


def tear(data: bytearray, dice: random.Random) -> bytes:
    """Pages that were never written, or hold something else."""
    for _ in range(dice.choice((1, 3, 10))):
        start = dice.randrange(len(data)) // 512 * 512
        data[start : start + 4096] = dice.choice((bytes(4096), dice.randbytes(4096)))[: len(data) - start]
    return bytes(data)


def scramble(data: bytearray, dice: random.Random) -> bytes:
    """Parts in another place."""
    first, second = (dice.randrange(len(data) // 512) * 512 for _ in range(2))
    data[first : first + 512], data[second : second + 512] = data[second : second + 512], data[first : first + 512]
    return bytes(data)


DAMAGES = (truncate, flip, tear, scramble)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["tar", "gz", "bz2", "xz"]
)
def test_archives(damage: Damage, compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    dice = random.Random(7)
    original = compress((RECORDED / "dump.tar").read_bytes())
    path = tmp_path / "dump.tar"
    said = 0
    for _ in range(ROUNDS // 4):
        path.write_bytes(damage(bytearray(original), dice))
        said += bool(look_at(path))
    assert said or damage in (flip, scramble)
    assert os.listdir(tmp_path) == ["dump.tar"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_databases(damage: Damage, tmp_path: Path) -> None:
    dice = random.Random(11)
    original = (RECORDED / "content.sqlite").read_bytes()
    path = tmp_path / "content.sqlite"
    for _ in range(ROUNDS):
        path.write_bytes(damage(bytearray(original), dice))
        before = path.read_bytes()
        look_at(tmp_path)
        assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["content.sqlite"]


def test_one_torn_page_costs_what_is_on_it(tmp_path: Path) -> None:
    """A page in the middle of a large database: nearly all jobs' data are found all the same."""
    data = bytearray((RECORDED / "content.sqlite").read_bytes())
    found = []
    for page in range(1, len(data) // 4096):
        torn = bytearray(data)
        torn[page * 4096 : (page + 1) * 4096] = bytes(4096)
        (tmp_path / "content.sqlite").write_bytes(torn)
        try:
            with pytest_flux.open_dump(tmp_path) as dump:
                found.append(len(dump.jobs()))
        except (FluxError, ProtocolError):
            found.append(-1)
    assert sum(count >= 6 for count in found) > len(found) * 0.7


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE objects SET size = 'many'",
        "UPDATE objects SET size = 1 << 40",
        "UPDATE objects SET size = -7",
        "UPDATE objects SET object = 5",
        "UPDATE objects SET object = NULL",
        "UPDATE objects SET object = 'text'",
        "UPDATE objects SET hash = 5 WHERE rowid = 1",
        "UPDATE checkpt_v2 SET value = '[[[['",
        "UPDATE checkpt_v2 SET value = '[]'",
        "UPDATE checkpt_v2 SET value = 5",
        'UPDATE checkpt_v2 SET value = \'{"version":1,"rootref":[],"sequence":"x"}\'',
        "DELETE FROM checkpt_v2",
        "DELETE FROM objects",
        "DROP TABLE objects",
        "DROP TABLE checkpt_v2",
        "DROP TABLE checkpt_v2; CREATE TABLE checkpt_v2 (id TEXT, other BLOB)",
        "DROP TABLE objects; CREATE VIEW objects AS SELECT 1 AS hash, 2 AS size, 3 AS object, 4 AS epoch",
        "CREATE TRIGGER t AFTER INSERT ON checkpt_v2 BEGIN DELETE FROM objects; END",
    ],
)
def test_wrong_types(statement: str, tmp_path: Path) -> None:
    shutil.copy(RECORDED / "content.sqlite", tmp_path)
    database = sqlite3.connect(tmp_path / "content.sqlite")
    database.executescript(statement)
    database.close()
    look_at(tmp_path)


EVIL = (
    ("../../../../../../../../tmp/evil", b"x", ""),
    ("/etc/evil", b"x", ""),
    ("a/../../evil", b"x", ""),
    ("link", None, "/etc/passwd"),
    ("link/inside", b"x", ""),
    ("out", None, "../../.."),
    ("ns", None, "a::b::c"),
    ("", b"x", ""),
    ("////", b"x", ""),
    ("." * 300, b"x", ""),
    ("d/" * 5000 + "x", b"x", ""),
    ("n" * 60000, b"x", ""),
    ("good", b"fine", ""),
)


def test_names_that_lead_elsewhere(tmp_path: Path) -> None:
    """A name is a key, and a link's target another: neither is ever a path of the file system."""
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / "dump.tar"
    path.write_bytes(archive_of(*EVIL).getvalue())
    done = shell("-s1", f"--recovery={path}", script="flux kvs get good; flux kvs get etc.evil", cwd=inside)
    assert done.stdout.splitlines() == ["fine", "x"]
    assert "content.restore" in done.stderr
    assert "left out: not a key: '../../../../../../../../tmp/evil'" in done.stderr
    assert os.listdir(tmp_path) == ["inside"]
    assert os.listdir(inside) == ["dump.tar"]
    assert not os.path.exists("/tmp/evil")
    assert not os.path.exists("/etc/evil")


def _bomb(path: Path, member_size: int, compress: str) -> None:
    """One member of zeros, of which a compressed archive has a thousandth."""
    mode: Any = f"w:{compress}"
    with tarfile.open(path, mode) as archive:
        info = tarfile.TarInfo("bomb")
        info.size = member_size
        archive.addfile(info, _Zeros(member_size))


class _Zeros(io.RawIOBase):
    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        self._left -= size
        return bytes(size)


@pytest.mark.slow
@pytest.mark.parametrize("compress", ["gz", "bz2"])
def test_bombs(compress: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar"
    _bomb(path, 400 << 20, compress)
    assert path.stat().st_size < 1 << 20
    source = "pytest_flux.postmortem.dump.open_dump(sys.argv[1]).close()"
    assert peak(source, str(path)) < 100 << 20


def test_a_member_that_is_larger_than_its_archive(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a")
    info.size = 1 << 40
    (tmp_path / "d.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 10000)
    source = "pytest_flux.postmortem.dump.open_dump(sys.argv[1]).close()"
    assert peak(source, str(tmp_path / "d.tar")) < 50 << 20


def test_more_names_than_there_is_memory_for() -> None:
    members = [(f"d{index}/{'n' * 50}", b"", "") for index in range(2000)]
    blobs = []

    def store(blob: bytes) -> str:
        blobs.append(blob)
        return "sha1-" + "0" * 40

    with pytest.MonkeyPatch.context() as patch:
        limited = partial(TreeBuilder, memory_max=100_000)
        patch.setattr("pytest_flux.postmortem.archive.TreeBuilder", limited)
        with pytest.raises(ProtocolError, match="too many keys"):
            restore_archive(archive_of(*members), store)
        restored = restore_archive(archive_of(*members), store, partial=True)
    assert 0 < restored.keys < 1000
    assert "too many keys" in restored.problem


@pytest.mark.slow
def test_directories_that_contain_each_other_in_many_ways(tmp_path: Path) -> None:
    """Few blobs, and more keys than can be counted: what is looked up is found, and walking takes no memory."""
    from pytest_flux.content_sqlite import SqliteBacking
    from pytest_flux.protocol import treeobj
    from pytest_flux.protocol.blobref import encode_blobref, hasher

    digest = hasher("sha1")
    backing = SqliteBacking(str(tmp_path / "content.sqlite"), volatile=True)
    blob = treeobj.directory({"x": treeobj.val(b"1")}).encode()
    for _ in range(40):
        backing.store([(digest(blob), blob)])
        ref = encode_blobref("sha1", digest(blob))
        blob = treeobj.directory({name: treeobj.dirref(ref) for name in "abcdefgh"}).encode()
    backing.store([(digest(blob), blob)])
    backing.put_checkpoint(
        {"version": 1, "rootref": encode_blobref("sha1", digest(blob)), "sequence": 0, "timestamp": 0}
    )
    backing.close()
    with pytest_flux.open_dump(tmp_path) as dump:
        assert dump.kvs.get(".".join("a" * 40) + ".x") == b"1"
    source = """import itertools
    with pytest_flux.postmortem.dump.open_dump(sys.argv[1]) as dump:
        list(itertools.islice(dump.kvs.keys(), 3))"""
    assert peak(source, str(tmp_path)) < 400 << 20


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_instance_says_what_is_wrong(damage: Damage, tmp_path: Path) -> None:
    """It does not start, or starts and says what it has not got; either way it leaves the file alone."""
    dice = random.Random(3)
    for kind in ("dump.tar", "content.sqlite"):
        path = tmp_path / kind
        path.write_bytes(damage(bytearray((RECORDED / kind).read_bytes()), dice))
        before = path.read_bytes()
        target = path if kind == "dump.tar" else tmp_path
        done = shell("-s1", f"--recovery={target}", script="flux jobs -a --json", cwd=tmp_path)
        if done.code:
            assert any(
                word in done.stderr for word in ("content.restore", "content.sqlite", "the KVS cannot be read")
            )
        else:
            assert isinstance(json.loads(done.stdout)["jobs"], list)
        assert path.read_bytes() == before
        path.unlink()
    assert os.listdir(tmp_path) == []
