"""Directories of any size: byte for byte what TreeObject makes of them; no version in use is lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.broker.content.store import ContentStore
from pytest_flux.broker.kvs import Kvs, Op, put_op
from pytest_flux.broker.kvs.directory import Directory
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.blobref import decode_blobref
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.treeobj import TreeObject
from pytest_flux.reactor.reactor import Reactor

NAMES = st.text(st.characters(codec="utf-8", exclude_characters=".\0"), min_size=1, max_size=5)
ENTRIES = st.one_of(
    st.binary(max_size=8).map(treeobj.val),
    st.just(treeobj.valref(["sha1-" + "0" * 40] * 2)),
    st.just(treeobj.symlink("a.b")),
)


def canonical(entries: dict[str, TreeObject]) -> bytes:
    return treeobj.directory(entries).encode()


def check(directory: Directory, entries: dict[str, TreeObject]) -> None:
    text = canonical(entries)
    assert directory.encode() == text
    assert directory.digest("sha1") == hashlib.sha1(text, usedforsecurity=False).digest()
    assert list(directory.data) == sorted(entries)
    assert len(directory.data) == len(entries)
    assert directory.json() == treeobj.directory(entries).json()


@given(
    first=st.dictionaries(NAMES, ENTRIES, max_size=20),
    steps=st.lists(st.dictionaries(NAMES, st.none() | ENTRIES, max_size=10), max_size=5),
)
def test_small_directories_are_canonical(
    first: dict[str, TreeObject], steps: list[dict[str, TreeObject | None]]
) -> None:
    entries, directory = dict(first), Directory.of(first)
    check(directory, entries)
    for changes in steps:
        directory = directory.changed(changes)
        entries = {name: entry for name, entry in {**entries, **changes}.items() if entry is not None}
        check(directory, entries)


@given(
    steps=st.lists(st.tuples(st.integers(0, 12000), st.integers(1, 300), st.booleans()), min_size=1, max_size=4),
    hash_name=st.sampled_from(["sha1", "sha256"]),
)
def test_large_directories_are_canonical(steps: list[tuple[int, int, bool]], hash_name: str) -> None:
    entries = {f"key-{number:05d}": treeobj.val(b"%d" % number) for number in range(0, 10000, 2)}
    directory = Directory.of(entries)
    assert directory.is_large
    for start, count, removes in steps:
        names = [f"key-{number:05d}" for number in range(start, start + count)]
        changes = {name: None if removes else treeobj.val(name.encode()) for name in names}
        directory = directory.changed(changes)
        entries = {name: entry for name, entry in {**entries, **changes}.items() if entry is not None}
        text = canonical(entries)
        assert directory.digest(hash_name) == hashlib.new(hash_name, text, usedforsecurity=False).digest()
        assert directory.encode() == text


def test_a_version_is_not_changed_by_the_next() -> None:
    before = Directory.of({f"{number:04d}": treeobj.val(b"x") for number in range(5000)})
    text = before.encode()
    digest = before.digest("sha1")
    before.changed({"0001": None, "2500": treeobj.val(b"y"), "9": treeobj.val(b"z")}).digest("sha1")
    assert (before.encode(), before.digest("sha1")) == (text, digest)


def test_everything_may_go() -> None:
    names = [f"{number:04d}" for number in range(1000)]
    directory = Directory.of({name: treeobj.val(b"") for name in names}).changed(dict.fromkeys(names))
    check(directory, {})
    check(directory.changed({"a": treeobj.val(b"1")}), {"a": treeobj.val(b"1")})
    assert "a" not in directory.data
    with pytest.raises(KeyError):
        directory.data["a"]


COUNT = 6000


class Store:
    """A KVS with one large directory, ``d``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reactor = Reactor()
        self.content = ContentStore(self.reactor, str(path), "sha1", volatile=False, complain=print)
        self.kvs = Kvs(self.reactor, self.content, lambda topic, payload: None, print)

    def fill(self) -> None:
        self.kvs.commit([put_op(f"d.{number:05d}", str(number)) for number in range(COUNT)])
        self.kvs.settle()

    def change(self, count: int, prefix: str = "d") -> None:
        for number in range(count):
            self.kvs.put(f"{prefix}.{number % COUNT:05d}", f"changed {number}")
            self.kvs.settle()

    def ref(self, key: str) -> str:
        entry = self.kvs.entry(key, 16)
        assert entry is not None
        ref: str = entry.data[0]
        return ref

    def close(self) -> None:
        self.kvs.close()
        self.content.close()
        self.reactor.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    store.fill()
    yield store
    store.close()


