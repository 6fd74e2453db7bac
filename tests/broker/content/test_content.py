"""The content store: what is on disk, when, and in which form."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import lz4.block  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.broker.content.store import BlobCache, ContentStore
from pytest_flux.content_sqlite import SqliteBacking
from pytest_flux.protocol.blobref import decode_blobref, hasher
from pytest_flux.protocol.errors import FluxError
from pytest_flux.reactor.reactor import Reactor

SMALL, LARGE = b"x" * 255, b"y" * 256


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close()


@pytest.fixture
def store(reactor: Reactor, tmp_path: Path) -> Iterator[ContentStore]:
    store = open_store(reactor, tmp_path)
    yield store
    store.close()


def open_store(reactor: Reactor, path: Path, hash_name: str = "sha1", *, volatile: bool = False) -> ContentStore:
    return ContentStore(reactor, str(path), hash_name, volatile=volatile, complain=pytest.fail)


def rows(path: Path) -> dict[bytes, tuple[str, int, bytes]]:
    with sqlite3.connect(path / "content.sqlite") as db:
        query = "SELECT CAST(hash AS BLOB), typeof(hash), size, object FROM objects"
        found = {row[0]: row[1:] for row in db.execute(query)}
    db.close()
    return found


def test_rows_are_those_of_flux_core(store: ContentStore, tmp_path: Path) -> None:
    small, large = store.store(SMALL), store.store(LARGE)
    store.close()
    found = rows(tmp_path)
    assert found[small] == ("text", -1, SMALL)
    kind, size, data = found[large]
    assert (kind, size) == ("text", 256)
    assert lz4.block.decompress(data, uncompressed_size=256) == LARGE


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
def test_blobs_survive(reactor: Reactor, tmp_path: Path, hash_name: str) -> None:
    blobs = [b"", b"\0", SMALL, LARGE, bytes(range(256)) * 1000]
    first = open_store(reactor, tmp_path, hash_name)
    digests = [first.store(blob) for blob in blobs]
    first.close()
    second = open_store(reactor, tmp_path, hash_name)
    assert [second.load(digest) for digest in digests] == blobs
    assert digests == [hasher(hash_name)(blob) for blob in blobs]
    second.close()


@given(st.lists(st.binary(max_size=600), max_size=5))
@settings(max_examples=25)
def test_what_is_stored_is_loaded(tmp_path_factory: pytest.TempPathFactory, blobs: list[bytes]) -> None:
    path = str(tmp_path_factory.mktemp("content") / "content.sqlite")
    backing, digest = SqliteBacking(path, volatile=True), hasher("sha1")
    backing.store([(digest(blob), blob) for blob in blobs])
    assert [backing.load(digest(blob)) for blob in blobs] == blobs
    backing.close()


def test_nothing_is_made_before_it_is_needed(reactor: Reactor, tmp_path: Path) -> None:
    store = open_store(reactor, tmp_path)
    with pytest.raises(FluxError) as error:
        store.load(b"\0" * 20)
    assert error.value.errnum == errno.ENOENT
    assert store.load(store.store(SMALL)) == SMALL
    assert not (tmp_path / "content.sqlite").exists()
    store.close()
    assert (tmp_path / "content.sqlite").exists()


def test_what_goes_with_the_broker_is_not_written_at_its_end(reactor: Reactor, tmp_path: Path) -> None:
    store = open_store(reactor, tmp_path, volatile=True)
    store.store(LARGE)
    store.close()
    assert not list(tmp_path.iterdir())


def test_blobs_are_written_in_the_background(store: ContentStore, reactor: Reactor) -> None:
    digest = store.store(LARGE)
    reactor.call_later(1.2, reactor.stop)
    reactor.run()
    assert not store.dirty
    store.clean.clear()
    assert store.load(digest) == LARGE


def test_many_bytes_are_written_soon_and_bit_by_bit(store: ContentStore, reactor: Reactor) -> None:
    for number in range(9):
        store.store(bytes([number]) * (1 << 20))
    rounds: list[int] = []

    def look() -> None:
        rounds.append(store.dirty_bytes)
        if store.dirty:
            reactor.call_soon(look)
        else:
            reactor.stop()

    reactor.call_soon(look)
    reactor.run()
    assert rounds[0] > rounds[-1] == 0
    assert len(rounds) > 3


def test_memory_does_not_wait_for_the_next_round(store: ContentStore, reactor: Reactor) -> None:
    for number in range(80):
        store.store(bytes([number]) * (1 << 20))
    reactor.call_later(0.0, reactor.stop)
    reactor.run()
    assert store.dirty_bytes <= 64 << 20


def test_wrong_digests(store: ContentStore) -> None:
    for digest in (b"", b"\0" * 19, b"\0" * 32):
        with pytest.raises(FluxError) as error:
            store.load(digest)
        assert error.value.errnum == errno.EPROTO


def test_checkpoints_are_few_and_the_newest_first(store: ContentStore, reactor: Reactor, tmp_path: Path) -> None:
    digest = store.store(SMALL)
    for number in range(8):
        store.put_checkpoint({"version": 1, "rootref": "x", "sequence": number, "timestamp": 1.5})
    assert not store.dirty
    assert [value["sequence"] for value in store.checkpoints()] == [7, 6, 5, 4, 3]
    assert store.backing.epoch == 8
    store.close()
    again = open_store(reactor, tmp_path)
    assert again.checkpoints()[0]["sequence"] == 7
    assert again.backing.epoch == 8
    again.backing.validate(digest)
    again.close()


def test_a_checkpoint_is_on_disk_when_it_is_answered(store: ContentStore, tmp_path: Path) -> None:
    """Not in SQLite's cache or in a lock that dies with us: a copy of the files is enough."""
    digest = store.store(LARGE)
    store.put_checkpoint({"version": 1, "rootref": "x", "sequence": 1, "timestamp": 0})
    copy = tmp_path / "copy"
    copy.mkdir()
    for suffix in ("", "-wal"):
        file = tmp_path / f"content.sqlite{suffix}"
        if file.exists():
            (copy / file.name).write_bytes(file.read_bytes())
    assert digest in rows(copy)


