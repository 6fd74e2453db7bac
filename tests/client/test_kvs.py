"""The store of an embedded instance through the client: every rank, watching, durability, malformed requests."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pytest_flux.client import Flux
from pytest_flux.client.connection import Connection
from pytest_flux.client.kvs import NO_MERGE, STREAM, WATCH, Kvs
from pytest_flux.protocol.errors import FluxError
from pytest_flux.protocol.message import FLAG_PRIVATE
from tests.parity.instances import Engine, Running

WAIT = 20.0


@pytest.fixture(scope="module")
def embedded() -> Engine:
    return Engine("embedded", os.environ.get("PATH", os.defpath))


@pytest.fixture(scope="module")
def running(embedded: Engine) -> Iterator[Running]:
    """An instance of four brokers."""
    with embedded.running("-s4") as running:
        yield running


@pytest.fixture
def flux(running: Running) -> Iterator[Flux]:
    with Flux(f"local://{running.rundir}/local-0") as flux:
        yield flux


@pytest.fixture
def far(running: Running) -> Iterator[Flux]:
    """A connection to the last rank."""
    with Flux(f"local://{running.rundir}/local-3") as flux:
        yield flux


@pytest.fixture
def kvs(flux: Flux, request: pytest.FixtureRequest) -> Iterator[Kvs]:
    """A namespace for this test alone."""
    name = f"test-{request.node.name}"
    Kvs(flux).create_namespace(name)
    yield Kvs(flux, name)
    Kvs(flux).remove_namespace(name)


def refused(call: Callable[[], object]) -> int:
    with pytest.raises(FluxError) as error:
        call()
    return error.value.errnum


def test_values(kvs: Kvs) -> None:
    root = kvs.transaction().put("a.b", b"\0\xff").put_json("a.j", {"x": [1, "ü"]}).append("log", "one").commit()
    kvs.append("log", "two")
    assert kvs.get("a.b") == b"\0\xff"
    assert kvs.get_json("a.j") == {"x": [1, "ü"]}
    assert kvs.get_text("log") == "onetwo"
    assert list(kvs.ls("a")) == ["b", "j"]
    assert [key for key, _ in kvs.walk()] == ["a", "a.b", "a.j", "log"]
    assert Kvs(kvs.flux, at=root.ref).get("log") == b"one"
    assert kvs.exists("a")
    assert not kvs.exists("b")
    assert kvs.root().sequence == root.sequence + 1


def test_directories_and_links(kvs: Kvs) -> None:
    kvs.mkdir("d")
    kvs.symlink("l", "d")
    kvs.symlink("far", "x", "elsewhere")
    assert kvs.readlink("far") == ("elsewhere", "x")
    assert kvs.ls("l") == {}
    kvs.unlink("d")
    assert refused(lambda: kvs.ls("l")) == errno.ENOENT
    assert refused(lambda: kvs.get("")) == errno.EINVAL
    assert refused(lambda: kvs.put("", "x")) == errno.EINVAL


def test_every_rank_reads_what_it_and_others_wrote(running: Running, kvs: Kvs) -> None:
    with ExitStack() as stack:
        handles = [stack.enter_context(Flux(f"local://{running.rundir}/local-{rank}")) for rank in range(4)]
        stores = [Kvs(handle, kvs.namespace) for handle in handles]
        for rank, there in enumerate(stores):
            root = there.put(f"rank{rank}", str(rank))
            for here in stores:
                assert here.wait_version(root.sequence, WAIT).sequence >= root.sequence
                assert here.get(f"rank{rank}") == b"%d" % rank


def test_errors_from_afar(far: Flux) -> None:
    kvs = Kvs(far)
    assert refused(lambda: kvs.get("nope")) == errno.ENOENT
    assert refused(lambda: Kvs(far, "nope").getroot()) == errno.ENOTSUP
    assert refused(lambda: far.rpc("kvs.nope").get()) == errno.ENOSYS


def test_content_from_afar(flux: Flux, far: Flux) -> None:
    blob = os.urandom(100_000)
    digest = far.rpc("content.store", blob).get_bytes()
    for handle in (flux, far, far):
        assert handle.rpc("content.load", digest).get_bytes() == blob
    assert far.rpc("content.stats-get").get()["count"] == 1
    for topic in ("content.dropcache", "content.flush"):
        far.rpc(topic).get()
        flux.rpc(topic).get()
    assert far.rpc("content.load", digest).get_bytes() == blob
    assert refused(lambda: far.rpc("content.load", b"\0" * 20).get()) == errno.ENOENT
    assert refused(lambda: far.rpc("content.load", b"\0").get()) == errno.EPROTO
    assert far.rpc("content-backing.load", digest).get_bytes() == blob


def test_watching_from_afar(kvs: Kvs, far: Flux) -> None:
    watched = Kvs(far, kvs.namespace).watch("log", wait=True, append=True, timeout=WAIT)
    kvs.append("log", "a")
    assert next(watched) == b"a"
    kvs.append("log", "b")
    assert next(watched) == b"b"
    watched.close()  # type: ignore[attr-defined]
    wait_for_watchers(kvs.flux, 0)


def test_watchers_go_with_their_clients(running: Running, kvs: Kvs) -> None:
    kvs.put("a", "1")
    with Flux(f"local://{running.rundir}/local-3") as client:
        Kvs(client, kvs.namespace).lookup("a", WATCH)
        wait_for_watchers(kvs.flux, 1)
    wait_for_watchers(kvs.flux, 0)


def wait_for_watchers(flux: Connection, count: int) -> None:
    deadline = time.monotonic() + WAIT
    while flux.rpc("kvs-watch.stats-get").get()["watchers"] != count:
        assert time.monotonic() < deadline


def test_waiting_for_a_version_ends_with_the_client(running: Running, kvs: Kvs) -> None:
    with Flux(f"local://{running.rundir}/local-2") as client:
        rpc = client.rpc("kvs.wait-version", {"namespace": kvs.namespace, "rootseq": 1})
        kvs.put("a", "1")
        assert rpc.get(WAIT)["rootseq"] == 1
        client.rpc("kvs.wait-version", {"namespace": kvs.namespace, "rootseq": 100})
    deadline = time.monotonic() + WAIT
    while kvs.flux.rpc("kvs.stats-get").get()["pending_requests"]:
        assert time.monotonic() < deadline


def test_a_namespace_that_goes_fails_who_waits_in_it(flux: Flux) -> None:
    Kvs(flux).create_namespace("short-lived")
    rpc = flux.rpc("kvs.wait-version", {"namespace": "short-lived", "rootseq": 9})
    Kvs(flux).remove_namespace("short-lived")
    assert refused(lambda: rpc.get(WAIT)) == errno.ENOTSUP


def test_streams(kvs: Kvs) -> None:
    for part in ("a", "b", "c"):
        kvs.append("log", part)
    assert len(list(kvs.lookup("log", STREAM))) == 3


def test_events_are_those_of_flux(kvs: Kvs, far: Flux) -> None:
    far.subscribe("kvs.namespace-")
    root = kvs.transaction().put("..a..b.", "1").commit(NO_MERGE)
    event = far.event_recv(WAIT)
    assert event.topic == f"kvs.namespace-{kvs.namespace}-setroot"
    assert event.flags & FLAG_PRIVATE
    payload = event.json()
    names = payload.pop("names")
    assert payload == {
        "namespace": kvs.namespace,
        "rootseq": root.sequence,
        "rootref": root.ref,
        "keys": {"a.b": None},
        "owner": os.getuid(),
    }
    assert len(names) == 1


def test_many_commits_at_once(kvs: Kvs) -> None:
    calls = [kvs.transaction().append("log", f"{number}\n").begin() for number in range(300)]
    sequences = [call.get(WAIT)["rootseq"] for call in calls]
    assert sequences == sorted(sequences)
    assert kvs.get_text("log").split() == [str(number) for number in range(300)]


# -- guests


@pytest.fixture
def guest(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flux]:
    """Someone who is not the instance owner."""
    monkeypatch.setenv("FLUX_HANDLE_USERID", "4242")
    monkeypatch.setenv("FLUX_HANDLE_ROLEMASK", "2")
    with Flux(f"local://{running.rundir}/local-0") as flux:
        yield flux


def test_guests(flux: Flux, guest: Flux) -> None:
    Kvs(flux).create_namespace("guests", owner=4242)
    Kvs(flux).put("secret", "1")
    kvs = Kvs(guest, "guests")
    kvs.put("a", "1")
    kvs.mkdir("d")
    assert kvs.get("a") == b"1"
    assert refused(lambda: Kvs(guest, "primary").get("secret")) == errno.EPERM
    assert refused(lambda: kvs.symlink("l", "secret", "primary")) == errno.EPERM
    assert refused(lambda: Kvs(guest).create_namespace("more")) == errno.EPERM
    assert refused(lambda: Kvs(guest).remove_namespace("guests")) == errno.EPERM
    assert refused(lambda: guest.rpc("content.store", b"x").get()) == errno.EPERM
    assert refused(lambda: next(Kvs(guest, "primary").watch("secret", timeout=WAIT))) == errno.EPERM
    Kvs(flux).remove_namespace("guests")


# -- malformed requests

TOPICS = (
    *("kvs.lookup", "kvs.lookup-plus", "kvs.commit", "kvs.getroot", "kvs.wait-version", "kvs.namespace-create"),
    *("kvs.namespace-remove", "kvs.namespace-list", "kvs.cancel", "kvs.disconnect", "kvs.relaycommit"),
    *("kvs-watch.lookup", "kvs-watch.cancel", "content.load", "content.store", "content.checkpoint-put"),
    *("content.register-backing", "content-backing.load", "content-backing.mark", "content-backing.sweep"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**70, "", ".", "a", "a.b", "primary", "\0", "x" * 100, [], {}, [[]]),
    {"ver": 1, "type": "val", "data": "MQ=="},
    {"ver": 1, "type": "dirref", "data": ["sha1-" + "0" * 40]},
    {"ver": 1, "type": "dir", "data": {"a": {"ver": 1, "type": "valref", "data": []}}},
    {"ver": 1, "type": "symlink", "data": {"target": "a"}},
)
NAMES = ("key", "flags", "namespace", "ops", "rootref", "owner", "rootseq", "rootdir", "matchtag", "value", "epoch")
KNOWN = {0, errno.EPROTO, errno.EINVAL, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENOTSUP}
KNOWN |= {errno.EPERM, errno.EEXIST, errno.ENOSYS, errno.EBUSY, errno.ENODATA, errno.ENOTRECOVERABLE}


def malformed(generator: random.Random) -> bytes | dict[str, Any]:
    kind = generator.random()
    if kind < 0.1:
        return generator.randbytes(generator.randrange(40))
    if kind < 0.15:
        return b'{"key": "a", "flags": ' + b"[" * 5000 + b"\0"
    request = {name: generator.choice(VALUES) for name in NAMES if generator.random() < 0.6}
    if generator.random() < 0.6:
        request |= {"namespace": "fuzzed", "flags": generator.choice((0, 1, 2, 4, 32))}
        op = {"key": generator.choice(VALUES), "flags": generator.choice((0, 32)), "dirent": generator.choice(VALUES)}
        request["ops"] = [op]
    return request


def test_malformed_requests(flux: Flux) -> None:
    """For some seconds; an error each, in Flux's terms, and the instance goes on."""
    generator = random.Random(17)
    Kvs(flux).create_namespace("fuzzed")
    deadline, count = time.monotonic() + 4, 0
    while time.monotonic() < deadline:
        topic = generator.choice(TOPICS)
        request = malformed(generator)
        rpc = flux.rpc(topic, request, streaming=topic == "kvs-watch.lookup")
        if topic in ("kvs.wait-version", "kvs-watch.lookup", "kvs.disconnect"):
            rpc.abandon()
            continue
        errnum = rpc.take(WAIT).errnum
        assert errnum in KNOWN, f"{topic} {request!r}: {os.strerror(errnum)}"
        count += 1
    assert count > 1000
    Kvs(flux).put("a", "still here")
    assert Kvs(flux).get("a") == b"still here"


