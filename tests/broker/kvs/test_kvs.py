"""The key-value store in one process: transactions, watchers, namespaces, what is appended, what survives."""

from __future__ import annotations

import errno
import json
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_flux.broker.content.store import ContentStore
from pytest_flux.broker.kvs import APPEND, NO_MERGE, SYNC, Kvs, Op, put_op
from pytest_flux.broker.kvs.lookup import (
    READDIR,
    READLINK,
    STREAM,
    TREEOBJ,
    WAITCREATE,
    WATCH,
    WATCH_APPEND,
    WATCH_FULL,
    WATCH_INITIAL_SENTINEL,
    WATCH_UNIQ,
    Credentials,
)
from pytest_flux.broker.kvs.transaction import Statistics
from pytest_flux.broker.kvs.watch import Watch, check_flags
from pytest_flux.protocol import treeobj
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import ROLE_USER
from pytest_flux.protocol.treeobj import TreeObject
from pytest_flux.reactor.reactor import Reactor


class Store:
    """A store, its events, and a reactor that runs until nothing is left to do."""

    def __init__(self, path: Path, *, volatile: bool = True) -> None:
        self.reactor = Reactor()
        self.content = ContentStore(self.reactor, str(path), "sha1", volatile=volatile, complain=pytest.fail)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.complaints: list[str] = []
        self.kvs = Kvs(self.reactor, self.content, self._publish, self.complaints.append)

    def _publish(self, topic: str, payload: bytes) -> None:
        self.events.append((topic, json.loads(payload.rstrip(b"\0"))))

    def run(self, seconds: float = 0.0) -> None:
        self.reactor.call_later(seconds, self.reactor.stop)
        self.reactor.run()

    def commit(self, *ops: Op, namespace: str = "primary", flags: int = 0) -> int:
        """The errno of a commit, 0 for success."""
        answers: list[FluxError | None] = []
        self.kvs.commit(ops, namespace=namespace, flags=flags, done=answers.append)
        self.kvs.settle()
        (answer,) = answers
        return 0 if answer is None else answer.errnum

    def root(self, namespace: str = "primary") -> tuple[str, int]:
        found = self.kvs.namespace(namespace)
        return found.ref, found.sequence

    def close(self) -> None:
        self.kvs.close()
        self.content.close()
        self.reactor.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def link(key: str, target: str, namespace: str | None = None) -> Op:
    return Op(key, treeobj.symlink(target, namespace))


def append(key: str, data: str) -> Op:
    return Op(key, treeobj.val(data.encode()), APPEND)


def refused(call: Callable[[], object]) -> int:
    with pytest.raises(FluxError) as error:
        call()
    return error.value.errnum


# -- commits


def test_a_commit_is_one_new_root(store: Store) -> None:
    assert store.root() == ("sha1-c0a9faf907dda6216fd73bf81d0b3b21a1a8cb91", 0)
    assert store.commit(put_op("a.b", "1"), put_op("c", "2")) == 0
    assert store.root()[1] == 1
    assert store.kvs.lookup("a.b") == b"1"
    topic, event = store.events[-1]
    assert topic == "kvs.namespace-primary-setroot"
    assert event["keys"] == {"a.b": None, "c": None}
    assert (event["rootref"], event["rootseq"], event["owner"]) == (*store.root(), os.getuid())


def test_commits_of_one_round_share_a_root(store: Store) -> None:
    done: list[FluxError | None] = []
    for number in range(5):
        store.kvs.commit([put_op(f"k{number}", "x")], done=done.append)
    store.run()
    assert done == [None] * 5
    assert store.root()[1] == 1
    assert len(store.events[-1][1]["names"]) == 5


def test_those_that_want_to_be_alone_are(store: Store) -> None:
    for flags in (0, 0, NO_MERGE, 0, 0):
        store.kvs.commit([put_op("a", str(flags))], flags=flags)
    store.run()
    assert store.root()[1] == 3


def test_one_bad_commit_does_not_spoil_the_others(store: Store) -> None:
    answers: list[FluxError | None] = []
    for op in (put_op("a", "1"), put_op(".", "1"), put_op("b", "2")):
        store.kvs.commit([op], done=answers.append)
    store.run()
    assert [answer and answer.errnum for answer in answers] == [None, errno.EINVAL, None]
    assert store.root()[1] == 2
    assert sorted(store.kvs.list(".")) == ["a", "b"]
    assert store.events[1][0] == "kvs.namespace-primary-error"
    assert store.events[1][1]["errnum"] == errno.EINVAL