def is_written(store: Store, ref: str) -> bool:
    try:
        store.content.backing.load(decode_blobref(ref))
    except FluxError:
        return False
    return True


def test_a_version_that_is_replaced_at_once_is_not_written(store: Store) -> None:
    first = store.ref("d")
    store.change(1)
    second = store.ref("d")
    store.content.flush()
    assert not is_written(store, first)
    assert is_written(store, second)


def test_it_can_be_loaded_for_a_while(store: Store) -> None:
    first = store.ref("d")
    store.change(3)
    assert len(treeobj.load_treeobj(store.content.load(decode_blobref(first))).data) == COUNT


def test_what_is_on_disk_is_whole(store: Store) -> None:
    store.change(100)
    root = store.kvs.namespace("primary").ref
    store.close()
    again = Store(store.path)
    assert again.kvs.namespace("primary").ref == root
    assert again.kvs.lookup("d.00099") == b"changed 99"
    assert again.kvs.lookup(f"d.{COUNT - 1:05d}") == str(COUNT - 1).encode()
    again.close()


def test_a_copy_keeps_its_version(store: Store) -> None:
    first = store.ref("d")
    store.kvs.commit([Op("copy", treeobj.dirref(first))])
    store.change(100)
    store.content.flush()
    assert is_written(store, first)
    assert store.kvs.lookup("copy.00000") == b"0"


def test_a_copy_of_what_is_above_keeps_it_too(store: Store) -> None:
    store.kvs.commit([put_op("a.b.c.x", "1"), Op("a.b.c.d", treeobj.dirref(store.ref("d")))])
    store.change(1, "a.b.c.d")
    inner = store.ref("a.b.c.d")
    store.kvs.commit([Op("copy", treeobj.dirref(store.ref("a.b")))])
    store.change(100, "a.b.c.d")
    store.content.flush()
    assert is_written(store, inner)
    assert store.kvs.lookup("copy.c.d.00000") == b"changed 0"


def test_a_directory_in_two_places_stays_in_the_other(store: Store) -> None:
    store.kvs.commit([put_op(f"e.{number:05d}", str(number)) for number in range(COUNT)])
    store.kvs.settle()
    assert store.ref("d") == store.ref("e")
    store.change(100)
    store.content.flush()
    assert store.kvs.lookup("e.00000") == b"0"
    assert is_written(store, store.ref("e"))


def test_a_version_that_comes_back_is_written(store: Store) -> None:
    first = store.ref("d")
    store.change(1)
    store.kvs.put("d.00000", "0")
    store.kvs.settle()
    assert store.ref("d") == first
    store.content.flush()
    assert is_written(store, first)


def test_a_graft_keeps_its_version(store: Store) -> None:
    store.kvs.create_namespace("ns")
    store.kvs.commit([put_op(f"{number:05d}", "x") for number in range(COUNT)], namespace="ns")
    store.kvs.graft("ns", "g")
    store.kvs.put("00000", "y", namespace="ns")
    store.kvs.settle()
    store.content.flush()
    assert is_written(store, store.ref("g"))
    assert store.kvs.lookup("g.00000") == b"x"


def test_a_namespace_with_an_old_root_keeps_it(store: Store) -> None:
    root = store.kvs.namespace("primary").ref
    store.kvs.create_namespace("ns", rootref=root)
    store.change(100)
    store.content.flush()
    assert store.kvs.lookup("d.00000", "ns") == b"0"
