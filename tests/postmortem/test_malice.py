"""Archives and databases that somebody has made to do harm: memory and time stay bounded, nothing is run."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pytest_flux
from pytest_flux.content_sqlite import SqliteBacking
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import encode_blobref, hasher
from pytest_flux.protocol.errors import FluxError, ProtocolError
from tests.postmortem.damage import archive_of, look_at, peak
from tests.postmortem.test_commands import shell

RECORDED = Path(__file__).parent.parent / "conformance" / "data" / "flux-0.88.0"

SUBMIT = b'{"timestamp":1.0,"name":"submit","context":{"userid":0,"urgency":16,"flags":0,"version":1}}\n'
DEPEND = SUBMIT + b'{"timestamp":1.0,"name":"validate"}\n'
JOBSPEC = b'{"resources":[],"tasks":[],"attributes":{"system":{"duration":0}},"version":1}'
NESTED = b"[" * 100_000


class Maker:
    """Makes databases of its own."""

    def __init__(self, statedir: Path) -> None:
        self._digest = hasher("sha1")
        self._backing = SqliteBacking(str(statedir / "content.sqlite"), volatile=True)

    def put(self, blob: bytes) -> str:
        self._backing.store([(self._digest(blob), blob)])
        return encode_blobref("sha1", self._digest(blob))

    def directory(self, entries: dict[str, treeobj.TreeObject]) -> str:
        return self.put(treeobj.directory(entries).encode())

    def finish(self, root: str) -> None:
        self._backing.put_checkpoint({"version": 1, "rootref": root, "sequence": 0, "timestamp": 0})
        self._backing.close()

    def finish_with_job(self, **entries: treeobj.TreeObject) -> None:
        ref = self.directory(entries)
        for name in ("0001", "0001", "0001", "0000", "job"):
            ref = self.directory({name: treeobj.dirref(ref)})
        self.finish(ref)


def repeated(maker: Maker) -> None:
    """A value of 20 GB, from a blob of a megabyte."""
    ref = maker.put(os.urandom(1000) + bytes(1 << 20))
    many = treeobj.valref([ref] * 20_000)
    maker.finish_with_job(eventlog=many, jobspec=treeobj.val(JOBSPEC), value=many)


def inflated(maker: Maker) -> None:
    """A blob that LZ4 has made 255 times smaller."""
    big = treeobj.valref([maker.put(bytes(1 << 29))])
    maker.finish_with_job(eventlog=big, jobspec=big)


def countless(maker: Maker) -> None:
    """More jobs than there are atoms, from a dozen blobs."""
    ref = maker.directory({"eventlog": treeobj.val(DEPEND), "jobspec": treeobj.val(JOBSPEC)})
    for _ in range(4):
        ref = maker.directory({f"{number:04x}": treeobj.dirref(ref) for number in range(1000)})
    maker.finish(maker.directory({"job": treeobj.dirref(ref)}))


def nested(maker: Maker) -> None:
    deep = treeobj.valref([maker.put(NESTED)])
    maker.finish_with_job(eventlog=treeobj.val(DEPEND), jobspec=deep, R=deep)


def nested_events(maker: Maker) -> None:
    log = SUBMIT + b'{"timestamp":1.0,"name":"depend","context":' + b'{"a":' * 100_000 + b"\n"
    maker.finish_with_job(eventlog=treeobj.valref([maker.put(log)]), jobspec=treeobj.val(JOBSPEC))


def nested_root(maker: Maker) -> None:
    maker.finish(maker.put(NESTED))


MADE: dict[Callable[[Maker], None], str] = {
    repeated: "File too large",
    inflated: "a blob of 536870912 bytes",
    countless: "more jobs than can be: the others are left out",
    nested: "failed to decode job: RecursionError",
    nested_events: "event is not JSON",
    nested_root: "the KVS cannot be read",
}


LARGE = (repeated, inflated, countless)


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, marks=[pytest.mark.slow, pytest.mark.soak]) if make in LARGE else make for make in MADE],
)
def test_what_is_made_to_do_harm(make: Callable[[Maker], None], tmp_path: Path) -> None:
    make(Maker(tmp_path))
    source = """with pytest_flux.postmortem.dump.open_dump(sys.argv[1]) as dump:
        dump.jobs()
        for key in dump.kvs.keys():
            try:
                dump.kvs.get(key)
            except (FluxError, ProtocolError):
                pass
            break"""
    assert peak(source, str(tmp_path)) < 400 << 20
    assert MADE[make] in look_at(tmp_path, keys=20)
    script = "flux jobs -a -n -o '{name}' | wc -l; grep VmHWM /proc/$(flux getattr broker.pid)/status"
    done = shell("-s1", f"--recovery={tmp_path}", script=script, cwd=tmp_path)
    if make is nested_root:
        assert (done.code, "the KVS cannot be read" in done.stderr) == (1, True)
    else:
        assert done.code == 0
        assert int(done.stdout.split()[-2]) < 400 << 10
        assert "job-manager.err" in done.stderr


FOREVER = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS id, '[]' AS value FROM c"
OTHER = "CREATE TABLE o (hash BLOB PRIMARY KEY, size INT, epoch INT DEFAULT 0, object BLOB AS (zeroblob(900000000)))"
COMPUTED = (
    f"CREATE VIEW x AS {FOREVER}",
    f"DROP TABLE checkpt_v2; CREATE VIEW checkpt_v2 AS {FOREVER}",
    f"{OTHER}; DROP TABLE objects; ALTER TABLE o RENAME TO objects",
    "CREATE TRIGGER t AFTER INSERT ON objects BEGIN INSERT INTO objects (hash) SELECT randomblob(20); END",
    "CREATE INDEX i ON objects (hex(object))",
)


@pytest.mark.parametrize("statement", COMPUTED)
def test_databases_that_compute(statement: str, tmp_path: Path) -> None:
    shutil.copy(RECORDED / "content.sqlite", tmp_path)
    database = sqlite3.connect(tmp_path / "content.sqlite")
    database.executescript(statement)
    database.close()
    with pytest.raises(FluxError, match="is none of Flux's"):
        pytest_flux.open_dump(tmp_path)
    done = shell("-s1", f"-Sstatedir={tmp_path}", script="true", cwd=tmp_path)
    assert done.code == 1
    assert "is none of Flux's" in done.stderr


@pytest.mark.parametrize("name", ["content.sqlite", "content.sqlite-wal"])
def test_what_is_no_file(name: str, tmp_path: Path) -> None:
    shutil.copy(RECORDED / "content.sqlite", tmp_path)
    path = tmp_path / name
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        path.unlink(missing_ok=True)
        make(path)
        with pytest.raises(FluxError, match="is no file"):
            pytest_flux.open_dump(tmp_path)
        assert "is no file" in shell("-s1", f"--recovery={tmp_path}", script="true", cwd=tmp_path).stderr


@pytest.mark.parametrize("name", ["content.sqlite", "content.sqlite-wal", "dump.tar"])
def test_holes(name: str, tmp_path: Path) -> None:
    """Files that claim to be larger than the disk."""
    if name == "dump.tar":
        info = tarfile.TarInfo("hole")
        info.size = 1 << 40
        good = (RECORDED / "dump.tar").read_bytes()
        with open(tmp_path / name, "wb") as file:
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            file.seek(1 << 40, os.SEEK_CUR)
            file.write(good)
        target = tmp_path / name
    else:
        shutil.copy(RECORDED / "content.sqlite", tmp_path)
        with open(tmp_path / name, "ab") as file:
            file.truncate(1 << 40)
        target = tmp_path
    with pytest_flux.open_dump(target) as dump:
        assert len(dump.jobs()) == 7


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("opener", [gzip.open, lzma.open])
def test_an_archive_that_never_ends(opener: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "bomb.tar"
    info = tarfile.TarInfo("bomb")
    info.size = 1 << 40
    piece = (opener is gzip.open and gzip.compress(bytes(1 << 26), 9)) or lzma.compress(bytes(1 << 26))
    with opener(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
    # Streams that follow each other are one.
    with open(path, "ab") as file:
        file.writelines(piece for _ in range(100))
    with pytest.raises(ProtocolError, match="more than 200 times as large"):
        pytest_flux.open_dump(path)


def test_a_log_of_drains_that_makes_no_sense(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    log = b"".join(
        b'{"timestamp":1,"name":"drain","context":%b}\n' % context
        for context in (b"{}", b'{"idset":5}', b'{"idset":"0-4000000000"}', b'{"idset":"0","reason":"good"}')
    )
    entries = {"eventlog": treeobj.val(log), "R": treeobj.val(NESTED)}
    maker.finish(maker.directory({"resource": treeobj.directory(entries)}))
    done = shell("-s1", f"--recovery={tmp_path}", script="flux resource drain -n -o '{reason}'", cwd=tmp_path)
    assert (done.code, done.stdout) == (0, "good\n")


@pytest.mark.parametrize("member", [b"x", None])
def test_jobs_that_are_something_else(member: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "dump.tar"
    path.write_bytes(archive_of(("job", member, "job"), ("good", b"fine", "")).getvalue())
    done = shell("-s1", f"--recovery={path}", script="flux jobs -a -n; flux kvs get good", cwd=tmp_path)
    assert (done.code, done.stdout) == (0, "fine\n")