def test_a_commit_is_all_or_nothing(store: Store) -> None:
    store.commit(put_op("d.x", "1"))
    before = store.root()
    assert store.commit(put_op("a", "1"), append("d", "no")) == errno.EISDIR
    assert store.root() == before


def test_the_same_commits_give_the_same_root_however_they_are_merged(store: Store, tmp_path: Path) -> None:
    ops = [put_op("a.b.c", "1"), append("a.b.log", "x"), append("a.b.log", "y"), Op("a.b.c", None), put_op("z", "2")]
    for op in ops:
        store.commit(op)
    other = Store(tmp_path)
    assert other.commit(*ops) == 0
    assert other.root()[0] == store.root()[0]
    other.close()


def test_values_are_inline_up_to_72_characters_of_base64(store: Store) -> None:
    store.commit(put_op("small", "x" * 54), put_op("large", "x" * 55))
    assert entry(store, "small").type == "val"
    assert entry(store, "large").type == "valref"
    assert store.kvs.lookup("large") == b"x" * 55


def entry(store: Store, key: str, flags: int = TREEOBJ) -> TreeObject:
    found = store.kvs.entry(key, flags)
    assert found is not None
    return found


def test_a_value_on_the_way_is_replaced_by_a_directory(store: Store) -> None:
    store.commit(put_op("a", "1"))
    store.commit(put_op("a.b", "2"))
    assert store.kvs.lookup("a.b") == b"2"


def test_removing(store: Store) -> None:
    store.commit(put_op("a.b", "1"))
    assert store.commit(Op("a.nope", None), Op("nope.x.y", None), Op("a.b.c", None)) == 0
    assert store.kvs.lookup("a.b") == b"1"
    store.commit(Op("a", None))
    assert store.kvs.entry("a.b") is None
    assert store.root()[0] == "sha1-c0a9faf907dda6216fd73bf81d0b3b21a1a8cb91"


def test_directories_that_come_whole(store: Store) -> None:
    inner = treeobj.directory({"v": treeobj.val(b"x" * 100), "d": treeobj.directory()})
    store.commit(Op("a", inner), put_op("a.w", "1"))
    types = {name: found.type for name, found in store.kvs.list("a").items()}
    assert types == {"v": "valref", "d": "dirref", "w": "val"}


def test_appending(store: Store) -> None:
    store.commit(append("log", "a"))
    assert entry(store, "log").type == "val"
    store.commit(append("log", "b"), append("log", "c"))
    assert len(entry(store, "log").data) == 3
    assert store.kvs.lookup("log") == b"abc"


@pytest.mark.parametrize(
    ("ops", "errnum"),
    [
        ([append("d", "x")], errno.EISDIR),
        ([put_op("n.x", "1"), append("n", "x")], errno.EISDIR),
        ([append("l", "x")], errno.EOPNOTSUPP),
        ([Op("a", treeobj.directory(), APPEND)], errno.EPROTO),
        ([put_op(".", "x")], errno.EINVAL),
        ([put_op("far.x", "1")], errno.EINVAL),
        ([put_op("loop.x", "1")], errno.ELOOP),
        ([Op("a", TreeObject("val", "!" * 80))], errno.EPROTO),
        ([Op("a", TreeObject("val", "!")), append("a", "x")], errno.EPROTO),
        ([put_op("\ud800", "x")], errno.EPROTO),
        ([put_op("missing.x", "1")], errno.ENOENT),
    ],
)
def test_commits_that_are_refused(store: Store, ops: list[Op], errnum: int) -> None:
    missing = Op("missing", treeobj.dirref("sha1-" + "0" * 40))
    store.commit(put_op("d.x", "1"), link("l", "d"), link("far", "d", "other"), link("loop", "loop"), missing)
    before = store.root()
    assert store.commit(*ops) == errnum
    assert store.root() == before


def test_keys_of_very_many_parts(store: Store) -> None:
    assert store.commit(put_op(".".join("a" * 200), "x")) == 0
    assert store.commit(put_op(".".join("a" * 5000), "x")) == errno.EINVAL
    assert store.kvs.lookup(".".join("a" * 200)) == b"x"


def test_links_are_followed_when_written_through(store: Store) -> None:
    store.commit(put_op("d.x", "1"), link("l", "d"), link("root", "."), link("own", "d", "primary"))
    store.commit(put_op("l.y", "2"), put_op("root.z", "3"), put_op("own.w", "4"))
    assert sorted(store.kvs.list("d")) == ["w", "x", "y"]
    assert store.kvs.lookup("z") == b"3"