def test_old_databases_are_brought_up_to_date(reactor: Reactor, tmp_path: Path) -> None:
    """Before 0.60 there was one checkpoint, by name; before 0.80 there was no epoch."""
    db = sqlite3.connect(tmp_path / "content.sqlite")
    db.execute("CREATE TABLE objects (hash BLOB PRIMARY KEY, size INT, object BLOB)")
    db.execute("CREATE TABLE checkpt (key TEXT UNIQUE, value TEXT)")
    db.execute('INSERT INTO checkpt VALUES (\'kvs-primary\', \'{"version":1,"rootref":"r","sequence":3}\')')
    db.commit()
    db.close()
    store = open_store(reactor, tmp_path)
    assert store.checkpoints() == [{"version": 1, "rootref": "r", "sequence": 3}]
    assert store.load(store.store(SMALL)) == SMALL
    store.flush()
    store.close()


def test_damaged_rows(store: ContentStore, tmp_path: Path) -> None:
    digests = [bytes([number]) * 20 for number in range(3)]
    bad = [(b"abc", 100), (b"abc", "text"), ("text", -1)]
    store.put_checkpoint({})
    store.close()
    db = sqlite3.connect(tmp_path / "content.sqlite")
    for digest, (data, size) in zip(digests, bad, strict=True):
        db.execute("INSERT INTO objects (hash, size, object) VALUES (CAST(? AS TEXT), ?, ?)", (digest, size, data))
    db.commit()
    db.close()
    backing = SqliteBacking(str(tmp_path / "content.sqlite"), volatile=False)
    for digest in digests:
        with pytest.raises(FluxError) as error:
            backing.load(digest)
        assert error.value.errnum == errno.EINVAL
    backing.close()


def test_a_file_that_is_no_database(reactor: Reactor, tmp_path: Path) -> None:
    (tmp_path / "content.sqlite").write_bytes(b"not a database" * 100)
    store = open_store(reactor, tmp_path)
    with pytest.raises(FluxError, match="not a database"):
        store.checkpoints()
    store.close()


def test_a_store_that_cannot_write_says_so_and_keeps_what_it_has(reactor: Reactor, tmp_path: Path) -> None:
    complaints: list[str] = []
    store = ContentStore(reactor, str(tmp_path / "missing"), "sha1", volatile=False, complain=complaints.append)
    digest = store.store(SMALL)
    with pytest.raises(FluxError):
        store.flush()
    assert store.load(digest) == SMALL
    store.close()
    assert complaints[0] == "content store: unable to open database file"
    assert "1 blobs are lost" in complaints[-1]


@pytest.mark.parametrize("volatile", [True, False])
def test_a_full_disk(reactor: Reactor, tmp_path: Path, *, volatile: bool) -> None:
    complaints: list[str] = []
    store = ContentStore(reactor, str(tmp_path), "sha1", volatile=volatile, complain=complaints.append)
    store.put_checkpoint({"sequence": 1})
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        limit = database.execute("PRAGMA max_page_count").fetchone()[0]
    store.backing._query("PRAGMA max_page_count=500")
    digests = [store.store(os.urandom(40_000)) for _ in range(100)]
    for _ in range(2):
        with pytest.raises(FluxError) as error:
            store.flush()
        assert error.value.errnum == errno.ENOSPC
    with pytest.raises(FluxError) as error:
        store.put_checkpoint({"sequence": 2})
    assert error.value.errnum == errno.ENOSPC
    with pytest.raises(FluxError):
        store.check()
    assert len(complaints) == 1
    assert 0 < len(store.dirty) < 100
    assert all(store.load(digest) for digest in digests)
    assert store.checkpoints() == [{"sequence": 1}]
    store.backing._query(f"PRAGMA max_page_count={limit}")
    store.put_checkpoint({"sequence": 2})
    store.check()
    assert not store.dirty
    store.close()
    backing = SqliteBacking(str(tmp_path / "content.sqlite"), volatile=False)
    assert all(backing.load(digest) for digest in digests)
    assert backing.checkpoints() == [{"sequence": 2}, {"sequence": 1}]
    backing.close()


def test_collecting_garbage(store: ContentStore) -> None:
    old, kept = store.store(b"old"), store.store(b"kept")
    store.put_checkpoint({"sequence": 1})
    store.put_checkpoint({"sequence": 2})
    again = store.store(b"again")
    store.flush()
    backing = store.backing
    assert backing.mark(2, [kept]) == 1
    assert backing.count(below_epoch=2) == 1
    assert backing.sweep(2, 0, backing.last_row(), 10) == (1, backing.last_row())
    backing.validate(kept)
    backing.validate(again)
    with pytest.raises(FluxError):
        backing.validate(old)


def test_the_cache_is_bounded() -> None:
    cache = BlobCache(100)
    for number in range(20):
        cache.add(bytes([number]), b"x" * 10)
    assert cache.size == 100
    assert len(cache) == 10
    assert cache.get(b"\0") is None
    assert cache.get(bytes([19])) == b"x" * 10


def test_digests_and_blobrefs_agree(store: ContentStore) -> None:
    assert store.store(b"") == decode_blobref("sha1-da39a3ee5e6b4b0d3255bfef95601890afd80709")