# -- durability


def test_a_clean_stop_keeps_what_was_answered(embedded: Engine, tmp_path: Path) -> None:
    statedir = f"-Sstatedir={tmp_path}"
    with embedded.running("-s2", statedir) as running:
        kvs = Kvs(running.client(1))
        kvs.put("large", "x" * 1000)
        root = kvs.put("a", "1")
        assert running.stop().code == 0
    with embedded.running("-s2", statedir) as running:
        kvs = Kvs(running.client(0))
        # Services of the broker write here, too.
        assert kvs.root().sequence >= root.sequence
        assert (kvs.get("large"), kvs.get("a")) == (b"x" * 1000, b"1")


def test_what_was_synchronized_survives_a_kill(embedded: Engine, tmp_path: Path) -> None:
    """Rank 0 is killed while commits stream in; those that were answered are there after a restart."""
    statedir = f"-Sstatedir={tmp_path}"
    answered = -1
    with embedded.running("-s1", statedir) as running:
        kvs = Kvs(running.client(0))
        for answered in range(20):
            kvs.put(f"key{answered}", str(answered), sync=True)
        kvs.transaction().put("unanswered", "1").begin(4)
        running.kill(0, signal.SIGKILL)
        running.finish()
    with embedded.running("-s1", statedir) as running:
        kvs = Kvs(running.client(0))
        for number in range(answered + 1):
            assert kvs.get(f"key{number}") == b"%d" % number


def test_a_state_that_cannot_be_read_ends_the_start(embedded: Engine, tmp_path: Path) -> None:
    (tmp_path / "content.sqlite").write_bytes(b"not a database" * 100)
    outcome = embedded.run("-s1", f"-Sstatedir={tmp_path}", "true")
    assert outcome.code == 1
    assert "not a database" in outcome.stderr


def test_a_lasting_statedir_has_its_file_from_the_start(embedded: Engine, tmp_path: Path) -> None:
    assert embedded.run("-s1", f"-Sstatedir={tmp_path}", "true").code == 0
    assert (tmp_path / "content.sqlite").exists()


def test_sha256(embedded: Engine) -> None:
    with embedded.running("-s2", "-Scontent.hash=sha256") as running:
        kvs = Kvs(running.client(1))
        assert kvs.put("a", "x" * 100).ref.startswith("sha256-")
        assert kvs.get("a") == b"x" * 100
        kvs.create_namespace("ns")
        assert kvs.namespaces()[1]["namespace"] == "ns"
    assert "md5" in embedded.run("-s1", "-Scontent.hash=md5", "true").stderr