# -- lookups


@pytest.fixture
def filled(store: Store) -> Store:
    store.kvs.create_namespace("ns")
    store.commit(put_op("v", "ns"), put_op("d.v", "deep"), namespace="ns")
    store.commit(
        put_op("v", "1"),
        put_op("large", "x" * 100),
        put_op("d.e.f", "2"),
        link("l", "d.e"),
        link("l2", "l"),
        link("loop", "loop2"),
        link("loop2", "loop"),
        link("root", "."),
        link("ns", ".", "ns"),
        link("nsd", "d", "ns"),
        link("gone", "nope"),
        link("nons", "v", "other"),
        Op("two", TreeObject("dirref", ["sha1-" + "0" * 40] * 2)),
        Op("bad", treeobj.dirref("sha1-da39a3ee5e6b4b0d3255bfef95601890afd80709")),
    )
    store.content.store(b"")
    return store


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("v", b"1"),
        (".v.", b"1"),
        ("d..e.f", b"2"),
        ("l.f", b"2"),
        ("l2.f", b"2"),
        ("root.root.v", b"1"),
        ("ns.v", b"ns"),
        ("nsd.v", b"deep"),
    ],
)
def test_values(filled: Store, key: str, value: bytes) -> None:
    assert filled.kvs.lookup(key) == value


@pytest.mark.parametrize(
    ("key", "flags", "errnum"),
    [
        ("d", 0, errno.EISDIR),
        (".", 0, errno.EISDIR),
        ("l2", 0, errno.EISDIR),
        ("v", READDIR, errno.ENOTDIR),
        ("large", READDIR, errno.ENOTDIR),
        ("v", READLINK, errno.EINVAL),
        ("d", READLINK, errno.EINVAL),
        ("loop", 0, errno.ELOOP),
        ("loop.x", TREEOBJ, errno.ELOOP),
        ("nons", 0, errno.ENOTSUP),
        ("two.x", 0, errno.ENOTRECOVERABLE),
        ("bad.x", 0, errno.ENOTRECOVERABLE),
    ],
)
def test_lookups_that_are_refused(filled: Store, key: str, flags: int, errnum: int) -> None:
    assert refused(lambda: filled.kvs.entry(key, flags)) == errnum


@pytest.mark.parametrize("key", ["nope", "", "v.x", "d.x", "gone", "l.x", "large.x"])
def test_keys_that_are_not_there(filled: Store, key: str) -> None:
    assert filled.kvs.entry(key) is None


def test_other_views(filled: Store) -> None:
    assert entry(filled, ".").data == [filled.root()[0]]
    assert entry(filled, "l").type == "symlink"
    assert entry(filled, "l2", READLINK).data == {"target": "l"}
    assert sorted(entry(filled, "l2", READDIR).data) == ["f"]
    assert entry(filled, "d").type == "dirref"


def test_old_roots_can_be_looked_at(store: Store) -> None:
    store.commit(put_op("a", "old"))
    ref = store.root()[0]
    store.commit(put_op("a", "new"))
    found = store.kvs.lookup_in(ref, store.kvs.credentials).find("a")
    assert found is not None
    assert found.value() == b"old"


def test_guests_have_what_is_theirs(filled: Store) -> None:
    guest = Credentials(12345, ROLE_USER)
    filled.kvs.create_namespace("theirs", owner=12345)
    assert filled.kvs.namespace("theirs", guest).owner == 12345
    assert refused(lambda: filled.kvs.namespace("primary", guest)) == errno.EPERM
    theirs = filled.kvs.namespace("theirs").ref
    filled.commit(link("out", "v", "ns"), namespace="theirs")
    theirs = filled.kvs.namespace("theirs").ref
    assert refused(lambda: filled.kvs.lookup_in(theirs, guest).find("out")) == errno.EPERM


# -- namespaces


def test_namespaces_come_and_go(store: Store) -> None:
    store.kvs.create_namespace("ns")
    assert refused(lambda: store.kvs.create_namespace("ns")) == errno.EEXIST
    assert store.commit(put_op("a", "1"), namespace="ns") == 0
    assert store.kvs.lookup("a", "ns") == b"1"
    store.kvs.remove_namespace("ns")
    store.kvs.remove_namespace("ns")
    assert refused(lambda: store.kvs.lookup("a", "ns")) == errno.ENOTSUP
    assert refused(lambda: store.kvs.remove_namespace("primary")) == errno.ENOTSUP
    assert [topic.split("-")[-1] for topic, _ in store.events] == ["created", "setroot", "removed"]


def test_a_namespace_is_grafted(store: Store) -> None:
    store.kvs.create_namespace("guest")
    store.kvs.append("output", "text", namespace="guest")
    store.kvs.graft("guest", "job.guest")
    store.kvs.remove_namespace("guest")
    assert store.kvs.lookup("job.guest.output") == b"text"


def test_only_the_primary_namespace_is_synchronized(store: Store) -> None:
    store.kvs.create_namespace("ns")
    assert store.commit(flags=SYNC, namespace="ns") == errno.EINVAL


# -- appending in the background


def test_what_is_appended_in_one_round_is_one_part_and_one_commit(store: Store) -> None:
    for number in range(100):
        store.kvs.append(f"job{number % 3}", f"{number}\n")
    store.run()
    assert store.root()[1] == 1
    assert entry(store, "job0").type == "valref"
    assert store.kvs.lookup("job1") == b"".join(b"%d\n" % number for number in range(1, 100, 3))


def test_what_was_appended_is_seen_at_once_and_in_its_order(store: Store) -> None:
    store.kvs.append("log", "a")
    assert store.kvs.lookup("log") == b"a"
    store.kvs.append("log", "b")
    store.kvs.put("log", "c")
    store.kvs.append("log", "d")
    assert store.kvs.lookup("log") == b"cd"


def test_a_flood_is_gathered(store: Store) -> None:
    left = 2000

    def step() -> None:
        nonlocal left
        left -= 1
        store.kvs.append("output", "x" * 100)
        if left:
            store.reactor.call_soon(step)

    step()
    store.run(0.5)
    assert len(store.kvs.lookup("output")) == 200_000
    assert len(entry(store, "output").data) < 500


def test_what_is_appended_to_a_namespace_that_has_gone_is_dropped(store: Store) -> None:
    store.kvs.create_namespace("ns")
    store.kvs.append("a", "x", namespace="ns")
    store.kvs.append("b", "x", namespace="never")
    store.kvs.remove_namespace("ns")
    store.run()
    assert store.kvs.entry("a") is None


# -- watching


class Watcher:
    """Keeps what it is told; errors as their numbers, 0 for an end without one."""

    def __init__(self, store: Store, key: str, flags: int, namespace: str = "primary") -> None:
        self.heard: list[object] = []
        self.watch = Watch(key, flags, store.kvs.credentials, self.tell, self.end)
        store.kvs.add_watch(namespace, self.watch)

    def tell(self, value: TreeObject | None) -> None:
        self.heard.append(None if value is None else value.value() if value.type == "val" else value.type)

    def end(self, error: FluxError | None) -> None:
        self.heard.append(0 if error is None else error.errnum)


def test_watching_writes(store: Store) -> None:
    store.commit(put_op("a.b", "1"))
    watcher = Watcher(store, "a..b", WATCH)
    for value in ("2", "2"):
        store.commit(put_op("a.b", value), flags=NO_MERGE)
    store.commit(put_op("a.c", "x"))
    store.commit(Op("a.b", None))
    store.commit(put_op("a.b", "3"))
    assert watcher.heard == [b"1", b"2", b"2", errno.ENOENT]


def test_watching_differences_only(store: Store) -> None:
    store.commit(put_op("a.b", "1"))
    plain, uniq, full = (Watcher(store, "a.b", WATCH | flag) for flag in (0, WATCH_UNIQ, WATCH_FULL))
    store.commit(put_op("a.b", "1"))
    store.commit(Op("a", treeobj.directory({"b": treeobj.val(b"2")})))
    assert plain.heard == [b"1", b"1"]
    assert uniq.heard == [b"1"]
    assert full.heard == [b"1", b"2"]
    store.commit(Op("a", None))
    assert full.heard == [b"1", b"2", errno.ENOENT]


def test_watching_what_does_not_exist(store: Store) -> None:
    assert Watcher(store, "a", WATCH).heard == [errno.ENOENT]
    once, always = Watcher(store, "a", WAITCREATE), Watcher(store, "a", WATCH | WAITCREATE)
    store.commit(put_op("b", "1"))
    for value in ("2", "3"):
        store.commit(put_op("a", value))
    assert once.heard == [b"2", 0]
    assert always.heard == [b"2", b"3"]


def test_watching_in_a_namespace_that_does_not_exist(store: Store) -> None:
    assert Watcher(store, "a", WATCH, "ns").heard == [errno.ENOTSUP]
    watcher = Watcher(store, "a", WATCH | WAITCREATE, "ns")
    store.kvs.create_namespace("ns")
    store.commit(put_op("a", "1"), namespace="ns")
    store.kvs.remove_namespace("ns")
    assert watcher.heard == [b"1", errno.ENOTSUP]


def test_watching_what_is_appended(store: Store) -> None:
    store.commit(append("log", "a"))
    watcher = Watcher(store, "log", WATCH | WATCH_APPEND | WATCH_INITIAL_SENTINEL)
    store.commit(append("log", "b"), append("log", "c"))
    store.commit(put_op("log", "new"))
    assert watcher.heard == [b"a", None, b"b", b"c", errno.EINVAL]
    late = Watcher(store, "log2", WATCH | WATCH_APPEND | WATCH_INITIAL_SENTINEL | WAITCREATE)
    store.commit(append("log2", "a"))
    store.commit(append("log2", "b"))
    store.commit(Op("log2", treeobj.valref([store.kvs.tree.store(b"x")])))
    assert late.heard == [None, b"a", b"b", errno.EINVAL]


def test_appending_to_what_is_no_value(store: Store) -> None:
    store.commit(put_op("d.x", "1"), link("l", "nope"))
    assert Watcher(store, "d", WATCH | WATCH_APPEND).heard == [errno.EISDIR]
    assert Watcher(store, "l", WATCH | WATCH_APPEND).heard == [errno.EINVAL]


def test_streams_end(store: Store) -> None:
    store.commit(put_op("a", "1"), append("log", "x"), append("log", "y"))
    assert Watcher(store, "a", STREAM).heard == [b"1", errno.ENODATA]
    assert Watcher(store, "log", STREAM).heard == [b"x", b"y", errno.ENODATA]
    waiting = Watcher(store, "b", STREAM | WAITCREATE)
    store.commit(put_op("b", "2"))
    assert waiting.heard == [b"2", errno.ENODATA]


def test_watching_from_the_broker(store: Store) -> None:
    heard: list[bytes] = []
    watch = store.kvs.watch("job.log", heard.append, lambda _: heard.append(b"end"))
    store.kvs.append("job.log", "a")
    store.run()
    store.kvs.append("job.log", "b")
    store.kvs.settle()
    store.kvs.unwatch("primary", watch)
    store.kvs.append("job.log", "c")
    store.kvs.settle()
    assert heard == [b"a", b"b"]


def test_a_watcher_may_commit(store: Store) -> None:
    """What one commit leads to comes after it, for every watcher."""
    first: list[bytes] = []
    second: list[bytes] = []

    def tell(data: bytes) -> None:
        first.append(data)
        if len(first) < 5:
            for number in range(2):
                store.commit(append("log", f"{len(first)}.{number} "))

    store.kvs.watch("log", tell, lambda _: first.clear())
    store.kvs.watch("log", second.append, lambda _: second.clear())
    store.commit(append("log", "a "), append("log", "b "))
    assert len(first) == len(second) == len(entry(store, "log").data) == 10
    assert b"".join(first) == b"".join(second) == store.kvs.lookup("log")


@pytest.mark.parametrize(
    ("flags", "is_streaming", "errnum"),
    [
        (WATCH, False, errno.EPROTO),
        (STREAM, False, errno.EPROTO),
        (WATCH | STREAM, True, errno.EINVAL),
        (WATCH_FULL, True, errno.EINVAL),
        (WATCH | WATCH_INITIAL_SENTINEL, True, errno.EINVAL),
    ],
)
def test_flags_that_contradict_each_other(flags: int, is_streaming: bool, errnum: int) -> None:
    assert refused(lambda: check_flags(flags, is_streaming=is_streaming)) == errnum


# -- what survives


def test_the_primary_namespace_survives(tmp_path: Path) -> None:
    first = Store(tmp_path, volatile=False)
    first.commit(put_op("a.b", "1"), put_op("large", "x" * 1000))
    first.kvs.append("log", "at the end")
    first.close()
    second = Store(tmp_path, volatile=False)
    assert second.root() == (first.root()[0], 2)
    assert second.kvs.lookup("a.b") == b"1"
    assert second.kvs.lookup("log") == b"at the end"
    second.close()
    assert len(second_checkpoints(tmp_path)) == 1


def second_checkpoints(path: Path) -> list[Any]:
    reactor = Reactor()
    content = ContentStore(reactor, str(path), "sha1", volatile=False, complain=pytest.fail)
    found = content.checkpoints()
    content.close()
    reactor.close()
    return found


def test_a_synchronous_commit_is_on_disk_when_it_is_answered(tmp_path: Path) -> None:
    first = Store(tmp_path, volatile=False)
    first.commit(put_op("a", "1"), flags=SYNC)
    first.commit(put_op("b", "2"))
    # As if it were killed: nothing is closed in order.
    first.content.backing.close()
    second = Store(tmp_path, volatile=False)
    assert second.kvs.lookup("a") == b"1"
    assert second.kvs.entry("b") is None
    second.close()
    first.reactor.close()


def test_checkpoints_at_intervals(tmp_path: Path) -> None:
    store = Store(tmp_path, volatile=False)
    store.kvs.checkpoint_every(0.02)
    store.run(0.05)
    assert store.content.checkpoints() == []
    store.commit(put_op("a", "1"))
    store.run(0.2)
    assert [(value["rootref"], value["sequence"]) for value in store.content.checkpoints()] == [store.root()]
    store.close()


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20))
@settings(max_examples=30)
def test_statistics(values: list[int]) -> None:
    counted = Statistics()
    for value in values:
        counted.add(value)
    found = counted.json()
    assert (found["count"], found["min"], found["max"]) == (len(values), min(values), max(values))
    assert found["mean"] == pytest.approx(statistics.mean(values))
    assert found["stddev"] == pytest.approx(statistics.stdev(values), abs=1e-6)


@pytest.mark.parametrize(
    "value", [{}, {"version": 1, "rootref": "x"}, {"version": 7, "rootref": "sha1-" + "0" * 40}, 5]
)
def test_checkpoints_of_no_use(tmp_path: Path, value: object) -> None:
    store = Store(tmp_path, volatile=False)
    store.content.put_checkpoint(value)
    assert refused(store.kvs.namespaces) == errno.EINVAL
    assert len(store.complaints) == 1
    store.close()


def test_an_older_checkpoint_takes_the_place_of_one_of_no_use(tmp_path: Path) -> None:
    store = Store(tmp_path, volatile=False)
    store.kvs.put("a", "1")
    store.kvs.close()
    good = store.content.checkpoints()[0]
    store.content.put_checkpoint({**good, "rootref": "sha1-" + "0" * 40, "sequence": 7})
    store.content.put_checkpoint({"version": 1, "rootref": "x"})
    store.close()
    store = Store(tmp_path, volatile=False)
    assert store.kvs.lookup("a") == b"1"
    assert store.kvs.namespace("primary").sequence == good["sequence"]
    assert [line.split(":")[0].split(" (")[0] for line in store.complaints] == [
        "checkpoint 0",
        "checkpoint 1",
        "beginning with the older checkpoint 2",
    ]
    store.close()


keys = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)
operations = st.one_of(
    st.tuples(st.just("put"), keys, st.text("xy", max_size=60)),
    st.tuples(st.just("append"), keys, st.text("xy", max_size=60)),
    st.tuples(st.just("unlink"), keys, st.just("")),
    st.tuples(st.just("mkdir"), keys, st.just("")),
)


@given(st.lists(operations, max_size=25))
@settings(max_examples=60, deadline=None)
def test_it_is_a_tree_of_dictionaries(
    tmp_path_factory: pytest.TempPathFactory, todo: list[tuple[str, str, str]]
) -> None:
    store = Store(tmp_path_factory.mktemp("kvs"))
    model: dict[str, Any] = {}
    for what, key, value in todo:
        op = {
            "put": put_op(key, value),
            "append": append(key, value),
            "unlink": Op(key, None),
            "mkdir": Op(key, treeobj.directory()),
        }[what]
        expected = apply_to_model(model, what, key, value)
        assert store.commit(op) == expected
    assert read(store, ".") == model
    store.close()


def apply_to_model(model: dict[str, Any], what: str, key: str, value: str) -> int:
    *parents, name = key.split(".")
    place = model
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            if what == "unlink":
                return 0
            place[parent] = {}
        place = place[parent]
    if what == "append" and isinstance(place.get(name), dict):
        return errno.EISDIR
    if what == "unlink":
        place.pop(name, None)
    elif what == "mkdir":
        place[name] = {}
    else:
        place[name] = (place.get(name, "") if what == "append" else "") + value
    return 0


def read(store: Store, key: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, each in store.kvs.list(key).items():
        below = name if key == "." else f"{key}.{name}"
        found[name] = read(store, below) if each.type == "dirref" else store.kvs.lookup(below).decode()
    return found
